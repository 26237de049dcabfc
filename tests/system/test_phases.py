"""Classes distilled one part after the other: the same set, less at a time."""

import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from dasm_jax import segments
from dasm_jax.distill import results, run
from dasm_jax.errors import UserError
from dasm_jax.methods.registry import METHODS, classes_apart, settings_of
from dasm_jax.runtime import devices

pytestmark = pytest.mark.usefixtures('quick_compiler')

def config(**changes):
  """DC, but for networks that real images train: 3 sweeps a segment."""
  return small.tiny(
      'dc', method__train_on='real', method__inner=2, method__steps=6,
      segments__window='everything', run__save_seconds=0.0, run__chunk=2,
      **changes)


def images(workdir):
  with np.load(workdir / 'synthetic.npz') as file:
    return file['images'], file['labels']


@pytest.fixture
def unmeasured(monkeypatch):
  """No network is trained on the sets."""
  small.unmeasured(monkeypatch)


def test_phases_distil_the_same_set(unmeasured, tmp_path):
  """A class knows nothing of others, and is read from the disk."""
  run.run(config(segments__number=1), tmp_path / 'whole')
  run.run(config(segments__number=1, syn__phases=3, dataset__stream='always'),
          tmp_path / 'parts')
  whole, parts = images(tmp_path / 'whole'), images(tmp_path / 'parts')
  np.testing.assert_allclose(whole[0], parts[0], rtol=0, atol=2e-5)
  assert parts[1].tolist() == [[c] * 2 for c in range(10)]


def test_a_killed_phase_goes_on(unmeasured, tmp_path, monkeypatch, capsys):
  calls, moved = [], []
  def chunk(method):  # steps that only count
    def call(state, data, pool, key, steps):
      rows = np.asarray(pool.classes).ravel()[:int(np.sum(pool.present))]
      moved.append((rows.tolist(), int(steps)))
      return state._replace(step=state.step + steps), {
          'match/loss': np.float32(1)}
    return call
  def die(*_):
    calls.append(0)
    if len(calls) == 5:  # after 2, 1 and again 2, 1 sweeps
      raise RuntimeError('killed')
  monkeypatch.setattr(devices, 'chunk', chunk)
  with monkeypatch.context() as m, pytest.raises(RuntimeError, match='killed'):
    m.setattr(results, 'check_finite', die)
    run.run(config(syn__phases=3), tmp_path)
  assert (tmp_path / 'segment_1_phase_3').is_dir()
  assert not (tmp_path / 'segment_2_phase_1').exists()
  capsys.readouterr()
  del moved[:]
  run.run(config(syn__phases=3), tmp_path)
  parts = [0, 1, 2], [3, 4, 5], [6, 7, 8, 9]
  assert moved == [(part, steps) for part in (parts[2], *parts)
                   for steps in (2, 1)]
  text = capsys.readouterr().out
  assert 'segment 1/2  step 9/9' in text and 'step 3/9' not in text
  rows = [(row['segment'], row['step']) for row in small.rows_of(tmp_path)]
  # A step counts in each phase.
  assert rows == [(segment, k) for segment in (1, 2)
                  for k in (2, 3, 5, 6, 8, 9)] + [(None, 18)]


@pytest.mark.parametrize('number', [0, 11])
def test_no_such_parts(number, tmp_path):
  with pytest.raises(UserError, match=f'phases={number} .* from 1 to 10'):
    run.run(config(syn__phases=number), tmp_path)


@pytest.mark.parametrize('method', ['dc', 'cafe', 'mtt', 'sre2l'])
def test_methods_that_need_all_classes_say_so(method, tmp_path):
  with pytest.raises(
      UserError, match=f'phases=2 .* method {method} (looks|trains)'):
    run.run(small.tiny(method, syn__phases=2), tmp_path)


def test_which_methods_take_classes_apart():
  apart = {name: classes_apart(ConfigDict(settings_of(name)))
           for name in METHODS}
  assert apart['idc'] and apart['dm']
  assert not any(apart[name] for name in (
      'dc', 'dsa', 'dsac', 'cafe', 'sre2l', 'mtt', 'ftd', 'tesla', 'datm'))


def test_parts_are_all_classes_once():
  (segment,) = segments.plan(2, 1)
  parts = segments.phases(segment, 10, 3)
  rows = [list(range(10))[part.rows] for part in parts]
  assert [len(row) for row in rows] == [3, 3, 4]
  assert sum(rows, []) == list(range(10))
  assert [part.phase for part in parts] == [0, 1, 2]
