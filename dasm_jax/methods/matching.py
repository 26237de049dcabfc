"""Matching of gradients or features: DC, DSA, DSAC, IDC, DM, CAFE.

All classes are matched in one step. IDC's program steps once a class on one
tensor that holds all classes, whose momentum keeps the others moving; between
two visits a class then moves by `lr v (1 + m + … + m^(C-1))` and keeps `m^C`
of its momentum v. `equivalent` gives the joint step that does the same.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dasm_jax import objectives, synthetic
from dasm_jax.methods import inner_network
from dasm_jax.objectives import Correction
from dasm_jax.pipeline import source as sources
from dasm_jax.training import recipes, train_step
from dasm_jax.types import Array, Method, Synthetic, Variables


class Settings(NamedTuple):
  """What these methods differ in; `configs` has the published values.

  matching: a `objectives.Matching` of network inputs.
  augment: `(key, images, shared) -> images`, the same for both sides.
  correction: a `Correction`.
  codec: a `synthetic.Codec`.
  limit: decoded images a class that take part in one step; None is all.
  batch: real images a class; replay: share of them from the whole class.
  union: match finished and new images together rather than the new alone.
  lr, momentum: of SGD on the stored images; the rate is multiplied by `decay`
    from each sweep in `drops` on.
  inner: sweeps a network lives; warmup: its batches of real images before.
  watch: a `inner_network.AccuracyWatch`; `inner` and `steps` are the most then.
  train_on: `real` (IDC) or `synthetic` (DC, DSA), between sweeps.
  steps: batches of real images, or passes over the synthetic set.
  net: `Recipe` of the matching network's training.
  batched: classes at once or in turn, see `objectives.per_class`.
  """
  matching: objectives.Matching
  augment: Callable
  correction: Correction
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


class State(NamedTuple):
  """Everything that a run of one segment carries."""
  syn: Synthetic
  moments: object       # of the images' optimizer
  variables: Variables  # the matching network
  net_moments: object
  memory: object        # of the network's life
  strength: Array       # [] smoothed weight of a relative correction
  warmed: Array         # [] int32, batches of the next sweep's warm-up
  step: Array           # [] int32


# Which leaves begin with the classes (0); the others are alike everywhere.
AXES = State(Synthetic(0, 0, None), 0, None, None, None, None, None, None)


def joint_step(lr, momentum, classes):
  """(lr, momentum) of one joint step equal to a step for each class in turn.

  `lr (1 - m^C) / (1 - m)` and `m^C`; IDC's 0.5 and 10 classes give 1.998 lr.
  """
  kept = momentum ** classes
  return lr * (1 - kept) / (1 - momentum), kept


def method(network, settings, axis_name=None):
  """A gradient- or feature-matching `Method`.

  Args:
    network: a `Network`, begun anew every `inner` sweeps.
    settings: `Settings`.
    axis_name: mapped axis over which the classes are split, None alone.

  Returns:
    A `Method`. One step matches every class of the pool once, moves the
    images, then trains the network. Metrics are sums over all classes.
  """
  tx = optax.trace(settings.momentum)
  net_tx = train_step.sgd(settings.net.momentum, settings.net.weight_decay)
  image_slope = _image_gradient(network, settings, axis_name)
  life = _lifetime(network, net_tx, settings, axis_name)
  begin = inner_network.warmup_runner(network, net_tx, settings, axis_name)

  def init(key, syn):
    variables, none = network.init(key), jnp.zeros((), jnp.int32)
    return State(syn, tx.init(syn.images), variables,
                 net_tx.init(variables.params), life.init(),
                 jnp.zeros((), jnp.float32), none, none)

  def warm(state, data, key, size, over=True):
    k_net = inner_network.sweep_keys(key, state.step)[0]
    variables, moments, had = jax.lax.cond(
        over, lambda old: begin(old, data, k_net, size), lambda old: old,
        (state.variables, state.net_moments, state.warmed))
    return state._replace(variables=variables, net_moments=moments, warmed=had)

  def sweep(state, data, pool, key):
    _, k_stats, k_match, k_train = inner_network.sweep_keys(key, state.step)
    at = inner_network.with_statistics(
        network, state.variables, data, k_stats, axis_name)
    direction, strength, metrics = image_slope(
        state, at, data, pool, k_match)
    change, moments = tx.update(direction, state.moments)
    images = state.syn.images - image_rate(settings, state.step) * change
    syn = state.syn._replace(images=synthetic.clip(settings.codec, images))
    variables, net_moments, memory = life.train(
        state.variables, state.net_moments, state.memory, syn, data, pool,
        k_train, state.step)
    state = State(syn, moments, variables, net_moments, memory, strength,
                  jnp.zeros_like(state.warmed), state.step + 1)
    return state, metrics

  def step(state, data, pool, key):
    state = warm(state, data, key, settings.warmup - state.warmed,
                 life.over(state.memory, state.step))
    return sweep(state, data, pool, key)

  looks = None if settings.watch else _sweep_indices(network, settings)
  more = inner_network.warmup_of(settings, warm, Method(init, sweep, AXES,
                                                        looks))
  return Method(init, step, AXES, inner_network.joined_indices(looks, more),
                more)


def _sweep_indices(network, settings):
  """`Method.looks` of sweeps alone: what they draw with the same keys."""
  size, inner = settings.net.batch, settings.inner
  statistics = jax.tree.leaves(
      jax.eval_shape(network.init, jax.random.key(0)).stats)

  @jax.jit
  def of_classes(pool, mine, key):
    pool = jax.tree.map(lambda x: x[mine], pool)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, pool.classes)
    return sources.class_indices(pool, _split_keys(keys)[0], settings.batch,
                                 settings.replay)

  training = jax.jit(inner_network.training_indices, static_argnums=(0, 1, 2))
  averages = jax.jit(inner_network.statistics_indices)

  def looks(pool, mine, n, key, step):
    _, k_stats, k_match, k_train = inner_network.sweep_keys(key, step)
    found = [of_classes(pool, mine, k_match)]
    if statistics:
      found.append(inner_network.local_share(averages(pool.everything,
                                                      k_stats)))
    if settings.train_on == 'real' and step % inner < inner - 1:
      found.append(inner_network.local_share(training(n, size, settings.steps,
                                                      k_train)))
    return found

  return looks


def image_rate(settings, step):
  """The images' learning rate in a sweep."""
  if not settings.drops:
    return settings.lr
  passed = sum((step >= drop).astype(jnp.float32) for drop in settings.drops)
  return settings.lr * settings.decay ** passed


def _lifetime(network, tx, settings, axis_name):
  watch = settings.watch
  if not watch:
    return inner_network.fixed_lifetime(settings.inner,
                                        inner_network.between_sweeps(
        network, tx, settings, axis_name))
  once = inner_network.between_sweeps(network, tx, settings._replace(steps=1),
                                      axis_name)
  return inner_network.watched_lifetime(
      watch, settings.inner, settings.steps, once,
      inner_network.watched_accuracy(network, watch.images, axis_name))


def _image_gradient(network, settings, axis_name):
  """`(state, variables, data, pool, key) -> (gradient, strength, metrics)`."""
  def wrap(flat):
    flat = objectives.augmented(flat, settings.augment)
    if settings.union:
      flat = objectives.joined(flat, settings.codec, settings.limit)
    return objectives.decoded(flat, settings.codec, settings.limit)

  of_images = objectives.image_gradient(
      train_step.loss_fn(network), settings.matching, settings.correction, wrap,
      batched=settings.batched, axis_name=axis_name)

  def run(state, variables, data, pool, key):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, pool.classes)
    draws, keys = _split_keys(keys)
    real = sources.class_batches(data, pool, draws, settings.batch,
                                 settings.replay)
    target = (pool.frozen, real) if settings.union else real
    return of_images(state.syn, variables, target, keys, pool.present,
                     state.strength, state.step)

  return run


def _split_keys(keys):
  pairs = jax.vmap(jax.random.split)(keys)
  return pairs[:, 0], pairs[:, 1]
