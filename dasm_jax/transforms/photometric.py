"""Augmentation of photographs: random resized crop, colour jitter, lighting.

As in `augment`: pure functions of images `[n, height, width, channels]` and of
their draws, arrays `[n]` or `[1]`. Colours are changed as pixels on [0, 1], so
those operations take the mean and std that the images are normalised with.
Sources: IDC (2205.14959), its evaluation on ImageNet as released; the crop is
torchvision's RandomResizedCrop of tensors, lighting is AlexNet's.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dasm_jax import streams
from dasm_jax.errors import UserError
from dasm_jax.transforms import resample
from dasm_jax.types import Array

# As torchvision's: boxes that are tried, width to height of them.
TRIES = 10
RATIOS = 3 / 4, 4 / 3
# IDC's on ImageNet: how far jitter and lighting go; weights of gray.
JITTER = 0.4
GRAY = 0.299, 0.587, 0.114
LIGHT = 0.1
# Of the colours of ImageNet: eigenvalues, and the vectors as columns.
VALUES = 0.2175, 0.0188, 0.0045
VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140),
           (-0.5836, -0.6948, 0.4203))
# Orders of brightness, contrast, saturation.
ORDERS = (0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)


def resized_crop(x: Array, top: Array, left: Array, height: Array, width: Array
                 ) -> Array:
  """The box, whole pixels, enlarged bilinearly to the size of the image."""
  dtype = resample.precision(x)
  def positions(start, size, out):
    # Half-pixel centres; the edges of the box are repeated.
    at = (jnp.arange(out, dtype=dtype) + 0.5) * size[:, None] / out - 0.5
    return start[:, None] + jnp.clip(at, 0, size[:, None] - 1)
  return resample.separable(
      x, positions(top, height.astype(dtype), x.shape[1]),
      positions(left, width.astype(dtype), x.shape[2]))


def boxes(key: Array, n: int, height: int, width: int, least: float
          ) -> tuple[Array, ...]:
  """Boxes of `least` to 1 of the area: (top, left, height, width), `[n]` each.

  The first of ten draws that fits: a uniform area, a log-uniform ratio from
  3/4 to 4/3, a uniform place; else the largest centred box of such a ratio.
  """
  return _boxes(jax.random.uniform(key, (2 * TRIES + 2, n)), height, width,
                least)


def _boxes(u, height, width, least):
  """The same of draws `[2 TRIES + 2, n]` from [0, 1)."""
  # All tries at once: each image takes the first of its own that fits.
  area = height * width * (least + (1 - least) * u[:TRIES])
  low, high = map(math.log, RATIOS)
  ratio = jnp.exp(low + (high - low) * u[TRIES:2 * TRIES])
  wide = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
  tall = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
  fits = (0 < wide) & (wide <= width) & (0 < tall) & (tall <= height)
  first = jnp.argmax(fits, axis=0)[None]
  whole = _centred(height, width)
  found = fits.any(0)
  tall, wide = (jnp.where(found, jnp.take_along_axis(x, first, 0)[0], size)
                for x, size in ((tall, whole[0]), (wide, whole[1])))
  top, left = (jnp.where(found, streams.whole(v, 0, side - x + 1),
                         (side - x) // 2)
               for v, side, x in ((u[-2], height, tall), (u[-1], width, wide)))
  return top, left, tall, wide


def _centred(height, width):
  if width < height * RATIOS[0]:
    return round(width / RATIOS[0]), width
  if width > height * RATIOS[1]:
    return height, round(height * RATIOS[1])
  return height, width


def jitter3(x: Array, order: Array, bright: Array, contrast: Array,
            saturation: Array, *, mean: Sequence[float], std: Sequence[float]
            ) -> Array:
  """Brightness, contrast and saturation, in one of six orders.

  Each moves pixels p to `p + a (t - p)`, `a = 0.4 (2u - 1)`: t is black, the
  mean gray of the image, the gray of the pixel. Nothing is clipped.
  """
  shape = (len(order), 1, 1, 1)
  pixels = x * _per_channel(std, x) + _per_channel(mean, x)
  dtype = resample.precision(x, bright)
  weights = [(JITTER * (2 * u.astype(dtype) - 1)).reshape(shape).astype(x.dtype)
             for u in (bright, contrast, saturation)]
  # The order is each image's: three rounds, in each of which every image takes
  # the step that its order has there.
  which = jnp.asarray(ORDERS)[order]
  for place in range(3):
    kind = which[:, place].reshape(shape)
    gray = _gray(pixels)
    target = jnp.where(kind == 0, 0, jnp.where(
        kind == 1, gray.mean((1, 2), keepdims=True), gray))
    pixels = pixels + jnp.choose(kind, weights, mode='clip') * (
        target - pixels)
  return (pixels - _per_channel(mean, x)) / _per_channel(std, x)


def _gray(pixels):
  """`[n, h, w, 1]`; the images themselves where they are gray."""
  if pixels.shape[-1] != 3:
    return pixels.mean(-1, keepdims=True)
  return (pixels * _per_channel(GRAY, pixels)).sum(-1, keepdims=True)


def lighting(x: Array, first: Array, second: Array, third: Array, *,
             mean: Sequence[float], std: Sequence[float]) -> Array:
  """Adds `sum_i 0.1 a_i value_i vector_i` to every pixel, a normal.

  Raises:
    UserError: images that are not in colour.
  """
  del mean
  _check_colour(x.shape[-1])
  # Pixels move by the shift, so inputs by it over std; the mean cancels.
  amounts = LIGHT * jnp.stack([first, second, third], -1) * jnp.asarray(VALUES)
  shift = amounts @ jnp.asarray(VECTORS).T
  return x + (shift[:, None, None].astype(x.dtype) / _per_channel(std, x))


def _check_colour(channels):
  if channels != 3:
    raise UserError(f'augmentation lighting is for images of 3 channels, not '
                    f'{channels}; leave it out of the strategy')


def _per_channel(values, x):
  """Numbers of the channels against images `[n, h, w, channels]`."""
  return jnp.asarray(values, x.dtype)


def from_uniform(op: str, u: Array, height: int, width: int
                 ) -> tuple[Array, ...]:
  """The random values of one operation, a tuple of arrays `[n]`.

  Args:
    op: a key of `PHOTOMETRIC`.
    u: draws from [0, 1), `[NUMBERS[op], n]`.
    height, width: of the images.

  Returns:
    What the operation takes after the images.
  """
  if op in LEAST_AREA:
    return _boxes(u, height, width, LEAST_AREA[op])
  if op == 'lighting':
    # Normal ones: 0 would be one of infinite size.
    return tuple(jax.scipy.special.ndtri(jnp.maximum(u, SMALLEST)))
  return streams.whole(u[0], 0, len(ORDERS)), *u[1:]


# Least area of a crop: IDC's, SRe2L's; RDED's, one of so many patches a side.
LEAST_AREA = {'rrc': 0.5, 'rrc08': 0.08, 'rrc33': 1 / 3, 'rrc25': 0.25}
PHOTOMETRIC = {**dict.fromkeys(LEAST_AREA, resized_crop), 'jitter3': jitter3,
               'lighting': lighting}
PIXEL_OPS = 'jitter3', 'lighting'  # those that take mean and std
# Draws from [0, 1) that each takes.
NUMBERS = {**dict.fromkeys(LEAST_AREA, 2 * TRIES + 2), 'jitter3': 4,
           'lighting': 3}
SMALLEST = 2.0 ** -24  # half of what draws are multiples of


def pixel_statistics(strategy: str, mean: Sequence[float], std: Sequence[float],
                     whitened: object = False) -> tuple:
  """`(mean, std)` if a strategy changes pixels by them, else ().

  Raises:
    UserError: it does, and the images are whitened, or gray where it is for
      colours.
  """
  asking = _ops_on_pixels(strategy)
  if asking and whitened:
    raise UserError(f'augmentation {asking[0]} changes pixels, which whitened '
                    'images have not; set --config.dataset.zca=0')
  if 'lighting' in asking:
    _check_colour(len(mean))
  return (tuple(mean), tuple(std)) if asking else ()


def check_statistics(strategy: str, statistics_: tuple) -> None:
  """Raises `UserError` if a strategy asks for statistics that are not there."""
  asking = _ops_on_pixels(strategy)
  if asking and not statistics_:
    raise UserError(f'augmentation {asking[0]} changes pixels and asks for the '
                    'mean and std that the images are normalised with')


def _ops_on_pixels(strategy):
  return [op for op in strategy.split('_') if op in PIXEL_OPS]
