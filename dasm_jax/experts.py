"""Experts: networks trained on real data, whose weights are kept by epoch."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dasm_jax import batches, difficulty, losses, parallel, train
from dasm_jax import source as sources
from dasm_jax.types import Variables


def flat(network):
  """`(ravel, unravel)`: a network's parameters as one vector, and back.

  `ravel` takes `Variables` and gives `[parameters]`; `unravel` gives
  `Variables` whose running averages are those of a fresh network.
  """
  key = jax.random.key(0)
  shapes = jax.eval_shape(network.init, key)
  _, back = ravel_pytree(
      jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.params))
  # Only batch norm has any, and is worth compiling the start for.
  stats = jax.jit(network.init)(key).stats if shapes.stats else shapes.stats

  def ravel(variables):
    return ravel_pytree(variables.params)[0]

  def unravel(vector):
    return Variables(back(vector), stats)
  return ravel, unravel


def loss_fn(network):
  """`(variables, batch) -> scalar` of a network in training.

  Batch norm takes the statistics of the batch, so that students need no
  running averages.
  """
  logits = seen(network)
  return lambda variables, batch: losses.cross_entropy(
      logits(variables, batch.images), batch.labels)


def seen(network):
  """`(variables, images) -> logits` by the statistics of the images."""
  return lambda variables, images: network.apply(
      variables, images, train=True)[0]


def begin(network, recipe):
  """`keys [k] -> (variables, moments)` of k fresh experts, `[k, …]` each."""
  return jax.jit(jax.vmap(batches.on_random(network, recipe)[0]))


def epoch(network, recipe, step=train.step, together=None):
  """One epoch of several experts at once, spread over the devices.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`; its rate stays the same all the time.
    step: takes the arguments of `train.step`; FTD's is another.
    together: see `parallel.spread`.

  Returns:
    `((variables, moments, keys), data) -> (variables, moments, loss)`, of k
    experts: every leaf begins with `[k]`; `data` is a `Source`.
  """
  tx = train.optimizer(recipe.momentum, recipe.weight_decay)
  change = train.augmentation(recipe)

  def one(expert, data):
    variables, moments, key = expert
    def do(carry, indices, key):
      batch = change(key, sources.take(data, indices))
      return step(network, tx, *carry[:2], batch, recipe.lr)
    carry = variables, moments, jnp.zeros((), jnp.float32)
    return train.epoch(do, carry, key, len(data.labels), recipe.batch)
  return parallel.spread(one, together=together)


def logits(network, chunk=200):
  """`(variables, data, indices) -> [len(indices), classes]`, for a `Source`.

  Batch norm takes the statistics of `chunk` images: experts keep none.
  """
  def run(variables, data, indices):
    def part(variables, indices):
      return seen(network)(variables, sources.take(data, indices).images)
    return difficulty.chunked(part, variables, indices, chunk)
  return jax.jit(run)
