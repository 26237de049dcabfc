"""Matching by sweeps over the classes: DC, DSA, DSAC, IDC, DM, CAFE.

What is matched (gradients, features, …) is an `objectives.Matching`; here is
how the images move along it, at an inner network that is begun anew, warmed up
and trained (`inner_network`).

All classes are matched in one step. IDC's program steps once a class on one
tensor that holds all classes, whose momentum keeps the others moving; between
two visits a class then moves by `lr v (1 + m + … + m^(C-1))` and keeps `m^C`
of its momentum v. `joint_step` gives the one step that does the same.

Sections: what these methods differ in and carry, the method itself (`init`,
`draw`, `step`), the warm-up of its networks, the gradient of its images.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dasm_jax import models, objectives, synthetic
from dasm_jax.methods import inner_network
from dasm_jax.methods import options as asked
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime.text import plural
from dasm_jax.training import recipes, train_step
from dasm_jax.types import (
  Array,
  Drawn,
  Method,
  Synthetic,
  Variables,
  Warmup,
)

# ---- What they differ in, and what they carry


class Settings(NamedTuple):
  """What these methods differ in; `configs` has the published values.

  matching: an `objectives.Matching` of network inputs.
  augment: `(key, images, shared) -> images`, the same for both sides.
  correction: an `objectives.Correction`.
  codec: a `synthetic.Codec`.
  limit: decoded images a class that take part in one step; None is all.
  batch: real images a class; replay: share of them from the whole class.
  union: match finished and new images together rather than the new alone.
  lr, momentum: of SGD on the stored images; the rate is multiplied by `decay`
    from each sweep in `drops` on.
  inner: sweeps a network lives; warmup: its batches of real images before.
  train_on: `real` (IDC) or `synthetic` (DC, DSA), between sweeps.
  steps: batches of real images, or passes over the synthetic set.
  net: `Recipe` of the inner network's training.
  watch: an `inner_network.AccuracyWatch`; `inner` and `steps` are the most
    then.
  batched: classes at once or in turn, see `objectives.per_class`.
  moving, from_finished: see `options.Options`.
  """
  matching: objectives.Matching
  augment: Callable
  correction: objectives.Correction
  codec: synthetic.Codec
  limit: int | None
  batch: int
  replay: float
  union: bool
  lr: float
  momentum: float
  inner: int
  warmup: int
  train_on: str
  steps: int
  net: recipes.Recipe
  drops: tuple = ()
  decay: float = 1.0
  watch: inner_network.AccuracyWatch | None = None
  batched: bool | None = None
  moving: int | None = None
  from_finished: float = 0.0


class State(NamedTuple):
  """Everything that a run of one segment carries."""
  syn: Synthetic
  opt_state: object     # of the images' optimizer
  variables: Variables  # the inner network
  net_opt_state: object
  memory: object        # of the network's life
  strength: Array       # [] smoothed weight of a relative correction
  warmed: Array         # [] int32, batches of the next sweep's warm-up
  step: Array           # [] int32


# Which leaves begin with the classes (0); the others are alike everywhere.
AXES = State(Synthetic(0, 0, None), 0, None, None, None, None, None, None)


def build(network, c, matching, options):
  """The `Method` of the settings of a configuration, see `registry.build`.

  With `c.lr_per_image` the rate is that of ten images a class, and
  proportional to them (IDC).
  """
  o = options
  lr = o.rate * (c.lr * o.images / 10 if c.lr_per_image else c.lr)
  momentum = c.momentum
  if c.per_class_steps:
    lr, momentum = joint_step(lr, momentum, o.classes)
  watch = inner_network.AccuracyWatch(
      c.watch_images, c.watch_window, c.watch_rest,
      c.watch_move) if c.get('watch_images') else None
  steps = o.steps or c.steps
  return method(network, Settings(
      matching=matching, augment=asked.augmentation(c, o.codec),
      correction=o.correction, codec=o.codec, limit=c.limit or None,
      batch=c.batch, replay=o.replay, union=o.union, lr=lr, momentum=momentum,
      inner=c.inner, warmup=c.warmup, train_on=c.train_on, steps=c.net_steps,
      net=asked.network_recipe(c, o.codec),
      drops=tuple(round(share * steps) for share in c.get('drops', ())),
      decay=c.get('decay', 1.0), watch=watch, batched=o.batched,
      moving=o.moving, from_finished=o.from_finished), o.axis_name)


def joint_step(lr, momentum, classes):
  """(lr, momentum) of one joint step equal to a step for each class in turn.

  `lr (1 - m^C) / (1 - m)` and `m^C`; IDC's 0.5 and 10 classes give 1.998 lr.
  """
  kept = momentum ** classes
  return lr * (1 - kept) / (1 - momentum), kept


# ---- The method


def method(network, settings, axis_name=None):
  """A `Method` of sweeps over the classes.

  A step moves the stored images X `[classes, ipc, …]` of all classes at once,
  by the gradient of their losses at the inner network θ,
  `v <- momentum v + sum_c dL_c(X_c, T_c, θ) / dX`, `X <- clip(X - lr v)`,
  where T_c are `batch` real images of the class; then it trains θ.

  Args:
    network: a `Network`, begun anew every `inner` sweeps.
    settings: `Settings`.
    axis_name: mapped axis over which the classes are split, None alone.

  Returns:
    A `Method` whose state is a `State`; `draw` tells of each class `batch` real
    images, and those that the network is trained on. Metrics are sums over all
    classes.

  Source: DC (2006.05929), eq. 9; by `settings` DSA (2102.08259), DSAC
  (2202.02916), IDC (2205.14959), DM (2110.04181) and CAFE (2203.01531).
  """
  s = settings
  # As in PyTorch the rate comes after the momentum: where it falls, gradients
  # of earlier sweeps count less, too.
  tx = optax.trace(s.momentum)
  net_tx = train_step.sgd(s.net.momentum, s.net.weight_decay)
  image_gradient = _image_gradient(network, s, axis_name)
  life = inner_network.lifetime(network, net_tx, s, axis_name)
  begin = inner_network.beginner(network, net_tx, s.from_finished)
  averages = models.normalises_batches(network)
  trains = s.train_on == 'real' and s.steps and not s.watch

  def init(key, syn):
    # The first sweep begins a network; this one gives the state its shape.
    variables, none = network.init(key), jnp.zeros((), jnp.int32)
    return State(syn, tx.init(syn.images), variables,
                 net_tx.init(variables.params), life.init(),
                 jnp.zeros((), jnp.float32), none, none)

  def draw(data, windows, key, step):
    keys = inner_network.sweep_keys(key, step)
    by_class = sources.class_indices(
        windows, _class_keys(keys.match, windows)[0], s.batch, s.replay)
    shared = {}
    if averages:
      shared['averages'] = inner_network.statistics_indices(
          data.everything, keys.averages)
    if trains:
      order = inner_network.training_indices(
          len(data.labels), s.net.batch, s.steps, keys.train)
      # After its last sweep a network is not trained: one image stands for all.
      shared['training'] = jnp.where(
          inner_network.is_last(s.inner, step), order[0, 0], order)
    return Drawn(by_class, shared)

  def step(state, data, windows, drawn, key):
    keys = inner_network.sweep_keys(key, state.step)
    # A network that was warmed up has begun already.
    fresh = life.over(state.memory, state.step) & (state.warmed == 0)
    variables, net_opt_state = begin(
        fresh, (state.variables, state.net_opt_state), data, keys.network)
    # For matching only: in training batch norm goes on from its own averages.
    at = inner_network.with_averages(
        network, variables, data, drawn.shared.get('averages'), axis_name)
    real = sources.take(data, drawn.by_class)
    direction, strength, metrics = image_gradient(
        state.syn, at, (windows.frozen, real) if s.union else real,
        _class_keys(keys.match, windows)[1], windows.present, state.strength,
        state.step)
    change, opt_state = tx.update(direction, state.opt_state)
    images = state.syn.images - image_rate(s, state.step) * change
    syn = state.syn._replace(images=synthetic.hold(
        synthetic.clip(s.codec, images), state.syn.images, s.moving))
    # After the images, so that a network learns them as they are now.
    (variables, net_opt_state), memory = life.train(
        (variables, net_opt_state), state.memory, inner_network.Surroundings(
            syn, data, windows, drawn.shared.get('training')),
        keys.train, state.step)
    return State(syn, opt_state, variables, net_opt_state, memory, strength,
                 jnp.zeros_like(state.warmed), state.step + 1), metrics

  return Method(init, draw, step, AXES, foretold=not s.watch,
                warmup=_warmup(network, net_tx, s, axis_name))


# ---- The warm-up


def _warmup(network, tx, settings, axis_name):
  """The `Warmup` of networks that live `inner` sweeps.

  None if there is none, or if only the state tells when a network begins.
  """
  s = settings
  if s.watch or not s.warmup:
    return None
  begin = inner_network.beginner(network, tx, s.from_finished)
  train = inner_network.real_trainer(network, tx, s.net, axis_name)

  def draw(data, key, step):
    _, order = jax.random.split(
        inner_network.sweep_keys(key, step).network)
    return inner_network.training_indices(
        len(data.labels), s.net.batch, s.warmup, order)

  def step(state, data, drawn, key, size):
    # One half of the key begins the network, the other is that of `draw`.
    start = inner_network.sweep_keys(key, state.step).network
    carry = begin(state.warmed == 0, (state.variables, state.net_opt_state),
                  data, start)
    variables, net_opt_state = train(
        carry, data, drawn, jax.random.split(start)[1], state.warmed,
        state.warmed + size)
    return state._replace(variables=variables, net_opt_state=net_opt_state,
                          warmed=state.warmed + size)

  return Warmup(lambda step: 0 if step % s.inner else s.warmup,
                lambda state: state.warmed, draw, step)


# ---- The images


def image_rate(settings, step):
  """The images' learning rate in a sweep."""
  if not settings.drops:
    return settings.lr
  passed = sum((step >= drop).astype(jnp.float32) for drop in settings.drops)
  return settings.lr * settings.decay ** passed


def _image_gradient(network, settings, axis_name):
  """`objectives.image_gradient` of what the settings match."""
  s = settings

  # Read from below: images are decoded and normalised, finished ones join them,
  # and all are augmented as real ones are. So what an operation fills with 0
  # has the data's mean, as in all of the programs.
  def wrap(flat):
    flat = objectives.augmented(flat, s.augment)
    if s.union:
      flat = objectives.joined(flat, s.codec, s.limit)
    return objectives.decoded(flat, s.codec, s.limit)

  difficulty = objectives.difficulty_only(
      train_step.loss_fn(network), penalty=s.correction.penalty,
      logits_fn=train_step.logits_fn(network))
  return objectives.image_gradient(
      difficulty, s.matching, s.correction, wrap, batched=s.batched,
      axis_name=axis_name)


def _class_keys(key, windows):
  """For each class the keys of its draw and of its objective."""
  # By class number, so that neither devices nor phases change a draw.
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, windows.classes)
  pairs = jax.vmap(jax.random.split)(keys)
  return pairs[:, 0], pairs[:, 1]


def describe(c):
  """What a method does, in one line."""
  return (f'{plural(c.steps, "step")} over all segments, '
          f'{plural(c.batch, "real image")} a class')


def images_per_step(c, classes, decoded, steps):
  """Images that pass through networks in one sweep.

  Of a network that trains until something moves: the most there can be.
  """
  del steps
  trained = c.net_steps * (
      c.net_batch if c.train_on == 'real' else classes * decoded)
  return classes * (c.batch + min(decoded, c.limit or decoded)) + trained
