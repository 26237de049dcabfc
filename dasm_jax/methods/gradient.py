"""Matching of gradients or features: DC, DSA, DSAC, IDC, DM.

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

from dasm_jax import coupled, objectives, synthetic, train
from dasm_jax import source as sources
from dasm_jax.methods import networks
from dasm_jax.types import Array, Method, Synthetic, Variables


class Correction(NamedTuple):
  """Strength of SDC over `total` sweeps, linearly from `start` to `end`.

  relative: the strength is not the weight but the share that the
    correction's image gradient has of the matching's norm.
  penalty: a name in `difficulty.PENALTIES`.
  """
  start: float = 0.0
  end: float = 0.0
  total: int = 1
  relative: bool = False
  penalty: str = 'sample_norm'

  def at(self, step):
    """The strength at a step: a number if constant, else traced."""
    if self.start == self.end:
      return self.start
    done = jnp.clip(step / max(self.total - 1, 1), 0, 1)
    return self.start + (self.end - self.start) * done


class Settings(NamedTuple):
  """What these methods differ in; `configs` has the published values.

  matching: a `coupled.Matching` of network inputs.
  augment: `(key, images, shared) -> images`, the same for both sides.
  correction: a `Correction`.
  codec: a `synthetic.Codec`.
  limit: decoded images a class that take part in one step; None is all.
  batch: real images a class; replay: share of them from the whole class.
  union: match finished and new images together rather than the new alone.
  lr, momentum: of SGD on the stored images.
  inner: sweeps a network lives; warmup: its steps on real data before.
  train_on: `real` (IDC) or `synthetic` (DC, DSA), between sweeps.
  steps: batches of real images, or passes over the synthetic set.
  net: `Recipe` of the matching network's training.
  batched: classes at once or in turn, see `objectives.per_class`.
  """
  matching: coupled.Matching
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
  net: train.Recipe
  batched: bool | None = None


class State(NamedTuple):
  """Everything that a run of one segment carries."""
  syn: Synthetic
  moments: object       # of the images' optimizer
  variables: Variables  # the matching network
  net_moments: object
  strength: Array       # [] smoothed weight of a relative correction
  step: Array           # [] int32


# Which leaves begin with the classes (0); the others are alike everywhere.
AXES = State(Synthetic(0, 0, None), 0, None, None, None, None)
SMOOTHING = 0.9


def smoothed(strength, now, step):
  """Moving average of a relative correction's weight; step 0 starts it."""
  return jnp.where(step == 0, now,
                   SMOOTHING * strength + (1 - SMOOTHING) * now)


def equivalent(lr, momentum, classes):
  """(lr, momentum) of one joint step equal to a step for each class in turn.

  `lr (1 - m^C) / (1 - m)` and `m^C`; IDC's 0.5 and 10 classes give 1.998 lr.
  """
  kept = momentum ** classes
  return lr * (1 - kept) / (1 - momentum), kept


def method(network, settings, axis_name=None):
  """A gradient- or feature-matching `Method`.

  Args:
    network: a `Network`, initialised anew every `inner` sweeps.
    settings: `Settings`.
    axis_name: mapped axis over which the classes are split, None alone.

  Returns:
    A `Method`. One step matches every class of the pool once, moves the
    images, then trains the network. Metrics are sums over all classes.
  """
  tx = optax.trace(settings.momentum)
  net_tx = train.optimizer(settings.net.momentum, settings.net.weight_decay)
  image_slope = _image_slope(network, settings, axis_name)
  train_network = networks.trainer(network, net_tx, settings, axis_name)

  def init(key, syn):
    variables = network.init(key)
    return State(syn, tx.init(syn.images), variables,
                 net_tx.init(variables.params), jnp.zeros((), jnp.float32),
                 jnp.zeros((), jnp.int32))

  def renew(variables, moments, data, key):
    del variables, moments
    start, warm = jax.random.split(key)
    variables = network.init(start)
    moments = net_tx.init(variables.params)
    return networks.from_real(network, net_tx, settings, axis_name, data, warm,
                    settings.warmup, variables, moments)

  def keep(variables, moments, data, key):
    del data, key
    return variables, moments

  def step(state, data, pool, key):
    k_net, k_stats, k_match, k_train = jax.random.split(
        jax.random.fold_in(key, state.step), 4)
    age = state.step % settings.inner
    variables, net_moments = jax.lax.cond(
        age == 0, renew, keep, state.variables, state.net_moments, data, k_net)
    at = networks.with_statistics(network, variables, data, k_stats)
    slope, strength, metrics = image_slope(
        state, at, data, pool, k_match)
    change, moments = tx.update(slope, state.moments)
    images = state.syn.images - settings.lr * change
    syn = state.syn._replace(images=synthetic.clip(settings.codec, images))
    # The network is thrown away after its last sweep: no need to train it.
    variables, net_moments = jax.lax.cond(
        age < settings.inner - 1, train_network, lambda v, m, *_: (v, m),
        variables, net_moments, syn, data, pool, k_train)
    state = State(syn, moments, variables, net_moments, strength,
                  state.step + 1)
    return state, metrics

  return Method(init, step, AXES)


def _image_slope(network, settings, axis_name):
  """`(state, variables, data, pool, key) -> (gradient, strength, metrics)`."""
  correction, flat = settings.correction, settings.matching.objective
  hardness = coupled.plain(objectives.difficulty_only(
      train.loss_fn(network), penalty=correction.penalty)).objective

  def lift(flat):
    flat = objectives.augmented(flat, settings.augment)
    if settings.union:
      flat = objectives.joined(flat, settings.codec, settings.limit)
    flat = objectives.decoded(flat, settings.codec, settings.limit)
    return objectives.per_class(flat, batched=settings.batched)

  def slope(flat, syn, *rest):
    total = lift(flat)
    def of(images):
      return total(syn._replace(images=images), *rest)
    (_, metrics), gradient = jax.value_and_grad(of, has_aux=True)(syn.images)
    return gradient, metrics

  def run(state, variables, data, pool, key):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, pool.classes)
    draws, keys = _pair(keys)
    real = sources.class_batches(data, pool, draws, settings.batch,
                                 settings.replay)
    target = (pool.frozen, real) if settings.union else real
    strength, weight = state.strength, correction.at(state.step)
    at = coupled.point(
        settings.matching, lift, state.syn, variables, target, keys,
        pool.present, state.step, axis_name)
    args = (state.syn, at, target, keys, pool.present)
    if correction.relative and (correction.start or correction.end):
      gradient, metrics = slope(flat, *args)
      harder, more = slope(hardness, *args)
      now = weight * _norm(gradient, axis_name) / (
          _norm(harder, axis_name) + 1e-12)
      strength = smoothed(strength, now, state.step)
      gradient = gradient + strength * harder
      metrics = {**metrics, **more}
    else:
      gradient, metrics = slope(
          objectives.added(flat, weight, hardness), *args)
    if axis_name is not None:
      metrics = jax.lax.psum(metrics, axis_name)
    return gradient, strength, metrics

  return run


def _pair(keys):
  pairs = jax.vmap(jax.random.split)(keys)
  return pairs[:, 0], pairs[:, 1]


def _norm(x, axis_name):
  square = jnp.sum(jnp.square(x))
  if axis_name is not None:
    square = jax.lax.psum(square, axis_name)
  return jnp.sqrt(square)
