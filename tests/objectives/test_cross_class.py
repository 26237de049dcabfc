"""Classes that depend on each other, against losses of all of them at once."""

import functools

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
import toy

from dasm_jax import losses, objectives
from dasm_jax.runtime import devices
from dasm_jax.types import Batch, Synthetic

CLASSES, IPC, REAL = 3, 2, 4
RNG = np.random.default_rng(0)
PARAMS = {'w': jnp.asarray(RNG.normal(size=(12, 5)), 'float32'),
          'v': jnp.asarray(RNG.normal(size=(5, 3)), 'float32')}
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures('quick_compiler')


def loss_fn(params, batch):
  flat = batch.images.reshape(len(batch.images), -1)
  return losses.cross_entropy(
      jnp.tanh(flat @ params['w']) @ params['v'], batch.labels)


def sets(classes=CLASSES):
  """`Synthetic` and real `Batch`, class-major."""
  rng = np.random.default_rng(1)
  def draw(n):
    images = rng.normal(size=(classes, n, 2, 2, 3)).astype('float32')
    labels = np.broadcast_to(np.eye(CLASSES, dtype='float32')[
        np.arange(classes) % CLASSES][:, None], (classes, n, CLASSES))
    return Batch(jnp.asarray(images), jnp.asarray(labels))
  return Synthetic(*draw(IPC), jnp.float32(1)), draw(REAL)


def close(got, want):
  toy.leaves_close(got, want, rtol=1e-4, atol=1e-6)


# ---- DSAC


def at_once(distance, ndims=None):
  """The formula of DCC: gradients of all classes, averaged, then compared."""
  def value(images, syn, real):
    def mean(images, labels):
      slopes = [losses.select(jax.grad(loss_fn)(PARAMS, Batch(*class_)), ndims)
                for class_ in zip(images, labels, strict=True)]
      return jax.tree.map(lambda *x: sum(x) / len(x), *slopes)
    return distance(mean(images, syn.labels), mean(*real))
  return value


def found(matching, syn, real, step=0, weights=None):
  """Value, metrics and image gradient of a `Matching`, class by class."""
  lift = objectives.per_class
  if weights is None:
    weights = jnp.ones(len(syn.images))
  def run(syn, real):
    rest = PARAMS, real, KEY, weights
    sums = objectives.sums_over_classes(matching, lift, (syn, *rest), step)
    total = lift(matching.at(sums, step))
    def value(images):
      return total(syn._replace(images=images), *rest)
    return jax.value_and_grad(value, has_aux=True)(syn.images)
  (value, metrics), slope = jax.jit(run)(syn, real)
  return value, metrics, slope


@pytest.mark.parametrize('distance', lanes.slow_but(
    [losses.mse], [losses.layerwise_cosine, losses.mse]))
def test_contrast_is_the_formula(distance):
  syn, real = sets()
  value, metrics, slope = found(
      objectives.contrastive_matching(loss_fn, distance), syn, real)
  want, there = jax.jit(jax.value_and_grad(at_once(distance)))(
      syn.images, syn, real)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  np.testing.assert_allclose(metrics['match/loss'], want, rtol=1e-5)
  close(slope, there)
  # It is no sum over classes: each one's gradient holds the others.
  alone = found(objectives.class_by_class(objectives.gradient_matching(
      loss_fn, distance)), syn, real)
  assert abs(alone[2] - slope).max() > .1 * abs(slope).max()


def test_contrast_leaves_out_what_only_fills():
  syn, real = sets(5)
  first, some = jax.tree.map(
      lambda x: x[:CLASSES], (syn._replace(lr=syn.lr[None]), real))
  first = first._replace(lr=syn.lr)
  weights = jnp.array([1., 1, 1, 0, 0])
  match = objectives.contrastive_matching(loss_fn, losses.mse)
  value, _, slope = found(match, syn, real, weights=weights)
  want, _, there = found(match, first, some)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  close(slope[:CLASSES], there)
  assert not slope[CLASSES:].any()


@pytest.mark.slow
def test_contrast_warms_up_class_by_class():
  syn, real = sets()
  match = objectives.contrastive_matching(loss_fn, losses.mse,
                                          warm=lambda step: step < 2)
  alone = objectives.class_by_class(objectives.gradient_matching(
      loss_fn, losses.mse))
  cold = objectives.contrastive_matching(loss_fn, losses.mse)
  for step, other in ((1, alone), (2, cold)):
    close(found(match, syn, real, step), found(other, syn, real, step))


# ---- all classes in one batch


NORMED = dict(norm='batch', augment='')


@functools.cache
def normed():
  """DM with batch norm, and its step, compiled once."""
  made = toy.toy('dm', **NORMED)
  return made, jax.jit(toy.sweep(made.method))


@pytest.mark.slow
def test_batch_norm_sees_all_classes():
  # Eight devices: three hold a class, five only fill.
  single, step = normed()
  made = toy.on_devices(toy.toy('dm', axis_name=devices.AXIS, **NORMED))
  def change(images):
    syn = single.state.syn._replace(images=images)
    state, metrics = step(single.state._replace(syn=syn), single.data,
                          single.pool, single.key)
    return state, metrics, state.syn.images - images
  images = single.state.syn.images
  state, metrics, moved = change(images)
  many, more = devices.chunk(made.method)(
      made.state, made.data, made.pool, made.key, 1)
  toy.leaves_close(toy.gather(made, many), state, rtol=1e-4, atol=1e-5)
  toy.leaves_close(more, metrics, rtol=1e-4)
  # One class moves what the others give: there is one batch.
  other = change(images.at[0].add(.5))[2]
  assert abs(moved - other)[1:].max() > 1e-4


@pytest.mark.slow
def test_batch_norm_takes_corrections():
  made, plain = normed()
  harder = jax.jit(toy.sweep(toy.toy('dm', correction=objectives.Correction(
      .25, .25, 9, True), **NORMED).method))
  (none, before), (some, after) = (
      step(made.state, made.data, made.pool, made.key)
      for step in (plain, harder))
  more, moved = (np.linalg.norm(x.syn.images - y.syn.images) for x, y in (
      (some, none), (none, made.state)))
  np.testing.assert_allclose(more / moved, .25, rtol=1e-3)
  np.testing.assert_allclose(after['match/loss'], before['match/loss'], 1e-5)
  assert after['sdc/difficulty'] > 0
