"""Draws of real images: without repeats, from windows, with replay."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.types import Batch

pytestmark = pytest.mark.usefixtures('quick_compiler')


def draws(count, size, capacity=8, tries=200):
  row = jnp.arange(100, 100 + capacity, dtype=jnp.int32)
  keys = jax.random.split(jax.random.key(0), tries)
  draw = jax.jit(jax.vmap(
      lambda key, n: sources.draw_without_repeats(key, row, n, size),
      (0, None)))
  return np.asarray(draw(keys, jnp.int32(count)))


@pytest.mark.parametrize('count, size', [(8, 8), (8, 3), (5, 5), (5, 1)])
def test_draw_has_no_repeats(count, size):
  got = draws(count, size)
  assert got.shape == (200, size) and got.dtype == np.int32
  assert all(len(set(row)) == size for row in got)
  # Every entry that counts comes, none of the padding, all about as often.
  often = np.bincount(got.ravel() - 100, minlength=8)
  assert not often[count:].any()
  share = 200 * size / count
  assert np.all(abs(often[:count] - share) < 6 * np.sqrt(share) + 1)


@pytest.mark.parametrize('count, size', [(3, 7), (1, 4), (8, 20), (5, 8)])
def test_draw_from_a_small_class_is_even(count, size):
  got = draws(count, size)
  for row in got:
    often = np.bincount(row - 100, minlength=8)
    assert not often[count:].any()
    assert often[:count].max() - often[:count].min() <= 1


def test_window_pads():
  got = sources.pad_window([np.array([4, 7]), np.array([], int), np.array([9])])
  np.testing.assert_array_equal(got.indices, [[4, 7], [0, 0], [9, 0]])
  np.testing.assert_array_equal(got.counts, [2, 0, 1])
  assert got.indices.dtype == got.counts.dtype == np.int32


@pytest.mark.parametrize('streamed', [False, True])
def test_long_images_are_blocks_of_lines(streamed):
  """Of an image longer than `LONG` no row, as a TPU would cut it first."""
  side = 128
  images = np.arange(3 * side ** 2 * 3, dtype=np.uint32).astype(np.uint8)
  images = images.reshape(3, side, side, 3)
  labels = np.array([0, 1, 0], np.int32)
  if streamed:
    split = types.SimpleNamespace(
        labels=labels, shape=images.shape[1:], read=lambda rows: images[rows])
    data = streaming.StreamedImages(split, 2, (0.,) * 3, (1.,) * 3).fetch(
        np.array([2, 1]))
    # A copy on every device is one array.
    assert data.images.shape == (2, 384, 128)
  else:
    data = sources.make_source(toy.Split(images, labels), 2, (0.,) * 3,
                               (1.,) * 3)
    assert data.images.shape == (3, 384, 128)
  assert sources.flat_shape(images.shape[1:]) == (384, 128)
  assert sources.flat_shape((32, 32, 3)) == (3072,)
  for rows in ([2, 1], [[1], [2]]):
    got = sources.take(data, jnp.array(rows)).images
    np.testing.assert_allclose(got, images[rows] / 255, rtol=1e-6)


def test_take_normalises():
  data = toy.source()
  got = sources.take(data, jnp.array([[0, 35]]))
  assert got.images.shape == (1, 2, 8, 8, 1) and got.labels.shape == (1, 2, 3)
  want = (toy.split().images[35] / 255 - .5) / .3
  np.testing.assert_allclose(got.images[0, 1], want, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(got.labels[0], [[1, 0, 0], [0, 0, 1]])
  assert sources.class_count(data) == 3


def test_devices_that_have_their_share_alone():
  # Ten images on four devices, three a device: two are there twice.
  data, n = toy.source(), 4
  indices = jnp.array([3, 30, 7, 12, 25, 0, 35, 8, 19, 3])
  images, slots = [], []
  for mine in np.resize(indices, (n, 3)):
    images.append(data.images[mine])
    at = np.zeros(36, np.int32)  # wrong for those of others
    at[mine] = np.arange(3)
    slots.append(at)
  def take(images, slots):
    return sources.take(data._replace(images=images, slots=slots), indices, 'd')
  got = jax.vmap(take, axis_name='d')(jnp.stack(images), jnp.stack(slots))
  want = sources.take(data, indices)
  for device in range(n):
    toy.leaves_equal(jax.tree.map(lambda x, d=device: x[d], got), want)


def batches(data, rows, replay, size=4):
  window = sources.pad_window(rows)
  pool = sources.ClassWindows(
      jnp.arange(3), jnp.ones(3), jax.tree.map(jnp.asarray, window),
      data.everything, Batch(jnp.zeros((3, 0)), jnp.zeros((3, 0))))
  def one(key):
    indices = sources.class_indices(
        pool, jax.random.split(key, 3), size, replay)
    assert indices.shape == (3, size) and indices.dtype == np.int32
    return sources.take(data, indices)
  return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 50))


def test_part_of_a_source_is_that_of_its_batch():
  data, at = toy.source(), jnp.array([3, 30])
  whole = sources.take(data, jnp.arange(36))
  toy.leaves_equal(sources.take_any(data, at), sources.take_any(whole, at))
  np.testing.assert_array_equal(sources.take_any(whole, at).images[1],
                                whole.images[30])


def test_class_batches_stay_in_the_window_but_for_replay():
  data = toy.source()
  rows = [np.array([1, 2, 3, 4]), np.arange(12, 18), np.arange(30, 36)]
  known = np.asarray(sources.take(data, jnp.arange(36)).images).reshape(36, -1)
  for replay, again in ((0.0, 0), (0.3, 1), (1.0, 4)):
    got = batches(data, rows, replay)
    assert got.images.shape == (50, 3, 4, 8, 8, 1)
    which = np.asarray(got.images).reshape(-1, 1, 64)
    which = abs(which - known).max(-1).argmin(-1).reshape(50, 3, 4)
    outside = set()
    for c, row in enumerate(rows):
      np.testing.assert_array_equal(got.labels[:, c].argmax(-1), c)
      assert np.isin(which[:, c, :4 - again], row).all()
      assert (which[:, c] // 12 == c).all()
      outside |= set(which[:, c, 4 - again:].ravel()) - set(row)
    assert bool(outside) == bool(again)
