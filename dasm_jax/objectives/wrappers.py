"""Wrappers of objectives: augmentation, decoding, unions, sums over classes.

Where one of them draws, it splits its key: one half for its own draws, the
other for what it wraps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dasm_jax import shapes, streams, synthetic
from dasm_jax.runtime import devices
from dasm_jax.types import Array, Augmentation, Objective, Synthetic


def augmented(objective: Objective, augment: Augmentation) -> Objective:
  """Siamese augmentation: one draw for all images of both batches.

  Args:
    objective: on flat batches, with a `Batch` target.
    augment: `(key, images, shared) -> images`, from `augment.build`.

  Returns:
    An objective on flat batches.

  Source: DSA (2102.08259), eq. 6.
  """
  def wrapped(syn, params, target, key):
    shapes.check_flat('objectives.augmented', syn, target)
    draw, rest = jax.random.split(streams.typed(key))
    images = augment(draw, syn.images, shared=True)
    real = augment(draw, target.images, shared=True)
    return objective(syn._replace(images=images), params,
                     target._replace(images=real), rest)
  return wrapped


def decoded(objective: Objective, codec: synthetic.Codec,
            limit: int | None = None) -> Objective:
  """Matches what the stored images decode to, normalised.

  Args:
    objective: on flat batches of network inputs.
    codec: a `synthetic.Codec`.
    limit: at most this many decoded images, drawn anew each time; None all.

  Returns:
    An objective on flat batches of stored images.
  """
  def wrapped(syn, params, target, key):
    shapes.check_flat('objectives.decoded', syn)
    draw, rest = jax.random.split(streams.typed(key))
    images, labels = _decoded_inputs(codec, limit, draw, syn.images, syn.labels)
    return objective(syn._replace(images=images, labels=labels), params,
                     target, rest)
  return wrapped


def _decoded_inputs(codec, limit, key, images, labels):
  labels = labels[synthetic.decoded_from(codec, len(images))]
  images = synthetic.decode(codec, images)
  # IDC's program matches at most 128 decoded images a class: at 50 stored ones
  # of factor 2 that is 64 % of them in each step.
  if limit is not None and len(images) > limit:
    chosen = streams.permutation(key, len(images))[:limit]
    images, labels = images[chosen], labels[chosen]
  return synthetic.normalise(codec, images), labels


def joined(objective: Objective, codec: synthetic.Codec,
           limit: int | None = None) -> Objective:
  """Matches the union of finished images and the new ones.

  The target is `(frozen, target)`, with `frozen` a `Batch` of stored images;
  they are decoded, hold no gradient and count in the mean.

  Args:
    objective: on flat batches of network inputs.
    codec, limit: as of `decoded`, of the finished images.

  Returns:
    An objective on flat batches, whose target is such a pair.
  """
  def wrapped(syn, params, target, key):
    frozen, target = target
    shapes.check_flat('objectives.joined', syn, frozen)
    draw, rest = jax.random.split(streams.typed(key))
    images, labels = jax.lax.stop_gradient(
        _decoded_inputs(codec, limit, draw, frozen.images, frozen.labels))
    syn = syn._replace(images=jnp.concatenate([images, syn.images]),
                       labels=jnp.concatenate([labels, syn.labels]))
    return objective(syn, params, target, rest)
  return wrapped


def added(objective: Objective, weight: ArrayLike, other: Objective
          ) -> Objective:
  """`objective + weight * other`; the number 0 returns `objective` itself.

  Both are flat, or both class-major.

  Args:
    objective, other: of the same kind of sets.
    weight: a number, or traced.

  Returns:
    An objective of that kind, with the metrics of both.
  """
  # Of a traced weight nobody can tell whether it is 0.
  if isinstance(weight, (int, float)) and weight == 0:
    return objective

  def wrapped(*args):
    value, metrics = objective(*args)
    term, more = other(*args)
    return value + weight * term, {**metrics, **more}
  return wrapped


def per_class(objective: Objective, *, batched: bool | int | None = None
              ) -> Callable[..., tuple[Array, dict]]:
  """The sum of an objective over the classes of a class-major set.

  Value and gradient of a class are computed together, so memory is that of as
  many as are batched. The result is a constant in everything but `syn`.

  Args:
    objective: on flat batches.
    batched: how many classes at once, see `devices.map_items`.

  Returns:
    `total(syn, params, target, key, weights=None) -> (scalar, metrics)`: the
    leaves of `target` begin with classes, `key` is one or one a class, weights
    `[classes]` scale them (0 for padding); metrics are summed alike.
  """
  def forward(syn, params, target, keys, weights):
    def one(images, labels, target, key, weight):
      def weighted(syn):
        return jax.tree.map(lambda x: x * weight,
                            objective(syn, params, target, key))
      # Already on the way forward: differentiated from outside, the map would
      # keep what the backward passes of all classes need.
      return jax.value_and_grad(weighted, has_aux=True)(
          Synthetic(images, labels, syn.lr))
    (values, metrics), gradients = devices.map_items(one, batched)(
        syn.images, syn.labels, target, keys, weights)
    total = jax.tree.map(lambda x: x.sum(0), (values, metrics))
    # The classes share one rate.
    return total, gradients._replace(lr=gradients.lr.sum())

  @jax.custom_vjp
  def run(syn, params, target, keys, weights):
    return forward(syn, params, target, keys, weights)[0]

  def backward(gradients, cotangent):
    # `cotangent[0]` is that of the value; metrics have no gradient.
    syn = jax.tree.map(lambda x: x * cotangent[0].astype(x.dtype), gradients)
    return syn, None, None, None, None

  run.defvjp(forward, backward)

  def total(syn, params, target, key, weights=None):
    shapes.check_class_major('objectives.per_class', syn, target)
    return run(syn, params, target, *each_class(syn, key, weights))

  return total


def each_class(syn: Synthetic, key: Array, weights: Array | None = None
               ) -> tuple[Array, Array]:
  """`(keys, weights)`, one for each class of a set, as `per_class` has them.

  Args:
    syn: a class-major `Synthetic`.
    key: one key, or one a class.
    weights: `[classes]`; None is 1 for each.

  Returns:
    `(keys [classes], weights [classes])`.
  """
  classes, key = len(syn.images), streams.typed(key)
  if jnp.ndim(key) == 0:
    # Numbered from 0 in this set: where devices split the classes, give a key
    # for each, or the first class of every device has the same draws.
    key = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(classes))
  if weights is None:
    weights = jnp.ones(classes, syn.images.dtype)
  return key, weights
