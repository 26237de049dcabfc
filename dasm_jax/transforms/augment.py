"""Differentiable (Siamese) augmentation, driven by a key.

Every operation is a pure function of images `[n, height, width, channels]`
(normalised: a filled 0 is the data's mean) and of its draws, arrays `[n]`
(one draw an image) or `[1]` (one for all). Uniform draws lie in [0, 1).

Sections: CutMix (1905.04899) and Mixup, the operations (DSA, 2102.08259, its
table as released), their draws, and strategies (`build`), which put them
together.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import shapes, streams
from dasm_jax.errors import UserError, unknown
from dasm_jax.transforms import photometric, resample
from dasm_jax.types import Array, Augmentation, Batch

# ---- CutMix and Mixup


def cutmix(key: Array, batch: Batch, probability: float = 0.5) -> Batch:
  """Replaces one box of every image by that of a partner (1905.04899).

  With `probability` a batch is mixed: lambda is Beta(1, 1), the box has
  sides `2 (int(side sqrt(1 - lambda)) // 2)` around a uniform centre and is
  clipped; labels mix by the clipped area, which equals mixing the losses.

  Args:
    key: a key.
    batch: `Batch` of `[n, h, w, c]` images and `[n, classes]` labels.
    probability: of mixing at all.

  Returns:
    A `Batch` of the same shapes.
  """
  if not probability:
    return batch
  shapes.check_images('augment.cutmix', batch.images)
  n, height, width, _ = batch.images.shape
  u = jax.random.uniform(streams.typed(key), (4 + n,))
  lam = u[0]  # Beta(1, 1)
  row, column = (streams.whole(v, 0, side)
                 for v, side in ((u[1], height), (u[2], width)))
  partner = jnp.argsort(u[4:])
  use = u[3] < probability
  mixed = cutmix_at(batch, lam, row, column, partner)
  return jax.tree.map(lambda a, b: jnp.where(use, a, b), mixed, batch)


def cutmix_at(batch: Batch, lam: Array, row: Array, column: Array,
              partner: Array) -> Batch:
  """The mixed `Batch` of `cutmix` for given draws (`partner`: `[n]`)."""
  _, height, width, _ = batch.images.shape
  inside_rows, rows = box_span(height, lam, row)
  inside_columns, columns = box_span(width, lam, column)
  inside = (inside_rows[:, None] & inside_columns[None])[..., None]
  images = jnp.where(inside, batch.images[partner], batch.images)
  # Of the box as it is clipped, not lambda: IDC's program mixes losses by it.
  area = (rows * columns).astype(resample.precision(batch.labels))
  share = (1 - area / (height * width)).astype(batch.labels.dtype)
  labels = share * batch.labels + (1 - share) * batch.labels[partner]
  return batch._replace(images=images, labels=labels)


def mixup(key: Array, batch: Batch, alpha: float = 0.8) -> Batch:
  """Mixes every image with a partner, one share for the batch (1710.09412).

  `lambda x + (1 - lambda) x[partner]` and labels alike, lambda of
  Beta(alpha, alpha).

  Args:
    key: a key.
    batch: `Batch` of `[n, h, w, c]` images and `[n, classes]` labels.
    alpha: 0 leaves the batch as it is.

  Returns:
    A `Batch` of the same shapes.
  """
  if not alpha:
    return batch
  shapes.check_images('augment.mixup', batch.images)
  k_lam, k_partner = jax.random.split(streams.typed(key))
  lam = jax.random.beta(k_lam, alpha, alpha)
  partner = jax.random.permutation(k_partner, len(batch.images))
  def mix(x):
    share = _precise(lam, x)
    return (share * x + (1 - share) * x[partner]).astype(x.dtype)
  return jax.tree.map(mix, batch)


def box_span(size: int, lam: Array, centre: Array) -> tuple[Array, Array]:
  """Where a box lies along one axis: `([size] bool, its length)`."""
  half = jnp.floor(size * jnp.sqrt(1 - lam)).astype(jnp.int32) // 2
  low = jnp.clip(centre - half, 0, size)
  high = jnp.clip(centre + half, 0, size)
  at = jnp.arange(size)
  return (at >= low) & (at < high), high - low


# ---- Operations

# DSA's: the shift and the box as shares of a side, the largest factor, degrees.
CROP = 0.125
CUTOUT = 0.5
SCALE = 1.2
DEGREES = 15.0
# DC's own, of `jitter`: pixels, share, degrees.
SHIFT, STRETCH, TURN = 4, 0.2, 45.0
# SRe2L's, of what it moves: pixels in each axis, on CIFAR, Tiny ImageNet and
# ImageNet.
ROLLS = {'roll4': (0, 4), 'roll4both': (-4, 4), 'roll32': (0, 32)}
# RDED's: patches along a side.
PATCHES = {'patches2': 2, 'patches3': 3, 'patches4': 4}


def _precise(u, x):
  """A draw as exact as images `x`; draws are float32 unless one asks."""
  return u.astype(resample.precision(x, u))


def _each(u, x):
  """A draw `[n or 1]` against images `[n, h, w, c]`."""
  return u[:, None, None, None].astype(x.dtype)


def brightness(x: Array, u: Array) -> Array:
  """`x + (u - 0.5)`."""
  return x + _each(_precise(u, x) - 0.5, x)


def saturation(x: Array, u: Array) -> Array:
  """`(x - m) 2u + m` with m the mean over channels of each pixel."""
  mean = x.mean(3, keepdims=True)
  return (x - mean) * _each(2 * u, x) + mean


def contrast(x: Array, u: Array) -> Array:
  """`(x - m)(u + 0.5) + m` with m the mean of each image."""
  mean = x.mean((1, 2, 3), keepdims=True)
  return (x - mean) * _each(_precise(u, x) + 0.5, x) + mean


def color(x: Array, brightness_u: Array, saturation_u: Array, contrast_u: Array
          ) -> Array:
  """Brightness, then saturation, then contrast."""
  return contrast(saturation(brightness(x, brightness_u), saturation_u),
                  contrast_u)


def crop(x: Array, rows: Array, columns: Array) -> Array:
  """Shifts by whole pixels: `y[i, j] = x[i + rows, j + columns]`, 0 outside."""
  _, height, width, _ = x.shape
  rows, columns = _precise(rows, x), _precise(columns, x)
  return resample.separable(
      x, jnp.arange(height, dtype=rows.dtype) + rows[:, None],
      jnp.arange(width, dtype=columns.dtype) + columns[:, None])


def roll(x: Array, rows: Array, columns: Array) -> Array:
  """Shifts by whole pixels; what leaves on one side comes in on the other.

  `y[i, j] = x[i - rows, j - columns]`, counted around.
  """
  _, height, width, _ = x.shape
  def around(moved, size):
    at = (jnp.arange(size) - moved[:, None].astype(jnp.int32)) % size
    return at.astype(resample.precision(x))
  return resample.separable(x, around(rows, height), around(columns, width))


def shuffle_patches(x: Array, rows: Array, columns: Array) -> Array:
  """Cuts images into strips, puts these in another order, in both directions.

  Strip i of the result is strip `rows[i]`, and so are columns. Where a side
  does not divide evenly its first strips are one pixel longer, as
  `synthetic.pack` makes them.

  Args:
    x: `[n, height, width, channels]`.
    rows, columns: orders, `[n or 1, strips]` int.
  """
  def positions(order, size):
    each, longer = divmod(size, order.shape[1])
    lengths = each + (jnp.arange(order.shape[1]) < longer)
    starts = (jnp.cumsum(lengths) - lengths)[order]
    ends = jnp.cumsum(lengths[order], 1)
    at = jnp.arange(size)
    strip = (at[:, None] >= ends[:, None]).sum(-1)
    shift = jnp.take_along_axis(starts - ends + lengths[order], strip, 1)
    return (at + shift).astype(resample.precision(x))
  return resample.separable(
      x, positions(rows, x.shape[1]), positions(columns, x.shape[2]))


def cutout(x: Array, row: Array, column: Array) -> Array:
  """Zeros a box of half the size around (`row`, `column`), clamped inside."""
  _, height, width, _ = x.shape
  keep = ~(_box_mask(height, row)[:, :, None]
           & _box_mask(width, column)[:, None, :])
  return x * keep[..., None].astype(x.dtype)


def _box_mask(size, centre):
  side = int(size * CUTOUT + 0.5)
  low = jnp.clip(centre - side // 2, 0, size - 1)
  high = jnp.clip(centre - side // 2 + side - 1, 0, size - 1)
  at = jnp.arange(size)
  return (at >= low[:, None]) & (at <= high[:, None])


def flip(x: Array, u: Array) -> Array:
  """Mirrors left and right where `u < 0.5`."""
  _, height, width, _ = x.shape
  mirrored = (u < 0.5)[:, None]
  dtype = resample.precision(x)
  at = jnp.arange(width, dtype=dtype)
  return resample.separable(x, jnp.arange(height, dtype=dtype)[None],
                            jnp.where(mirrored, width - 1 - at, at))


def scale(x: Array, width_u: Array, height_u: Array, *,
          align_corners: bool = False, limit: float = SCALE) -> Array:
  """Samples at `s` times the position, s in [1/limit, limit) for each axis.

  So an s above 1 makes the image smaller, with zeros around it.
  """
  def positions(u, size):
    s = _precise(u, x)[:, None] * (limit - 1 / limit) + 1 / limit
    at = resample.normalised(size, align_corners, s.dtype)
    return resample.pixels(s * at, size, align_corners)
  return resample.separable(x, positions(height_u, x.shape[1]),
                            positions(width_u, x.shape[2]))


def rotate(x: Array, u: Array, *, align_corners: bool = False,
           degrees: float = DEGREES) -> Array:
  """Rotates by `(2u - 1) degrees` in normalised coordinates, bilinear."""
  _, height, width, _ = x.shape
  u = _precise(u, x)
  angle = ((u - 0.5) * 2 * jnp.deg2rad(degrees))[:, None, None]
  rows = resample.normalised(height, align_corners, angle.dtype)[:, None]
  columns = resample.normalised(width, align_corners, angle.dtype)[None]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return resample.bilinear(
      x, resample.pixels(sin * columns + cos * rows, height, align_corners),
      resample.pixels(cos * columns - sin * rows, width, align_corners))


def jitter(x: Array, choice: Array, row: Array, column: Array, height_u: Array,
           width_u: Array, angle_u: Array) -> Array:
  """DC's own: each image is shifted, scaled or rotated, gaps are 0.

  By up to 4 pixels, 0.8 to 1.2 in each axis, or 45 degrees, as `choice` `[n]`
  of 0, 1, 2 says. Here bilinear; the reference's scaling takes the nearest
  pixel, its rotation a spline, and the mean of the batch fills the gaps.
  """
  _, height, width, _ = x.shape
  # One sampling for all three, two of which change nothing: each image has its
  # own choice.
  dtype = resample.precision(x, angle_u)
  is_crop, is_scale, is_rotate = (
      (choice == k)[:, None, None].astype(dtype) for k in range(3))
  draws_ = [v[:, None, None].astype(dtype)
            for v in (row, column, height_u, width_u, angle_u)]
  angle = is_rotate * jnp.deg2rad(TURN) * (2 * draws_[4] - 1)
  tall, wide = (1 + is_scale * STRETCH * (2 * u - 1) for u in draws_[2:4])
  rows = (jnp.arange(height, dtype=dtype) - (height - 1) / 2)[:, None]
  columns = (jnp.arange(width, dtype=dtype) - (width - 1) / 2)[None]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return resample.bilinear(
      x,
      (cos * rows + sin * columns) / tall + (height - 1) / 2
      + is_crop * draws_[0],
      (cos * columns - sin * rows) / wide + (width - 1) / 2
      + is_crop * draws_[1])


# ---- Draws


def draws(op: str, key: Array, n: int, height: int, width: int
          ) -> tuple[Array, ...]:
  """The random values of one operation, a tuple of arrays `[n, …]`.

  Args:
    op: a key of `OPS`.
    key: a key.
    n: how many; 1 is one draw for all images.
    height, width: of the images.

  Returns:
    What the operation takes after the images.
  """
  return from_uniform(op, jax.random.uniform(key, (n, NUMBERS[op])).T, height,
                      width)


def from_uniform(op: str, u: Array, height: int, width: int
                 ) -> tuple[Array, ...]:
  """The same of draws from [0, 1), `[NUMBERS[op], n]`.

  Args:
    op: a key of `OPS`.
    u: the draws, float32.
    height, width: of the images.

  Returns:
    What the operation takes after the images.
  """
  if op in photometric.PHOTOMETRIC:
    return photometric.from_uniform(op, u, height, width)
  if op in ROLLS:
    low, high = ROLLS[op]
    return tuple(streams.whole(v, low, high + 1) for v in u)
  if op in PATCHES:
    return tuple(jnp.argsort(jnp.moveaxis(half, 0, -1), -1)
                 for half in jnp.split(u, 2))
  if op == 'crop':
    return tuple(streams.whole(v, -reach, reach + 1) for v, reach in zip(
        u, (int(side * CROP + 0.5) for side in (height, width)), strict=True))
  if op == 'cutout':
    return tuple(map(_centre, u, (height, width)))
  if op == 'jitter':
    return (streams.whole(u[0], 0, 3),
            *(streams.whole(v, -SHIFT, SHIFT + 1) for v in u[1:3]), *u[3:])
  return tuple(u)


def _centre(u, size):
  # An even box may have its centre at `size` itself, beyond the last pixel, as
  # in the program of DSA.
  side = int(size * CUTOUT + 0.5)
  return streams.whole(u, 0, size + (1 - side % 2))


# ---- Strategies

OPS = {'color': color, 'crop': crop, 'cutout': cutout, 'flip': flip,
       'scale': scale, 'rotate': rotate, 'jitter': jitter,
       **dict.fromkeys(ROLLS, roll),
       **dict.fromkeys(PATCHES, shuffle_patches), **photometric.PHOTOMETRIC}
# Draws from [0, 1) that each takes.
NUMBERS = {'color': 3, 'crop': 2, 'cutout': 2, 'flip': 1, 'scale': 2,
           'rotate': 1, 'jitter': 6, **dict.fromkeys(ROLLS, 2),
           **{op: 2 * count for op, count in PATCHES.items()},
           **photometric.NUMBERS}
GEOMETRIC = ('scale', 'rotate')
WARPS = ('crop', 'scale', 'rotate', 'jitter')


def parse(strategy: str) -> tuple[str, ...]:
  """`color_crop_cutout` as a tuple of operations; '' and 'none' are none.

  Args:
    strategy: a text.

  Returns:
    A tuple of keys of `OPS`.

  Raises:
    UserError: an unknown operation, or one twice.
  """
  ops = tuple(op for op in strategy.split('_') if op and op != 'none')
  for op in ops:
    if op not in OPS:
      raise unknown('augmentation', op, OPS)
  if len(set(ops)) < len(ops):
    raise UserError(f'augmentation {strategy!r} names an operation twice')
  return ops


def build(strategy: str, mode: str = 'single', *, statistics: tuple = ()
          ) -> Augmentation:
  """An augmentation `(key, images, shared=False) -> images`.

  Args:
    strategy: operations joined by `_`, of `OPS`; '' or 'none' changes nothing.
    mode: `single` applies one operation drawn for the whole batch. `dsa`: the
      same, resampled with `align_corners`, as torch 1.2 did, for which the
      programs of DC, DSA and DM were written; `mtt`: `dsa` by another name, of
      programs that ask for it. `idc` shuffles patches, resizes, flips, rolls
      and colours when named, then one drawn of crop, scale, rotate and jitter,
      then cuts out. `all` applies all in the order named.
    statistics: (mean, std) that the images are normalised with, which jitter3
      and lighting ask for; (): they are on [0, 1].

  Returns:
    A pure function. `shared` draws one strength for all images (Siamese: two
    batches of any lengths under the same key get the same treatment), else
    each image draws its own.

  Raises:
    UserError: an unknown operation or mode.
  """
  ops = parse(strategy)
  if mode not in MODES:
    raise unknown('augmentation mode', mode, MODES)
  order = MODES[mode](ops)

  # The rows of a draw that each group takes, for the longest of its operations.
  rows = np.cumsum([0, *(max(NUMBERS[op] for op in ops) for ops in order)])

  def one(op, u, images):
    settings = {'align_corners': mode in ALIGNED} if op in GEOMETRIC else {}
    if op in photometric.PIXEL_OPS:
      mean, std = statistics or ((0.0,), (1.0,))
      settings = {'mean': mean, 'std': std}
    values = from_uniform(op, u[:NUMBERS[op]], *images.shape[1:3])
    return OPS[op](images, *values, **settings)

  def apply(key, images, shared=False):
    shapes.check_images('an augmentation', images)
    if not order:
      return images
    # The operation is drawn for the batch, in every mode; only its strength is
    # each image's own.
    n = 1 if shared else len(images)
    drawn = jax.random.uniform(
        streams.typed(key), (len(order) + n * int(rows[-1]),))
    u = drawn[len(order):].reshape(n, -1).T
    for choices, v, first, last in zip(
        order, drawn[:len(order)], rows[:-1], rows[1:], strict=True):
      branches = [functools.partial(one, op, u[first:last]) for op in choices]
      images = jax.lax.switch(
          streams.whole(v, 0, len(branches)), branches, images)
    return images

  return apply


ALWAYS = (*PATCHES, *photometric.LEAST_AREA, 'flip', *ROLLS, 'color', 'jitter3',
          'lighting')
ALIGNED = ('dsa', 'mtt')  # modes that resample with `align_corners`


def _one_group(ops):
  return [ops] if ops else []


# Each mode is a sequence of groups; one operation of every group is applied.
MODES = {
    'single': _one_group,
    'dsa': _one_group,
    'mtt': _one_group,
    'all': lambda ops: [(op,) for op in ops],
    'idc': lambda ops: [
        group for group in (
            *((op,) for op in ALWAYS if op in ops),
            tuple(op for op in ops if op in WARPS),
            ('cutout',) * ('cutout' in ops)) if group],
}
