"""Diagnostics: against numbers worked out by hand, and of small networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax.evaluate import diagnostics
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices

pytestmark = pytest.mark.usefixtures('quick_compiler')


def test_how_far_images_moved():
  first = np.zeros((2, 1, 2, 2, 1), np.float32)
  last = first.copy()
  assert diagnostics.moved(first, last) == 0
  last[0, 0, 0, 0] = 1  # one of eight pixels, by 1
  np.testing.assert_allclose(diagnostics.moved(first, last), 8 ** -.5)
  np.testing.assert_allclose(diagnostics.moved(first, first - .3), .3)
  with pytest.raises(ValueError):
    diagnostics.moved(first, last[:1])


def test_overlaps_are_shares_of_the_smaller_window():
  labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
  a = [1, 1, 1, 1, 1, 0, 0, 0]
  b = [1, 1, 0, 0, 0, 1, 1, 0]
  c = [0, 0, 0, 1, 0, 0, 0, 0]  # of class 1 it has none
  found = diagnostics.overlaps(np.array([a, b, c], bool), labels)
  # a and b: 2 of 2 images of class 0, none of 1 of class 1.
  np.testing.assert_array_equal(found, [[1, .5, 1], [.5, 1, 0], [1, 0, 1]])
  nothing = np.zeros((1, 8), bool)
  assert diagnostics.overlaps(nothing, labels) == [[0]]


def test_thirds_are_of_all_images_from_easy_to_hard():
  scores = [5, 1, 3, 1, 9, 2, 7]
  np.testing.assert_array_equal(
      diagnostics.thirds(scores), [1, 0, 1, 0, 2, 0, 2])
  np.testing.assert_array_equal(diagnostics.thirds([2, 1]), [1, 0])
  right = np.array([[0, 1], [1, 1], [0, 0], [1, 1], [0, 0], [1, 0], [1, 0]])
  found = diagnostics.accuracy_by_third(right, diagnostics.thirds(scores))
  want = {'easy': [1, 2 / 3], 'middle': [0, .5], 'hard': [.5, 0],
          'all': [4 / 7, 3 / 7]}
  assert found.keys() == want.keys()
  for name, values in want.items():
    np.testing.assert_allclose(found[name], values)
  few = diagnostics.accuracy_by_third(right[:2], np.array([1, 0]))
  np.testing.assert_array_equal(few['hard'], [0, 0])


def test_nearest_neighbours_are_of_the_class_and_of_directions():
  features = [[1, 0], [0, 3], [5, 0], [0, .1], [-2, 0], [7, 7]]
  labels = np.array([0, 0, 1, 1, 1, 2])
  # (1, 0) to (0, 1) is the root of 2, (1, 0) to (-1, 0) is 2.
  np.testing.assert_allclose(diagnostics.nearest_distances(features, labels),
                             [2 ** .5] * 5 + [np.nan])
  same = diagnostics.nearest_distances(
      [[.1, .2], [.1, .2], [.3, .6], [0, 0]], np.zeros(4, int))
  np.testing.assert_allclose(same, [0, 0, 0, 1], atol=1e-7)


def test_a_repeated_image_is_no_diversity():
  network, data = toy.network(), toy.source()
  judges = jax.jit(jax.vmap(network.init))(
      jax.random.split(jax.random.key(0), 2))
  def of(rows):
    return diagnostics.diversity(
        network, judges, sources.take(data, jnp.asarray(rows)).images,
        np.asarray(data.labels)[rows])
  new, twice = of([0, 1, 2, 12, 13, 14]), of([0, 0, 2, 12, 12, 14])
  assert new.shape == (2,) and 0 < (twice / new).max() < .7
  assert np.isnan(of([0, 12])).all()


def test_thirds_of_test_images_by_networks():
  network, data = toy.network(), devices.replicate(toy.source())
  judges = jax.jit(jax.vmap(network.init))(
      jax.random.split(jax.random.key(0), 2))
  third = diagnostics.thirds_of_test(network, judges, data)
  np.testing.assert_array_equal(np.bincount(third), [12, 12, 12])
  found = diagnostics.accuracies_by_third(network, judges, data, third)
  # What has a low loss is right more often, also of fresh networks.
  assert found['easy'].mean() > found['hard'].mean()
  np.testing.assert_allclose(
      found['all'], np.mean([found[x] for x in diagnostics.THIRDS], 0))
