"""ZCA whitening: what it promises, in any order of the features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasm_jax.errors import UserError
from dasm_jax.transforms import zca

RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(12, 12))
IMAGES = (RNG.normal(size=(90, 12)) @ MIX / 20 + .5).reshape(
    90, 2, 2, 3).astype(np.float32)


def covariance(images):
  return np.cov(np.asarray(images).reshape(len(images), -1), rowvar=False)


def test_whitened_images_have_the_shrunk_variances():
  fitted = zca.fit(IMAGES, 1e-2)
  values, vectors = np.linalg.eigh(covariance(IMAGES.astype(np.float64)))
  want = vectors * (values / (values + 1e-2)) @ vectors.T
  white = zca.whiten(fitted, IMAGES)
  np.testing.assert_allclose(covariance(white), want, atol=1e-5)
  np.testing.assert_allclose(np.mean(white, 0), 0, atol=1e-5)
  np.testing.assert_allclose(fitted.matrix, fitted.matrix.T, atol=1e-12)


def test_almost_no_eps_whitens():
  white = zca.whiten(zca.fit(IMAGES, 1e-9), IMAGES)
  np.testing.assert_allclose(covariance(white), np.eye(12), atol=1e-3)


@pytest.mark.parametrize('chunk', [1, 7, 90])
def test_chunks_make_no_difference(chunk):
  for a, b in zip(zca.fit(IMAGES, chunk=chunk), zca.fit(IMAGES), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_there_and_back():
  fitted = zca.fit(IMAGES)
  np.testing.assert_allclose(fitted.matrix @ fitted.inverse, np.eye(12),
                             atol=1e-12)
  def back(images):
    return zca.colour(fitted, zca.whiten(fitted, images))
  np.testing.assert_allclose(jax.jit(back)(IMAGES), IMAGES, atol=1e-5)
  stacked = IMAGES[:6].reshape(3, 2, 2, 2, 3)
  np.testing.assert_allclose(back(stacked), stacked, atol=1e-5)
  np.testing.assert_allclose(jax.vmap(back)(IMAGES[:4]), IMAGES[:4], atol=1e-5)


def test_features_may_be_permuted():
  fitted, flipped = zca.fit(IMAGES), zca.fit(IMAGES[:, ::-1, :, ::-1])
  np.testing.assert_allclose(
      zca.whiten(flipped, IMAGES[:, ::-1, :, ::-1]),
      zca.whiten(fitted, IMAGES)[:, ::-1, :, ::-1], atol=1e-5)


def test_bytes_are_fractions_of_255():
  whole = (np.clip(IMAGES, 0, 1) * 255).astype(np.uint8)
  for a, b in zip(zca.fit(whole), zca.fit(whole / 255), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
  fitted = zca.fit(whole)
  white = zca.whiten(fitted, whole)
  assert white.dtype == jnp.float32
  np.testing.assert_allclose(
      white, zca.whiten(fitted, np.float32(whole / 255)), atol=1e-6)


def test_one_image_repeated():
  # No variance at all: only eps is left.
  fitted = zca.fit(np.repeat(IMAGES[:1], 5, 0))
  np.testing.assert_allclose(fitted.matrix, np.eye(12) / np.sqrt(.1),
                             atol=1e-6)


def test_mistakes():
  with pytest.raises(UserError, match='ZCA of 1 images; it needs at least 2'):
    zca.fit(IMAGES[:1])
  with pytest.raises(UserError, match='eps=0 of ZCA must be above 0'):
    zca.fit(IMAGES, 0)
  with pytest.raises(UserError, match=r'of 12 numbers, .* shape \(2, 2, 1\)'):
    zca.whiten(zca.fit(IMAGES), IMAGES[..., :1])
