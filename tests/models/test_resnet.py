"""ResNets against their layers written out in XLA's own operations, float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from golden_files import quick

from dasm_jax import models
from dasm_jax.models import layers, resnet

KEY = jax.random.key(0)
DIMENSIONS = 'NHWC', 'HWIO', 'NHWC'


def conv(x, kernel, stride=1):
  """Zeros of half the kernel on each side."""
  pad = kernel.shape[0] // 2
  return jax.lax.conv_general_dilated(
      x, kernel, (stride,) * 2, ((pad, pad),) * 2, dimension_numbers=DIMENSIONS)


def norm(x, scale, bias):
  """Instance norm."""
  mean = x.mean((1, 2), keepdims=True)
  variance = ((x - mean) ** 2).mean((1, 2), keepdims=True)
  return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias


def average(x):
  """2x2, what is left over dropped."""
  return jax.lax.reduce_window(
      x, 0., jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID') / 4


def highest(x):
  """3x3 of stride 2, one more on each side."""
  return jax.lax.reduce_window(
      x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1),
      ((0, 0), (1, 1), (1, 1), (0, 0)))


# By the released programs, from which side on: stride of the stem's
# convolution, and its poolings.
STEMS = {'resnet': {1: (1, []), 65: (1, [highest]), 129: (2, [highest])},
         'resnet_ap': {1: (1, []), 65: (1, [average]),
                       129: (1, [average, average])}}


def written_out(name, params, x):
  """Logits of a network of one block a stage, and what its stages put out."""
  kernels = iter(range(99))
  def layer(x, stride=1):
    k = next(kernels)
    x = conv(x, params[f'Conv_{k}']['kernel'], stride)
    return x, lambda x: norm(x, **params[f'Norm_{k}'])
  stride, pools = STEMS[name][max(
      side for side in STEMS[name] if side <= x.shape[1])]
  x, normed = layer(x, stride)
  x = jax.nn.relu(normed(x))
  for pool in pools:
    x = pool(x)
  found = [x]
  for stage in range(4):
    halves = stage > 0
    stride = 2 if halves and name == 'resnet' else 1
    pool = average if halves and name == 'resnet_ap' else lambda x: x
    out, normed = layer(x, stride)
    out = pool(jax.nn.relu(normed(out)))
    out, normed = layer(out)
    out = normed(out)
    if halves:
      x, normed = layer(x, stride)
      x = normed(pool(x))
    x = jax.nn.relu(out + x)
    found.append(x)
  found.append(x.mean((1, 2), keepdims=True))
  head = params['Dense_0']
  return found[-1][:, 0, 0] @ head['kernel'] + head['bias'], found


@pytest.mark.slow
@pytest.mark.parametrize('side', [32, 48, 80, 128, 224])
@pytest.mark.parametrize('name', ['resnet', 'resnet_ap'])
def test_layers_are_those_of_the_released_networks(name, side):
  network = models.build(
      name, shape=(side, side, 3), classes=5, norm='instance', widen=1 / 16,
      variant='imagenet', depth=10)
  variables = quick(network.init)(KEY)
  with jax.enable_x64(True):
    rng = np.random.default_rng(side)
    wide = jax.tree.map(
        lambda x: jnp.asarray(x + .1 * rng.normal(size=x.shape)), variables)
    images = jnp.asarray(rng.normal(size=(2, side, side, 3)))
    def both(variables, images):
      return network.apply(variables, images)[0], network.features(
          variables, images)
    (logits, mine), (want, found) = (quick(run)(at, images) for run, at in (
        (both, wide), (functools.partial(written_out, name), wide.params)))
    for one, other in zip((logits, *mine), (want, *found), strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('name', ['resnet', 'resnet_ap'])
def test_stems_by_size(name):
  stems = [resnet.STEMS[name][stem] for stem in (
      'small', 'small', 'mid', 'mid', 'large')]
  assert [models.MODELS[name]((side, side, 3), 5, variant='imagenet').stem
          for side in (33, 64, 65, 128, 129)] == stems
  # CIFAR's widths have the small one at any size.
  assert models.MODELS[name]((160, 160, 3), 5, variant='cifar').stem == stems[0]


@pytest.mark.parametrize('sides', [(8, 8), (7, 10), (1, 2)])
def test_max_pooling(sides):
  x = jax.random.normal(KEY, (2, *sides, 3))
  x = x.at[:, 0].set(1.)  # entries that are equal
  def both(pool):
    def run(x):
      pooled, back = jax.vjp(pool, x)
      return pooled, back(pooled)[0]
    return quick(run)(x)
  toy.leaves_equal(both(layers.overlapping_max_pool), both(highest))


def test_max_pooling_has_second_derivatives():
  # All of it is linear where no two entries are equal.
  x = jax.random.normal(KEY, (1, 6, 6, 2))
  def loss(x):
    return (layers.overlapping_max_pool(x) ** 3).sum()
  def size(x):
    return (jax.grad(loss)(x) ** 2).sum()
  direction = jax.random.normal(jax.random.key(1), x.shape)
  with jax.enable_x64(True):
    x, direction = (jnp.asarray(np.asarray(y, float)) for y in (x, direction))
    slope = (quick(jax.grad(size))(x) * direction).sum()
    above, below = (quick(size)(x + move * direction) for move in (1e-6, -1e-6))
    near = (above - below) / 2e-6
  np.testing.assert_allclose(slope, near, rtol=1e-6)
