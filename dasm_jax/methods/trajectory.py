"""Matching of training trajectories: MTT, FTD, TESLA, DATM.

The whole synthetic set trains one student, so nothing is split by class: the
devices share the expert starts of a step, whose gradients are averaged.

Sections: what a run carries, the method (`init`, `draw`, `step`), how the set
moves, its gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dasm_jax import difficulty, losses, objectives, synthetic
from dasm_jax.runtime import devices
from dasm_jax.runtime.text import plural
from dasm_jax.training import experts, sam, soft_labels
from dasm_jax.transforms import augment
from dasm_jax.types import Array, Drawn, Method, Synthetic

SURE = 1e-20  # the least probability a learned label starts from


# ---- What a run carries


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
  logits_fn: `(params, images) -> logits` of the student.
  augment: of the student's minibatches, or None.
  correction: an `objectives.Correction`, its penalty a mean over the steps.
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
  moving: see `options.Options`; of other images labels stay, too.
  """
  unravel: Callable
  loss_fn: Callable
  logits_fn: Callable
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
  moving: int | None = None


class State(NamedTuple):
  """Everything that a run of one segment carries.

  syn: the set as it would be saved now. learned: the images as they step, the
  labels' logits, the rate. opt_state: of these. strength: see `matching.State`.
  """
  syn: Synthetic
  learned: Synthetic
  opt_state: Synthetic
  strength: Array
  step: Array


# Nothing is split: every device has the whole set.
AXES = State(*(Synthetic(None, None, None),) * 3, None, None)


def build(network, c, matching, options):
  """The `Method` of the settings of a configuration, see `registry.build`."""
  del matching  # what experts are matched by is the same for all
  o = options
  same = ('student_steps', 'frozen', 'image_factor', 'starts', 'momentum',
          'lr_lr', 'lr_label', 'label_momentum', 'average', 'skip_above')
  return method(Settings(
      unravel=experts.flat_parameters(network)[1],
      loss_fn=experts.student_loss_fn(network),
      logits_fn=experts.student_logits_fn(network),
      augment=augment.build(c.augment, c.augment_mode),
      correction=o.correction, codec=o.codec, batch=c.batch_syn, union=o.union,
      assign=experts.student_logits_fn(network) if c.assign else None,
      lr=o.rate * c.lr, moving=o.moving,
      **{name: c[name] for name in same}), o.axis_name)


# ---- The method


def method(settings, axis_name=None):
  """A trajectory-matching `Method`.

  A step takes, of each expert start θ_t with target θ_(t+M), the loss
  `|θ'_N - θ_(t+M)|^2 / |θ_t - θ_(t+M)|^2` of a student θ' that N steps on the
  set X at its rate a have brought there from θ_t. By the mean gradient over the
  starts it moves X and the labels' logits by SGD with momentum, and the rate by
  `a <- a exp(-lr_lr g / a)`, within a factor of e.

  Args:
    settings: `Settings`.
    axis_name: mapped axis over which the starts are split, None alone.

  Returns:
    A `Method` whose state is a `State` and whose data are `Pairs` that hold the
    rows of the step; it draws no real images.

  Source: MTT (2203.11932), eq. 2; by `settings` FTD (2211.11004), TESLA
  (2211.10586) and DATM (2310.05773).
  """
  txs, gradient = _optimizers(settings), _gradient(settings, axis_name)

  def init(key, syn):
    del key
    logits = jnp.log(jnp.maximum(syn.labels, SURE))
    learned = syn._replace(labels=logits)
    opt_state = Synthetic(*(tx.init(x) for tx, x in zip(
        txs, learned, strict=True)))
    return State(syn, learned, opt_state, jnp.zeros((), jnp.float32),
                 jnp.zeros((), jnp.int32))

  def draw(data, windows, key, step):
    del data, key, step  # experts have seen the real images
    return Drawn(jnp.zeros((len(windows.classes), 0), jnp.int32), {})

  def step(state, data, windows, drawn, key):
    del drawn
    key = jax.random.fold_in(key, state.step)
    frozen = _finished(settings, windows, axis_name)
    state = _assign(settings, state, data)
    gradients, strength, metrics = gradient(state, data, frozen, key)
    changes, opt_state = zip(*(tx.update(g, m) for tx, g, m in zip(
        txs, gradients, state.opt_state, strict=True)), strict=True)
    syn, learned = _move(settings, state, Synthetic(*changes))
    new = State(syn, learned, Synthetic(*opt_state), strength, state.step)
    # Where no start counted, momentum must not move the set either.
    state = jax.tree.map(
        lambda a, b: jnp.where(metrics['match/kept'] > 0, a, b), new, state)
    metrics['student/lr'] = state.learned.lr
    return state._replace(step=state.step + 1), metrics

  return Method(init, draw, step, AXES)


# ---- How the set moves


def _optimizers(settings):
  # Of images, labels and rate: a `Synthetic`'s fields. The rates come after the
  # momentum, as in PyTorch.
  return [optax.trace(momentum) for momentum in (
      settings.momentum, settings.label_momentum, settings.momentum)]


def _move(settings, state, change):
  """`(syn, learned)` after one step along `change`."""
  old = state.learned
  images = synthetic.hold(synthetic.clip(
      settings.codec, old.images - settings.lr * change.images), old.images,
      settings.moving)
  logits = synthetic.hold(old.labels - settings.lr_label * change.labels,
                          old.labels, settings.moving)
  # To first order lr - lr_lr * change, but never negative: in MTT's program it
  # may be, or explode, and users report both. One step changes it by a factor
  # of e at most.
  rate = old.lr * jnp.exp(jnp.clip(
      -settings.lr_lr * change.lr / old.lr, -1, 1))
  learned = Synthetic(images, logits, rate)
  # The average is the result; students go on from the images themselves.
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
  return state._replace(syn=state.syn._replace(labels=synthetic.hold(
      labels, state.syn.labels, settings.moving)))


def _finished(settings, windows, axis_name):
  """Finished stored images of all classes, a `Batch`, or None."""
  if not settings.union:
    return None
  frozen = windows.frozen if axis_name is None else jax.lax.all_gather(
      windows.frozen, axis_name, tiled=True)
  # Rows that only fill a device stand at the end.
  classes = frozen.labels.shape[-1]
  return jax.tree.map(lambda x: x[:classes], frozen)


# ---- Its gradient


def _gradient(settings, axis_name):
  """`(state, data, frozen, key) -> (gradient, strength, metrics)`."""
  correction = settings.correction
  active = correction.active
  objective = objectives.trajectory_matching(
      settings.loss_fn, settings.student_steps, batch=settings.batch,
      augment=settings.augment, frozen=settings.frozen,
      image_factor=settings.image_factor, difficulty=difficulty.penalty(
          settings.loss_fn, correction.penalty, settings.logits_fn)
      if active else None)
  inputs = _inputs(settings)

  def of_start(state, start, target, frozen, key):
    """Loss and difficulty; gradients of their weighted sum, or of each."""
    labels = state.syn.labels
    def values_of(learned):
      value, metrics = objective(
          inputs(learned, labels, frozen), start, target, key)
      return value, metrics.get('sdc/difficulty', jnp.zeros_like(value))
    values, pull = jax.vjp(values_of, state.learned)
    one, none = jnp.ones_like(values[0]), jnp.zeros_like(values[0])
    # One student, pulled back twice: its gradients' norms are compared.
    if active and correction.relative:
      return values, [pull((one, none))[0], pull((none, one))[0]]
    weight = none + correction.at(state.step) if active else none
    return values, [pull((one, weight))[0]]

  def run(state, data, frozen, key):
    at = (state.step - data.first) * settings.starts
    def add(j):
      # Experts may be kept in half precision; students are not.
      start, target = (
          settings.unravel(rows[at + j].astype(jnp.float32))
          for rows in (data.start, data.target))
      values, gradients = of_start(state, start, target, frozen,
                                   jax.random.fold_in(key, j))
      return _counted(settings, values, gradients)
    total = devices.sum_over(settings.starts, add, axis_name)
    count = jnp.maximum(total['count'], 1)
    gradients = jax.tree.map(lambda x: x / count, total['gradients'])
    metrics = {'match/loss': total['loss'] / settings.starts,
               'match/kept': total['count'] / settings.starts}
    if active:
      metrics['sdc/difficulty'] = total['difficulty'] / count
    return *_corrected(correction, state, gradients), metrics
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
    flat = synthetic.training_inputs(
        settings.codec, Synthetic(*both, learned.lr))
    return Synthetic(*flat, learned.lr)
  return inputs


def _counted(settings, values, gradients):
  """What one start adds to the sums: nothing if its loss is too large."""
  loss, hard = values
  limit = settings.skip_above
  good = jnp.isfinite(loss) & (loss <= limit) if limit else jnp.bool_(True)
  # With a limit a loss that is not finite is shown as that, and the run goes
  # on; without one it ends (`reports.check_finite`).
  shown = jnp.where(jnp.isfinite(loss), loss, limit) if limit else loss
  # Not `x * good`: NaN times 0 is NaN.
  hard, gradients = jax.tree.map(
      lambda x: jnp.where(good, x, 0), (hard, gradients))
  return {'loss': shown, 'difficulty': hard, 'gradients': gradients,
          'count': good.astype(loss.dtype)}


def _corrected(correction, state, gradients):
  """Gradients with SDC's share added, and its smoothed strength."""
  if len(gradients) == 1:
    return gradients[0], state.strength
  plain, harder = gradients
  now = correction.at(state.step) * losses.norm(plain.images) / (
      losses.norm(harder.images) + 1e-12)
  # Nothing is averaged yet, either, where all starts so far were skipped.
  strength = objectives.smoothed(
      state.strength, now, jnp.where(state.strength, state.step, 0))
  return jax.tree.map(
      lambda a, b: a + strength * b, plain, harder), strength


def describe(c):
  """What a method does, in one line."""
  return (f'{plural(c.steps, "step")} over all segments, {c.student_steps} of '
          f'a student for {plural(c.expert_epochs, "epoch")} of an expert, '
          f'from epoch {c.first_epoch} to {c.last_epoch}')


def images_per_step(c, classes, decoded, steps):
  """Images that pass through students in one step."""
  del steps
  return c.starts * c.student_steps * (c.batch_syn or classes * decoded)
