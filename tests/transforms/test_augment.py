"""Augmentation: the range of draws, shared and separate, every combination."""

import math

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest

from dasm_jax.errors import UserError
from dasm_jax.transforms import augment, photometric
from dasm_jax.types import Batch

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEY = jax.random.key(0)
IMAGES = jax.random.normal(KEY, (5, 16, 16, 3))


def draws(op, n=4000, size=16):
  return [np.asarray(x) for x in augment.draws(op, KEY, n, size, size)]


def test_draw_ranges():
  for op, count in (('color', 3), ('flip', 1), ('scale', 2), ('rotate', 1)):
    values = draws(op)
    assert len(values) == count
    for x in values:
      assert 0 <= x.min() < .01 and .99 < x.max() < 1
    for a, b in zip(values, values[1:], strict=False):
      assert abs(np.corrcoef(a, b)[0, 1]) < .1
  for x in draws('crop'):  # an eighth either way, both ends included
    assert set(x) == set(range(-2, 3))
  for x in draws('cutout'):  # the side of the box is even: one more centre
    assert set(x) == set(range(17))
  for x in draws('cutout', size=18):
    assert set(x) == set(range(18))


def test_crop_by_hand():
  x = jnp.arange(1., 17).reshape(1, 4, 4, 1)
  got = augment.crop(x, jnp.array([1]), jnp.array([-2]))[0, ..., 0]
  np.testing.assert_array_equal(
      got, [[0, 0, 5, 6], [0, 0, 9, 10], [0, 0, 13, 14], [0] * 4])


def test_roll_by_hand():
  x = jnp.arange(1., 13).reshape(1, 3, 4, 1)
  got = augment.roll(x, jnp.array([1]), jnp.array([-2]))
  np.testing.assert_array_equal(got, jnp.roll(x, (1, -2), (1, 2)))
  two = jnp.concatenate([x, x])
  got = augment.roll(two, jnp.array([0, 4]), jnp.array([5, 0]))
  np.testing.assert_array_equal(got[0], jnp.roll(x[0], 1, 1))
  np.testing.assert_array_equal(got[1], jnp.roll(x[0], 1, 0))
  for op, (low, high) in (('roll4', (0, 4)), ('roll4both', (-4, 4)),
                          ('roll32', (0, 32))):
    for u in draws(op):
      assert set(u) == set(range(low, high + 1))


def test_patches_by_hand():
  # Strips of 3 and 2 rows, of 2, 2 and 1 columns would be those of 5.
  x = np.arange(25, dtype='f').reshape(1, 5, 5, 1)
  shuffle = jax.jit(augment.shuffle_patches)
  got = shuffle(x, np.array([[1, 0]]), np.array([[0, 1]]))
  np.testing.assert_array_equal(got[0], x[0, [3, 4, 0, 1, 2]])
  got = shuffle(np.concatenate([x, x]), np.array([[0, 1, 2], [2, 0, 1]]),
                np.array([[2, 0, 1], [0, 1, 2]]))
  np.testing.assert_array_equal(got[0], x[0][:, [4, 0, 1, 2, 3]])
  np.testing.assert_array_equal(got[1], x[0, [4, 0, 1, 2, 3]])


@pytest.mark.parametrize('op, count', augment.PATCHES.items())
def test_orders_of_patches(op, count):
  rows, columns = jax.jit(lambda key: augment.draws(op, key, 200, 8, 8))(KEY)
  for orders in rows, columns:
    assert (np.sort(orders, 1) == np.arange(count)).all()
    assert len(np.unique(orders, axis=0)) == math.factorial(count)
  assert (np.asarray(rows) != columns).any()


@pytest.mark.parametrize('op', augment.PATCHES)
def test_patches_are_those_of_the_image(op):
  # Cells of one colour each: what comes out are the same cells.
  count = augment.PATCHES[op]
  cells = jnp.arange(float(count ** 2)).reshape(1, count, count, 1)
  x = jnp.repeat(jnp.repeat(cells, 3, 1), 3, 2)
  got = np.asarray(jax.jit(augment.build(op, 'idc'))(KEY, x))[0, ..., 0]
  found = got[::3, ::3]
  np.testing.assert_array_equal(got, np.kron(found, np.ones((3, 3))))
  assert sorted(found.ravel()) == list(range(count ** 2))


@pytest.mark.slow
def test_mixup_by_hand():
  batch = Batch(IMAGES, jnp.eye(5))
  mixed = augment.mixup(KEY, batch, .8)
  # Labels tell the share and the partner of each image.
  lam = float(np.sort(np.unique(np.asarray(mixed.labels).round(6)))[-1])
  for image, label in zip(mixed.images, mixed.labels, strict=True):
    np.testing.assert_allclose(label.sum(), 1, rtol=1e-6)
    want = (np.asarray(label)[:, None, None, None] * IMAGES).sum(0)
    np.testing.assert_allclose(image, want, rtol=1e-4, atol=1e-5)
  assert 0 < lam <= 1
  assert augment.mixup(KEY, batch, 0.) is batch
  shares = jax.vmap(lambda key: augment.mixup(key, Batch(
      jnp.zeros((2, 1, 1, 1)), jnp.eye(2)), .8).labels[0].max())(
          jax.random.split(KEY, 3000))
  # Where the partner is another: the larger of Beta(.8, .8) and 1 minus it.
  other = np.asarray(shares)[np.asarray(shares) < 1]
  drawn = np.random.default_rng(0).beta(.8, .8, 9000)
  np.testing.assert_allclose(
      other.mean(), np.maximum(drawn, 1 - drawn).mean(), atol=.01)


def test_cutout_flip_and_color_by_hand():
  x = jnp.arange(1., 17).reshape(1, 4, 4, 1)
  got = augment.cutout(x, jnp.array([0]), jnp.array([2]))[0, ..., 0]
  np.testing.assert_array_equal(got[:2], [[1, 0, 0, 4], [5, 6, 7, 8]])
  mirrored = augment.flip(x, jnp.array([.49]))
  np.testing.assert_array_equal(mirrored, x[:, :, ::-1])
  np.testing.assert_array_equal(augment.flip(x, jnp.array([.5])), x)
  half = jnp.array([.5])
  np.testing.assert_allclose(augment.color(x, half, half, half), x, rtol=1e-6)
  np.testing.assert_allclose(
      augment.contrast(x, jnp.array([0.])), (x - 8.5) / 2 + 8.5)
  np.testing.assert_allclose(augment.brightness(x, jnp.array([.75])), x + .25)
  gray = augment.saturation(IMAGES, jnp.array([0.]))
  np.testing.assert_allclose(gray[..., 0], IMAGES.mean(3), rtol=1e-5, atol=1e-6)


def test_rotation_and_scale_rest_in_the_middle():
  middle = jnp.array([.5])
  np.testing.assert_allclose(augment.rotate(IMAGES, middle), IMAGES, atol=1e-5)
  one = jnp.array([(1 - 1 / 1.2) / (1.2 - 1 / 1.2)])
  np.testing.assert_allclose(
      augment.scale(IMAGES, one, one), IMAGES, atol=1e-4)
  quarter = augment.rotate(IMAGES, jnp.array([1.]), degrees=90.)
  np.testing.assert_allclose(quarter, jnp.rot90(IMAGES, 1, (1, 2)), atol=1e-4)


ALL = 'color_crop_cutout_flip_scale_rotate'
OPS = [op for op in augment.OPS
       if op not in photometric.PHOTOMETRIC]  # see test_photo


@pytest.mark.parametrize('strategy, mode', lanes.slow_but(
    [('crop', 'single'), ('rotate', 'mtt'), (ALL, 'idc')],
    [(op, mode) for op in (*OPS, ALL) for mode in augment.MODES]))
def test_shared_treats_two_batches_alike(strategy, mode):
  apply = jax.jit(augment.build(strategy, mode), static_argnums=2)
  other = jnp.concatenate([IMAGES[2:4], IMAGES])
  changed = 0
  for key in jax.random.split(KEY, 3):
    one, two = apply(key, IMAGES, True), apply(key, other, True)
    assert one.shape == IMAGES.shape and one.dtype == IMAGES.dtype
    np.testing.assert_allclose(two[2:], one, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(two[:2], one[2:4], rtol=1e-5, atol=1e-5)
    changed += not np.allclose(one, IMAGES)
  assert changed  # flip leaves one of two as it is


@pytest.mark.parametrize('strategy', lanes.slow_but(('color',), OPS))
def test_separate_draws_differ(strategy):
  apply = jax.jit(augment.build(strategy), static_argnames='shared')
  same = jnp.broadcast_to(IMAGES[:1], (8, 16, 16, 3))
  got = np.asarray(apply(KEY, same, shared=False))
  assert len({image.tobytes() for image in got}) > 1
  got = np.asarray(apply(KEY, same, shared=True))
  np.testing.assert_allclose(got, np.broadcast_to(got[:1], got.shape))


def test_modes_apply_what_they_say():
  def groups(strategy, mode):
    return augment.MODES[mode](augment.parse(strategy))
  assert groups(ALL, 'single') == [augment.parse(ALL)]
  assert groups(ALL, 'all') == [(op,) for op in augment.parse(ALL)]
  assert groups(ALL, 'idc') == [
      ('flip',), ('color',), ('crop', 'scale', 'rotate'), ('cutout',)]
  assert groups('color_cutout', 'idc') == [('color',), ('cutout',)]
  for mode in augment.MODES:
    assert groups('', mode) == groups('none', mode) == []
    assert augment.build('', mode)(KEY, IMAGES) is IMAGES


def test_dsa_aligns_corners_and_else_is_single():
  for op, aligned in (('scale', True), ('rotate', True), ('crop', False)):
    one, other, same = (
        np.asarray(augment.build(op, mode)(KEY, IMAGES, True)).tobytes()
        for mode in ('single', 'dsa', 'mtt'))
    assert (one != other) == aligned and same == other
  # Of one draw the first number chooses the operation.
  u = jax.random.uniform(KEY, (2,))[1:, None]
  np.testing.assert_allclose(
      augment.build('rotate', 'mtt')(KEY, IMAGES, True), augment.rotate(
          IMAGES, *augment.from_uniform('rotate', u, 16, 16),
          align_corners=True), rtol=1e-6)


def test_single_draws_each_operation():
  flat = jnp.ones((1, 16, 16, 1))
  apply = jax.jit(augment.build('flip_color_cutout'))
  kinds = {'same': 0, 'shifted': 0, 'cut': 0}
  for key in jax.random.split(KEY, 60):
    got = np.asarray(apply(key, flat))
    kind = ('same' if np.allclose(got, 1) else
            'cut' if (got == 0).any() else 'shifted')
    kinds[kind] += 1
  assert all(10 < count < 35 for count in kinds.values()), kinds


def test_gradient_reaches_the_images():
  apply = augment.build(ALL, 'all')
  slope = jax.jit(jax.grad(lambda x: apply(KEY, x, True).sum()))(IMAGES)
  assert np.isfinite(slope).all() and (slope != 0).mean() > .3


def test_impossible_strategies():
  with pytest.raises(UserError, match="'blur'; choose from color, crop"):
    augment.build('color_blur')
  with pytest.raises(UserError, match='twice'):
    augment.build('flip_crop_flip')
  with pytest.raises(UserError, match="'x'; choose from all, dsa, idc, mtt, "):
    augment.build('flip', 'x')


def test_jitter_by_hand():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9, 9, 2)))
  half = jnp.full(4, .5)
  # Shifted by (2, -1); stretched by 1, so as it is; turned by nothing; and
  # shrunk to 0.8 of the height, whose outer rows are then 0.
  jitter = jax.jit(augment.jitter)
  got = np.asarray(jitter(
      x, jnp.array([0, 1, 2, 1]), jnp.full(4, 2), jnp.full(4, -1),
      half.at[3].set(0), half, half))
  want = np.zeros((9, 9, 2))
  want[:7, 1:] = np.asarray(x)[0, 2:, :8]
  np.testing.assert_allclose(got[0], want, atol=1e-6)
  np.testing.assert_allclose(got[1:3], x[1:3], atol=1e-6)
  np.testing.assert_allclose(got[3, 4], x[3, 4], atol=1e-6)
  assert not got[3, 8].any() and got[3, 7].any()
  # By 45 degrees the centre stays, and (0, r) goes to (r, r) / sqrt 2.
  dot = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4].set(9.).at[0, 4, 8].set(4.)
  one = jnp.zeros(1)
  turned = np.asarray(jitter(dot, one + 2, one, one, one, one, one + 1))
  assert turned[0, 4, 4, 0] == pytest.approx(9)
  assert max(turned[0, 7, 7, 0], turned[0, 1, 7, 0]) > 1
  assert turned[0, 4, 8, 0] < .5


@pytest.mark.slow
def test_jitter_draws_for_each_image():
  images = jnp.broadcast_to(jnp.arange(64.).reshape(1, 8, 8, 1), (40, 8, 8, 1))
  got = np.asarray(jax.jit(augment.build('jitter'))(KEY, images))
  assert len(np.unique(got.reshape(40, -1), axis=0)) > 30


# ---- CutMix


def batch(n=6, size=8):
  images = jnp.arange(1., n + 1)[:, None, None, None]
  images = images * jnp.ones((1, size, size, 1))
  return Batch(images, jnp.eye(n))


def test_mix_by_hand():
  # Sides 2 * (int(8 * sqrt(.25)) // 2) = 4 around (1, 6): clipped to 3 by 4.
  got = jax.jit(augment.cutmix_at)(batch(2), .75, 1, 6, jnp.array([1, 0]))
  want = np.ones((8, 8))
  want[:3, 4:] = 2
  np.testing.assert_array_equal(got.images[0, ..., 0], want)
  np.testing.assert_allclose(got.labels, [[52 / 64, 12 / 64],
                                          [12 / 64, 52 / 64]])


@pytest.mark.slow
def test_cutmix_shares():
  mixed = 0
  run = jax.jit(augment.cutmix, static_argnums=2)
  for key in jax.random.split(KEY, 40):
    plain = batch()
    got = run(key, plain, 1.0)
    np.testing.assert_allclose(got.labels.sum(-1), 1, rtol=1e-6)
    for i in range(6):
      # Labels say which share of the pixels is whose.
      own = np.bincount(np.asarray(got.images[i]).ravel().astype(int) - 1,
                        minlength=6) / 64
      np.testing.assert_allclose(got.labels[i], own, atol=1e-6)
    mixed += not np.array_equal(got.images, plain.images)
  assert mixed > 20
  assert augment.cutmix(KEY, plain, 0.0) is plain


@pytest.mark.slow
def test_cutmix_probability():
  plain = batch(16)
  keys = jax.random.split(KEY, 400)
  def share(p):
    def one(key):
      return jnp.any(augment.cutmix(key, plain, p).images != plain.images)
    return float(jax.jit(jax.vmap(one))(keys).mean())
  assert abs(share(.25) / share(1.0) - .25) < .08
