"""Networks in bfloat16: what stays float32, and how close gradients are."""

import functools

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
import toy

from dasm_jax import losses, models, objectives
from dasm_jax.errors import UserError
from dasm_jax.models import layers
from dasm_jax.training import train_step
from dasm_jax.types import Batch, Synthetic

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEY = jax.random.key(0)
IMAGES = jax.random.normal(KEY, (12, 16, 16, 3))
LABELS = jnp.eye(3)[jnp.arange(12) % 3]


@functools.cache
def network(dtype, name='convnet', **settings):
  if name == 'convnet':
    settings = {'depth': 2, 'width': 16, **settings}
  return models.build(name, shape=(16, 16, 3), classes=3, dtype=dtype,
                      **settings)


def kinds(tree):
  return {x.dtype for x in jax.tree.leaves(tree)}


@pytest.mark.parametrize('name, settings', [
    ('convnet', dict(norm='batch', pooling='max')),
    *lanes.slow_but((), [
        ('resnet_ap', dict(norm='instance', widen=.1)), ('vit', {})])])
def test_what_comes_out_is_float32(name, settings):
  half = network('bfloat16', name, **settings)
  variables = jax.eval_shape(half.init, KEY)
  assert kinds(variables) == {jnp.dtype('float32')}
  for function in (half.apply, half.features, half.embed, half.maps):
    for mode in (False, True):
      out = jax.eval_shape(functools.partial(function, train=mode), variables,
                           IMAGES)
      assert kinds(out) == {jnp.dtype('float32')}, function
  inside = str(jax.make_jaxpr(half.apply)(variables, IMAGES))
  assert 'bf16' in inside


def of_images(dtype):
  """Gradient of gradient matching in synthetic images, and of the loss."""
  net = network(dtype)
  loss = train_step.loss_fn(net)
  match = objectives.gradient_matching(loss, losses.mse, ndims=(4,))
  variables = jax.jit(net.init)(KEY)

  @jax.jit
  def run(images):
    def value(images):
      syn = Synthetic(images, LABELS[:6], jnp.float32(.1))
      return match(syn, variables, Batch(IMAGES[6:], LABELS[6:]), KEY)[0]
    return jax.value_and_grad(value)(images), jax.grad(loss)(
        variables, Batch(images, LABELS[:6]))
  return run(IMAGES[:6])


@pytest.mark.slow
def test_gradients_are_near_those_of_float32():
  (value, slope), weights = of_images('bfloat16')
  (want, slope_), weights_ = of_images('float32')
  assert kinds((value, slope, weights)) == {jnp.dtype('float32')}
  assert abs(value / want - 1) < .05
  def cosine(a, b):
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  assert .99 < cosine(slope, slope_) < .9999999  # near, but not the same
  # Of biases that an instance norm takes away again nothing is left but noise.
  for a, b in zip(jax.tree.leaves(weights), jax.tree.leaves(weights_),
                  strict=True):
    if np.linalg.norm(b) > 1e-4:
      assert cosine(a, b) > .99


def test_norms_are_of_float32():
  # In bfloat16 the mean of many equal values would be one of its 256 steps.
  x = jnp.full((1, 8, 8, 1), 1.0078125) + jnp.zeros(2)
  x = x.at[..., 1].add(jnp.arange(64.).reshape(8, 8) / 8).astype(jnp.bfloat16)
  out = layers.Norm('instance').apply(
      {'params': {'scale': jnp.ones(2), 'bias': jnp.zeros(2)}}, x)
  assert out.dtype == jnp.bfloat16
  exact = np.asarray(x, np.float64)
  exact = (exact - exact.mean((1, 2))) / np.sqrt(exact.var((1, 2)) + 1e-5)
  np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=.005,
                             atol=1e-3)


def test_off_is_as_it_was():
  assert 'bf16' not in str(jax.make_jaxpr(
      lambda v, x: network('float32').apply(v, x))(
          network('float32').init(KEY), IMAGES))
  toy.leaves_equal(network('float32').init(KEY), network('bfloat16').init(KEY))
  with pytest.raises(UserError, match="dtype of networks 'fp8'; choose "):
    network('fp8')
