"""Every network of the table: sizes, starts, derivatives, what it refuses."""

import functools
import math

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
import toy
from golden_files import quick

from dasm_jax import difficulty, losses, models
from dasm_jax.errors import UserError
from dasm_jax.models import resnet, vgg
from dasm_jax.types import Batch

KEY = jax.random.key(0)
NAMES = sorted(models.MODELS)
# Small ones, each with every kind of layer that it has; see `shallow`. Others
# are tested as they are.
SMALL = {
    'alexnet': {'widen': 1 / 16, 'norm': 'batch'},
    'convnet': {'width': 4, 'depth': 2},
    'densenet': {'blocks': (1, 1), 'growth': 4, 'reduction': 1.0},
    'lenet': {},
    'mlp': {'width': 8},
    'resnet': {'widen': 1 / 8, 'depth': 18, 'variant': 'imagenet'},
    'resnet18': {'widen': 1 / 8},
    'resnet18_ap': {'widen': 1 / 8},
    'resnet_ap': {'widen': 1 / 8, 'depth': 18, 'variant': 'imagenet'},
    'vgg11': {'widen': 1 / 16},
    'vit': {'width': 4, 'depth': 1, 'heads': 2},
}
SLOW = [name for name in SMALL if name != 'convnet']
each_network = pytest.mark.parametrize('name', lanes.slow(SLOW, NAMES))
# Parameters of the references, for ten classes; of ViT by hand.
COUNTS = [
    ('convnet', (32, 32, 3), {}, 320_010),
    ('convnet', (28, 28, 1), {}, 317_706),
    ('densenet', (32, 32, 3), {}, 1_000_618),
    ('resnet', (32, 32, 3), {}, 1_228_970),
    ('resnet_ap', (224, 224, 3), {}, 4_910_922),
    ('resnet18', (32, 32, 3), {}, 11_173_962),
    ('resnet18_ap', (32, 32, 3), {}, 11_250_762),
    ('vit', (32, 32, 3), {'patch': 8, 'width': 16, 'depth': 2, 'heads': 2},
     (192 + 1) * 16 + 16 * 16 + 2 * (12 * 256 + 13 * 16) + 2 * 16 + 17 * 10),
]


def build(name, shape=(16, 16, 3), classes=3, **settings):
  return models.build(name, shape=shape, classes=classes, **settings)


def shallow(name, shape=(16, 16, 3), **settings):
  """With fewer stages: a second derivative of all takes the compiler long."""
  whole = max(shape[0], 32), max(shape[1], 32), shape[2]
  module = models.MODELS[name](whole, 3, **SMALL.get(name, {}) | settings)
  if isinstance(module, resnet.ResNet):
    module = module.clone(blocks=(0, 1))
  if isinstance(module, vgg.Stages):
    module = module.clone(
        widths=module.widths[:2], kernels=(module.kernels[0], 3))
  return models.pure(module, shape)


def struct(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize('shape', [(32, 32, 3), (28, 28, 1)])
@each_network
def test_shapes(name, shape):
  fewer = {'blocks': (1, 1, 1, 1)} if name == 'densenet' else {}
  network = build(name, shape, 5, **fewer)
  def all_of(images):
    variables = network.init(KEY)
    return variables, network.features(variables, images)
  variables, features = jax.eval_shape(
      all_of, jax.ShapeDtypeStruct((4, *shape), jnp.float32))
  assert features and all(x.ndim == 4 for x in features)
  read = {leaves['kernel'].shape for kind, leaves in variables.params.items()
          if 'Dense' in kind}
  assert (math.prod(features[-1].shape[1:]), 5) in read


# Formats that no other test has, none of whose sides is a power of two.
FORMATS = [(37, 37, 1), (48, 60, 4), (65, 65, 3), (224, 160, 3)]


def fitting(name, shape):
  """Settings that a shape asks of a network."""
  fewer = {'blocks': (1, 1, 1, 1)} if name == 'densenet' else {}
  if name == 'vit':  # patches divide both sides
    side = math.gcd(*shape[:2])
    fewer['patch'] = max(p for p in range(1, 17) if side % p == 0)
  return fewer


@pytest.mark.parametrize('shape', FORMATS)
@each_network
def test_odd_formats(name, shape):
  network = build(name, shape, 5, **fitting(name, shape))
  def all_of(images):
    variables = network.init(KEY)
    logits, _ = network.apply(variables, images, train=True)
    return logits, network.maps(variables, images), network.embed(
        variables, images)
  logits, maps, embedded = jax.eval_shape(
      all_of, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
  assert logits.shape == (2, 5)
  assert all(x.ndim == 4 and 0 not in x.shape for x in maps)
  assert embedded.shape == (2, math.prod(maps[-1].shape[1:]))


# One below 64 pixels, one above.
@pytest.mark.parametrize('shape', [
    (37, 45, 1), pytest.param((67, 75, 3), marks=pytest.mark.slow)])
@each_network
def test_gradients_of_odd_formats(name, shape):
  more = fitting(name, shape) if name == 'vit' else {}
  network = shallow(name, shape, **more)
  def loss(images, variables):
    logits, _ = network.apply(variables, images, train=True)
    return losses.cross_entropy(logits, jnp.eye(3)[:2]), logits
  images = np.random.default_rng(0).normal(size=(2, *shape)).astype('float32')
  variables = quick(network.init)(KEY)
  (value, logits), slope = quick(jax.value_and_grad(loss, has_aux=True))(
      images, variables)
  assert np.isfinite(value) and logits.shape == (2, 3)
  assert slope.shape == images.shape and np.isfinite(slope).all()
  assert np.any(slope)


@pytest.mark.parametrize('name, shape, settings, count', COUNTS)
def test_counts(name, shape, settings, count):
  network = build(name, shape, 10, **settings)
  assert models.count(jax.eval_shape(network.init, KEY)) == count


@pytest.mark.parametrize('name', lanes.slow(SLOW, [
    name for name in NAMES if 'norm' in models.settings_of(name)]))
def test_other_norms(name):
  for norm in ('group', 'layer', 'none'):
    network = shallow(name, norm=norm)
    params = jax.eval_shape(network.init, KEY).params
    assert ('Norm_0' in params) == (norm != 'none')


def slope(network):
  """Gradient in the images of the gradient norms of samples, in training."""
  def loss(variables, batch):
    logits, _ = network.apply(variables, batch.images, train=True)
    return losses.cross_entropy(logits, batch.labels)
  def total(images, variables):
    batch = Batch(images, jnp.eye(3, dtype=images.dtype)[:2])
    return difficulty.gradient_norms(loss, variables, batch).sum()
  return jax.value_and_grad(total)


@each_network
def test_second_derivatives_and_one_compilation(name):
  network = shallow(name)
  run, shapes = quick(slope(network)), jax.eval_shape(network.init, KEY)
  rng = np.random.default_rng(0)
  def draw(x):
    return rng.uniform(.1, .5, x.shape).astype(np.float32)
  def given():
    params = jax.tree.map(lambda x: draw(x) - .25, shapes.params)
    return (2 * draw(images), shapes._replace(
        params=params, stats=jax.tree.map(draw, shapes.stats)))
  images = np.zeros((2, 16, 16, 3))
  with toy.compilations() as seen:
    one, other = (np.asarray(run(*given())[1]) for _ in range(2))
  assert len(seen) == 1
  assert np.isfinite(one).all() and one.any() and (one != other).any()


@each_network
def test_precision(name):
  network = shallow(name)
  variables = jax.eval_shape(network.init, KEY)
  def outputs(variables, images):
    return network.apply(variables, images, train=True)
  for dtype in (jnp.float32, jnp.float64):
    with jax.enable_x64(True):
      cast = functools.partial(jnp.zeros, dtype=dtype)
      given = jax.tree.map(lambda x, cast=cast: cast(x.shape), variables)
      logits, stats = jax.eval_shape(outputs, given, cast((2, 16, 16, 3)))
    assert (logits.shape, logits.dtype) == ((2, 3), dtype)
    assert struct(stats) == struct(given.stats)


# ---- how they start

def starts(name, path, x, gains):
  """The standard deviation that a leaf should have, and its bound."""
  kind, leaf = path
  if leaf == 'positions':
    return 0.02, np.inf
  if 'Norm' in kind:
    return 0, float(leaf == 'scale')
  fan_in = gains[kind]
  if name in ('resnet', 'resnet_ap') and 'Conv' in kind:
    return math.sqrt(2 / (x.shape[0] ** 2 * x.shape[3])), np.inf
  return 1 / math.sqrt(3 * fan_in), 1 / math.sqrt(fan_in)


@each_network
def test_starts_as_the_reference(name):
  network = shallow(name, **{key: value for key, value in {
      'width': 32, 'widen': .5, 'growth': 12}.items()
                             if key in models.settings_of(name)})
  params = quick(network.init)(KEY).params
  fans = {kind: math.prod(leaves['kernel'].shape[:-1])
          for kind, leaves in params.items()
          if isinstance(leaves, dict) and 'kernel' in leaves}
  large = 0
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    keys = [entry.key for entry in path]
    std, bound = starts(name, (keys[0], keys[-1]), x, fans)
    x = np.asarray(x)
    assert abs(x).max() <= bound * (1 + 1e-6), keys
    if x.size > 400 and std:
      large += 1
      np.testing.assert_allclose(x.std(), std, rtol=.15, err_msg=str(keys))
      assert abs(x.mean()) < 5 * std / math.sqrt(x.size), keys
      assert bound == np.inf or abs(x).max() > .97 * bound, keys
    elif not std:
      assert (x == bound).all(), keys
  assert large


# ---- what they refuse

@pytest.mark.parametrize('name, settings, words', [
    ('vitt', {}, "network 'vitt'; choose from alexnet, convnet, densenet"),
    ('mlp', {'norm': 'x'}, "setting of network mlp 'norm'.* depth, width"),
    ('mlp', {'depth': 0}, 'depth 0 and width 128 must be at least 1'),
    ('mlp', {'width': 'x'}, "network mlp: '<' not supported"),
    ('vgg11', {'norm': 'x'}, "norm 'x'; choose from batch, group"),
    ('vgg11', {}, 'vgg11 needs images of at least 32x32, not 16x16; use la'),
    ('vgg11', {'widen': 0}, 'widen 0 must be more than 0'),
    ('alexnet', {'first_padding': -1}, 'first_padding -1 must be at least 0'),
    ('alexnet', {'norm': 'group', 'widen': .01}, 'width 1 does not split'),
    ('lenet', {'shape': (12, 16, 1)}, 'lenet needs .* 16x16, not 12x16'),
    ('densenet', {'reduction': 2}, r'reduction 2 must be in \(0, 1\]'),
    ('densenet', {'blocks': (2, 0)}, r'blocks \(2, 0\) and growth 12'),
    ('densenet', {'growth': 3, 'norm': 'group'}, 'width .* does not split'),
    ('densenet', {'shape': (4, 4, 3)}, 'densenet needs .* 8x8'),
    ('resnet', {'variant': 'x'}, "variant 'x'; choose from cifar, imagenet"),
    ('resnet', {'stem': 'x'}, "stem 'x'; choose from large, mid, small"),
    ('resnet', {'depth': 7}, 'depth 7 of resnet leaves no block'),
    ('resnet', {'depth': 12, 'variant': 'imagenet'},
     'depth 12; choose from 10, 18, 34'),
    ('resnet_ap', {'stem': 'large'}, 'resnet_ap needs .* 32x32'),
    ('resnet_ap', {'norm': 'x'}, "norm 'x'"),
    ('resnet18', {'norm': 'x'}, "norm 'x'"),
    ('resnet18_ap', {'shape': (7, 7, 3)}, 'resnet18_ap needs .* 8x8'),
    ('vit', {'patch': 5}, 'patch 5 does not divide 16x16 .* 1, 2, 4, 8, 16'),
    ('vit', {'heads': 3}, 'heads 3 do not divide width 128'),
    ('vit', {'depth': 0}, 'depth 0 must be more than 0')])
def test_impossible_settings(name, settings, words):
  with pytest.raises(UserError, match=words) as error:
    build(name, **settings)
  assert '\n' not in str(error.value)
