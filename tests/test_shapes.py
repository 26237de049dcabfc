"""Flat batches and class-major sets, given to the wrong function."""

import jax
import jax.numpy as jnp
import lanes
import pytest
import toy

from dasm_jax import difficulty, objectives, shapes, synthetic
from dasm_jax.errors import UserError
from dasm_jax.training import ensemble, recipes
from dasm_jax.transforms import augment
from dasm_jax.types import Batch, Synthetic

KEY = jax.random.key(0)
MAJOR = Batch(jnp.ones((3, 4, 8, 8, 1)), jnp.ones((3, 4, 3)) / 3)
FLAT = Batch(jnp.ones((12, 8, 8, 1)), jnp.ones((12, 3)) / 3)
CODEC = synthetic.codec((.5,), (.3,), factor=2, shape=(8, 8, 1))
NETWORK = toy.network(depth=1, width=2)


def syn(batch):
  return Synthetic(*batch, jnp.float32(1))


def loss_fn(params, batch):
  return (params * batch.images).sum()


def logits_fn(params, images):
  return params * images.sum((1, 2))


MATCH = objectives.gradient_matching(loss_fn)
CROP = augment.build('crop')
# What each function is given that takes the other kind.
GIVEN_MAJOR = {
    'gradient_matching': lambda: MATCH(syn(MAJOR), 1., FLAT),
    'its target': lambda: MATCH(syn(FLAT), 1., MAJOR),
    'feature_matching': lambda: objectives.feature_matching(
        lambda params, images: (images,))(syn(MAJOR), 1., MAJOR),
    'sdc': lambda: objectives.sdc(MATCH, loss_fn, 1.)(
        syn(MAJOR), 1., MAJOR, KEY),
    'difficulty_only': lambda: objectives.difficulty_only(loss_fn)(
        syn(MAJOR), 1.),
    'augmented': lambda: objectives.augmented(MATCH, CROP)(
        syn(MAJOR), 1., MAJOR, KEY),
    'decoded': lambda: objectives.decoded(MATCH, CODEC)(
        syn(MAJOR), 1., MAJOR, KEY),
    'joined': lambda: objectives.joined(MATCH, CODEC)(
        syn(MAJOR), 1., (MAJOR, MAJOR), KEY),
    'trajectory_matching': lambda: objectives.trajectory_matching(loss_fn, 2)(
        syn(MAJOR), 1., 2., KEY),
    'gradient_norms': lambda: difficulty.gradient_norms(loss_fn, 1., MAJOR),
    'el2n': lambda: difficulty.el2n(logits_fn, 1., MAJOR),
    'mean_gradient': lambda: difficulty.mean_gradient(loss_fn, 1., MAJOR),
    'penalty': lambda: difficulty.penalty(loss_fn, 'batch_norm')(1., MAJOR),
    'fit': lambda: ensemble.fit(NETWORK, recipes.recipe(1), KEY, MAJOR),
}
GIVEN_FLAT = {
    'per_class': lambda: objectives.per_class(MATCH)(
        syn(FLAT), 1., MAJOR, KEY),
    'its target': lambda: objectives.per_class(MATCH)(
        syn(MAJOR), 1., FLAT, KEY),
    'all_classes': lambda: objectives.all_classes(
        lambda *given: 0, lambda flat: flat)(syn(FLAT), 1., FLAT, KEY),
    'training_inputs': lambda: synthetic.training_inputs(CODEC, syn(FLAT)),
    'method': lambda: toy.toy('dm').method.init(KEY, syn(FLAT)),
}


def refusal(call):
  with pytest.raises(ValueError) as error:
    call()
  assert isinstance(error.value, UserError)
  text = str(error.value)
  assert '\n' not in text
  return text


@pytest.mark.parametrize('name', GIVEN_MAJOR)
def test_class_major_sets_where_flat_ones_are_meant(name):
  text = refusal(GIVEN_MAJOR[name])
  assert '(3, 4, 8, 8, 1)' in text and '(3, 4, 3)' in text
  assert 'flat' in text and any(way in text for way in (
      'per_class', 'reshape', 'training_inputs'))


@pytest.mark.parametrize('name', lanes.slow(['method'], GIVEN_FLAT))
def test_flat_batches_where_class_major_ones_are_meant(name):
  text = refusal(GIVEN_FLAT[name])
  assert '(12, 8, 8, 1)' in text and '(12, 3)' in text
  assert 'class-major' in text


def test_sets_that_do_not_fit_each_other():
  total = objectives.per_class(MATCH)
  less = jax.tree.map(lambda x: x[:2], MAJOR)
  text = refusal(lambda: total(syn(MAJOR), 1., less, KEY))
  assert '(3, 4, 8, 8, 1) and (2, 4, 8, 8, 1)' in text
  odd = Batch(MAJOR.images, MAJOR.labels[:, :2])
  assert 'must be equal' in refusal(lambda: total(syn(odd), 1., MAJOR, KEY))


@pytest.mark.parametrize('call', [
    lambda images: NETWORK.apply(NETWORK.init(KEY), images),
    lambda images: CROP(KEY, images),
    lambda images: augment.cutmix(KEY, Batch(images, MAJOR.labels))])
def test_images_of_other_dimensions(call):
  assert '(3, 4, 8, 8, 1); of a class-major set' in refusal(
      lambda: call(MAJOR.images))
  assert '(8, 8, 1); add the axes' in refusal(lambda: call(FLAT.images[0]))


def test_what_fits_is_let_through():
  # Class numbers for labels, of images as high as there are classes; what has
  # no labels; images of any number of dimensions.
  numbers = jnp.zeros((3, 4), int)
  shapes.check_class_major('f', Batch(jnp.ones((3, 4, 5)), numbers), 1.)
  shapes.check_flat('f', Batch(jnp.ones((4, 5)), numbers[0]), None, FLAT)
  # Square images of as many rows as classes look class-major but for labels.
  twelve = Batch(jnp.ones((12, 3, 3)), FLAT.labels)
  with pytest.raises(UserError, match='flat batch'):
    shapes.check_class_major('f', twelve)
