"""Storage: cells packed, cut and enlarged; bounds; spaces."""

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest

from dasm_jax import synthetic
from dasm_jax.errors import UserError
from dasm_jax.types import Synthetic

pytestmark = pytest.mark.usefixtures('quick_compiler')
IMAGES = np.random.default_rng(0).uniform(0, 1, (4, 6, 6, 3)).astype('f')


def codec(**options):
  return synthetic.codec((.5, .4, .3), (.2, .3, .4), **options)


def test_mix_packs_by_nearest_neighbour():
  real = IMAGES[..., :1]
  got = np.asarray(synthetic.pack(real, 2))
  assert got.shape == (1, 6, 6, 1)
  for i in range(2):
    for j in range(2):
      # A cell of three from six: every other pixel.
      np.testing.assert_array_equal(
          got[0, 3 * i:3 * i + 3, 3 * j:3 * j + 3], real[2 * i + j, ::2, ::2])
  np.testing.assert_array_equal(synthetic.pack(IMAGES, 1), IMAGES)


def test_mix_gives_what_is_over_to_the_first_cells():
  real = np.arange(4 * 25, dtype='f').reshape(4, 5, 5, 1)
  got = np.asarray(synthetic.pack(real, 2))[0, ..., 0]
  three, two = [0, 1, 3], [0, 2]  # floor(k * 5 / 3), floor(k * 5 / 2)
  np.testing.assert_array_equal(got[:3, :3], real[0, ..., 0][three][:, three])
  np.testing.assert_array_equal(got[:3, 3:], real[1, ..., 0][three][:, two])
  np.testing.assert_array_equal(got[3:, 3:], real[3, ..., 0][two][:, two])


def test_mix_puts_an_image_s_cells_apart():
  real = np.arange(8, dtype='f').reshape(8, 1, 1, 1) * np.ones((1, 2, 2, 1))
  got = np.asarray(synthetic.pack(real.astype('f'), 2))[..., 0]
  # Cell (i, j) of image n is real image (2 i + j) * ipc + n.
  np.testing.assert_array_equal(got, [[[0, 2], [4, 6]], [[1, 3], [5, 7]]])


def test_decode_by_hand():
  # Cells of 2x2, enlarged to 4x4: half-pixel centres, edges repeated.
  image = np.zeros((1, 4, 4, 1), 'f')
  image[0, :2, :2, 0] = [[0, 4], [0, 4]]
  image[0, 2:, :2, 0] = [[8, 8], [0, 0]]
  got = np.asarray(synthetic.decode(codec(factor=2), image))[..., 0]
  assert got.shape == (4, 4, 4)
  np.testing.assert_allclose(got[0], [[0, 1, 3, 4]] * 4)
  np.testing.assert_allclose(got[2], np.repeat([[8, 6, 2, 0]], 4, 0).T)
  assert not got[1].any() and not got[3].any()


def test_decode_pads_odd_sides_with_gray():
  image = np.ones((1, 3, 3, 1), 'f')
  got = np.asarray(synthetic.decode(codec(factor=2), image))[..., 0]
  assert got.shape == (4, 3, 3)
  assert (got[0] == 1).all()
  np.testing.assert_allclose(got[3].max(), 1)
  np.testing.assert_allclose(got[3].min(), .5)


def enlarged(cell, size, axis):
  """NumPy's bilinear resize of one axis: half-pixel centres, edges repeated."""
  small = cell.shape[axis]
  at = (np.arange(size) + .5) * small / size - .5
  return np.apply_along_axis(
      lambda row: np.interp(at, np.arange(small), row), axis, cell)


@pytest.mark.parametrize('factor', lanes.slow_but([2], [2, 3]))
@pytest.mark.parametrize('height, width', [(7, 31), (48, 65)])
def test_decode_is_exact_in_float64(height, width, factor):
  rng = np.random.default_rng(0)
  image = rng.normal(size=(1, height, width, 2))
  tall, wide = -(-height // factor), -(-width // factor)
  padded = np.full((tall * factor, wide * factor, 2), .5)
  padded[:height, :width] = image[0]
  cells = [padded[i * tall:(i + 1) * tall, j * wide:(j + 1) * wide]
           for i in range(factor) for j in range(factor)]
  want = [enlarged(enlarged(cell, height, 0), width, 1) for cell in cells]
  with jax.enable_x64(True):
    got = synthetic.decode(codec(factor=factor), jnp.asarray(image))
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('kind, want', [
    ('single', [0, 1, 2] * 4), ('multi', [0, 1, 2] + [0, 1, 2] * 4),
    ('bound', [0, 1, 2] * 4)])
def test_sources_tell_where_from(kind, want):
  coder = codec(factor=2, kind=kind)
  assert synthetic.decoded_from(coder, 3).tolist() == want
  flat = np.arange(3, dtype='f').reshape(3, 1, 1, 1) * np.ones((1, 4, 4, 1))
  got = synthetic.decode(coder, flat.astype('f'))
  np.testing.assert_allclose(np.asarray(got)[:, 2, 2, 0], want)


def test_round_trip_of_smooth_images():
  # What is constant in a cell survives packing and decoding exactly.
  real = np.arange(8, dtype='f').reshape(8, 1, 1, 1) * np.ones((1, 6, 6, 1))
  got = synthetic.decode(codec(factor=2), synthetic.pack(real.astype('f'), 2))
  np.testing.assert_allclose(got, real)


# By IDC's arithmetic: as many at each factor as leave room for all the others.
@pytest.mark.parametrize('n, factor, want', [
    (31, 2, [96, 7]), (33, 3, [90, 12, 20]), (200, 2, [200]),
    *lanes.slow_but((), [
        (1, 2, [4]), (25, 2, [100]), (60, 2, [68, 43]), (100, 2, [28, 93]),
        (128, 2, [128])])])
def test_bound(n, factor, want):
  coder = codec(factor=factor, kind='bound', bound=128)
  where = synthetic.decoded_from(coder, n)
  assert len(where) == sum(want) and set(where) == set(range(n))
  assert len(where) <= max(n, 128)
  assert len(synthetic.decode(coder, jnp.zeros((n, 6, 6, 1)))) == len(where)


def test_spaces():
  stored = codec(space='pixels')
  np.testing.assert_allclose(
      synthetic.normalise(stored, IMAGES),
      (IMAGES - [.5, .4, .3]) / [.2, .3, .4], rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(synthetic.pixels(stored, IMAGES + 1), 1)
  free = codec(space='normalised')
  assert synthetic.normalise(free, IMAGES) is IMAGES
  np.testing.assert_allclose(
      synthetic.pixels(free, synthetic.normalise(stored, IMAGES)), IMAGES,
      atol=1e-6)
  assert synthetic.clip(free, IMAGES * 9) is not None
  np.testing.assert_array_equal(synthetic.clip(free, IMAGES * 9), IMAGES * 9)
  assert synthetic.clip(stored, IMAGES * 9).max() == 1


def test_noise():
  key = jax.random.key(0)
  free = synthetic.noise(key, codec(space='normalised'), (1000,))
  assert abs(free.mean()) < .1 and abs(free.std() - 1) < .1
  pixels = synthetic.noise(key, codec(space='pixels'), (1000,))
  assert pixels.min() >= 0 and pixels.max() <= 1
  assert abs(pixels.mean() - .5) < .05 and abs(pixels.std() - .24) < .05


def test_inputs_are_class_major():
  images = np.arange(4, dtype='f').reshape(2, 2, 1, 1, 1) * np.ones(
      (1, 1, 4, 4, 3), 'f')
  labels = jnp.broadcast_to(jnp.eye(2)[:, None], (2, 2, 2))
  syn = Synthetic(jnp.asarray(images, 'float32'), labels, jnp.float32(0))
  for kind in ('single', 'bound'):  # a bound is of the matching only
    coder = codec(space='normalised', factor=2, kind=kind, bound=2)
    got, soft = synthetic.training_inputs(coder, syn)
    np.testing.assert_allclose(got[:, 1, 1, 0], [0, 1] * 4 + [2, 3] * 4)
    np.testing.assert_array_equal(soft.argmax(-1), [0] * 8 + [1] * 8)


@pytest.mark.parametrize('options, words', [
    ({'space': 'rgb'}, "storage space 'rgb'; choose from normalised, pixels"),
    ({'kind': 'x'}, "formation 'x'; choose from bound, multi, single"),
    ({'factor': 0}, 'factor 0 does not fit'),
    ({'factor': 9, 'shape': (8, 10, 3)}, 'factor 9.*side 8.*from 1 to 8')])
def test_impossible_codecs(options, words):
  with pytest.raises(UserError, match=words):
    codec(**options)
