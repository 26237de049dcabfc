"""One step of training: gradient of a batch, move, order of an epoch."""

import math

import jax
import jax.numpy as jnp
import optax

from dasm_jax import losses, streams
from dasm_jax.pipeline.source import take
from dasm_jax.runtime import devices
from dasm_jax.streams import Stream
from dasm_jax.transforms import augment

# ---- The gradient of a batch


def batch_gradient(network, variables, batch, axis_name=None):
  """Cross-entropy of a batch in training mode, and its gradient.

  Args:
    network: a `Network`.
    variables: its `Variables`.
    batch: a `Batch`; with `axis_name` every device has the whole of it and
      works on its share, where the shares are equal and no batch norm looks
      across them.

  Returns:
    `((loss, stats), gradient)`: the running averages after this batch, and a
    tree like `variables.params`; the same on every device.
  """
  share = device_share(batch, variables, axis_name)
  if share:
    at = jax.lax.axis_index(axis_name) * share
    batch = jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, at, share), batch)

  def loss(params, batch):
    logits, stats = network.apply(
        variables._replace(params=params), batch.images, train=True)
    return losses.cross_entropy(logits, batch.labels), stats

  stats = variables.stats
  if jax.tree.leaves(stats):  # batch norm needs the whole batch at once
    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(
        variables.params, batch)
  else:
    value, gradient = blocked_value_and_grad(
        lambda *given: loss(*given)[0], variables.params, batch)
  if share:
    value, gradient = jax.lax.pmean((value, gradient), axis_name)
  return (value, stats), gradient


def apply_update(tx, variables, opt_state, gradient, lr):
  """`(variables, opt_state)` after `params - lr * tx(gradient)`."""
  change, opt_state = tx.update(gradient, opt_state, variables.params)
  params = jax.tree.map(lambda p, c: (p - lr * c).astype(p.dtype),
                        variables.params, change)
  return variables._replace(params=params), opt_state


def device_share(batch, variables, axis_name):
  """Images of a batch for each device of an axis; 0: all do all of them."""
  # Shares have to be equal: the mean over devices is that over images then.
  if axis_name is None or jax.tree.leaves(variables.stats):
    return 0
  n = jax.lax.axis_size(axis_name)
  return 0 if n == 1 or len(batch.images) % n else len(batch.images) // n


# Positions (images x height x width) of a block on a CPU: a layer's activations
# then stay in its cache. Measured on ConvNet shapes, 8 to 32 thousand are
# alike, and a fifth faster than 250 thousand.
BLOCK_POSITIONS = 8192


def blocked_value_and_grad(loss, params, batch, block=BLOCK_POSITIONS):
  """Value and gradient of `loss` on a CPU in blocks, elsewhere in one piece.

  Args:
    loss: `(params, batch) -> scalar`, a mean over images of terms linear in
      their labels: an image with labels 0 adds nothing.
    params: a pytree.
    batch: `Batch` of `n` images and labels.
    block: positions of a block.

  Returns:
    `(value, gradient)`, as `jax.value_and_grad` to rounding.
  """
  n = len(batch.images)
  parts = block_count(n, math.prod(batch.images.shape[1:3]), block)
  if parts == 1:
    return jax.value_and_grad(loss)(params, batch)
  size = -(-n // parts)

  # Images that fill the last block have labels 0, and add nothing.
  def cut(x):
    x = jnp.pad(x, [(0, parts * size - n)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(parts, size, *x.shape[1:])

  def add(total, part):
    return jax.tree.map(jnp.add, total,
                        jax.value_and_grad(loss)(params, part)), None

  zero = jax.tree.map(jnp.zeros_like, (
      jax.eval_shape(loss, params, batch), params))
  total, _ = jax.lax.scan(add, zero, jax.tree.map(cut, batch))
  # The sum of means over blocks of `size` images, as the mean over n.
  return jax.tree.map(lambda x: x * (size / n), total)


def block_count(n, positions, block=BLOCK_POSITIONS):
  """Number of blocks of `n` images of `positions` pixels each; see above."""
  if devices.backend() != 'cpu':
    return 1
  return -(-n // max(1, block // positions))


# ---- Optimizers, losses, a step


def sgd(momentum=0.9, weight_decay=5e-4, mask=None):
  """SGD as in PyTorch, before the rate: decay enters the momentum.

  mask: of the parameters, which decay; None: all.
  """
  return optax.chain(optax.add_decayed_weights(weight_decay, mask),
                     optax.trace(momentum))


def recipe_optimizer(recipe_):
  """A recipe's optimizer, before the rate; AdamW's decay enters no average."""
  mask = _matrices if recipe_.matrices else None
  if recipe_.optimizer == 'sgd':
    return sgd(recipe_.momentum, recipe_.weight_decay, mask)
  return optax.chain(optax.scale_by_adam(recipe_.momentum),
                     optax.add_decayed_weights(recipe_.weight_decay, mask))


def _matrices(params):
  return jax.tree.map(lambda x: x.ndim > 1, params)


# How an epoch's order, augmentation and CutMix come from keys. Whoever changes
# that adds 1: labels that are stored for each epoch are of what was drawn.
DRAWS = 2


def soft_label_key(seed):
  """The key of order, augmentation and CutMix of a `SoftLabelled` set."""
  return streams.key(seed, Stream.SOFT_LABELS)


def loss_fn(network):
  """`(variables, batch) -> scalar` cross-entropy; running averages constant.

  What matching differentiates. Batch norm uses its running averages.
  """
  def loss(variables, batch):
    logits = logits_fn(network)(variables, batch.images)
    return losses.cross_entropy(logits, batch.labels)
  return loss


def logits_fn(network):
  """`(variables, images) -> logits`; running averages used and constant."""
  return lambda variables, images: network.apply(variables._replace(
      stats=jax.lax.stop_gradient(variables.stats)), images)[0]


def sgd_step(network, tx, variables, opt_state, batch, lr, axis_name=None):
  """One SGD step.

  Args:
    network: a `Network`.
    tx: an optax transformation before the rate, see `recipe_optimizer`.
    variables, opt_state: its `Variables` and optimizer state.
    batch: a `Batch`; with `axis_name` every device has the whole of it and
      works on its share, where the shares are equal and no batch norm looks
      across them.
    lr: the rate.

  Returns:
    `(variables, opt_state, loss)`.
  """
  (value, stats), gradient = batch_gradient(
      network, variables, batch, axis_name)
  return (*apply_update(tx, variables._replace(stats=stats), opt_state,
                        gradient, lr), value)


# ---- An epoch
# Half of its key is of the order, half of what is done to batches: who reads
# images ahead draws the order alone.


def run_epoch(do, carry, key, n, batch, make=lambda *given: given):
  """One pass over `n` items in random order, the short batch last.

  Args:
    do: `(carry, *made) -> carry`.
    carry: its pytree.
    key: a key.
    n, batch: static ints.
    make: `(indices, key) -> made`, a tuple, of `[batch]` (or fewer) int32; it
      may be asked for several batches before the first is used.
  """
  all_, whole = epoch_order(key, n), n // batch
  if whole:
    rows = all_[:whole * batch].reshape(whole, batch)
    carry = devices.run_batches(
        do, carry, lambda index, row: make(row, batch_key(key, index)),
        (jnp.arange(whole), rows))
  if n % batch:
    carry = do(carry, *make(all_[whole * batch:], batch_key(key, whole)))
  return carry


def epoch_order(key, n):
  """Of an epoch's key, the order `[n]` in which it goes through `n` items."""
  return streams.permutation(jax.random.split(key)[0], n)


def batch_key(key, index):
  """Of an epoch's key, that of what is done to a batch of it."""
  return jax.random.fold_in(jax.random.split(key)[1], index)


def augmentation(recipe_):
  """`(key, batch) -> batch`: a recipe's augmentation, CutMix, Mixup."""
  change = augment.build(recipe_.strategy, recipe_.mode,
                         statistics=recipe_.statistics)

  def apply(key, batch):
    first, second = jax.random.split(key)
    batch = batch._replace(images=change(first, batch.images, shared=False))
    batch = augment.cutmix(second, batch, recipe_.cutmix)
    return augment.mixup(second, batch, recipe_.mixup)
  return apply


def is_correct(network, variables, source, indices):
  """1.0 where the image at `indices` is classified correctly, `[n]`."""
  logits, _ = network.apply(variables, take(source, indices).images)
  hit = logits.argmax(-1) == source.labels[indices]
  return hit.astype(jnp.float32)


def random_batch_trainer(network, recipe_):
  """Training on real batches drawn anew from all images, at the recipe's rate.

  Returns:
    `begin`, `key -> carry`, and `step`, `(carry, key, data) -> carry`, where
    `data` is a `Source` and a carry is `(variables, opt_state)`.
  """
  tx = recipe_optimizer(recipe_)
  change = augmentation(recipe_)

  def begin(key):
    variables = network.init(key)
    return variables, tx.init(variables.params)

  def one(carry, key, data):
    alter = jax.random.split(key)[1]
    batch = change(alter, take(
        data, random_batch_indices(recipe_, len(data.labels), key)))
    return sgd_step(network, tx, *carry, batch, recipe_.lr)[:2]
  return begin, one


def random_batch_indices(recipe_, n, key):
  """Which of `n` images a step of `random_batch_trainer` reads, `[batch]`."""
  # The other half of the key is of the augmentation.
  pick = jax.random.split(key)[0]
  return jax.random.randint(pick, (recipe_.batch,), 0, n)
