"""Architecture search: the grid, ranks by hand, the command."""

import json
import zlib

import numpy as np
import pytest
import saved_digits

from dasm_jax.evaluate import comparison
from dasm_jax.training import recipes
from dasm_jax.uses import search

pytestmark = pytest.mark.usefixtures('quick_compiler')


def test_the_grid_is_that_of_dc():
  found = search.grid((32, 32, 3), 10, 128)
  assert len(found) == 720
  assert {x['width'] for x in found} == {32, 64, 128, 256}
  # 8x8 images can be halved three times.
  small = search.grid((8, 8, 1), 10, 16)
  assert all(x['pooling'] == 'none' for x in small if x['depth'] == 4)
  assert len(small) == 720 - 2 * 4 * 5 * 3


def test_more_architectures_begin_with_the_fewer():
  found = search.grid((8, 8, 1), 10, 16)
  ten = search.drawn(found, 10, 0)
  assert ten[:4] == search.drawn(found, 4, 0) != search.drawn(found, 4, 1)


def test_ranks_by_hand():
  full = np.array([.1, .2, .3, .4, .5])
  same = search.ranked(full ** 2, full)
  np.testing.assert_allclose(
      [same['spearman'][0], same['kendall'][0], same['best_ten']], 1)
  assert same['lost'] == 0
  turned = search.ranked(-full, full)
  np.testing.assert_allclose(
      [turned['spearman'][0], turned['kendall'][0], turned['lost']],
      [-1, -1, .4])
  # Two neighbours change places: 1 - 6 * 2 / (5 * 24), and 8 of 10 pairs.
  swapped = search.ranked(full[[1, 0, 2, 3, 4]], full)
  np.testing.assert_allclose(
      [swapped['spearman'][0], swapped['kendall'][0]], [.9, .8])
  assert np.isnan(search.ranked(np.ones(5), full)['spearman'][0])


def test_errors_are_those_of_many_samples():
  rng = np.random.default_rng(0)
  full = rng.normal(size=200)
  value, error = search.ranked(full + rng.normal(size=200), full)['spearman']
  # Of normal numbers: (1 - r^2) / sqrt(n), about.
  assert .03 < error < .07 and .6 < value < .8


def test_early_stopping_has_the_steps_of_the_set():
  recipe = recipes.RECIPES['dc'](300)._replace(batch=256)
  assert search.early_epochs(recipe, 100, 50000) == 2  # 300 of 196 an epoch
  assert search.early_epochs(recipe, 10, 10 ** 7) == 1


def untrained(whole, name, **_):
  """Accuracies of a `Comparison` that tell networks and kinds apart."""
  told = json.dumps([name, whole.recipe.epochs, str(whole.network.apply)])
  return np.array([zlib.crc32(told.encode()) % 1000 / 1000])


def test_command(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(comparison.Comparison, 'accuracies', untrained)
  look(tmp_path, capsys, monkeypatch)


@pytest.mark.slow
def test_architectures_are_trained(tmp_path, capsys, monkeypatch):
  look(tmp_path, capsys, monkeypatch)


def look(tmp_path, capsys, monkeypatch):
  """Calls the command twice, with a grid of four."""
  monkeypatch.setitem(search.GRID, 'depth', (1,))
  monkeypatch.setitem(search.GRID, 'norm', ('none',))
  monkeypatch.setitem(search.GRID, 'width', (.5, 1))
  monkeypatch.setitem(search.GRID, 'activation', ('relu',))
  monkeypatch.setitem(search.GRID, 'pooling', ('max', 'avg'))
  saved_digits.save(tmp_path / 'synthetic.npz', **{
      'eval.epochs': 2, 'network.depth': 1, 'syn.factor': 1})
  words = [f'--set={tmp_path}', '--networks=1', '--full_epochs=2']
  assert search.main(words) == 0
  said = capsys.readouterr().out
  for word in ('spearman', 'kendall', 'lost', 'early', '4 that fit', '4 of 4',
               'of 4 architectures'):
    assert word in said, word
  rows = json.loads((tmp_path / 'search.json').read_text())['rows']
  assert len(rows) == 16
  assert {row['settings']['width'] for row in rows} == {2, 4}
  assert search.main(words) == 0
  assert len(json.loads((tmp_path / 'search.json').read_text())['rows']) == 16


def test_too_few_architectures_are_one_line(tmp_path, capsys):
  assert search.main([f'--set={tmp_path}', '--architectures=3']) == 2
  err = capsys.readouterr().err
  assert "'3' is no whole number of at least 4" in err and err.count('\n') == 1
