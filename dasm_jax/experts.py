"""Experts: networks trained on real data, whose weights are kept by epoch."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dasm_jax import difficulty, losses
from dasm_jax import source as sources
from dasm_jax.types import Variables

ASKED = 200  # images that experts label at a time


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


def logits(network, chunk):
  """`(variables, data, indices) -> [len(indices), classes]`, for a `Source`.

  Batch norm takes the statistics of `chunk` images: experts keep none.
  """
  def run(variables, data, indices):
    def part(variables, indices):
      return seen(network)(variables, sources.take(data, indices).images)
    return difficulty.chunked(part, variables, indices, chunk)
  return jax.jit(run)
