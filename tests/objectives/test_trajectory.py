"""Trajectory matching against a slow student, and its limits."""

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest

from dasm_jax import objectives
from dasm_jax.errors import UserError
from dasm_jax.types import Batch, Synthetic

pytestmark = pytest.mark.usefixtures('quick_compiler')
N, SIDE, CLASSES = 5, 2, 3


def loss_fn(params, batch: Batch):
  """A smooth model: second derivatives are not 0."""
  x = batch.images.reshape(len(batch.images), -1)
  logits = jnp.tanh(x @ params['a']) @ params['b']
  return -jnp.mean(jnp.sum(batch.labels * jax.nn.log_softmax(logits), -1))


def world(seed=0):
  """(syn, start, target), float32."""
  rng = np.random.default_rng(seed)
  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)
  syn = Synthetic(draw(N, SIDE, SIDE, 1), jnp.eye(CLASSES)[np.arange(N) % 3],
                  jnp.float32(0.3))
  start, target = ({'a': draw(4, 6), 'b': draw(6, CLASSES)} for _ in range(2))
  return syn, start, target


def slow(syn, start, target, rows, frozen=False):
  """The formula, step by step, with nothing checkpointed."""
  params = start
  for row in rows:
    batch = Batch(syn.images[row], syn.labels[row])
    at = jax.lax.stop_gradient(params) if frozen else params
    slope = jax.grad(loss_fn)(at, batch)
    params = {k: params[k] - syn.lr * slope[k] for k in params}
  far = sum(jnp.sum((params[k] - target[k]) ** 2) for k in params)
  return far / sum(jnp.sum((start[k] - target[k]) ** 2) for k in params)


def rows_of(key, size, steps):
  return [row for run in objectives.minibatches(key, N, size, steps)
          for row in run.indices]


@pytest.mark.parametrize('size, frozen', lanes.slow_but(
    [(2, False)], [(0, False), (2, False), (2, True)]))
def test_loss_and_gradients(size, frozen):
  syn, start, target = world()
  key = jax.random.key(1)
  match = objectives.trajectory_matching(loss_fn, 4, batch=size,
                                         frozen=frozen)
  (value, _), found = jax.jit(jax.value_and_grad(match, has_aux=True))(
      syn, start, target, key)
  rows = rows_of(key, size, 4)
  want, slopes = jax.jit(jax.value_and_grad(
      lambda *given: slow(*given, rows, frozen)))(syn, start, target)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  for a, b in zip(found, slopes, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_one_step_frozen_is_exact_and_halved():
  syn, start, target = world()
  def images(**settings):
    match = objectives.trajectory_matching(loss_fn, 1, **settings)
    return jax.jit(jax.grad(lambda syn: match(
        syn, start, target, jax.random.key(1))[0]))(syn)
  exact, tesla = images(), images(frozen=True, image_factor=0.5)
  np.testing.assert_allclose(tesla.images, exact.images / 2, rtol=1e-5)
  np.testing.assert_allclose(tesla.lr, exact.lr, rtol=1e-6)


def test_limits():
  syn, start, target = world()
  match = objectives.trajectory_matching(loss_fn, 3)
  still = match(syn._replace(lr=jnp.float32(0)), start, target,
                jax.random.key(0))[0]
  assert float(still) == 1
  # A student that does what the expert did arrives.
  rows = objectives.minibatches(jax.random.key(0), N, 0, 3)
  there, _ = objectives.student(loss_fn, syn, start, rows)
  np.testing.assert_allclose(match(syn, start, there, jax.random.key(0))[0], 0,
                             atol=1e-10)
  with pytest.raises(UserError, match='steps=0'):
    objectives.trajectory_matching(loss_fn, 0)


@pytest.mark.parametrize('size, steps, sizes', [
    (0, 3, [5, 5, 5]), (9, 2, [5, 5]), (2, 7, [1, 2, 2, 1, 2, 2, 1]),
    (3, 3, [2, 3, 2]), (1, 6, [1] * 6)])
def test_minibatches(size, steps, sizes):
  rows = [np.asarray(row) for row in rows_of(jax.random.key(2), size, steps)]
  assert [len(row) for row in rows] == sizes
  # Every image once before any comes again.
  seen = np.concatenate(rows)
  for at in range(0, len(seen), N):
    part = seen[at:at + N]
    assert len(set(part)) == len(part) and set(part) <= set(range(N))
  assert len({tuple(row) for row in rows}) > 1
  runs = objectives.minibatches(jax.random.key(2), N, size, steps)
  keys = np.concatenate([jax.random.key_data(run.keys) for run in runs])
  assert len(np.unique(keys, axis=0)) == steps


def test_hardness_is_the_mean_over_steps_at_constant_weights():
  syn, start, target = world()
  def hardness(params, batch):
    return jnp.sum(params['a'] ** 2) * jnp.mean(batch.images)
  both = objectives.trajectory_matching(loss_fn, 3, difficulty=hardness)
  plain = objectives.trajectory_matching(loss_fn, 3)
  key = jax.random.key(4)
  def measured(syn):
    value, metrics = both(syn, start, target, key)
    return metrics['sdc/difficulty'], value
  (value, loss), slope = jax.jit(
      jax.value_and_grad(measured, has_aux=True))(syn)
  same, metrics = jax.jit(plain)(syn, start, target, key)
  np.testing.assert_allclose(loss, same, rtol=1e-6)
  assert set(metrics) == {'match/loss'}
  weights, params = [], start
  for run in objectives.minibatches(key, N, 0, 3):
    for k in range(3):
      weights.append(float(jnp.sum(params['a'] ** 2)))
      params, _ = objectives.student(loss_fn, syn, params, [
          jax.tree.map(lambda x, k=k: x[k:k + 1], run)])
  np.testing.assert_allclose(
      value, np.mean(weights) * float(syn.images.mean()), rtol=1e-5)
  np.testing.assert_allclose(
      slope.images, np.full(syn.images.shape, np.mean(weights) / 20),
      rtol=1e-5)


@pytest.mark.slow
def test_memory_hardly_grows_with_the_steps():
  # Wide images: what a step keeps is large beside its weights.
  def bytes_of(steps):
    syn = Synthetic(jnp.zeros((64, 16, 16, 1)), jnp.zeros((64, 3)),
                    jnp.float32(0.1))
    start = {'a': jnp.zeros((256, 128)), 'b': jnp.zeros((128, 3))}
    match = objectives.trajectory_matching(
        lambda p, b: loss_fn(p, b), steps)
    f = jax.jit(jax.grad(lambda syn: match(
        syn, start, start, jax.random.key(0))[0]))
    return f.lower(syn).compile().memory_analysis().temp_size_in_bytes
  kept = 4 * (256 * 128 + 128 * 3)  # one row of weights
  assert bytes_of(40) < bytes_of(10) + 1.5 * 30 * kept
