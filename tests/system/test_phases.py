"""Classes distilled one part after the other: the same set, less at a time."""

import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from dasm_jax import segments
from dasm_jax.distill import run, setup
from dasm_jax.errors import UserError
from dasm_jax.methods.registry import METHODS, classes_apart, settings_of
from dasm_jax.runtime import preemption

pytestmark = pytest.mark.usefixtures('quick_compiler')


def config(**changes):
  """DM, which learns classes apart: 3 sweeps a segment."""
  return small.tiny('dm', **{**dict(
      network__depth=1, method__augment='', method__net_steps=0,
      method__steps=6, segments__window='everything', run__save_seconds=0.0,
      run__chunk=2), **changes})


def images(workdir):
  with np.load(workdir / 'synthetic.npz') as file:
    return file['images'], file['labels']


@pytest.mark.slow
def test_phases_distil_the_same_set(tmp_path):
  """A class knows nothing of others, and is read from the disk."""
  c = dict(method__train_on='real', method__net_steps=1, method__inner=2,
           segments__number=1)
  one = run.run(config(**c), small.measured(tmp_path / 'whole'))
  two = run.run(config(**c, syn__phases=2, dataset__stream='always'),
                small.measured(tmp_path / 'parts'))
  (one,), (two,) = one['segments'], two['segments']
  assert 0 < one.pop('moved') == pytest.approx(two.pop('moved'), abs=1e-5)
  assert one == two
  whole, parts = images(tmp_path / 'whole'), images(tmp_path / 'parts')
  np.testing.assert_allclose(whole[0], parts[0], rtol=0, atol=2e-5)
  assert parts[1].tolist() == [[c] * 2 for c in range(10)]


class Killed(preemption.StopFlag):
  """Dies when it hears after a given number of calls of sweeps."""

  def __init__(self, calls):
    super().__init__()
    self._calls = calls

  def hear(self, *values):
    """Dies, before what the call has done is saved."""
    self._calls -= bool(values)
    if not self._calls:
      raise RuntimeError('killed')
    return super().hear(*values)


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_phase_goes_on(tmp_path, capsys):
  straight = small.measured(tmp_path / 'straight')
  workdir = small.measured(tmp_path / 'killed')
  run.run(config(syn__phases=3), straight)
  with pytest.raises(RuntimeError, match='killed'):
    # After 2 and 1 sweeps of two phases, and 2 of the third.
    run.run(config(syn__phases=3), workdir, stopping=Killed(5))
  assert (workdir / 'segment_1_phase_3').is_dir()
  assert not (workdir / 'segment_2_phase_1').exists()
  capsys.readouterr()
  found = run.run(config(syn__phases=3), workdir)
  # The third phase from its beginning, then the second segment.
  assert found['costs']['steps'] == 3 + 9
  text = capsys.readouterr().out
  assert 'segment 1/2  step 9/9' in text and 'step 3/9' not in text.split(
      'segment 2/2')[0]
  rows = [(row['segment'], row['step']) for row in small.rows_of(workdir)]
  # A step counts in each phase.
  assert rows == [(segment, k) for segment in (1, 2)
                  for k in (2, 3, 5, 6, 8, 9)] + [(None, 18)]
  for one, other in zip(images(straight), images(workdir), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('number, words', [
    (0, 'must be at least 1'), (11, '.* from 1 to 10')])
def test_no_such_parts(number, words, tmp_path):
  with pytest.raises(UserError, match=f'phases={number} {words}'):
    run.run(config(syn__phases=number), tmp_path)


@pytest.mark.parametrize('method', ['dc', 'cafe', 'mtt', 'sre2l'])
def test_methods_that_need_all_classes_say_so(method, tmp_path):
  with pytest.raises(
      UserError, match=f'phases=2 .* method {method} (looks|trains)'):
    run.run(small.tiny(method, syn__phases=2), tmp_path)


def test_batch_norm_sees_all_classes(tmp_path):
  """Features are normalised by a batch that must hold every class."""
  with pytest.raises(UserError, match='method dm with batch norm looks .* '
                     'choose a network without, or set 1'):
    run.run(config(network__norm='batch', syn__phases=2), tmp_path)
  made = setup.build(config(network__norm='instance', syn__phases=2))
  assert len(made.phases(made.plan[0])) == 2


def test_which_methods_take_classes_apart():
  found = {name for name in METHODS
           if classes_apart(ConfigDict(settings_of(name)))}
  assert found == {'idc', 'dm'}


def test_parts_are_all_classes_once():
  (segment,) = segments.plan(2, 1)
  parts = segments.phases(segment, 10, 3)
  rows = [list(range(10))[part.rows] for part in parts]
  assert [len(row) for row in rows] == [3, 3, 4]
  assert sum(rows, []) == list(range(10))
  assert [part.phase for part in parts] == [0, 1, 2]
