"""Layers by themselves: derivatives that are written out, forms by backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax import difficulty, models
from dasm_jax.models import layers
from dasm_jax.runtime import devices
from dasm_jax.training import train_step
from dasm_jax.types import Batch

KEY = jax.random.key(0)
TPU = devices.Target('tpu', 2 ** 30)
GPU = devices.Target('gpu', 2 ** 30)


def plain_norm(x, scale, bias):
  """Instance norm by its formula, derived by JAX."""
  mean = x.mean((1, 2), keepdims=True)
  variance = jnp.square(x - mean).mean((1, 2), keepdims=True)
  return (x - mean) / jnp.sqrt(variance + layers.EPSILON) * scale + bias


def derivatives(function, *given):
  """Value, gradient in all arguments, gradient of that gradient's norm."""
  every = tuple(range(len(given)))

  def value(*given):
    return jnp.sum(jnp.sin(function(*given)))

  def slope(*given):
    return sum(jnp.sum(jnp.cos(3 * g))
               for g in jax.grad(value, every)(*given))
  return jax.jit(lambda *given: (
      function(*given), jax.grad(value, every)(*given),
      jax.grad(slope, every)(*given)))(*given)


@pytest.mark.parametrize('shape', [(3, 4, 4, 2), (2, 5, 3, 1)])
def test_instance_norm_is_its_formula(shape):
  with jax.enable_x64(True):
    x, scale, bias = (jax.random.normal(key, size, jnp.float64) for key, size
                      in zip(jax.random.split(KEY, 3),
                             (shape, shape[-1:], shape[-1:]), strict=True))
    toy.leaves_close(derivatives(layers.instance_norm, x, scale, bias),
                     derivatives(plain_norm, x, scale, bias), 1e-8)


def test_instance_norm_of_one_colour():
  # Variance 0: what rounding leaves of it must not become a slope.
  x = jnp.full((1, 8, 8, 1), 0.1) * jnp.ones(3)
  out, first, second = derivatives(
      layers.instance_norm, x, jnp.ones(3), jnp.zeros(3))
  np.testing.assert_allclose(out, 0, atol=1e-3)
  for leaf in jax.tree.leaves((first, second)):
    assert np.isfinite(leaf).all()


@pytest.mark.parametrize('norm', ['instance', 'group'])
def test_a_bias_before_an_instance_norm_is_idle(norm):
  network = models.build(
      'convnet', shape=(8, 8, 3), classes=3, norm=norm, width=4, depth=2)
  variables = network.init(KEY)
  batch = Batch(jax.random.normal(KEY, (2, 8, 8, 3)), jnp.eye(3)[:2])
  def of(tree, kind):
    return {name: leaf['bias'] for name, leaf in tree.params.items()
            if name.startswith(kind)}
  gradient = jax.jit(jax.grad(train_step.loss_fn(network)))(variables, batch)
  for leaf in of(gradient, 'Conv').values():
    assert (norm == 'group') == bool(np.abs(leaf).max())
  assert all(np.abs(x).max() > 0 for x in of(gradient, 'Dense').values())


@pytest.mark.parametrize('sides', [(4, 6), (5, 7), (6, 3)])
def test_pooling_of_a_tpu_is_that_of_others(sides):
  with jax.enable_x64(True):
    x = jax.random.normal(KEY, (2, *sides, 3), jnp.float64)
    def pooled(x):
      return layers.pool(x, 'avg')
    want = derivatives(pooled, x)
    with devices.building_for(TPU):
      assert 'reduce_window' in str(jax.make_jaxpr(lambda x: pooled(x))(x))
      toy.leaves_close(derivatives(pooled, x), want, 1e-12)
      # No window meets another one's derivative: they are two, of any order.
      text = str(jax.make_jaxpr(lambda x: derivatives(pooled, x))(x))
    assert 'scatter' not in text and 'window_dilation=(1, 2' not in text


def convolutions(function, *given):
  """Parameters of all convolutions of a traced function."""
  def of(jaxpr):
    for eqn in jaxpr.eqns:
      if eqn.primitive.name == 'conv_general_dilated':
        yield eqn.params
      for inner in jax.tree.leaves(
          list(eqn.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')):
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from of(inner)
  return list(of(jax.make_jaxpr(function)(*given).jaxpr))


@pytest.mark.parametrize('target', [GPU, TPU])
def test_gradients_of_single_images_are_products(target):
  network = models.build('convnet', shape=(16, 16, 3), classes=3, width=4)
  batch = Batch(jnp.zeros((70, 16, 16, 3)), jnp.zeros((70, 3)))
  with devices.building_for(target):
    assert difficulty.gradient_chunk() == 64
    found = convolutions(lambda variables: difficulty.gradient_norms(
        train_step.loss_fn(network), variables, batch), network.init(KEY))
  # In groups a TPU multiplies the zeros between them.
  assert {(x['feature_group_count'], x['batch_group_count'])
          for x in found} == {(1, 1)}
