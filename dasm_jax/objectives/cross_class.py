"""Matching whose classes depend on each other.

What a class must know of the others is a sum over classes, found in a pass of
its own before the images are differentiated. Classes can so be taken in turn,
or split over devices, and the image gradient is that of the whole loss. Only
batch norm in training has to see all classes in one batch (`all_classes`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax.objectives import correction as corrections
from dasm_jax.objectives import wrappers
from dasm_jax.runtime import devices
from dasm_jax.types import Array, Synthetic


class MatchPoint(NamedTuple):
  """Where a class is matched.

  params: the point in weight space.
  sums: of each stage, summed over all classes.
  step: sweeps done, `[]` int32.
  """
  params: object
  sums: tuple
  step: Array


class Matching(NamedTuple):
  """A flat objective whose `params` is a `MatchPoint`, and the stages before
  it.

  Each stage is `stage(syn, point, target, key) -> pytree` of one class, on
  flat batches; it sees the sums of the stages before. If `whole` the objective
  is one for `together`.
  """
  objective: Callable
  stages: tuple = ()
  whole: bool = False


def class_by_class(objective):
  """A `Matching` that needs nothing of other classes."""
  def at(syn, point, target, key):
    return objective(syn, point.params, target, key)
  return Matching(at)


def all_classes(objective, wrap, *, batched=None, axis_name=None):
  """All classes of a class-major set in one batch.

  Memory is that of all classes. Where classes are split over devices each
  one gathers them all and works on the whole batch, as in training, and
  counts the values of its own classes: devices share nothing but the loss.

  Args:
    objective: `(syn, params, target) -> [classes]` values, on class-major
      sets of network inputs.
    wrap: from a flat objective to one that decodes, augments, joins, …; what
      it does to each class is done before.
    batched: for `wrap`, see `objectives.per_class`.
    axis_name: mapped axis over which classes are split.

  Returns:
    As `objectives.per_class`; `syn.labels` say how many classes there are.
  """
  def seen(syn, params, target, key):
    del params, key
    return jnp.zeros((), syn.images.dtype), (syn[:2], target)

  def gather(x, count):
    if axis_name is not None:
      x = jax.lax.all_gather(x, axis_name, tiled=True)
    return x[:count]  # rows that only fill a device stand at the end

  def total(syn, params, target, key, weights=None):
    def prepare(images, labels, target, key):
      return wrap(seen)(Synthetic(images, labels, syn.lr), params, target,
                        key)[1]
    keys, weights = wrappers.each_class(syn, key, weights)
    made = devices.map_items(prepare, batched)(
        syn.images, syn.labels, target, keys)
    inputs, target = jax.tree.map(
        lambda x: gather(x, syn.labels.shape[-1]), made)
    values = objective(Synthetic(*inputs, syn.lr), params, target)
    rows = jnp.arange(len(weights))
    if axis_name is not None:
      rows += jax.lax.axis_index(axis_name) * len(weights)
    value = (values[rows % len(values)] * weights).sum()
    return value, {'match/loss': value}

  return total


def match_point(matching, lift, syn, params, target, key, weights, step,
                axis_name=None):
  """The `MatchPoint` of a class-major set.

  Args:
    matching: a `Matching`.
    lift: from flat objectives to class-major ones, as `objectives.per_class`
      around its wrappers.
    syn, params, target, key, weights: as `per_class` takes them.
    step: sweeps done.
    axis_name: mapped axis over which classes are split.
  """
  at = MatchPoint(params, (), step)
  for stage in matching.stages:
    def flat(syn, at, target, key, stage=stage):
      return jnp.zeros((), syn.images.dtype), stage(syn, at, target, key)
    _, sums = lift(flat)(syn, at, target, key, weights)
    if axis_name is not None:
      sums = jax.lax.psum(sums, axis_name)
    at = at._replace(sums=(*at.sums, jax.lax.stop_gradient(sums)))
  return at


def directional(direction, own):
  """0, whose gradient in `own` is `direction` (a constant).

  What a class adds to the slope of a loss of sums over the classes: `own` is
  its summand, `direction` the loss's gradient in the sum.
  """
  line = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, direction, own)))
  return line - jax.lax.stop_gradient(line)


def image_gradient(loss_fn, matching, correction, wrap, *, batched=None,
                   axis_name=None):
  """The gradient in the stored images of a matching with its correction.

  Args:
    loss_fn: `(params, Batch) -> scalar`, by which samples are difficult.
    matching: a `objectives.Matching` of network inputs.
    correction: a `Correction`.
    wrap: from objectives of network inputs to those of stored images.
    batched: see `objectives.per_class`.
    axis_name: mapped axis over which the classes are split.

  Returns:
    `(syn, params, target, keys, present, strength, step) -> (gradient,
    strength, metrics)`: `keys` and `present` one a class, `strength` `[]` the
    smoothed weight of a relative correction; metrics are sums over classes.
  """
  hardness = class_by_class(corrections.difficulty_only(
      loss_fn, penalty=correction.penalty)).objective

  def lift(flat):
    return wrappers.per_class(wrap(flat), batched=batched)

  def slope(total, syn, *rest):
    def of(images):
      return total(syn._replace(images=images), *rest)
    (_, metrics), gradient = jax.value_and_grad(of, has_aux=True)(syn.images)
    return gradient, metrics

  def both(weight):
    if matching.whole:
      match = all_classes(matching.objective, wrap, batched=batched,
                          axis_name=axis_name)
      return wrappers.added(match, weight, lift(hardness))
    return lift(wrappers.added(matching.objective, weight, hardness))

  def run(syn, params, target, keys, present, strength, step):
    at = match_point(matching, lift, syn, params, target, keys, present,
                     step, axis_name)
    args = (syn, at, target, keys, present)
    weight = correction.at(step)
    if correction.relative and (correction.start or correction.end):
      gradient, metrics = slope(both(0), *args)
      harder, more = slope(lift(hardness), *args)
      now = weight * _global_norm(gradient, axis_name) / (
          _global_norm(harder, axis_name) + 1e-12)
      strength = corrections.smoothed(strength, now, step)
      gradient = gradient + strength * harder
      metrics = {**metrics, **more}
    else:
      gradient, metrics = slope(both(weight), *args)
    if axis_name is not None:
      metrics = jax.lax.psum(metrics, axis_name)
    return gradient, strength, metrics

  return run


def _global_norm(x, axis_name):
  square = jnp.sum(jnp.square(x))
  if axis_name is not None:
    square = jax.lax.psum(square, axis_name)
  return jnp.sqrt(square)
