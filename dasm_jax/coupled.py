"""Matching whose classes depend on each other.

What a class must know of the others is a sum over classes, found in a pass of
its own before the images are differentiated. Classes can so be taken in turn,
or split over devices, and the image gradient is that of the whole loss. Only
batch norm in training has to see all classes in one batch (`together`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import losses, objectives, parallel
from dasm_jax.types import Array, Batch, Synthetic


class Point(NamedTuple):
  """Where a class is matched.

  params: the point in weight space.
  sums: of each stage, summed over all classes.
  step: sweeps done, `[]` int32.
  """
  params: object
  sums: tuple
  step: Array


class Matching(NamedTuple):
  """A flat objective whose `params` is a `Point`, and the stages before it.

  Each stage is `stage(syn, point, target, key) -> pytree` of one class, on
  flat batches; it sees the sums of the stages before. If `whole` the objective
  is one for `together`.
  """
  objective: Callable
  stages: tuple = ()
  whole: bool = False


def plain(objective):
  """A `Matching` that needs nothing of other classes."""
  def at(syn, point, target, key):
    return objective(syn, point.params, target, key)
  return Matching(at)


def together(objective, wrap, *, batched=None, axis_name=None):
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
    keys, weights = objectives.each_class(syn, key, weights)
    made = parallel.mapped(prepare, batched)(
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


def batch_feature_matching(features_fn, distance=losses.mse, *, first=0,
                           last=None):
  """`objectives.feature_matching` whose features depend on the whole batch.

  Real and synthetic images, each of all classes, go through the network in
  one batch: DM with batch norm in training. Args as there.

  Source: DM (2110.04181), as released.
  """
  def objective(syn, at, target):
    def means(images):
      features = features_fn(at.params, images.reshape(-1, *images.shape[2:]))
      return [x.reshape(*images.shape[:2], *x.shape[1:]).mean(1)
              for x in objectives.blocks(features, first, last)]
    real = jax.lax.stop_gradient(means(target.images))
    return jax.vmap(distance)(means(syn.images), real)

  return Matching(objective, whole=True)


def point(matching, lift, syn, params, target, key, weights, step,
          axis_name=None):
  """The `Point` of a class-major set.

  Args:
    matching: a `Matching`.
    lift: from flat objectives to class-major ones, as `objectives.per_class`
      around its wrappers.
    syn, params, target, key, weights: as `per_class` takes them.
    step: sweeps done.
    axis_name: mapped axis over which classes are split.
  """
  at = Point(params, (), step)
  for stage in matching.stages:
    def flat(syn, at, target, key, stage=stage):
      return jnp.zeros((), syn.images.dtype), stage(syn, at, target, key)
    _, sums = lift(flat)(syn, at, target, key, weights)
    if axis_name is not None:
      sums = jax.lax.psum(sums, axis_name)
    at = at._replace(sums=(*at.sums, jax.lax.stop_gradient(sums)))
  return at


def along(direction, own):
  """0, whose gradient in `own` is `direction` (a constant).

  What a class adds to the slope of a loss of sums over the classes: `own` is
  its summand, `direction` the loss's gradient in the sum.
  """
  line = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, direction, own)))
  return line - jax.lax.stop_gradient(line)


def contrastive(loss_fn, distance=losses.layerwise_cosine, *,
                ndims=objectives.KERNELS, warm=lambda step: False):
  """`distance(mean_c grad loss(syn_c), mean_c grad loss(real_c))` (DCC, DSAC).

  The gradients are averaged over classes before they are compared, so that
  what separates the classes counts.

  Args:
    loss_fn: `(params, Batch) -> scalar`, the mean over the batch.
    distance, ndims: see `objectives.gradient_matching`.
    warm: `step -> bool`, where each class is matched alone instead.

  Source: DCC (2202.02916), eq. 5, with the means and the warm-up of its
  released program.
  """
  alone = objectives.gradient_matching(loss_fn, distance, ndims=ndims)

  def slope(params, batch):
    return losses.select(jax.grad(loss_fn)(params, batch), ndims)

  def stage(syn, at, target, key):
    del key
    def both():
      fake = slope(at.params, Batch(syn.images, syn.labels))
      return fake, slope(at.params, target)
    def neither():
      return jax.tree.map(jnp.zeros_like, jax.eval_shape(both))
    fake, real = jax.lax.cond(warm(at.step), neither, both)
    return {'fake': fake, 'real': real, 'classes': jnp.ones(())}

  def together(syn, at, target, key):
    del target, key
    sums, = at.sums
    mean = jax.tree.map(lambda x: x / sums['classes'].astype(x.dtype), sums)
    value, direction = jax.value_and_grad(distance)(mean['fake'], mean['real'])
    count = sums['classes'].astype(value.dtype)
    own = slope(at.params, Batch(syn.images, syn.labels))
    value = (value + along(direction, own)) / count
    return value, {'match/loss': value}

  def objective(syn, at, target, key):
    def classwise(syn):
      return alone(syn, at.params, target, key)
    def joint(syn):
      return together(syn, at, target, key)
    return jax.lax.cond(warm(at.step), classwise, joint, syn)

  return Matching(objective, (stage,))


def discriminative(maps_fn, weights, inner=0.01):
  """Each class's means of all maps, and the synthetic means as classifier.

      sum_b w_b |mean_syn m_b - mean_real m_b|^2 + |mean_syn f - mean_real f|^2
      + inner sum_i CE(f(real_i) S', y_i)

  with `m_b` the maps, `f` the last one flattened, and row c of `S` the mean of
  `f` over the synthetic images of class c: its softmax couples the classes.

  Args:
    maps_fn: `(params, images) -> tuple`, see `types.Network`.
    weights: `w` from the last map backwards; the final one for all before.
    inner: weight of the cross-entropy, a sum over the real images.

  Source: CAFE (2203.01531), with the reductions of its released program.
  """
  def flatten(maps):
    return maps[-1].reshape(len(maps[-1]), -1)

  def centre(maps, target):
    return target.labels[0][:, None] * flatten(maps).mean(0)

  def centres(syn, at, target, key):
    del key
    return centre(maps_fn(at.params, syn.images), target)

  def entropy(centres, maps, labels):
    logits = flatten(maps) @ centres.T
    return losses.cross_entropy(logits, labels) * len(logits)

  def slope(syn, at, target, key):
    del syn, key
    real = maps_fn(at.params, target.images)
    return jax.grad(entropy)(at.sums[0], real, target.labels)

  def objective(syn, at, target, key):
    del key
    fake = maps_fn(at.params, syn.images)
    real = jax.lax.stop_gradient(maps_fn(at.params, target.images))
    apart = [losses.mse(x.mean(0), y.mean(0))
             for x, y in zip(reversed(fake), reversed(real), strict=True)]
    middle = sum(weights[min(b, len(weights) - 1)] * x
                 for b, x in enumerate(apart))
    told = entropy(at.sums[0], real, target.labels) + along(
        at.sums[1], centre(fake, target))
    value = middle + apart[0] + inner * told
    return value, {'match/loss': value, 'match/middle': middle,
                   'match/discrimination': told}

  return Matching(objective, (centres, slope))
