"""Objectives: pure losses of a synthetic set, and wrappers that compose.

An objective is `objective(syn, params, target, key) -> (scalar, metrics)`:
`params` is the point in weight space where matching happens, `target` what is
matched there. Plain ones treat the images they are given as one batch
`[n, h, w, c]`; `per_class` lifts one to class-major sets `[classes, ipc, …]`.
Wrappers read from the outside in:

    per_class(decoded(augmented(sdc(gradient_matching(loss_fn), loss_fn, 1.))))
"""

import jax
import jax.numpy as jnp

from dasm_jax import difficulty, losses, parallel, synthetic
from dasm_jax.errors import UserError
from dasm_jax.types import Batch, Synthetic

KERNELS = (2, 3, 4)


def gradient_matching(loss_fn, distance=losses.layerwise_cosine, *,
                      ndims=KERNELS, axis_name=None):
  """`distance(grad loss(params, syn), grad loss(params, real))`.

  Args:
    loss_fn: `(params, Batch) -> scalar`, the mean over the batch.
    distance: of two lists of arrays, from `losses`.
    ndims: compare the parameters with these numbers of dimensions (4 are
      convolutions, 2 linear kernels, 1 biases and norms); None for all.
    axis_name: mapped axis over which the real batch is split; the real
      gradient is averaged over it (averaging the losses would be wrong).

  Returns:
    An objective on flat batches: `syn.images` `[n, …]`, `target` a `Batch`.
    The real gradient is a constant.

  Source: DC (2006.05929), eq. 9; IDC (2205.14959), eq. 4.
  """
  gradient = jax.grad(loss_fn)

  def objective(syn, params, target, key=None):
    del key
    real = gradient(params, target)
    if axis_name is not None:
      real = jax.lax.pmean(real, axis_name)
    real = jax.lax.stop_gradient(losses.select(real, ndims))
    fake = gradient(params, Batch(syn.images, syn.labels))
    value = distance(losses.select(fake, ndims), real)
    return value, {'match/loss': value}

  return objective


def feature_matching(features_fn, distance=losses.mse, *, first=0, last=None):
  """`sum_blocks distance(mean_syn f_block, mean_real f_block)`.

  Args:
    features_fn: `(params, images) -> tuple` of block outputs `[n, …]`.
    distance: of two lists of arrays, from `losses`.
    first, last: blocks from `first` to `last`, both included; None is
      `first` alone, -1 the last block (with `losses.mse`, DM).

  Source: IDC (2205.14959), its feature matching as released; DM (2110.04181).
  """
  def objective(syn, params, target, key=None):
    del key
    def means(images):
      features = features_fn(params, images)
      return [x.mean(0) for x in blocks(features, first, last)]
    real = jax.lax.stop_gradient(means(target.images))
    value = distance(means(syn.images), real)
    return value, {'match/loss': value}

  return objective


def blocks(features, first=0, last=None):
  """The features from `first` to `last`, see `feature_matching`.

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


def augmented(objective, augment):
  """Siamese augmentation: one draw for all images of both batches.

  Args:
    objective: on flat batches, with a `Batch` target.
    augment: `(key, images, shared) -> images`, from `augment.build`.

  Source: DSA (2102.08259), eq. 6.
  """
  def wrapped(syn, params, target, key):
    draw, rest = jax.random.split(key)
    images = augment(draw, syn.images, shared=True)
    real = augment(draw, target.images, shared=True)
    return objective(syn._replace(images=images), params,
                     target._replace(images=real), rest)
  return wrapped


def decoded(objective, codec, limit=None):
  """Matches what the stored images decode to, normalised.

  Args:
    objective: on flat batches of network inputs.
    codec: a `synthetic.Codec`.
    limit: at most this many decoded images, drawn anew each time; None all.
  """
  def wrapped(syn, params, target, key):
    draw, rest = jax.random.split(key)
    images, labels = _inputs(codec, limit, draw, syn.images, syn.labels)
    return objective(syn._replace(images=images, labels=labels), params,
                     target, rest)
  return wrapped


def _inputs(codec, limit, key, images, labels):
  labels = labels[synthetic.sources(codec, len(images))]
  images = synthetic.decode(codec, images)
  if limit is not None and len(images) > limit:
    chosen = jax.random.permutation(key, len(images))[:limit]
    images, labels = images[chosen], labels[chosen]
  return synthetic.normalise(codec, images), labels


def joined(objective, codec, limit=None):
  """Matches the union of finished images and the new ones.

  The target is `(frozen, target)`, with `frozen` a `Batch` of stored images;
  they are decoded, hold no gradient and count in the mean.
  """
  def wrapped(syn, params, target, key):
    frozen, target = target
    draw, rest = jax.random.split(key)
    images, labels = jax.lax.stop_gradient(
        _inputs(codec, limit, draw, frozen.images, frozen.labels))
    syn = syn._replace(images=jnp.concatenate([images, syn.images]),
                       labels=jnp.concatenate([labels, syn.labels]))
    return objective(syn, params, target, rest)
  return wrapped


def sdc(objective, loss_fn, weight, *, penalty='sample_norm'):
  """Sample difficulty correction: adds `weight * difficulty(syn)`.

  Args:
    objective: any objective on flat batches.
    loss_fn: `(params, Batch) -> scalar`.
    weight: a number or a traced scalar; the number 0 returns `objective`
      itself and costs nothing.
    penalty: see `difficulty.penalty`; the mean per-sample gradient norm.

  Source: SDC (2408.12483); the paper's formula is read as documented there.
  """
  return added(objective, weight, difficulty_only(loss_fn, penalty=penalty))


def added(objective, weight, other):
  """`objective + weight * other`; the number 0 returns `objective` itself.

  Both are flat, or both class-major.
  """
  if isinstance(weight, (int, float)) and weight == 0:
    return objective

  def wrapped(*args):
    value, metrics = objective(*args)
    term, more = other(*args)
    return value + weight * term, {**metrics, **more}
  return wrapped


def difficulty_only(loss_fn, *, penalty='sample_norm'):
  """The correction of `sdc` alone, as an objective."""
  hardness = difficulty.penalty(loss_fn, penalty)

  def objective(syn, params, target=None, key=None):
    del target, key
    value = hardness(params, Batch(syn.images, syn.labels))
    return value, {'sdc/difficulty': value}
  return objective


def per_class(objective, *, batched=None):
  """The sum of an objective over the classes of a class-major set.

  Value and gradient of a class are computed together, so memory is that of as
  many as are batched. The result is a constant in everything but `syn`.

  Args:
    objective: on flat batches.
    batched: how many classes at once, see `parallel.mapped`.

  Returns:
    `total(syn, params, target, key, weights=None) -> (scalar, metrics)`: the
    leaves of `target` begin with classes, `key` is one or one a class, weights
    `[classes]` scale them (0 for padding); metrics are summed alike.
  """
  def each(images, labels, lr, params, target, key, weight):
    def weighted(syn):
      return jax.tree.map(lambda x: x * weight,
                          objective(syn, params, target, key))
    return jax.value_and_grad(weighted, has_aux=True)(
        Synthetic(images, labels, lr))

  def forward(syn, params, target, keys, weights):
    def one(images, labels, target, key, weight):
      return each(images, labels, syn.lr, params, target, key, weight)
    (values, metrics), slopes = parallel.mapped(one, batched)(
        syn.images, syn.labels, target, keys, weights)
    total = jax.tree.map(lambda x: x.sum(0), (values, metrics))
    return total, slopes._replace(lr=slopes.lr.sum())

  @jax.custom_vjp
  def run(syn, params, target, keys, weights):
    return forward(syn, params, target, keys, weights)[0]

  def backward(slopes, cotangent):
    syn = jax.tree.map(lambda x: x * cotangent[0].astype(x.dtype), slopes)
    return syn, None, None, None, None

  run.defvjp(forward, backward)

  def total(syn, params, target, key, weights=None):
    return run(syn, params, target, *each_class(syn, key, weights))

  return total


def each_class(syn, key, weights=None):
  """`(keys, weights)`, one for each class of a set, as `per_class` has them."""
  classes = len(syn.images)
  if jnp.ndim(key) == 0:
    key = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(classes))
  if weights is None:
    weights = jnp.ones(classes, syn.images.dtype)
  return key, weights
