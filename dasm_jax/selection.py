"""What coresets are chosen by: networks trained on all real images."""

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import coreset, evaluate, parallel, recipes
from dasm_jax import epochs as lengthy
from dasm_jax import source as sources


def trained(network, recipe, epochs, history=False, together=None):
  """Networks trained on a data set, and what they got right on the way.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`, of which the rate, batches and augmentation
      count; the rate stays, the momentum starts anew with each epoch.
    epochs: passes over the data.
    history: whether to look after each of them, without augmentation.
    together: how many a device trains at once, see `groups.spread`.

  Returns:
    `(keys, data, heard=None) -> (Variables [P, …], correct [P, epochs, n]
    bool)`, one network a key, `data` a `Source` or one of `real`; no history
    is None. `heard()` is called after each piece of an epoch.
  """
  run = lengthy.training(network, recipe, together=together)
  begin = parallel.spread(network.init, together=together)
  (lr, *_), _ = recipes.rates(recipe._replace(epochs=1, extra=0, drops=()))
  right = evaluate.correct(network)

  def call(keys, data, heard=lambda: None):
    start, rest = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    rest = jax.vmap(lambda key: jax.random.split(key, epochs))(rest)
    def of(key):
      return jax.random.fold_in(jax.random.split(key)[1], 0)
    rest, seen = jax.vmap(jax.vmap(of))(rest), []
    def look(done, stand, loss, within):
      del done, loss
      if history and not within:
        seen.append(right(stand().variables, data).T > .5)
      heard()
    begun = lengthy.begun(recipe, begin(start))
    variables = run(begun, [lengthy.Epoch(
        rest[:, epoch], lr, True) for epoch in range(epochs)], data, look)
    return variables, np.stack(seen, 1) if history else None
  return call


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
    `(keys, data, heard=None) -> values` as `coreset.choose` takes them, of one
    network a key: features side by side, mean scores, histories; None for
    `random`. heard: see `trained`.
  """
  need = coreset.CORESETS[name][0]

  def call(keys, data, heard=lambda: None):
    if need is None:
      return None
    networks, history = trained(
        network, recipe, epochs, need == 'history')(keys, data, heard)
    if need == 'history':
      return np.asarray(history)
    networks = parallel.replicate(networks)
    if need == 'features':
      return features(network)(networks, data)
    return evaluate.scores(network, score)(networks, data)[0]
  return call
