"""Networks: how they start, what they return, what they refuse."""

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest

from dasm_jax import models
from dasm_jax.errors import UserError
from dasm_jax.models import layers

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEY = jax.random.key(0)


def build(shape=(8, 8, 3), classes=10, **settings):
  return models.build('convnet', shape=shape, classes=classes,
                      **{'depth': 2, 'width': 32, **settings})


def test_starts_as_in_pytorch():
  # U(-1, 1) / sqrt(fan in), for weights and biases; norms start as nothing.
  params = jax.jit(build().init)(KEY).params
  fans = {'Conv_0': 27, 'Conv_1': 9 * 32, 'Dense_0': 2 * 2 * 32}
  for name, fan in fans.items():
    bound = 1 / np.sqrt(fan)
    for leaf in ('kernel', 'bias'):
      x = np.asarray(params[name][leaf])
      assert abs(x).max() <= bound, name
      if leaf == 'kernel':
        assert abs(x).max() > .97 * bound
        assert abs(x.mean()) < .06 * bound
        np.testing.assert_allclose(x.std(), bound / np.sqrt(3), rtol=.1)
  for norm in ('Norm_0', 'Norm_1'):
    assert (params[norm]['scale'] == 1).all()
    assert not params[norm]['bias'].any()
  other = jax.jit(build().init)(jax.random.key(1)).params
  assert (other['Conv_0']['kernel'] != params['Conv_0']['kernel']).all()


@pytest.mark.parametrize('norm', layers.NORMS)
@pytest.mark.parametrize('pooling', layers.POOLINGS)
def test_shapes(norm, pooling):
  network = build((9, 8, 1), 5, norm=norm, pooling=pooling)
  variables = jax.eval_shape(network.init, KEY)
  images = jax.ShapeDtypeStruct((4, 9, 8, 1), jnp.float32)
  logits, stats = jax.eval_shape(network.apply, variables, images)
  assert logits.shape == (4, 5)
  assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
  assert bool(jax.tree.leaves(stats)) == (norm == 'batch')
  blocks = jax.eval_shape(network.features, variables, images)
  want = {True: [(4, 9, 8, 32)] * 2, False: [(4, 4, 4, 32), (4, 2, 2, 32)]}
  assert [x.shape for x in blocks] == want[pooling == 'none']
  # 28x28 gray images are padded to 32x32: four halvings to 2x2.
  if norm == 'none' and pooling == 'avg':
    gray = build((28, 28, 1), depth=4)
    assert jax.eval_shape(gray.init, KEY).params['Dense_0'][
        'kernel'].shape == (4 * 32, 10)


@pytest.mark.parametrize('pooling', ['avg', 'max'])
def test_pool_by_hand(pooling):
  x = jnp.arange(15.).reshape(1, 3, 5, 1)
  want = {'avg': [[3, 5]], 'max': [[6, 8]]}[pooling]
  np.testing.assert_array_equal(layers.pool(x, pooling)[0, ..., 0], want)
  slope = jax.grad(lambda x: layers.pool(x, pooling)[0, 0, 1, 0])(x)
  np.testing.assert_array_equal(slope[0, 2], 0)
  np.testing.assert_allclose(slope.sum(), 1)


def test_batch_norm_averages():
  network = build(norm='batch', depth=1, width=4, pooling='none')
  variables = network.init(KEY)
  images = jax.random.normal(KEY, (3, 8, 8, 3))
  _, stats = network.apply(variables, images, train=True)
  bare = variables._replace(params={
      **variables.params, 'Norm_0': {'scale': jnp.ones(4),
                                     'bias': jnp.zeros(4)}})
  raw = build(norm='none', depth=1, width=4, pooling='none')
  # Positive and negative part by hand: relu(x) - relu(-x) is x.
  conv = bare.params['Conv_0']
  turned = {**bare.params, 'Conv_0': jax.tree.map(jnp.negative, conv)}
  only = {k: v for k, v in bare.params.items() if k != 'Norm_0'}
  x = raw.features(bare._replace(params=only, stats={}), images)[0] - (
      raw.features(bare._replace(params={
          k: v for k, v in turned.items() if k != 'Norm_0'}, stats={}),
          images)[0])
  np.testing.assert_allclose(
      stats['Norm_0']['mean'], .1 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
      stats['Norm_0']['var'], .9 + .1 * x.var((0, 1, 2), ddof=1), rtol=1e-4)


def test_count():
  params = jax.eval_shape(build(depth=1, width=4, classes=2).init, KEY)
  assert models.count(params) == (27 * 4 + 4) + 8 + (16 * 4 * 2 + 2)


@pytest.mark.parametrize('settings, words', [
    ({'norm': 'x'}, "norm 'x'; choose from batch, group, instance"),
    ({'activation': 'x'}, "activation 'x'; choose from leakyrelu, relu"),
    ({'pooling': 'x'}, "pooling 'x'; choose from avg, max, none"),
    ({'depth': 4}, 'depth 4 halves 8x8.*at most depth 3'),
    ({'depth': 0}, 'must be at least 1'),
    ({'norm': 'group', 'width': 6}, 'width 6 does not split into 4 groups'),
    ({'heads': 3}, 'heads')])
def test_impossible_settings(settings, words):
  with pytest.raises(UserError, match=words):
    build(**settings)


# Each block's output before the pooling that ends it: how many those are.
POOLED = {'alexnet': 3, 'convnet': 3, 'lenet': 2, 'vgg11': 5}


@pytest.mark.parametrize('name', lanes.slow(
    ('alexnet', 'densenet', 'resnet', 'resnet18', 'resnet18_ap', 'resnet_ap',
     'vgg11', 'vit'),
    models.MODELS))
def test_maps_are_features_before_pooling(name):
  fewer = {'blocks': (1, 1)} if name == 'densenet' else {}
  network = models.build(name, shape=(32, 32, 3), classes=3, **fewer)
  variables = jax.eval_shape(network.init, KEY)
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  maps, features = ([x.shape for x in jax.eval_shape(run, variables, images)]
                    for run in (network.maps, network.features))
  pooled = POOLED.get(name, 0)
  for map_, feature in zip(maps[:pooled], features, strict=False):
    assert map_ == (2, 2 * feature[1], 2 * feature[2], feature[3])
  assert maps[pooled:] == features[pooled:] or (
      pooled == len(features) and maps[pooled:] == features[-1:])
  logits, moments = jax.eval_shape(network.moments, variables, images)
  assert logits.shape == (2, 3) and set(moments) == set(variables.stats)
  for layer, stats in variables.stats.items():
    for part, x in moments[layer].items():
      assert x.shape == (2, *stats[part].shape)


def test_maps_and_moments():
  network = build(norm='batch')
  x = jax.random.normal(KEY, (4, 8, 8, 3))
  variables = jax.jit(network.init)(KEY)
  def all_of(variables):
    return (network.maps(variables, x), network.maps(variables, x, True),
            network.features(variables, x), network.moments(variables, x),
            network.apply(variables, x)[0],
            network.apply(variables, x, True)[1])
  maps, trained, features, (logits, moments), same, after = jax.jit(all_of)(
      variables)
  for map_, feature in zip(maps, features, strict=False):
    np.testing.assert_allclose(layers.pool(map_, 'avg'), feature, atol=1e-6)
  np.testing.assert_array_equal(maps[-1], features[-1])
  np.testing.assert_allclose(logits, same, atol=1e-6)
  # The first layer reads the same in training: its averages tell the batch's.
  after, first, n = after['Norm_0'], moments['Norm_0'], 4 * 8 * 8
  mean = first['mean'].mean(0)
  spread = (first['var'] + (first['mean'] - mean) ** 2).mean(0)
  np.testing.assert_allclose(after['mean'], .1 * mean, atol=1e-6)
  np.testing.assert_allclose(
      after['var'], .9 + .1 * spread * n / (n - 1), rtol=1e-5)
  assert abs(trained[1] - maps[1]).max() > 1e-3
