"""Training networks by scan: one recipe for matching, probes, evaluation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dasm_jax import (
  augment,
  descent,
  difficulty,
  losses,
  mixing,
  recipes,
)
from dasm_jax.source import part, take
from dasm_jax.types import Taught, Variables


def optimizer(momentum=0.9, weight_decay=5e-4):
  """SGD as in PyTorch, before the rate: decay enters the momentum."""
  return optax.chain(optax.add_decayed_weights(weight_decay),
                     optax.trace(momentum))


def optimizer_of(recipe_):
  """A recipe's optimizer, before the rate; AdamW's decay passes it by."""
  if recipe_.optimizer == 'sgd':
    return optimizer(recipe_.momentum, recipe_.weight_decay)
  return optax.chain(optax.scale_by_adam(recipe_.momentum),
                     optax.add_decayed_weights(recipe_.weight_decay))


def stream(seed):
  """The key of order, augmentation and CutMix of a `Taught` set."""
  return jax.random.fold_in(jax.random.key(seed), 2 ** 21)


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


def step(network, tx, variables, moments, batch, lr, axis_name=None):
  """One SGD step.

  Args:
    network: a `Network`.
    tx: an optax transformation before the rate, see `optimizer`.
    variables, moments: its point and optimizer state.
    batch: a `Batch`; with `axis_name` every device has the whole of it and
      works on its share, where the shares are equal and no batch norm looks
      across them.
    lr: the rate.

  Returns:
    `(variables, moments, loss)`.
  """
  (value, stats), slope = descent.gradient(network, variables, batch, axis_name)
  return (*descent.move(tx, variables._replace(stats=stats), moments, slope,
                        lr), value)


def epoch(do, carry, key, n, batch):
  """One pass over `n` items in random order, the short batch last.

  Args:
    do: `(carry, indices, key) -> carry`, given `[batch]` (or fewer) int32.
    carry: its pytree.
    key: a key.
    n, batch: static ints.
  """
  all_, whole = order(key, n), n // batch

  def one(carry, part):
    index, indices = part
    return do(carry, indices, key_of_batch(key, index)), None

  if whole:
    rows = all_[:whole * batch].reshape(whole, batch)
    carry, _ = jax.lax.scan(one, carry, (jnp.arange(whole), rows))
  if n % batch:
    carry = do(carry, all_[whole * batch:], key_of_batch(key, whole))
  return carry


def order(key, n):
  """Of an epoch's key, the order `[n]` in which it goes through `n` items."""
  return jax.random.permutation(jax.random.split(key)[0], n)


def key_of_batch(key, index):
  """Of an epoch's key, that of what is done to a batch of it."""
  return jax.random.fold_in(jax.random.split(key)[1], index)


def augmentation(recipe_):
  """`(key, batch) -> batch`: a recipe's augmentation, then CutMix."""
  change = augment.build(recipe_.strategy, recipe_.mode,
                         statistics=recipe_.statistics)

  def apply(key, batch):
    first, second = jax.random.split(key)
    batch = batch._replace(images=change(first, batch.images, shared=False))
    return mixing.cutmix(second, batch, recipe_.cutmix)
  return apply


class Stand(NamedTuple):
  """Where networks in training stand.

  done: epochs. variables: `Variables`; moments: of the optimizer; their leaves
  begin with the number of networks where there are several. within: batches of
  the next epoch that are done, too.
  """
  done: int
  variables: Variables
  moments: Any
  within: int = 0


def fresh(network, recipe_, key):
  """The `Stand` of a network that a key of `fit` begins; of no epochs."""
  return begun(recipe_, network.init(jax.random.split(key)[0]))


def begun(recipe_, variables):
  """The `Stand` of a network that begins with these weights."""
  return Stand(0, variables, optimizer_of(recipe_).init(variables.params))


def fit(network, recipe_, key, batch, variables=None):
  """Trains a network on a set of images by a recipe.

  Args:
    network: a `Network`.
    recipe_: a `Recipe`.
    key: a key: initial weights, order, augmentation.
    batch: `Batch` of all images `[n, …]`, a `Source`, or a `Taught`, whose
      seed takes the place of the key for all but the initial weights, and the
      loss is KL at its temperature, plus the teacher's entropy.
    variables: a start; None draws one.

  Returns:
    `(variables, loss)` after the last epoch; the loss is its last batch's.
  """
  start = (fresh(network, recipe_, key) if variables is None
           else begun(recipe_, variables))
  epochs = recipe_.epochs + recipe_.extra
  stand, loss = further(network, recipe_, key, batch, start, epochs)
  return stand.variables, loss


def further(network, recipe_, key, batch, stand, last):
  """Some epochs of `fit`: from where a network stands up to `last`.

  stand: a `Stand`; last: an int. Both numbers of epochs may be traced, and how
  the epochs are cut changes nothing.

  Returns:
    `(Stand, loss)`.
  """
  tx, change = optimizer_of(recipe_), augmentation(recipe_)
  lessons = _taught if isinstance(batch, Taught) else _plain
  network, order, shown, tell = lessons(
      network, batch, jax.random.split(key)[1])
  dtype = jax.eval_shape(part, batch, jnp.arange(1)).images.dtype
  lrs, restarts = recipes.rates(recipe_)
  lrs, restarts = jnp.asarray(lrs, dtype), jnp.asarray(restarts)
  anew = tx.init(stand.variables.params)

  def one(index, carry):
    variables, moments, loss = carry
    lr, restart, index = lrs[index], restarts[index], shown(index)
    moments = jax.tree.map(lambda new, old: jnp.where(restart, new, old),
                           anew, moments)
    def do(carry, indices, key):
      variables, moments, _ = carry
      some = tell(change(key, part(batch, indices)), index, indices)
      return step(network, tx, variables, moments, some, lr)
    return epoch(do, (variables, moments, loss),
                 jax.random.fold_in(order, index), len(batch.labels),
                 recipe_.batch)

  variables, moments, loss = jax.lax.fori_loop(
      stand.done, last, one,
      (stand.variables, stand.moments, jnp.zeros((), dtype)))
  return Stand(last, variables, moments), loss


def _plain(network, batch, order):
  """`(network, order, epoch -> epoch shown, (Batch, epoch, indices) -> Batch)`.

  What `fit` trains, the key of what it shows, and how it labels that: all as
  given.
  """
  del batch
  return network, order, lambda epoch: epoch, lambda some, *_: some


def _taught(network, batch, order):
  """The same for a `Taught`."""
  del order
  told, temperature = batch.told, batch.temperature

  def cooled(*given, **named):
    logits, stats = network.apply(*given, **named)
    return logits / temperature, stats

  def tell(some, epoch, indices):
    logits = told[epoch, indices].astype(some.labels.dtype)
    return some._replace(labels=jax.nn.softmax(logits / temperature))

  return (network._replace(apply=cooled), stream(batch.seed),
          lambda epoch: epoch % len(told), tell)


def accuracy(network, variables, source, chunk=250):
  """Share of a `Source`'s images that are classified correctly, a scalar."""
  return jnp.mean(difficulty.chunked(
      lambda variables, indices: correct(network, variables, source, indices),
      variables, jnp.arange(len(source.labels)), chunk))


def correct(network, variables, source, indices):
  """1.0 where the image at `indices` is classified correctly, `[n]`."""
  logits, _ = network.apply(variables, take(source, indices).images)
  hit = logits.argmax(-1) == source.labels[indices]
  return hit.astype(jnp.float32)
