"""Parity with golden fixtures, in float64 and float32 (see golden_files)."""

import json

import golden_files
import golden_groups
import jax
import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings('error')


def _cases():
  """Every file in float64, the last of each group in float32 as well."""
  paths = golden_files.paths()
  last = {golden_files.prefix(path, golden_groups.GROUPS): path
          for path in paths}
  return [pytest.param(path, bits, id=f'{path.stem}-{bits}')
          for path in paths
          for bits in ((64, 32) if path in last.values() else (64,))]


@pytest.mark.parametrize('path, bits', _cases())
def test_golden(path, bits):
  """Every array of the file agrees with ours, and none is left out."""
  jax.clear_caches()  # of the files before
  worst = golden_groups.check(path, bits)
  print({key: float(value) for key, value in worst.items()})


def _write(path, arrays, **meta):
  np.savez(path, **arrays, meta_json=json.dumps({'repo': 'none', **meta}))


def _selection():
  """A small fixture of our own, right as it stands."""
  features = np.array([[0.], [1.], [5.], [2.]], np.float32)
  arrays = {'in/features': features, 'in/labels': np.zeros(4, int),
            'f64/herding_indices': np.array([[3, 1]]),
            'f64/herding_min_margin': np.array(0.5)}
  return arrays, {'ipc': 2, 'nclass': 1}


def _check_own(folder, name='selection_herding_own.npz', **changes):
  arrays, meta = _selection()
  meta.update(changes.pop('meta', {}))
  _write(folder / name, {**arrays, **changes}, **meta)
  (path,) = golden_files.paths()
  return golden_groups.check(path, 64)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """An empty folder of fixtures."""
  monkeypatch.setenv('GOLDEN_DIR', str(tmp_path))
  return tmp_path


def test_right_file_passes(folder):
  assert _check_own(folder) == {'f64/herding_indices': 0}


def test_unknown_prefix_fails(folder):
  with pytest.raises(golden_files.GoldenError, match='new_things.npz: unknown'):
    _check_own(folder, 'new_things.npz')


def test_unknown_setting_fails(folder):
  with pytest.raises(golden_files.GoldenError, match="unknown setting 'start'"):
    _check_own(folder, meta={'start': 'random'})


def test_unknown_value_fails(folder):
  with pytest.raises(golden_files.GoldenError, match='unknown value'):
    _check_own(folder, meta={'ipc': 'many'})


def test_unknown_output_fails(folder):
  with pytest.raises(golden_files.GoldenError, match='f64/more'):
    _check_own(folder, **{'f64/more': np.zeros(3)})


def test_deviation_fails(folder):
  with pytest.raises(golden_files.DeviationError, match='herding_indices'):
    _check_own(folder, **{'f64/herding_indices': np.array([[3, 0]])})


def test_nan_fails(folder):
  with pytest.raises(golden_files.DeviationError, match='herding_indices'):
    _check_own(folder, **{'f64/herding_indices': np.array([[3, np.nan]])})


def test_empty_folder_fails(folder):
  with pytest.raises(golden_files.GoldenError, match='no '):
    golden_files.paths()
