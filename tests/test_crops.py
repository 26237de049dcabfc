"""RDED's crops: cut as Pillow cuts them, chosen as a loop chooses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dasm_jax import crops, synthetic

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(size=(4, 11, 13, 3)).astype('f')


def pillow(image, box, shape):
  """The box of `[h, w, c]`, resized with antialiasing, on 8-bit levels."""
  top, left, tall, wide = map(int, box)
  channels = [np.asarray(Image.fromarray(image[..., k]).crop(
      (left, top, left + wide, top + tall)).resize(
          shape[::-1], Image.BILINEAR)) for k in range(image.shape[-1])]
  return np.round(np.stack(channels, -1) * 255) / 255


def test_pool():
  rows = [np.array([7, 3, 9, 1]), np.array([2, 0])]
  all_ = crops.draw_pool(rows, 4, 0)
  assert [x.tolist() for x in all_] == [[1, 3, 7, 9], [0, 2]]
  few = [crops.draw_pool(rows, 2, seed)[0] for seed in range(30)]
  assert all(len(set(x)) == 2 and (np.sort(x) == x).all() for x in few)
  assert set(np.concatenate(few)) == {1, 3, 7, 9}


def test_boxes():
  top, left, tall, wide = map(np.asarray, crops.random_boxes(KEY, 4000, 50, 50))
  np.testing.assert_array_equal(tall, wide)  # of ratio 1
  area = tall * wide / 2500
  assert .07 < area.min() < .1 and area.max() == 1
  np.testing.assert_allclose(np.quantile(area, [.25, .5, .75]),
                             .08 + .92 * np.array([.25, .5, .75]), atol=.04)
  assert top.min() == left.min() == 0
  assert (top + tall).max() == (left + wide).max() == 50
  inside = left[wide < 40] / (50 - wide[wide < 40])
  assert abs(inside.mean() - .5) < .02
  # Of the form of the image where that is no square.
  _, _, tall, wide = crops.random_boxes(KEY, 50, 10, 40)
  assert abs(4 * np.asarray(tall) - wide).max() <= 4
  assert np.asarray(crops.random_boxes(KEY, 50, 2, 2))[2:].min() == 1


@pytest.mark.parametrize('shape', [(5, 6), (11, 13), (1, 4)])
def test_crops_are_pillow_s(shape):
  # Shrinking, growing, both; the whole image, and one pixel.
  boxes = np.array([(1, 2, 9, 10), (3, 0, 3, 4), (0, 5, 11, 2), (0, 0, 11, 13),
                    (10, 12, 1, 1)], np.int32)
  got = np.asarray(jax.jit(crops.cut, static_argnums=2)(
      IMAGES[0], tuple(boxes.T), shape))
  for one, box in zip(got, boxes, strict=True):
    # What rounding leaves on either side of a level may differ by one.
    want = pillow(IMAGES[0], box, shape)
    assert abs(one - want).max() < 1.01 / 255
    assert np.mean(abs(one - want) > 1e-5) < .01


def test_centred_by_hand():
  crop = jnp.full((1, 2, 1, 1), 5.)
  got = crops.centred(crop, jnp.zeros((5, 4, 1)))[0, ..., 0]
  want = np.zeros((5, 4))
  want[1:3, 1] = 5  # what is over is right and below
  np.testing.assert_array_equal(got, want)


def test_smallest_by_score_and_index():
  scores = [3., 1., np.nan, 1., 0., np.inf]
  assert crops.smallest(scores, 4).tolist() == [4, 1, 3, 0]
  assert crops.smallest(scores, 6).tolist() == [4, 1, 3, 0, 5, 2]


def test_own_loss_by_hand():
  logits = jnp.log(jnp.array([[.2, .8], [.5, .5]]))
  np.testing.assert_allclose(
      crops.own_loss(logits, jnp.array([1, 0])), -np.log([.8, .5]), rtol=1e-6)


def test_the_best_crop_of_each_as_a_loop_finds_it():
  rng, shape, count = np.random.default_rng(1), (4, 5), 6
  weights = rng.normal(size=(60, 3)).astype('f')
  labels, keys = np.array([2, 0, 1, 0]), jax.random.split(KEY, 4)
  scores, found = jax.jit(crops.best_of_random(
      lambda x: x.reshape(len(x), -1) @ weights, shape, count))(
          IMAGES, labels, keys)
  boxes = jax.jit(jax.vmap(lambda key: crops.random_boxes(
      key, count, 11, 13)))(keys)
  for n in range(4):
    losses, cut = [], []
    for box in zip(*(np.asarray(x)[n] for x in boxes), strict=True):
      cut.append(pillow(IMAGES[n], box, shape))
      logits = cut[-1].reshape(-1) @ weights
      losses.append(np.log(np.exp(logits).sum()) - logits[labels[n]])
    np.testing.assert_allclose(scores[n], min(losses), atol=.02)
    assert abs(found[n] - cut[int(np.argmin(losses))]).max() < 1.01 / 255


def test_of_equal_crops_the_first():
  # A teacher that sees nothing: any crop is as good.
  keys = jax.random.split(KEY, 4)
  scores, found = jax.jit(crops.best_of_random(
      lambda x: jnp.zeros((len(x), 2)), (3, 3), 5))(IMAGES, np.zeros(4, int),
                                                    keys)
  np.testing.assert_allclose(scores, np.log(2), rtol=1e-6)
  first = jax.jit(jax.vmap(lambda image, key: crops.cut(
      image, crops.random_boxes(key, 5, 11, 13), (3, 3))[0]))(IMAGES, keys)
  np.testing.assert_array_equal(found, first)


@pytest.mark.parametrize('side, factor', [(6, 2), (7, 2), (8, 3)])
def test_packed_as_a_loop_packs(side, factor):
  small, over, ipc = side // factor, side % factor, 2
  real = np.random.default_rng(0).uniform(
      size=(ipc * factor ** 2, small, small, 1)).astype('f')
  got = synthetic.pack(real, factor, (side, side))
  want = np.zeros((ipc, side, side, 1), 'f')
  for n in range(ipc):
    y = 0
    for i in range(factor):
      tall, x = small + (i < over), 0
      for j in range(factor):
        wide = small + (j < over)
        for r in range(tall):
          for c in range(wide):
            # The nearest pixel, as PyTorch's.
            want[n, y + r, x + c] = real[(i * factor + j) * ipc + n][
                r * small // tall, c * small // wide]
        x += wide
      y += tall
  np.testing.assert_array_equal(got, want)
