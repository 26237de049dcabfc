"""Matching of training trajectories: MTT, FTD, TESLA, DATM.

The whole synthetic set trains one student, so nothing is split by class: the
devices share the expert starts of a step, whose gradients are averaged.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dasm_jax import difficulty, losses, objectives, synthetic
from dasm_jax.runtime import devices
from dasm_jax.training import sam, soft_labels
from dasm_jax.types import Array, Method, Synthetic

SURE = 1e-20  # the least probability a learned label starts from


class Pairs(NamedTuple):
  """Where experts stood, and where they went; the same on every device.

  start, target: `[steps * starts, parameters]`, any float dtype.
  first: `[]` int32, the step that the first rows are for.
  """
  start: Array
  target: Array
  first: Array


class Settings(NamedTuple):
  """What these methods differ in; `configs` has the published values.

  unravel: `[parameters] -> params`, what `loss_fn` takes.
  loss_fn: `(params, Batch) -> scalar` of the student.
  augment: of the student's minibatches, or None.
  correction: a `objectives.Correction`; its penalty is averaged over the steps.
  codec: a `synthetic.Codec`.
  student_steps, batch: of the student; batch 0 is all images.
  frozen, image_factor: see `objectives.trajectory_matching`.
  union: the student sees finished segments too.
  starts: expert starts a step.
  lr, momentum: of SGD on the stored images; of the student's rate: lr_lr.
  lr_label, label_momentum: of SGD on the labels' logits; 0 keeps them.
  assign: `(params, images) -> logits`, or None; labels are what a step's first
    expert makes of the images where it went (TESLA).
  average: decay of the images' moving average, which is the result (FTD).
  skip_above: a start with a larger loss, or none, changes nothing; 0 is off.
  """
  unravel: Callable
  loss_fn: Callable
  augment: Callable | None
  correction: objectives.Correction
  codec: synthetic.Codec
  student_steps: int
  batch: int
  frozen: bool
  image_factor: float
  union: bool
  starts: int
  lr: float
  momentum: float
  lr_lr: float
  lr_label: float
  label_momentum: float
  average: float
  skip_above: float
  assign: Callable | None = None


class State(NamedTuple):
  """Everything that a run of one segment carries.

  syn: the set as it would be saved now. learned: the images as they step, the
  labels' logits, the rate. moments: of these. strength: see `matching.State`.
  """
  syn: Synthetic
  learned: Synthetic
  moments: Synthetic
  strength: Array
  step: Array


AXES = State(*(Synthetic(None, None, None),) * 3, None, None)


def method(settings, axis_name=None):
  """A trajectory-matching `Method`.

  Args:
    settings: `Settings`.
    axis_name: mapped axis over which the starts are split, None alone.

  Returns:
    A `Method` whose data are `Pairs` that hold the rows of the step. One step
    matches each start once and moves images, labels and the student's rate.
  """
  txs, slope = _optimizers(settings), _slope(settings, axis_name)

  def init(key, syn):
    del key
    logits = jnp.log(jnp.maximum(syn.labels, SURE))
    learned = syn._replace(labels=logits)
    moments = Synthetic(*(tx.init(x) for tx, x in zip(
        txs, learned, strict=True)))
    return State(syn, learned, moments, jnp.zeros((), jnp.float32),
                 jnp.zeros((), jnp.int32))

  def step(state, data, pool, key):
    key = jax.random.fold_in(key, state.step)
    frozen = _finished(settings, pool, axis_name)
    state = _assign(settings, state, data)
    slopes, strength, metrics = slope(state, data, frozen, key)
    changes, moments = zip(*(tx.update(g, m) for tx, g, m in zip(
        txs, slopes, state.moments, strict=True)), strict=True)
    syn, learned = _move(settings, state, Synthetic(*changes))
    new = State(syn, learned, Synthetic(*moments), strength, state.step)
    # Where no start counted, momentum must not move the set either.
    state = jax.tree.map(
        lambda a, b: jnp.where(metrics['match/kept'] > 0, a, b), new, state)
    metrics['student/lr'] = state.learned.lr
    return state._replace(step=state.step + 1), metrics

  return Method(init, step, AXES)


def _optimizers(settings):
  return [optax.trace(momentum) for momentum in (
      settings.momentum, settings.label_momentum, settings.momentum)]


def _move(settings, state, change):
  """`(syn, learned)` after one step along `change`."""
  old = state.learned
  images = synthetic.clip(
      settings.codec, old.images - settings.lr * change.images)
  logits = old.labels - settings.lr_label * change.labels
  # To first order lr - lr_lr * change, but never negative.
  rate = old.lr * jnp.exp(jnp.clip(
      -settings.lr_lr * change.lr / old.lr, -1, 1))
  learned = Synthetic(images, logits, rate)
  shown = sam.moving_average(state.syn.images, images, settings.average) if (
      settings.average) else images
  labels = jax.nn.softmax(logits) if settings.lr_label else state.syn.labels
  return Synthetic(shown, labels, rate), learned


def _assign(settings, state, data):
  """The state with labels of this step's expert, or as it is."""
  if settings.assign is None:
    return state
  row = data.target[(state.step - data.first) * settings.starts]
  labels = soft_labels.assigned_labels(settings.assign, settings.codec)(
      settings.unravel(row.astype(jnp.float32)), state.learned)
  return state._replace(syn=state.syn._replace(labels=labels))


def _finished(settings, pool, axis_name):
  """Finished stored images of all classes, a `Batch`, or None."""
  if not settings.union:
    return None
  frozen = pool.frozen if axis_name is None else jax.lax.all_gather(
      pool.frozen, axis_name, tiled=True)
  # Rows that only fill a device stand at the end.
  classes = frozen.labels.shape[-1]
  return jax.tree.map(lambda x: x[:classes], frozen)


def _slope(settings, axis_name):
  """`(state, data, frozen, key) -> (gradient, strength, metrics)`."""
  correction = settings.correction
  active = bool(correction.start or correction.end)
  hardness = difficulty.penalty(
      settings.loss_fn, correction.penalty) if active else None
  both = objectives.trajectory_with_difficulty(
      settings.loss_fn, settings.student_steps, hardness,
      batch=settings.batch, augment=settings.augment, frozen=settings.frozen,
      image_factor=settings.image_factor)
  inputs = _inputs(settings)

  def one(state, start, target, frozen, key):
    """`(loss, hardness)`, and the gradients of their weighted sum, or each."""
    labels = state.syn.labels
    def of(learned):
      return both(inputs(learned, labels, frozen), start, target, key)
    values, pull = jax.vjp(of, state.learned)
    one, none = jnp.ones_like(values[0]), jnp.zeros_like(values[0])
    if active and correction.relative:
      return values, [pull((one, none))[0], pull((none, one))[0]]
    weight = none + correction.at(state.step) if active else none
    return values, [pull((one, weight))[0]]

  def run(state, data, frozen, key):
    at = (state.step - data.first) * settings.starts
    def start_of(j):
      start, target = (
          settings.unravel(rows[at + j].astype(jnp.float32))
          for rows in (data.start, data.target))
      values, slopes = one(state, start, target, frozen,
                           jax.random.fold_in(key, j))
      return _kept(settings, values, slopes)
    total = devices.sum_over(settings.starts, start_of, axis_name)
    count = jnp.maximum(total['count'], 1)
    slopes = jax.tree.map(lambda x: x / count, total['slopes'])
    metrics = {'match/loss': total['loss'] / settings.starts,
               'match/kept': total['count'] / settings.starts}
    if active:
      metrics['sdc/difficulty'] = total['hard'] / count
    return *_corrected(correction, state, slopes), metrics
  return run


def _inputs(settings):
  """`(learned, labels, frozen) -> Synthetic` of flat network inputs."""
  def inputs(learned, labels, frozen):
    if settings.lr_label:
      labels = jax.nn.softmax(learned.labels)
    both = learned.images, labels
    if frozen is not None:
      both = (jnp.concatenate(x, axis=1) for x in zip(
          frozen, both, strict=True))
    flat = synthetic.training_inputs(settings.codec, Synthetic(*both,
                                                               learned.lr))
    return Synthetic(*flat, learned.lr)
  return inputs


def _kept(settings, values, slopes):
  """What one start adds to the sums: nothing if its loss is too large."""
  loss, hard = values
  limit = settings.skip_above
  good = jnp.isfinite(loss) & (loss <= limit) if limit else jnp.bool_(True)
  shown = jnp.where(jnp.isfinite(loss), loss, limit) if limit else loss
  hard, slopes = jax.tree.map(
      lambda x: jnp.where(good, x, 0), (hard, slopes))
  return {'loss': shown, 'hard': hard, 'slopes': slopes,
          'count': good.astype(loss.dtype)}


def _corrected(correction, state, slopes):
  """Gradients with SDC's share added, and its smoothed strength."""
  if len(slopes) == 1:
    return slopes[0], state.strength
  plain, harder = slopes
  now = correction.at(state.step) * losses.norm(plain.images) / (
      losses.norm(harder.images) + 1e-12)
  strength = objectives.smoothed(state.strength, now, state.step)
  return jax.tree.map(
      lambda a, b: a + strength * b, plain, harder), strength
