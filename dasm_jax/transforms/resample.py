"""Separable and general bilinear resampling of images, differentiable.

Positions are as exact as the images, `precision`: what is sampled in float64
has no rounding of float32 in it.
"""

from typing import Any

import jax.numpy as jnp

from dasm_jax.runtime import devices
from dasm_jax.types import Array


def separable(images: Array, rows: Array, columns: Array) -> Array:
  """Bilinear samples on a grid, zeros outside: `R @ image @ C^T`.

  A shift, flip or scaling moves rows and columns apart from each other, so
  it is two small matrix products with weights `max(0, 1 - |position - k|)`:
  exact for whole positions, and as fast backwards as forwards.

  Args:
    images: `[n, height, width, channels]`.
    rows: `[n or 1, height_out]` positions in pixels.
    columns: `[n or 1, width_out]` positions in pixels.

  Returns:
    `[n, height_out, width_out, channels]`.
  """
  n, height, width, _ = images.shape
  images = _apply_weights('nij,njwc->niwc', 'ij,njwc->niwc',
                          _weights(rows, height), images)
  return _apply_weights('nij,nhjc->nhic', 'ij,nhjc->nhic',
                        _weights(columns, width), images)


def _weights(positions, size):
  at = jnp.arange(size, dtype=positions.dtype)
  return jnp.maximum(0, 1 - jnp.abs(positions[..., None] - at))


def _apply_weights(each, shared, weights, images):
  # One draw for all images is one matrix, which needs no product for each.
  # Accelerators round the factors of a product unless told otherwise: a shift
  # by whole pixels would not be exact.
  weights = weights.astype(images.dtype)
  if weights.shape[0] == 1:
    return jnp.einsum(shared, weights[0], images, precision='highest')
  return jnp.einsum(each, weights, images, precision='highest')


def resized_boxes(images: Array, boxes: tuple[Array, ...],
                  shape: tuple[int, int]) -> Array:
  """Boxes of images, resized bilinearly and with antialiasing.

  As PyTorch's `antialias=True`: a box that shrinks is averaged by triangles as
  wide as the shrinking, within the box. One that grows is sampled at half-pixel
  centres, its edges repeated.

  Args:
    images: `[n, height, width, channels]`.
    boxes: (top, left, height, width), `[n]` each, whole pixels.
    shape: (height, width) of what is returned.

  Returns:
    `[n, *shape, channels]`.
  """
  top, left, tall, wide = boxes
  images = _apply_weights('nij,njwc->niwc', 'ij,njwc->niwc', _triangles(
      top, tall, images.shape[1], shape[0], precision(images)), images)
  return _apply_weights('nij,nhjc->nhic', 'ij,nhjc->nhic', _triangles(
      left, wide, images.shape[2], shape[1], precision(images)), images)


def _triangles(start, length, size, size_out, dtype):
  """Weights `[n, size_out, size]` of `length` pixels from `start` on."""
  start, length = (x[:, None, None].astype(dtype) for x in (start, length))
  scale = length / size_out
  centre = start + (jnp.arange(size_out, dtype=dtype)[:, None] + 0.5) * scale
  at = jnp.arange(size, dtype=dtype) + 0.5
  weights = jnp.maximum(0, 1 - jnp.abs(at - centre) / jnp.maximum(scale, 1))
  weights = jnp.where((at > start) & (at < start + length), weights, 0)
  return weights / weights.sum(-1, keepdims=True)


# Side of images above which `bilinear` gathers on a TPU, too: of what its
# products have between them each image has side^3 channels numbers.
PRODUCTS = 64


def bilinear(images: Array, rows: Array, columns: Array) -> Array:
  """Bilinear samples at any positions, zeros outside.

  On a TPU by products with weights `max(0, 1 - |position - k|)`, first over
  rows, then over columns: its gathers of single pixels are dear, forwards and
  backwards.

  Args:
    images: `[n, height, width, channels]`.
    rows, columns: `[n or 1, height_out, width_out]` positions in pixels.

  Returns:
    `[n, height_out, width_out, channels]`.
  """
  if devices.backend() == 'tpu' and max(images.shape[1:3]) <= PRODUCTS:
    return _by_products(images, rows, columns)
  return _gathered(images, rows, columns)


def _by_products(images, rows, columns):
  _, height, width, _ = images.shape
  along = _apply_weights('nijk,nklc->nijlc', 'ijk,nklc->nijlc',
                         _weights(rows, height), images)
  columns = _weights(columns, width).astype(images.dtype)
  return (along * columns[..., None]).sum(3)


def _gathered(images, rows, columns):
  n, height, width, _ = images.shape
  # The four pixels around a position, each by its weight. Indices are clipped,
  # so that the gather stays inside; what was outside has weight 0.
  top, left = jnp.floor(rows), jnp.floor(columns)
  total = 0
  for down in (0, 1):
    for right in (0, 1):
      r, c = top + down, left + right
      weight = (1 - jnp.abs(rows - r)) * (1 - jnp.abs(columns - c))
      inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
      weight = jnp.where(inside, weight, 0).astype(images.dtype)
      r = jnp.clip(r, 0, height - 1).astype(jnp.int32)
      c = jnp.clip(c, 0, width - 1).astype(jnp.int32)
      if r.shape[0] == 1:
        taken = images[:, r[0], c[0]]
      else:
        taken = images[jnp.arange(n)[:, None, None], r, c]
      total = total + weight[..., None] * taken
  return total


def precision(images: Array, *draws: Array) -> jnp.dtype:
  """The float dtype of positions in images: theirs, and float32 at least.

  draws: by which positions are found, where they are more exact.
  """
  return jnp.result_type(jnp.float32, images.dtype, *draws)


def normalised(size: int, align_corners: bool, dtype: Any = jnp.float32
               ) -> Array:
  """Positions of pixels on [-1, 1], `[size]`, as PyTorch's affine grid."""
  at = jnp.arange(size, dtype=dtype)
  # -1 and 1 are the centres of the outer pixels, else their outer edges.
  if align_corners:
    return 2 * at / max(size - 1, 1) - 1
  return (2 * at + 1) / size - 1


def pixels(positions: Array, size: int, align_corners: bool) -> Array:
  """The inverse of `normalised`: positions on [-1, 1] in pixels."""
  if align_corners:
    return (positions + 1) * (size - 1) / 2
  return ((positions + 1) * size - 1) / 2


def upsampling(size: int, size_out: int, dtype: Any = jnp.float32) -> Array:
  """Positions `[size_out]` of a bilinear resize, edges repeated.

  Half-pixel centres (PyTorch's `align_corners=False`).
  """
  at = (jnp.arange(size_out, dtype=dtype) + 0.5) * size / size_out - 0.5
  return jnp.clip(at, 0, size - 1)
