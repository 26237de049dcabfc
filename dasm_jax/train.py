"""Training networks by scan: one recipe for matching, probes, evaluation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dasm_jax import augment, descent, difficulty, losses, mixing, photo
from dasm_jax.errors import UserError
from dasm_jax.source import part, take


class Recipe(NamedTuple):
  """How a network is trained on a fixed set of images.

  epochs: as published; `extra` more are run (the reference's loop of DC).
  drops: epochs after which the rate is multiplied by `decay`.
  restart: the optimizer starts anew at a drop (DC).
  strategy, mode, cutmix: augmentation, a draw for each image.
  statistics: (mean, std) of the images, if the strategy asks for them.
  """
  epochs: int
  lr: float
  momentum: float
  weight_decay: float
  batch: int
  drops: tuple
  decay: float
  restart: bool
  strategy: str
  mode: str
  cutmix: float
  extra: int
  statistics: tuple = ()


def dc_recipe(epochs, *, strategy='', lr=0.01, batch=256, cutmix=0.0, **more):
  """The DC, DSA and DM evaluation: x0.1 once at the middle, fresh momentum.

  Runs `epochs + 1` epochs; from epoch `epochs // 2 + 2` (counted from 1) on
  the rate is a tenth. Source: the reference program of 2006.05929.
  """
  return recipe(epochs, lr=lr, batch=batch, drops=(epochs // 2 + 2,),
                decay=0.1, restart=True, strategy=strategy, mode='single',
                cutmix=cutmix, extra=1, **more)


def idc_recipe(epochs, *, strategy='color_crop_scale_rotate', lr=0.01,
               batch=64, cutmix=0.5, **more):
  """The IDC evaluation: x0.2 at 2/3 and 5/6 of the epochs, with CutMix."""
  return recipe(epochs, lr=lr, batch=batch,
                drops=(2 * epochs // 3, 5 * epochs // 6), decay=0.2,
                restart=False, strategy=strategy, mode='idc', cutmix=cutmix,
                extra=0, **more)


RECIPES = {'dc': dc_recipe, 'idc': idc_recipe}


def recipe(epochs, *, lr=0.01, momentum=0.9, weight_decay=5e-4, batch=64,
           drops=(), decay=0.1, restart=False, strategy='', mode='single',
           cutmix=0.0, extra=0, statistics=()):
  """A checked `Recipe`.

  Raises:
    UserError: fewer than one epoch or image a batch, a rate that is not
      positive, a CutMix probability outside [0, 1], unknown augmentations, one
      that asks for statistics where there are none.
  """
  for name, value in (('epochs', epochs), ('batch', batch)):
    if value < 1:
      raise UserError(f'{name}={value} of a training recipe must be at least 1')
  if lr <= 0:
    raise UserError(f'lr={lr} of a training recipe must be positive')
  if not 0 <= cutmix <= 1:
    raise UserError(f'cutmix={cutmix} is a probability, from 0 to 1')
  augment.build(strategy, mode)
  photo.check(strategy, statistics)
  return Recipe(epochs, lr, momentum, weight_decay, batch, tuple(drops), decay,
                restart, strategy, mode, cutmix, extra,
                tuple(map(tuple, statistics)))


def rates(recipe_):
  """Learning rate and restart flag of each epoch, NumPy arrays `[epochs]`."""
  epoch = np.arange(recipe_.epochs + recipe_.extra)
  passed = sum((epoch >= drop).astype(int) for drop in recipe_.drops)
  passed = np.zeros_like(epoch) + passed
  restart = np.isin(epoch, recipe_.drops) & recipe_.restart
  return recipe_.lr * recipe_.decay ** passed.astype(float), restart


def optimizer(momentum=0.9, weight_decay=5e-4):
  """SGD as in PyTorch, before the rate: decay enters the momentum."""
  return optax.chain(optax.add_decayed_weights(weight_decay),
                     optax.trace(momentum))


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
  shuffle, rest = jax.random.split(key)
  order = jax.random.permutation(shuffle, n)
  whole = n // batch

  def one(carry, part):
    index, indices = part
    return do(carry, indices, jax.random.fold_in(rest, index)), None

  if whole:
    rows = order[:whole * batch].reshape(whole, batch)
    carry, _ = jax.lax.scan(one, carry, (jnp.arange(whole), rows))
  if n % batch:
    carry = do(carry, order[whole * batch:], jax.random.fold_in(rest, whole))
  return carry


def augmentation(recipe_):
  """`(key, batch) -> batch`: a recipe's augmentation, then CutMix."""
  change = augment.build(recipe_.strategy, recipe_.mode,
                         statistics=recipe_.statistics)

  def apply(key, batch):
    first, second = jax.random.split(key)
    batch = batch._replace(images=change(first, batch.images, shared=False))
    return mixing.cutmix(second, batch, recipe_.cutmix)
  return apply


def fit(network, recipe_, key, batch, variables=None):
  """Trains a network on a set of images by a recipe.

  Args:
    network: a `Network`.
    recipe_: a `Recipe`.
    key: a key: initial weights, order, augmentation.
    batch: `Batch` of all images `[n, …]`, or a `Source`.
    variables: a start; None draws one.

  Returns:
    `(variables, loss)` after the last epoch; the loss is its last batch's.
  """
  start, order = jax.random.split(key)
  tx = optimizer(recipe_.momentum, recipe_.weight_decay)
  change = augmentation(recipe_)
  if variables is None:
    variables = network.init(start)
  fresh = tx.init(variables.params)

  def one(carry, plan):
    index, lr, restart = plan
    variables, moments, loss = carry
    moments = jax.tree.map(lambda new, old: jnp.where(restart, new, old),
                           fresh, moments)
    def do(carry, indices, key):
      variables, moments, _ = carry
      some = change(key, part(batch, indices))
      return step(network, tx, variables, moments, some, lr)
    carry = epoch(do, (variables, moments, loss),
                  jax.random.fold_in(order, index), len(batch.labels),
                  recipe_.batch)
    return carry, None

  lrs, restarts = rates(recipe_)
  dtype = jax.eval_shape(part, batch, jnp.arange(1)).images.dtype
  plan = (jnp.arange(len(lrs)), jnp.asarray(lrs, dtype), jnp.asarray(restarts))
  carry = (variables, fresh, jnp.zeros((), dtype))
  (variables, _, loss), _ = jax.lax.scan(one, carry, plan)
  return variables, loss


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
