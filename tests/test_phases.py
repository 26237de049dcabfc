"""Classes distilled one part after the other: the same set, less at a time."""

import numpy as np
import pytest
import small
from ml_collections import ConfigDict

from dasm_jax import outcome, run, segments
from dasm_jax.errors import UserError
from dasm_jax.methods.table import METHODS, apart, settings_of

pytestmark = pytest.mark.usefixtures('quick_compiler')

def config(**changes):
  """DC, but for networks that real images train: 3 and 4 sweeps."""
  return small.tiny(
      'dc', method__train_on='real', method__inner=2, method__steps=7,
      run__save_seconds=0.0, run__chunk=2, **changes)


def images(workdir):
  with np.load(workdir / 'synthetic.npz') as file:
    return file['images'], file['labels']


def test_phases_distil_the_same_set(tmp_path, monkeypatch, capsys):
  """A class knows nothing of others; read from the disk, and killed, too."""
  run.run(config(), tmp_path / 'whole')
  calls = []
  def die(*_):
    calls.append(0)
    if len(calls) == 5:  # after 2, 1 and again 2, 1 sweeps
      raise RuntimeError('killed')
  parts = config(syn__phases=3, dataset__stream='always')
  path = tmp_path / 'parts'
  with monkeypatch.context() as m, pytest.raises(RuntimeError, match='killed'):
    m.setattr(outcome, 'check_finite', die)
    run.run(parts, path)
  assert (path / 'segment_1_phase_3').is_dir()
  assert not (path / 'segment_2_phase_1').exists()
  capsys.readouterr()
  run.run(parts, path)
  text = capsys.readouterr().out
  assert 'segment 1/2  step 9/9' in text and 'step 3/9' not in text
  whole, again = images(tmp_path / 'whole'), images(path)
  np.testing.assert_allclose(whole[0], again[0], rtol=0, atol=2e-5)
  assert again[1].tolist() == [[c] * 2 for c in range(10)]
  rows = [(row['segment'], row['step']) for row in small.rows_of(path)]
  # A step counts in each phase.
  assert rows == [(1, k) for k in (2, 3, 5, 6, 8, 9)] + [
      (2, 2 * k) for k in range(1, 7)] + [(None, 21)]


@pytest.mark.parametrize('number', [0, 11])
def test_no_such_parts(number, tmp_path):
  with pytest.raises(UserError, match=f'phases={number} .* from 1 to 10'):
    run.run(config(syn__phases=number), tmp_path)


@pytest.mark.parametrize('method', ['dc', 'cafe', 'mtt', 'sre2l'])
def test_methods_that_need_all_classes_say_so(method, tmp_path):
  with pytest.raises(UserError, match=f'phases=2 .* method {method} looks'):
    run.run(small.tiny(method, syn__phases=2), tmp_path)


def test_which_methods_take_classes_apart():
  found = {name for name in METHODS if apart(ConfigDict(settings_of(name)))}
  assert found == {'idc', 'dm'}


def test_parts_are_all_classes_once():
  (segment,) = segments.plan(2, 1)
  parts = segments.phases(segment, 10, 3)
  rows = [list(range(10))[part.rows] for part in parts]
  assert [len(row) for row in rows] == [3, 3, 4]
  assert sum(rows, []) == list(range(10))
  assert [part.phase for part in parts] == [0, 1, 2]
