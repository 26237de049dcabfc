"""Augmentation of photographs against Pillow and formulas written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from dasm_jax.errors import UserError
from dasm_jax.training import recipes
from dasm_jax.transforms import augment, photometric

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
MEAN, STD = np.array([.5, .4, .3]), np.array([.2, .25, .3])
PIXELS = RNG.uniform(.35, .65, (6, 9, 11, 3))
IMAGES = jnp.asarray((PIXELS - MEAN) / STD, jnp.float32)


DRAWS = jax.jit(augment.draws, static_argnums=(0, 2, 3, 4))
JITTER = jax.jit(lambda *args: photometric.jitter3(*args, mean=MEAN, std=STD))


def seen(images):
  """What normalised images are as pixels."""
  return np.asarray(images) * STD + MEAN


def test_crop_is_pillow_s():
  box = top, left, height, width = 2, 3, 5, 7
  crop = jax.jit(photometric.resized_crop)
  got = crop(IMAGES[:1], *(jnp.array([x]) for x in box))
  for channel in range(3):
    image = Image.fromarray(np.asarray(IMAGES[0, ..., channel]))
    want = image.crop((left, top, left + width, top + height)).resize(
        (11, 9), Image.BILINEAR)
    np.testing.assert_allclose(got[0, ..., channel], want, atol=1e-5)
  whole = crop(IMAGES, *(
      jnp.full(6, x) for x in (0, 0, 9, 11)))
  np.testing.assert_allclose(whole, IMAGES, atol=1e-6)


@pytest.mark.parametrize('op, least', list(photometric.LEAST_AREA.items()))
def test_boxes(op, least):
  top, left, height, width = map(np.asarray, DRAWS(
      op, KEY, 4000, 224, 224))
  assert min(top.min(), left.min()) >= 0
  assert max((top + height).max(), (left + width).max()) == 224
  area, ratio = height * width / 224 ** 2, width / height
  assert least - .01 < area.min() < least + .02 and area.max() > .98
  # Uniform in the area but for what does not fit, about 1 in ratio's log.
  low = np.mean(area < least + .1)
  assert .8 * .1 / (1 - least) < low < 1.6 * .1 / (1 - least)
  assert .74 < ratio.min() < .77 and 1.3 < ratio.max() < 1.35
  assert abs(np.log(ratio).mean()) < .01
  inside = left[width < 200] / (224 - width[width < 200])
  assert abs(inside.mean() - .5) < .02


def test_boxes_of_images_that_hold_none():
  # Ten times as wide: half of the area never fits; the centred 4/3 is left.
  top, left, height, width = DRAWS('rrc', KEY, 3, 8, 80)
  assert [x.tolist() for x in (top, left, height, width)] == [
      [0] * 3, [34] * 3, [8] * 3, [11] * 3]
  top, left, height, width = DRAWS('rrc', KEY, 1, 80, 8)
  assert [int(x[0]) for x in (top, left, height, width)] == [34, 0, 11, 8]


def one(kind, a):
  """All images changed by one of the three, by `a` of its target."""
  u = jnp.full(6, .5 + a / photometric.JITTER / 2)
  half = jnp.full(6, .5)
  values = [u if k == kind else half for k in range(3)]
  return seen(JITTER(IMAGES, jnp.zeros(6, int), *values))


@pytest.mark.parametrize('kind, enhance', list(enumerate((
    ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color))))
@pytest.mark.parametrize('a', [-.3, .4])
def test_jitter_is_pillow_s(kind, enhance, a):
  got = one(kind, a)
  for k in range(2):
    image = Image.fromarray(np.uint8(PIXELS[k] * 255 + .5))
    want = np.asarray(enhance(image).enhance(1 - a)) / 255
    np.testing.assert_allclose(got[k], want, atol=1.7 / 255)


def test_jitter_in_every_order():
  gray = np.array(photometric.GRAY)
  def change(x, kind, a):
    g = (x * gray).sum(-1, keepdims=True)
    return x + a * ([0 * g, g.mean(), g][kind] - x)
  us = RNG.uniform(size=(3, 6))
  got = seen(JITTER(IMAGES, jnp.arange(6), *jnp.float32(us)))
  for k, order in enumerate(photometric.ORDERS):
    x = PIXELS[k]
    for kind in order:
      x = change(x, kind, .4 * (2 * us[kind, k] - 1))
    np.testing.assert_allclose(got[k], x, atol=1e-5)
  assert len({tuple(order) for order in photometric.ORDERS}) == 6
  flat = jnp.ones((1, 4, 4, 1))  # gray images have a gray of their own
  dark = photometric.jitter3(flat, jnp.array([0]), jnp.array([1.]),
                             jnp.array([.5]),
                             jnp.array([1.]), mean=(0.,), std=(1.,))
  np.testing.assert_allclose(dark, .6 * flat, rtol=1e-5)


def test_lighting_by_hand():
  got = photometric.lighting(IMAGES[:1], *(jnp.array([a]) for a in (1., -2.,
                                                                    3.)),
                             mean=MEAN, std=STD)
  shift = [.1 * (-.5675 * .2175 - 2 * .7192 * .0188 + 3 * .4009 * .0045),
           .1 * (-.5808 * .2175 + 2 * .0045 * .0188 - 3 * .8140 * .0045),
           .1 * (-.5836 * .2175 + 2 * .6948 * .0188 + 3 * .4203 * .0045)]
  np.testing.assert_allclose(seen(got)[0] - PIXELS[0],
                             np.broadcast_to(shift, (9, 11, 3)), atol=1e-6)
  values = np.asarray(DRAWS('lighting', KEY, 4000, 1, 1))
  assert abs(values.mean()) < .03 and abs(values.std() - 1) < .03
  with pytest.raises(UserError, match='3 channels, not 1'):
    photometric.lighting(IMAGES[..., :1], *jnp.ones((3, 6)), mean=MEAN, std=STD)


STRATEGY = 'rrc_flip_jitter3_lighting'


@pytest.mark.slow
def test_a_recipe_takes_the_pixels_of_its_statistics():
  statistics = photometric.pixel_statistics(STRATEGY, MEAN, STD)
  assert statistics == (tuple(MEAN), tuple(STD))
  assert photometric.pixel_statistics('rrc_flip_color', MEAN, STD) == ()
  recipe = recipes.idc_recipe(9, strategy=STRATEGY, cutmix=0.,
                            statistics=statistics, weight_decay=1e-4)
  assert recipe.statistics == statistics and recipe.weight_decay == 1e-4
  groups = augment.MODES['idc'](augment.parse('lighting_flip_cutout_rrc_crop'))
  assert groups == [('rrc',), ('flip',), ('lighting',), ('crop',), ('cutout',)]
  # One value everywhere stays one under crops; colours move as pixels do.
  flat = jnp.broadcast_to(IMAGES[:1, :1, :1], IMAGES.shape)
  change = jax.jit(augment.build(STRATEGY, 'idc', statistics=statistics),
                   static_argnums=2)
  # Siamese: one draw for all, whatever stands beside.
  same = np.asarray(change(KEY, IMAGES, True))
  np.testing.assert_allclose(change(KEY, IMAGES[4:], True), same[4:], atol=1e-5)
  got = seen(change(KEY, flat))
  np.testing.assert_allclose(got, got[:, :1, :1] * np.ones((9, 11, 1)),
                             atol=1e-5)
  assert .1 < got.min() and got.max() < 1 and len(np.unique(got[:, 0, 0])) > 6
  with pytest.raises(UserError, match='asks for the mean'):
    recipes.idc_recipe(9, strategy=STRATEGY)
  with pytest.raises(UserError, match='jitter3 .*whitened .*zca=0'):
    photometric.pixel_statistics(STRATEGY, MEAN, STD, whitened=True)


def test_gradient_reaches_the_images():
  # What SRe2L recovers through: all of a crop, nothing beside it.
  change = augment.build('rrc08_flip', 'idc')
  slope = jax.jit(jax.grad(lambda x: change(KEY, x).sum()))(IMAGES)
  touched = np.asarray(slope != 0).any(-1)
  assert np.isfinite(slope).all() and .08 < touched.mean() < 1
  np.testing.assert_allclose(np.asarray(slope).sum((1, 2)), 99, rtol=1e-3)
