"""What is matched: gradients, features, and the statistics of batch norm.

First the losses of one class by itself (`gradient_matching`,
`feature_matching`), which are objectives on flat batches. Then those in which
classes depend on each other: each of these is a `cross_class.Matching`
(`statistics_matching` of SRe2L, `batch_feature_matching` of DM with batch norm,
`contrastive_matching` of DSAC, `discriminative_matching` of CAFE).
"""

from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dasm_jax import losses, shapes
from dasm_jax.errors import UserError
from dasm_jax.objectives import cross_class
from dasm_jax.types import Array, Batch, FeaturesFn, LossFn, Network, Objective

# What has rows, of which `losses.layerwise_cosine` compares each. To biases and
# the scales of norms DC's program gives a distance of 0.
KERNELS = (2, 3, 4)

# ---- One class by itself


def gradient_matching(loss_fn: LossFn,
                      distance: Callable[..., Array] = losses.layerwise_cosine,
                      *, ndims: Collection[int] | None = KERNELS,
                      axis_name: str | None = None, layout: str = 'HWIO'
                      ) -> Objective:
  """`distance(grad loss(params, syn), grad loss(params, real))`.

  Args:
    loss_fn: `(params, Batch) -> scalar`, the mean over the batch.
    distance: of two lists of arrays, from `losses`; it gets them with the
      output units in the last axis, whatever the layout.
    ndims: compare the parameters with these numbers of dimensions (4 are
      convolutions, 2 linear kernels, 1 biases and norms); None for all.
    axis_name: mapped axis over which the real batch is split; the real
      gradient is averaged over it (averaging the losses would be wrong).
    layout: of the parameters: `HWIO` (flax, haiku) or `OIHW` (PyTorch,
      equinox), see `losses.LAYOUTS`.

  Returns:
    An objective on flat batches: `syn.images` `[n, …]`, `target` a `Batch`.
    The real gradient is a constant.

  Raises:
    UserError: an unknown layout; by the objective, no parameter to compare.

  Source: DC (2006.05929), eq. 9; IDC (2205.14959), eq. 4.
  """
  gradient = _selected_gradient(loss_fn, ndims, layout)

  def objective(syn, params, target, key=None):
    del key
    shapes.check_flat('objectives.gradient_matching', syn, target)
    real = gradient(params, target)
    # The mean of the devices' losses is another objective: off by 2 % in the
    # value and 32 % in the image gradient, as measured.
    if axis_name is not None:
      real = jax.lax.pmean(real, axis_name)
    fake = gradient(params, Batch(syn.images, syn.labels))
    value = distance(fake, jax.lax.stop_gradient(real))
    return value, {'match/loss': value}

  return objective


def _selected_gradient(loss_fn, ndims, layout):
  """`(params, batch) -> [arrays]`, the gradients that are compared."""
  losses.select((), layout=layout)  # refuses an unknown one at once
  def gradient(params, batch):
    found = jax.grad(loss_fn)(params, batch)
    chosen = losses.select(found, ndims, layout)
    # The sum over nothing is 0, by which no image would ever move.
    if not chosen:
      shapes = sorted({jnp.shape(x) for x in jax.tree.leaves(found)})
      raise UserError(
          f'parameters of shapes {shapes} have none of {ndims} dimensions: '
          'there is nothing to match; ndims=None takes all of them')
    return chosen
  return gradient


def feature_matching(features_fn: FeaturesFn,
                     distance: Callable[..., Array] = losses.mse, *,
                     first: int = 0, last: int | None = None) -> Objective:
  """`sum_blocks distance(mean_syn f_block, mean_real f_block)`.

  Args:
    features_fn: `(params, images) -> tuple` of block outputs `[n, …]`.
    distance: of two lists of arrays, from `losses`.
    first, last: blocks from `first` to `last`, both included; None is
      `first` alone, -1 the last block (with `losses.mse`, DM).

  Returns:
    An objective on flat batches; the real features are constant.

  Source: IDC (2205.14959), its feature matching as released; DM (2110.04181).
  """
  def objective(syn, params, target, key=None):
    del key
    shapes.check_flat('objectives.feature_matching', syn, target)
    def means(images):
      features = features_fn(params, images)
      return [x.mean(0) for x in select_blocks(features, first, last)]
    real = jax.lax.stop_gradient(means(target.images))
    value = distance(means(syn.images), real)
    return value, {'match/loss': value}

  return objective


def select_blocks(features: Sequence[Array], first: int = 0,
                  last: int | None = None) -> list[Array]:
  """The features from `first` to `last`, see `feature_matching`.

  Args:
    features: one array a block.
    first, last: both included; None is `first` alone.

  Returns:
    A list of arrays.

  Raises:
    UserError: there are no such blocks.
  """
  count = len(features)
  last = first if last is None else last
  start, stop = (x + count if x < 0 else x for x in (first, last))
  if not 0 <= start <= stop < count:
    raise UserError(f'features of blocks {first} to {last} are to be matched, '
                    f'but the network has {count}, from 0 to {count - 1} or '
                    f'-{count} to -1')
  return list(features[start:stop + 1])


# ---- Classes that depend on each other


def statistics_matching(network: Network, weight: float, first: float
                        ) -> cross_class.Matching:
  """The `objectives.Matching` of SRe2L; `params` are the teacher's variables.

      CE + weight sum_l w_l (|var_l - var_real_l| + |mean_l - mean_real_l|)

  for each slot, that is a batch of one image of every class, summed over the
  slots. Cross-entropy is a mean over the batch; means and (biased) variances
  are those of what batch norm l reads over the batch and all positions, with
  the running averages in use, which are the real ones; norms are Euclidean, not
  squared; `w` is `first` for the first layer, else 1.

  Args:
    network: a `Network` with batch norm.
    weight: of the statistics, beside the cross-entropy.
    first: weight of the first layer.

  Returns:
    A `Matching`.

  Source: SRe2L (2306.13092), with the weights of its released program.
  """
  def own(seen):
    # Means of squares, unlike variances, add up over the images of a batch.
    return {layer: {'mean': x['mean'], 'square': x['var'] + x['mean'] ** 2}
            for layer, x in seen.items()}

  def statistics(sums, step):
    del sums, step
    def of_class(syn, params, target, key):
      del target, key
      # A shape would count rows that only fill a device; they have weight 0.
      return {'classes': jnp.ones(()),
              'own': own(network.moments(params, syn.images)[1])}
    return of_class

  def at(sums, step):
    del step
    def objective(syn, params, target, key):
      del target, key
      logits, seen = network.moments(params, syn.images)
      total, = sums
      count = total['classes'].astype(logits.dtype)
      value, direction = jax.value_and_grad(statistics_distance)(
          total['own'], params.stats, count, first)
      # Here `cross_entropy` is a mean over the slots of a class; wanted is the
      # mean over the classes of each slot's batch, summed over the slots.
      entropy = losses.cross_entropy(logits, syn.labels) * len(logits) / count
      # Each class counts its share of the one value.
      found = value / count + cross_class.directional(direction, own(seen))
      value = entropy + weight * found
      return value, {'match/loss': value, 'match/entropy': entropy,
                     'match/statistics': found}
    return objective

  return cross_class.Matching(at, (statistics,))


def statistics_distance(sums: dict, stats: dict, count: ArrayLike,
                        first: float = 1.0) -> Array:
  """How far batches are from running averages, summed over the batches.

  Args:
    sums: `{layer: {'mean', 'square'}}`, each `[batches, channels]`, sums over
      `count` images of their means and mean squares.
    stats: `{layer: {'mean', 'var'}}`, each `[channels]`.
    first: weight of the first layer.

  Returns:
    A scalar.
  """
  total = 0
  for layer in sums:
    mean, square = (sums[layer][x] / count for x in ('mean', 'square'))
    off = (losses.norm(square - mean ** 2 - stats[layer]['var'], -1)
           + losses.norm(mean - stats[layer]['mean'], -1))
    # Layers are numbered in the order of use.
    total += (first if layer.endswith('_0') else 1) * off.sum()
  return total


def batch_feature_matching(features_fn: FeaturesFn,
                           distance: Callable[..., Array] = losses.mse, *,
                           first: int = 0, last: int | None = None
                           ) -> cross_class.Matching:
  """`objectives.feature_matching` whose features depend on the whole batch.

  The real images of all classes go through the network in one batch, and the
  synthetic ones of all classes in another: DM with batch norm in training.
  Args as there; its objective is one for `cross_class.all_classes`.

  Args:
    features_fn, distance, first, last: see `feature_matching`.

  Returns:
    A `Matching` whose objective is one for `cross_class.all_classes`.

  Source: DM (2110.04181), as released.
  """
  def objective(syn, params, target):
    def means(images):
      features = features_fn(params, images.reshape(-1, *images.shape[2:]))
      return [x.reshape(*images.shape[:2], *x.shape[1:]).mean(1)
              for x in select_blocks(features, first, last)]
    real = jax.lax.stop_gradient(means(target.images))
    return jax.vmap(distance)(means(syn.images), real)

  return cross_class.Matching(lambda sums, step: objective, whole=True)


def contrastive_matching(
    loss_fn: LossFn, distance: Callable[..., Array] = losses.layerwise_cosine,
    *, ndims: Collection[int] | None = KERNELS,
    warm: Callable[[Array], ArrayLike] = lambda step: False,
    layout: str = 'HWIO') -> cross_class.Matching:
  """`distance(mean_c grad loss(syn_c), mean_c grad loss(real_c))` (DCC, DSAC).

  The gradients are averaged over classes before they are compared, so that
  what separates the classes counts.

  Args:
    loss_fn: `(params, Batch) -> scalar`, the mean over the batch.
    distance, ndims, layout: see `objectives.gradient_matching`.
    warm: `step -> bool`, where each class is matched alone instead.

  Returns:
    A `Matching`.

  Source: DCC (2202.02916), eq. 5, with the means and the warm-up of its
  released program.
  """
  alone = gradient_matching(loss_fn, distance, ndims=ndims, layout=layout)
  gradient = _selected_gradient(loss_fn, ndims, layout)

  def gradients(sums, step):
    del sums
    def of_class(syn, params, target, key):
      del key
      def both():
        fake = gradient(params, Batch(syn.images, syn.labels))
        return fake, gradient(params, target)
      def neither():
        return jax.tree.map(jnp.zeros_like, jax.eval_shape(both))
      # Where each class is matched alone nobody reads the sums.
      fake, real = jax.lax.cond(warm(step), neither, both)
      return {'fake': fake, 'real': real, 'classes': jnp.ones(())}
    return of_class

  def at(sums, step):
    def together(syn, params):
      total, = sums
      mean = jax.tree.map(
          lambda x: x / total['classes'].astype(x.dtype), total)
      value, direction = jax.value_and_grad(distance)(
          mean['fake'], mean['real'])
      count = total['classes'].astype(value.dtype)
      own = gradient(params, Batch(syn.images, syn.labels))
      # Each class counts its share of the distance, and enters the mean by its
      # share.
      value = (value + cross_class.directional(direction, own)) / count
      return value, {'match/loss': value}

    def objective(syn, params, target, key):
      return jax.lax.cond(
          warm(step), lambda syn: alone(syn, params, target, key),
          lambda syn: together(syn, params), syn)
    return objective

  return cross_class.Matching(at, (gradients,))


def discriminative_matching(maps_fn: FeaturesFn, weights: Sequence[float],
                            inner: float = 0.01) -> cross_class.Matching:
  """Each class's means of all maps, and the synthetic means as classifier.

      sum_b w_b |mean_syn m_b - mean_real m_b|^2 + |mean_syn f - mean_real f|^2
      + inner sum_i CE(f(real_i) S', y_i)

  with `m_b` the maps, `f` the last one flattened, and row c of `S` the mean of
  `f` over the synthetic images of class c: its softmax couples the classes.

  Args:
    maps_fn: `(params, images) -> tuple`, see `types.Network`.
    weights: `w` from the last map backwards; the final one for all before.
    inner: weight of the cross-entropy, a sum over the real images.

  Returns:
    A `Matching`.

  Source: CAFE (2203.01531), with the reductions of its released program.
  """
  def flatten(maps):
    return maps[-1].reshape(len(maps[-1]), -1)

  def centre(maps, target):
    # `[classes, d]`, 0 but for the row of the class: their sum is S.
    return target.labels[0][:, None] * flatten(maps).mean(0)

  def entropy(centres, maps, labels):
    logits = flatten(maps) @ centres.T
    # A sum over the images, as the released program reduces it.
    return losses.cross_entropy(logits, labels) * len(logits)

  def centres(sums, step):
    del sums, step
    def of_class(syn, params, target, key):
      del key
      return centre(maps_fn(params, syn.images), target)
    return of_class

  def directions(sums, step):
    del step
    def of_class(syn, params, target, key):
      del syn, key
      real = maps_fn(params, target.images)
      # In all rows of S: the mean of one class moves the softmax of all.
      return jax.grad(entropy)(sums[0], real, target.labels)
    return of_class

  def at(sums, step):
    del step
    def objective(syn, params, target, key):
      del key
      fake = maps_fn(params, syn.images)
      real = jax.lax.stop_gradient(maps_fn(params, target.images))
      apart = [losses.mse(x.mean(0), y.mean(0))
               for x, y in zip(reversed(fake), reversed(real), strict=True)]
      middle = sum(weights[min(b, len(weights) - 1)] * x
                   for b, x in enumerate(apart))
      told = entropy(sums[0], real, target.labels) + cross_class.directional(
          sums[1], centre(fake, target))
      # The last map counts twice, as a map and flattened, as features.
      value = middle + apart[0] + inner * told
      return value, {'match/loss': value, 'match/middle': middle,
                     'match/discrimination': told}
    return objective

  return cross_class.Matching(at, (centres, directions))
