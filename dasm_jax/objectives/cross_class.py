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
from jax.typing import ArrayLike

from dasm_jax import shapes
from dasm_jax.objectives import correction as corrections
from dasm_jax.objectives import wrappers
from dasm_jax.runtime import devices
from dasm_jax.types import Array, Objective, PyTree, Synthetic


class Matching(NamedTuple):
  """What is matched, and what a class must know of the others for it.

  at: `(sums, step) -> objective`, a flat one; sums are those of each stage over
    all classes, step counts the sweeps done, `[]` int32. If `whole` it is one
    for `all_classes`.
  stages: each `(sums, step) -> f`, with `f(syn, params, target, key)` the
    pytree of one class, on flat batches; it sees the sums of the stages before.
  """
  at: Callable
  stages: tuple = ()
  whole: bool = False


def class_by_class(objective: Objective) -> Matching:
  """A `Matching` that needs nothing of other classes.

  Args:
    objective: on flat batches.

  Returns:
    A `Matching`.
  """
  return Matching(lambda sums, step: objective)


def all_classes(objective: Callable[..., Array],
                wrap: Callable[[Objective], Objective], *,
                batched: bool | int | None = None, axis_name: str | None = None
                ) -> Callable[..., tuple[Array, dict]]:
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
    # Not a loss: as metrics it hands out what `wrap` makes of a class.
    del params, key
    return jnp.zeros((), syn.images.dtype), (syn[:2], target)

  def gather(x, count):
    if axis_name is not None:
      x = jax.lax.all_gather(x, axis_name, tiled=True)
    # Rows that only fill a device stand at the end.
    return x[:count]

  def total(syn, params, target, key, weights=None):
    def prepare(images, labels, target, key):
      return wrap(seen)(Synthetic(images, labels, syn.lr), params, target,
                        key)[1]
    shapes.check_class_major('objectives.all_classes', syn, target)
    keys, weights = wrappers.each_class(syn, key, weights)
    made = devices.map_items(prepare, batched)(
        syn.images, syn.labels, target, keys)
    inputs, target = jax.tree.map(
        lambda x: gather(x, syn.labels.shape[-1]), made)
    values = objective(Synthetic(*inputs, syn.lr), params, target)
    # Every device has the values of all classes and counts its own; the
    # transpose of `all_gather` adds up what the losses of all devices say of an
    # image. Rows that only fill a device have weight 0: any value does.
    rows = jnp.arange(len(weights))
    if axis_name is not None:
      rows += jax.lax.axis_index(axis_name) * len(weights)
    value = (values[rows % len(values)] * weights).sum()
    return value, {'match/loss': value}

  return total


def sums_over_classes(
    matching: Matching,
    lift: Callable[[Objective], Callable[..., tuple[Array, dict]]], args: tuple,
    step: ArrayLike, axis_name: str | None = None) -> tuple:
  """The sums of each stage of a `Matching` over all classes, a tuple.

  Args:
    matching: a `Matching`.
    lift: from flat objectives to class-major ones, as `objectives.per_class`
      around its wrappers.
    args: `(syn, params, target, key, weights)` as `per_class` takes them.
    step: sweeps done.
    axis_name: mapped axis over which classes are split.

  Returns:
    A tuple, one pytree a stage, constant in everything.
  """
  sums = ()
  for stage in matching.stages:
    of_class = stage(sums, step)
    # Handed over as metrics, which `per_class` sums over the classes, each
    # times its weight: rows that only fill a device add nothing. The keys are
    # those of the loss, so both passes see the same augmented images.
    def flat(syn, params, target, key, of_class=of_class):
      return jnp.zeros((), syn.images.dtype), of_class(
          syn, params, target, key)
    _, found = lift(flat)(*args)
    if axis_name is not None:
      found = jax.lax.psum(found, axis_name)
    # Constants: the gradient in them enters through `directional`.
    sums = (*sums, jax.lax.stop_gradient(found))
  return sums


def directional(direction: PyTree, own: PyTree) -> Array:
  """0, whose gradient in `own` is `direction` (a constant).

  What a class adds to the gradient of a loss of sums over the classes: `own` is
  its summand, `direction` the loss's gradient in the sum.

  Args:
    direction: a pytree, constant.
    own: the same structure.

  Returns:
    A scalar.
  """
  line = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, direction, own)))
  return line - jax.lax.stop_gradient(line)


def image_gradient(difficulty: Objective, matching: Matching,
                   correction: corrections.Correction,
                   wrap: Callable[[Objective], Objective], *,
                   batched: bool | int | None = None,
                   axis_name: str | None = None
                   ) -> Callable[..., tuple[Array, Array, dict]]:
  """The gradient in the stored images of a matching with its correction.

  Args:
    difficulty: of the samples alone, see `objectives.difficulty_only`.
    matching: a `Matching` of network inputs.
    correction: an `objectives.Correction`, the difficulty's strength.
    wrap: from objectives of network inputs to those of stored images.
    batched: see `objectives.per_class`.
    axis_name: mapped axis over which the classes are split.

  Returns:
    `(syn, params, target, keys, present, strength, step) -> (gradient,
    strength, metrics)`: `keys` and `present` one a class, `strength` `[]` the
    smoothed weight of a relative correction; metrics are sums over classes.
  """
  def lift(flat):
    return wrappers.per_class(wrap(flat), batched=batched)

  def corrected(objective, weight):
    """Class-major, with `weight` times the difficulty of the images."""
    # Where all classes are one batch the difficulty is another pass, by the
    # same keys, so of the same augmented images.
    if matching.whole:
      return wrappers.added(
          all_classes(objective, wrap, batched=batched, axis_name=axis_name),
          weight, lift(difficulty))
    return lift(wrappers.added(objective, weight, difficulty))

  def gradient(total, syn, *rest):
    def of_images(images):
      return total(syn._replace(images=images), *rest)
    (_, metrics), found = jax.value_and_grad(of_images, has_aux=True)(
        syn.images)
    return found, metrics

  def run(syn, params, target, keys, present, strength, step):
    args = syn, params, target, keys, present
    objective = matching.at(sums_over_classes(
        matching, lift, args, step, axis_name), step)
    weight = correction.at(step)
    # Two gradients, whose norms are compared before they are added. A plain
    # weight, or none, costs one.
    if correction.relative and correction.active:
      found, metrics = gradient(corrected(objective, 0), *args)
      harder, more = gradient(lift(difficulty), *args)
      # Norms over all classes on all devices: the state has one strength.
      now = weight * _global_norm(found, axis_name) / (
          _global_norm(harder, axis_name) + 1e-12)
      strength = corrections.smoothed(strength, now, step)
      found = found + strength * harder
      metrics = {**metrics, **more}
    else:
      found, metrics = gradient(corrected(objective, weight), *args)
    if axis_name is not None:
      metrics = jax.lax.psum(metrics, axis_name)
    return found, strength, metrics

  return run


def _global_norm(x, axis_name):
  square = jnp.sum(jnp.square(x))
  if axis_name is not None:
    square = jax.lax.psum(square, axis_name)
  return jnp.sqrt(square)
