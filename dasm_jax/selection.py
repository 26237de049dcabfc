"""What coresets are chosen by: networks trained on all real images."""

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import coreset, difficulty, evaluate, parallel, train
from dasm_jax import source as sources

CHUNK = 250  # images at a time


def trained(network, recipe, epochs, history=False, together=None):
  """Networks trained on a data set, and what they got right on the way.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`, of which the rate, batches and augmentation
      count; the rate stays, the momentum starts anew with each epoch.
    epochs: passes over the data.
    history: whether to look after each of them, without augmentation.
    together: how many a device trains at once, see `evaluate.spread`.

  Returns:
    `(keys, data) -> (Variables [P, …], correct [P, epochs, n] bool)`, one
    network a key, `data` a `Source`; no history is `[P, epochs, 0]`.
  """
  recipe = recipe._replace(epochs=1, extra=0, drops=())

  def right(variables, data):
    indices = jnp.arange(len(data.labels))
    if not history:
      return indices[:0] > 0
    return difficulty.chunked(
        lambda variables, part: train.correct(network, variables, data, part),
        variables, indices, CHUNK) > .5

  def one(key, data):
    start, rest = jax.random.split(key)
    def epoch(variables, key):
      variables, _ = train.fit(network, recipe, key, data, variables)
      return variables, right(variables, data)
    return jax.lax.scan(
        epoch, network.init(start), jax.random.split(rest, epochs))
  return evaluate.spread(one, network, recipe, together)


def features(network):
  """`(variables [P, …], data) -> [n, P * d]`: embeddings side by side."""
  def block(indices, networks, data):
    images = sources.take(data, indices).images
    each = jax.lax.map(lambda v: network.embed(v, images), networks)
    return jnp.moveaxis(each, 0, 1).reshape(len(images), -1)
  return evaluate.by_blocks(block)


def values(name, network, recipe, *, epochs, score):
  """What the selection called `name` is made by.

  Args:
    name: a key of `coreset.CORESETS`.
    network, recipe, epochs: see `trained`.
    score: a key of `difficulty.SCORES`, of those that go by scores.

  Returns:
    `(keys, data) -> values` as `coreset.choose` takes them, of one network a
    key: features side by side, mean scores, histories; None for `random`.
  """
  need = coreset.CORESETS[name][0]

  def call(keys, data):
    if need is None:
      return None
    networks, history = trained(
        network, recipe, epochs, need == 'history')(keys, data)
    if need == 'history':
      return np.asarray(history)
    networks = parallel.replicate(networks)
    if need == 'features':
      return features(network)(networks, data)
    return evaluate.scores(network, score)(networks, data)[0]
  return call
