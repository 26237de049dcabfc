"""SRe2L's soft labels: what the teacher makes of the finished images."""

import jax
import jax.numpy as jnp

from dasm_jax import synthetic


def labels(network, settings):
  """`(variables, syn, pool, key) -> [classes, ipc, classes]` probabilities."""
  codec = settings.codec

  def run(variables, syn, pool, key):
    sources_ = synthetic.sources(codec, syn.images.shape[1])
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
      share = jnp.zeros((syn.images.shape[1], len(sources_))).at[
          sources_, jnp.arange(len(sources_))].set(1)
      labels = share @ labels / share.sum(1, keepdims=True)
      # As they are stored.
      return labels.astype(jnp.float16).astype(syn.labels.dtype)
    return jax.lax.map(one, (syn.images, pool.classes))

  return run
