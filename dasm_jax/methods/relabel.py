"""Soft labels that a network tells: SRe2L's of finished images, TESLA's."""

import jax
import jax.numpy as jnp

from dasm_jax import difficulty, synthetic

CHUNK = 200  # images that are told at once


def labels(network, settings):
  """`(variables, syn, pool, key) -> [classes, ipc, classes]` probabilities."""
  codec = settings.codec

  def run(variables, syn, pool, key):
    def told(images):
      return jax.nn.softmax(network.apply(variables, images)[0])
    def one(args):
      images, index = args
      images = synthetic.normalise(codec, synthetic.decode(codec, images))
      if settings.views:
        draws = jax.random.split(
            jax.random.fold_in(key, index), settings.views)
        labels = jax.lax.map(lambda draw: told(
            settings.augment(draw, images, shared=False)), draws).mean(0)
      else:
        labels = told(images)
      labels = of_cells(codec, labels, syn.images.shape[1])
      # As they are stored.
      return labels.astype(jnp.float16).astype(syn.labels.dtype)
    return jax.lax.map(one, (syn.images, pool.classes))

  return run


def assigned(logits, codec):
  """`(params, syn) -> [classes, ipc, classes]`: TESLA's soft label assignment.

  What an expert makes of the images as they are, not augmented.

  Args:
    logits: `(params, images [n, …]) -> [n, classes]`.
    codec: a `synthetic.Codec`.

  Source: TESLA (2211.10586), section 3.3.
  """
  whole = synthetic.in_training(codec)

  def run(params, syn):
    images, _ = synthetic.inputs(codec, syn)
    found = jax.nn.softmax(difficulty.chunked(
        lambda params, at: logits(params, images[at]), params,
        jnp.arange(len(images)), CHUNK))
    found = found.reshape(len(syn.images), -1, found.shape[-1])
    return jax.vmap(lambda told: of_cells(whole, told, syn.images.shape[1]))(
        found).astype(syn.labels.dtype)
  return run


def of_cells(codec, labels, ipc):
  """`[decoded, classes]` of a class as `[ipc, classes]`: means of the cells."""
  sources = synthetic.sources(codec, ipc)
  share = jnp.zeros((ipc, len(sources))).at[
      sources, jnp.arange(len(sources))].set(1)
  return share @ labels / share.sum(1, keepdims=True)
