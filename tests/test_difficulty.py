"""Difficulty of samples, for a model that is no network of ours."""

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
import toy

from dasm_jax import difficulty, losses
from dasm_jax.errors import UserError
from dasm_jax.types import Batch

pytestmark = pytest.mark.usefixtures('quick_compiler')
RNG = np.random.default_rng(0)
PARAMS = {'w': jnp.asarray(RNG.normal(size=(6, 5)), 'float32'),
          'v': [jnp.asarray(RNG.normal(size=(5, 3)), 'float32')]}


def logits_fn(params, images):
  return jnp.tanh(images @ params['w']) @ params['v'][0]


def loss_fn(params, batch):
  return losses.cross_entropy(logits_fn(params, batch.images), batch.labels)


def batch(n, features=6):
  images = jnp.asarray(np.random.default_rng(n).normal(size=(n, features)),
                       'float32')
  return Batch(images, jnp.eye(3)[np.arange(n) % 3])


def one_by_one(function, n):
  """`function` of batches of one, in a Python loop."""
  whole, function = batch(n), jax.jit(function)
  return [float(function(Batch(whole.images[i:i + 1], whole.labels[i:i + 1])))
          for i in range(n)]


def sample_norm(one):
  return losses.tree_norm(jax.grad(loss_fn)(PARAMS, one))


@pytest.mark.parametrize('n, chunk', lanes.slow_but(
    [(7, 3), (5, 64)], [(1, 8), (7, 3), (8, 8), (9, 4), (5, 64)]))
def test_against_a_loop(n, chunk):
  got = jax.jit(lambda part: difficulty.gradient_norms(
      loss_fn, PARAMS, part, chunk))(batch(n))
  np.testing.assert_allclose(got, one_by_one(sample_norm, n), rtol=1e-5)
  got = difficulty.sample_losses(loss_fn, PARAMS, batch(n), chunk)
  want = one_by_one(lambda one: loss_fn(PARAMS, one), n)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_penalties():
  n = 5
  norms = np.array(one_by_one(sample_norm, n))
  mean = losses.tree_norm(jax.grad(loss_fn)(PARAMS, batch(n)))
  want = {'sample_norm': norms.mean(), 'sample_square': (norms ** 2).mean(),
          'batch_norm': mean, 'batch_square': mean ** 2}
  # A score's penalty is its mean over the samples.
  real = difficulty.mean_gradient(loss_fn, PARAMS, batch(7))
  for name in difficulty.SCORES:
    if name != 'gradient_norm':
      want[name] = difficulty.score(name, loss_fn, logits_fn)(
          PARAMS, batch(n), real).mean()
  assert set(want) == set(difficulty.PENALTIES)
  for name, value in want.items():
    got = jax.jit(difficulty.penalty(loss_fn, name, logits_fn))(
        PARAMS, batch(n), real)
    np.testing.assert_allclose(got, value, rtol=1e-5)


@pytest.mark.parametrize('name', lanes.slow(
    ('margin', 'sample_square', 'batch_square'), difficulty.PENALTIES))
def test_a_penalty_has_the_slope_of_its_values(name):
  whole = batch(5)
  real = difficulty.mean_gradient(loss_fn, PARAMS, batch(7))
  hardness = difficulty.penalty(loss_fn, name, logits_fn)
  of = jax.jit(lambda images: hardness(
      PARAMS, whole._replace(images=images), real))
  way = jax.random.normal(jax.random.key(3), whole.images.shape)
  slope = jnp.vdot(jax.jit(jax.grad(of))(whole.images), way)
  up, down = (of(whole.images + s * way) for s in (1e-2, -1e-2))
  np.testing.assert_allclose(slope, (up - down) / 2e-2, rtol=2e-2, atol=1e-4)


def fisher_by_definition(one):
  log_p = jax.nn.log_softmax(logits_fn(PARAMS, one.images)[0])
  return sum(jnp.exp(log_p[c]) * losses.tree_norm(jax.grad(
      lambda params: jax.nn.log_softmax(logits_fn(params, one.images))[0, c])(  # noqa: B023
          PARAMS)) ** 2 for c in range(3))


@pytest.mark.parametrize('n, chunk', lanes.slow_but(
    [(7, 3)], [(1, 8), (7, 3), (8, 8)]))
def test_fisher_against_a_loop(n, chunk):
  got = jax.jit(lambda part: difficulty.fisher(
      logits_fn, PARAMS, part, chunk))(batch(n))
  np.testing.assert_allclose(got, one_by_one(fisher_by_definition, n), 1e-5)


def test_fisher_of_a_linear_network():
  # |x|^2 sum_c p_c |e_c - p|^2 = |x|^2 (1 - |p|^2); the label plays no part.
  weights, whole = jnp.asarray(RNG.normal(size=(6, 3)), 'float32'), batch(9)
  linear = lambda params, images: images @ params  # noqa: E731
  p = jax.nn.softmax(linear(weights, whole.images))
  want = jnp.sum(whole.images ** 2, 1) * (1 - jnp.sum(p ** 2, 1))
  for labels in (whole.labels, whole.labels[::-1]):
    got = difficulty.fisher(linear, weights, Batch(whole.images, labels), 4)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize('n, chunk', lanes.slow_but(
    [(7, 3)], [(1, 8), (7, 3), (8, 8)]))
def test_mean_gradient_is_that_of_the_whole_batch(n, chunk):
  got = jax.jit(lambda part: difficulty.mean_gradient(
      loss_fn, PARAMS, part, chunk))(batch(n))
  toy.leaves_close(got, jax.grad(loss_fn)(PARAMS, batch(n)))


@pytest.mark.parametrize('n, chunk', [(7, 3), (5, 64)])
def test_influence_against_a_loop(n, chunk):
  reference = jax.jit(jax.grad(loss_fn))(PARAMS, batch(11))
  got = jax.jit(lambda part: difficulty.influence(
      loss_fn, PARAMS, part, reference, chunk))(batch(n))
  def by_definition(one):
    both = jax.grad(loss_fn)(PARAMS, one), reference
    one, other = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
                  for tree in both)
    return -one @ other
  np.testing.assert_allclose(got, one_by_one(by_definition, n), 1e-5, 1e-6)


def test_influence_is_what_a_step_on_the_sample_costs_the_reference():
  reference, rate = batch(11), 1e-2
  towards = jax.jit(jax.grad(loss_fn))(PARAMS, reference)
  influence = jax.jit(lambda part: difficulty.influence(
      loss_fn, PARAMS, part, towards))
  got = influence(batch(7))
  def after(one):
    gradient = jax.grad(loss_fn)(PARAMS, one)
    moved = jax.tree.map(lambda x, g: x - rate * g, PARAMS, gradient)
    return (loss_fn(moved, reference) - loss_fn(PARAMS, reference)) / rate
  assert min(got) < 0 < max(got)
  np.testing.assert_allclose(got, one_by_one(after, 7), rtol=.1, atol=.05)
  np.testing.assert_allclose(influence(reference).mean(),
                             -losses.tree_norm(towards) ** 2, rtol=1e-5)


def identity(params, images):
  return images


def test_el2n_and_margin_by_hand():
  p = np.array([[.7, .2, .1], [.1, .1, .8], [.3, .4, .3]])
  labels = jnp.array([[1., 0, 0], [0, 1, 0], [0, .6, .4]])
  hand = Batch(jnp.log(p), labels)
  el2n = difficulty.el2n(identity, None, hand, chunk=2)
  np.testing.assert_allclose(
      el2n, np.sqrt([.09 + .04 + .01, .01 + .81 + .64, .09 + .04 + .01]),
      rtol=1e-5)
  margin = difficulty.margin(identity, None, hand, chunk=2)
  np.testing.assert_allclose(margin, [-.5, .7, -.1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', lanes.slow(
    ('fisher', 'influence'), difficulty.SCORES))
def test_harder_is_higher(name):
  # Sure and right, then less sure and wrong.
  easy = Batch(jnp.array([[9., 0, 0], [0., 2, 0]]), jnp.eye(3)[jnp.array(
      [0, 0])])
  def scaled(params, images):
    return params * images
  def loss(params, part):
    return losses.cross_entropy(scaled(params, part.images), part.labels)
  one = jnp.float32(1)
  reference = difficulty.mean_gradient(
      loss, one, jax.tree.map(lambda x: x[:1], easy))
  low, high = difficulty.score(name, loss, scaled)(one, easy, reference)
  assert low < high


@pytest.mark.parametrize('name', lanes.slow_but(
    ('sample_norm', 'el2n'), difficulty.PENALTIES))
def test_derivative_is_finite_where_nothing_is_left_to_learn(name):
  # A loss without a gradient: its norm is 0, where a root has no slope.
  def flat(params, part):
    return jnp.sum(params['w'] * 0) + part.images.sum() * 0
  def same(params, images):
    # The right class beyond doubt: EL2N is 0, Fisher's trace, too.
    return 1e3 * batch(9).labels + images.sum() * 0
  def of(images):
    return difficulty.penalty(flat, name, same)(PARAMS, batch(9)._replace(
        images=images), PARAMS) + (name == 'margin')
  value, slope = jax.value_and_grad(of)(batch(9).images)
  assert value == 0 and not np.asarray(slope).any()


def test_derivative_in_the_images():
  whole = batch(5)
  def of(images):
    return difficulty.gradient_norms(loss_fn, PARAMS, whole._replace(
        images=images), 2).mean()
  of = jax.jit(of)
  slope = jax.jit(jax.grad(of))(whole.images)
  step = 1e-2
  for i, j in ((0, 0), (4, 3)):
    up, down = (of(whole.images.at[i, j].add(s)) for s in (step, -step))
    np.testing.assert_allclose(slope[i, j], (up - down) / (2 * step),
                               rtol=2e-2, atol=1e-4)


def influence_on_itself(loss_fn, params, part, chunk):
  mean = difficulty.mean_gradient(loss_fn, params, part, chunk)
  return difficulty.influence(loss_fn, params, part, mean, chunk)


@pytest.mark.slow
@pytest.mark.parametrize('score, function', [
    (difficulty.gradient_norms, loss_fn), (difficulty.fisher, logits_fn),
    (influence_on_itself, loss_fn)])
def test_memory_is_that_of_a_chunk(score, function):
  wide = {'w': jnp.zeros((400, 200)), 'v': [jnp.zeros((200, 3))]}
  def temporary(n, chunk):
    part = jax.eval_shape(lambda: batch(n, 400))
    run = jax.jit(lambda params, part: score(function, params, part, chunk))
    return run.lower(wide, part).compile().memory_analysis().temp_size_in_bytes
  def gradients(chunk):
    return chunk * 4 * (400 * 200 + 200 * 3)
  # What may grow is the batch itself, in chunks: 400 numbers a sample.
  small, large = temporary(64, 8), temporary(512, 8)
  assert large - small < 3 * 4 * 400 * (512 - 64)
  assert large < 2 * gradients(8) + 3 * 4 * 400 * 512
  assert temporary(512, 512) > 4 * large  # the measure does see gradients


def test_unknown_names():
  with pytest.raises(UserError, match="score 'x'; choose from el2n, fisher, "):
    difficulty.score('x', loss_fn, logits_fn)
  with pytest.raises(UserError, match="penalty 'x'; choose from batch_norm"):
    difficulty.penalty(loss_fn, 'x')
  with pytest.raises(UserError, match="'el2n' reads logits; give logits_fn"):
    difficulty.penalty(loss_fn, 'el2n')
  with pytest.raises(UserError, match='give reference, their mean_gradient'):
    difficulty.penalty(loss_fn, 'influence')(PARAMS, batch(3))
