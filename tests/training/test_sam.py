"""The sharpness-aware step: by hand, at its limits, and on shared batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax.errors import UserError
from dasm_jax.pipeline import source as sources
from dasm_jax.training import sam, train_step

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEY = jax.random.key(0)
FTD = dict(rho=.5, alpha=.3)
STEP = sam.sam_step(**FTD)


def loss(params):
  """A function of three weights in two leaves; its slope by hand below."""
  return params['a'][0] ** 2 * params['a'][1] + jnp.sin(params['b'])


def slope(x):
  a, b, c = x
  return np.array([2 * a * b, a ** 2, np.cos(c)])


@pytest.mark.parametrize('alpha', [0, .4])
@pytest.mark.parametrize('adaptive', [True, False])
def test_gradient_by_hand(adaptive, alpha):
  x = np.array([1.2, -.7, .3])
  params = {'a': jnp.asarray(x[:2]), 'b': jnp.asarray(x[2])}
  value, found = sam.sam_gradient(
      jax.value_and_grad(loss), params, rho=.2, alpha=alpha, adaptive=adaptive)
  g = slope(x)
  size = np.abs(x) if adaptive else 1.
  there = slope(x + .2 * size ** 2 * g / np.linalg.norm(size * g))
  across = g - g @ there / (there @ there) * there
  want = there - alpha * across
  np.testing.assert_allclose(np.append(found['a'], found['b']), want, rtol=1e-5)
  np.testing.assert_allclose(value, loss(params))  # here, not there
  # What is taken off is at right angles with the gradient there.
  np.testing.assert_allclose(across @ there, 0, atol=1e-12)


def test_a_flat_place_is_left_alone():
  params = {'w': jnp.ones(3)}
  value, found = sam.sam_gradient(
      jax.value_and_grad(lambda params: 0 * params['w'].sum()), params, **FTD)
  assert value == 0 and not found['w'].any()


def setting(norm='instance', size=6):
  network = toy.network(norm=norm)
  variables = jax.jit(network.init)(KEY)
  tx = train_step.sgd(.9, .01)
  batch = sources.take(toy.source(), jnp.arange(size) * 2)
  return network, tx, variables, tx.init(variables.params), batch


@pytest.mark.slow
@pytest.mark.parametrize('norm', ['instance', 'batch'])
def test_nothing_to_climb_is_the_plain_step(norm):
  given = setting(norm)
  want = jax.jit(lambda: train_step.sgd_step(*given, .1))()
  got = jax.jit(lambda: sam.sam_step(0., .3)(*given, .1))()
  toy.leaves_equal(got, want)
  # A step too small to see comes to the same along the long way.
  near = jax.jit(lambda: sam.sam_step(1e-6, .3)(*given, .1))()
  toy.leaves_close(near, want, rtol=1e-4, atol=1e-5)
  far = jax.jit(lambda: STEP(*given, .1))()
  assert abs(far[0].params['Dense_0']['kernel']
             - want[0].params['Dense_0']['kernel']).max() > 1e-5


def test_statistics_and_loss_are_those_of_the_weights_themselves():
  given = setting('batch')
  got, _, value = jax.jit(lambda: STEP(*given, .1))()
  plain, _, same = jax.jit(lambda: train_step.sgd_step(*given, .1))()
  toy.leaves_close(got.stats, plain.stats)
  np.testing.assert_allclose(value, same, rtol=1e-5)


def test_decay_and_momentum_are_those_of_the_weights_themselves():
  network, tx, variables, opt_state, batch = setting()
  def of(params):
    return train_step.batch_gradient(network, variables._replace(params=params),
                                     batch)
  _, found = jax.jit(lambda: sam.sam_gradient(
      of, variables.params, **FTD))()
  once = jax.jit(lambda variables, opt_state: STEP(
      network, tx, variables, opt_state, batch, .1)[:2])
  first, trace = once(variables, opt_state)
  v = jax.tree.map(lambda g, w: g + .01 * w, found, variables.params)
  toy.leaves_close(trace[1].trace, v)
  toy.leaves_close(first.params, jax.tree.map(
      lambda w, v: w - .1 * v, variables.params, v))


@pytest.mark.slow
def test_shared_step_is_the_whole_one():
  given = setting(size=16)
  want = jax.jit(lambda: STEP(*given, .1))()
  got = jax.pmap(lambda _: STEP(*given, .1, 'd'), axis_name='d')(jnp.arange(8))
  for device in (0, 7):
    toy.leaves_close(jax.tree.map(lambda x: x[device], got), want,  # noqa: B023
                     rtol=1e-4, atol=1e-5)


def test_average():
  mean = {'x': jnp.zeros(2)}
  for new in (1., 3.):
    mean = sam.moving_average(mean, {'x': jnp.full(2, new)}, .75)
  np.testing.assert_allclose(mean['x'], .75 * .25 + .25 * 3)
  assert sam.moving_average(1., 2., 0) == 2
  assert sam.moving_average(1., 2., 1) == 1


@pytest.mark.parametrize('name', FTD)
def test_negative_strengths(name):
  with pytest.raises(UserError, match=f'{name}=-1.*must not be negative'):
    sam.sam_gradient(None, None, **{**FTD, name: -1})
