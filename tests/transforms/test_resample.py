"""Sampling images at odd sides, in float64: as slow NumPy has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasm_jax.runtime import devices
from dasm_jax.transforms import augment, photometric, resample
from dasm_jax.types import Batch

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEY = jax.random.key(0)
# No powers of two: their positions are no short binary fractions.
SIDES = [(7, 31), (48, 65), (31, 48), (65, 7)]


@pytest.fixture(autouse=True)
def double():
  """Everything here is in float64, unless it says otherwise."""
  with jax.enable_x64(True):
    yield


def images(height, width, n=2):
  rng = np.random.default_rng(height)
  return rng.normal(size=(n, height, width, 2))


def sampled(image, rows, columns):
  """Bilinear samples of `[h, w, c]` at `[…]` positions, zeros outside."""
  height, width, _ = image.shape
  padded = np.zeros((height + 4, width + 4, image.shape[2]))
  padded[2:-2, 2:-2] = image
  rows, columns = np.broadcast_arrays(rows, columns)
  # What is farther away than a pixel is nothing, too.
  rows = np.clip(rows, -1.5, height + .5) + 2
  columns = np.clip(columns, -1.5, width + .5) + 2
  top, left = (np.floor(x).astype(int) for x in (rows, columns))
  down, right = (rows - top)[..., None], (columns - left)[..., None]
  above = padded[top, left] * (1 - right) + padded[top, left + 1] * right
  below = padded[top + 1, left] * (1 - right) + (
      padded[top + 1, left + 1] * right)
  return above * (1 - down) + below * down


def normalised(size, align_corners):
  at = np.arange(size)
  return 2 * at / (size - 1) - 1 if align_corners else (2 * at + 1) / size - 1


def pixels(at, size, align_corners):
  return (at + 1) * (size - 1) / 2 if align_corners else (
      (at + 1) * size - 1) / 2


def positions(op, draws, height, width, align):
  """Where an operation looks, `[height or 1, width]` rows and columns."""
  draws = [float(x) for x in draws]
  rows, columns = np.arange(height)[:, None], np.arange(width)[None]
  if op == 'crop':
    return rows + draws[0], columns + draws[1]
  if op == 'flip':
    return rows, width - 1 - columns if draws[0] < .5 else columns
  if op == 'jitter':
    choice, row, column, tall, wide, angle = draws
    turn = (choice == 2) * np.deg2rad(45) * (2 * angle - 1)
    tall, wide = (1 + (choice == 1) * .2 * (2 * u - 1) for u in (tall, wide))
    middle = (height - 1) / 2, (width - 1) / 2
    rows, columns = rows - middle[0], columns - middle[1]
    return ((np.cos(turn) * rows + np.sin(turn) * columns) / tall + middle[0]
            + (choice == 0) * row,
            (np.cos(turn) * columns - np.sin(turn) * rows) / wide + middle[1]
            + (choice == 0) * column)
  if op == 'scale':
    wide, tall = (u * (1.2 - 1 / 1.2) + 1 / 1.2 for u in draws)
    return (pixels(tall * normalised(height, align), height, align)[:, None],
            pixels(wide * normalised(width, align), width, align)[None])
  y, x = normalised(height, align)[:, None], normalised(width, align)[None]
  angle = np.deg2rad(15) * (2 * draws[0] - 1)
  return (pixels(np.sin(angle) * x + np.cos(angle) * y, height, align),
          pixels(np.cos(angle) * x - np.sin(angle) * y, width, align))


@pytest.mark.parametrize('op, align', [
    *((op, align) for op in augment.GEOMETRIC for align in (False, True)),
    ('crop', False), ('flip', False), ('jitter', False)])
def test_operations_as_slow_numpy_has_them(op, align):
  settings = {'align_corners': align} if op in augment.GEOMETRIC else {}
  for height, width in SIDES:
    x = images(height, width)
    draws = [u.astype(jnp.float32) if jnp.issubdtype(u.dtype, jnp.floating)
             else u  # as programs draw them
             for u in augment.draws(op, KEY, 2, height, width)]
    if op == 'jitter':
      draws[0] = jnp.array([height % 3, 2])
    got = jax.jit(lambda x, *u: augment.OPS[op](x, *u, **settings))(x, *draws)
    assert got.dtype == jnp.float64
    for k in range(2):
      want = sampled(x[k], *positions(
          op, [u[k] for u in draws], height, width, align))
      np.testing.assert_allclose(got[k], want, rtol=1e-12, atol=1e-12)


def test_resized_crop_as_slow_numpy_has_it():
  for height, width in SIDES:
    x, box = images(height, width), (1, 2, height - 3, 4)
    got = jax.jit(photometric.resized_crop)(x, *(jnp.full(2, k) for k in box))
    rows, columns = (
        start + np.clip((np.arange(out) + .5) * size / out - .5, 0, size - 1)
        for start, size, out in zip(box[:2], box[2:], (height, width),
                                    strict=True))
    for k in range(2):
      np.testing.assert_allclose(
          got[k], sampled(x[k], rows[:, None], columns[None]), rtol=1e-12,
          atol=1e-12)


def test_both_ways_to_sample_agree():
  for height, width in SIDES:
    x = jnp.asarray(images(height, width))
    rows = resample.upsampling(height, 17, x.dtype)[None]
    columns = resample.upsampling(width, 5, x.dtype)[None]
    grid = jnp.broadcast_arrays(rows[:, :, None], columns[:, None])
    np.testing.assert_allclose(
        jax.jit(resample.separable)(x, rows, columns),
        jax.jit(resample.bilinear)(x, *grid), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('draws', [1, 2])
def test_a_tpu_samples_by_products(draws):
  x, rng = jnp.asarray(images(7, 5)), np.random.default_rng(1)
  # Whole positions, others, and some outside.
  rows, columns = (jnp.asarray(np.concatenate([
      rng.uniform(-2, side + 2, (draws, 2, 6)), rng.integers(
          -1, side + 1, (draws, 2, 6))], 1)) for side in (7, 5))
  def both(x):
    return resample.bilinear(x, rows, columns), jax.grad(
        lambda x: jnp.sin(resample.bilinear(x, rows, columns)).sum())(x)
  want = jax.jit(both)(x)
  large = jnp.zeros((2, 65, 8, 3))
  with devices.building_for(devices.Target('tpu', 2 ** 30)):
    got = jax.jit(lambda x: both(x))(x)
    texts = [str(jax.make_jaxpr(lambda x: resample.bilinear(x, rows, columns))(
        x)) for x in (x, large)]
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
  assert 'gather' not in texts[0] and 'HIGHEST' in texts[0]
  assert 'gather' in texts[1]


@pytest.mark.parametrize('draws', [1, 2])
def test_no_product_is_rounded(draws):
  """TF32 on a GPU, bfloat16 on a TPU: not by default where pixels are moved."""
  rows = jax.ShapeDtypeStruct((draws, 8), jnp.float32)
  images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  text = str(jax.make_jaxpr(resample.separable)(images, rows, rows))
  assert text.count('dot_general') == text.count('Precision.HIGHEST') / 2 == 2


def test_half_precision_looks_where_float32_does():
  # Positions in bfloat16 would be whole pixels above 128.
  x, box = images(3, 300), (1, 40, 2, 251)
  crop = jax.jit(photometric.resized_crop)
  whole, half = (crop(jnp.asarray(x, dtype), *(jnp.full(2, k) for k in box))
                 for dtype in (jnp.float32, jnp.bfloat16))
  np.testing.assert_allclose(half.astype(jnp.float32), whole, atol=.06)


def test_cutmix_mixes_labels_by_the_exact_area():
  x = images(7, 31, 3)
  batch = Batch(jnp.asarray(x), jnp.eye(3))
  mixed = jax.jit(augment.cutmix_at)(
      batch, jnp.float32(.4), 3, 11, jnp.array([1, 2, 0]))
  share = (np.asarray(mixed.images) == x).mean((1, 2, 3))
  np.testing.assert_allclose(
      mixed.labels, share[:, None] * np.eye(3) + (
          1 - share[:, None]) * np.roll(np.eye(3), -1, 0), rtol=1e-15)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32', 'float64'])
@pytest.mark.parametrize('op', augment.OPS)
def test_types_are_kept(op, dtype):
  change = augment.build(op, statistics=((.5,) * 3, (.3,) * 3))
  given = jax.ShapeDtypeStruct((2, 7, 9, 3), dtype)
  assert jax.eval_shape(change, KEY, given) == given


def test_colours_are_as_exact_as_the_images():
  x, u = images(7, 31), jnp.float32([.1, .7])
  wide = np.asarray(u, np.float64)[:, None, None, None]
  np.testing.assert_allclose(augment.brightness(x, u), x + (wide - .5),
                             rtol=1e-14, atol=1e-14)
  mean = x.mean((1, 2, 3), keepdims=True)
  np.testing.assert_allclose(
      augment.contrast(x, u), (x - mean) * (wide + .5) + mean, rtol=1e-13,
      atol=1e-13)
