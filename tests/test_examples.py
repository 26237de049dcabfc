"""Every example of docs/examples runs, and does what its page says."""

import pathlib
import re
import runpy

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / 'docs' / 'examples'
PAGE = (ROOT / 'docs' / 'importing.md').read_text()
pytestmark = pytest.mark.usefixtures('quick_compiler')


def ran(name):
  """What an example leaves: its names."""
  return runpy.run_path(str(FOLDER / f'{name}.py'))


@pytest.mark.parametrize('name, most', [
    ('with_flax_linen', 22), ('with_flax_nnx', 32), ('with_equinox', 32)])
@pytest.mark.slow
def test_gradients_of_networks_of_other_libraries(name, most):
  left = ran(name)
  moved = left['syn'].images - left['real'].images[:, :1]
  assert np.isfinite(left['loss']) and float(abs(moved).max()) > .01
  # Of 18 rows in each of ten classes; in another layout than the network's
  # there are 520 and more in each, and the loss is a hundred times as large.
  assert 0 < left['loss'] < most


@pytest.mark.slow
def test_haiku():
  left = ran('with_haiku')
  assert left['hard'].shape == (16,) and float(left['hard'].min()) > 0
  assert left['value'] > 0 and set(left['metrics']) == {'match/loss'}


def test_a_function_without_a_library():
  left = ran('bare_function')
  # It begins in the middle, at a distance of 1.
  assert left['apart'] < .3
  assert jnp.argmax(left['syn'].images[0, 0]) == 0


@pytest.mark.slow
def test_a_method_by_hand():
  assert ran('method_by_hand')['accuracy'] > .6


@pytest.mark.slow
@pytest.mark.parametrize('name', [
    pytest.param('run_on_arrays', marks=pytest.mark.long), 'run_on_npz'])
def test_runs(name, monkeypatch, tmp_path):
  monkeypatch.setattr('tempfile.mkdtemp', lambda: str(tmp_path))
  left = ran(name)
  assert list(tmp_path.rglob('synthetic.npz'))
  if name == 'run_on_arrays':
    assert left['accuracy'] > .3
    assert left['found'].syn.images.shape == (10, 1, 8, 8, 1)
    assert left['found'].data['name'] == 'my_digits'


def test_examples_are_short_and_all_in_the_table():
  files = sorted(FOLDER.glob('*.py'))
  assert len(files) == 8
  for path in files:
    text = path.read_text()
    assert len(text.splitlines()) < 40, path
    assert f'(examples/{path.name})' in PAGE, path
    assert text.startswith('"""')
  named = re.findall(r'\(examples/(\w+\.py)\)', PAGE)
  assert sorted(named) == [path.name for path in files]
