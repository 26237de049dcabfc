"""Several networks trained on sets of images, some epochs a call.

Between two calls one may say how far they are, keep them, or stop. How the
epochs are cut changes nothing.
"""

import time

import jax
import jax.numpy as jnp

from dasm_jax import groups, hosts, meters, parallel, train
from dasm_jax import source as sources


def on_set(network, recipe, together=None):
  """Trains networks on one set.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`.
    together: how many a device trains at once, see `groups.spread`.

  Returns:
    `(keys, batch, start=None, seen=None) -> Variables [k, …]`, a network a key,
    as `train.fit` trains it; batch is what that takes. start: a `train.Stand`
    of all to go on from. `seen(done, stand, loss)` is called after each call of
    some seconds: epochs done, `() -> Stand`, `() -> [k]` losses of the last
    batch.
  """
  return _fitting(network, recipe, together, lambda key, batch: (key, batch))


def on_subsets(network, recipe, together=None):
  """The same with a subset for each network.

  Returns:
    `((keys, indices), source, start=None, seen=None)`, indices `[k, n]` into a
    `Source`.
  """
  return _fitting(network, recipe, together, lambda item, data: (
      item[0], sources.take(data, item[1])))


def like(network, recipe, networks):
  """The shapes of the `Stand` of so many networks."""
  keys = jax.random.split(jax.random.key(0), networks)
  number = jax.ShapeDtypeStruct((), jnp.int32)
  return jax.eval_shape(jax.vmap(lambda key: train.fresh(
      network, recipe, key)), keys)._replace(done=number, within=number)


def standing(done, carry, k, within=0):
  """`(() -> Stand, () -> loss [k])` of k networks, gathered if one asks.

  carry: variables, moments and losses, as `parallel.shard` splits them.
  """
  def stand():
    return train.Stand(done, *parallel.unshard(carry[:2], 0, k), within)
  return stand, lambda: parallel.unshard(carry[2], 0, k)


def _fitting(network, recipe, together, of):
  """As above; of: `(item, data) -> (key, batch)` of a network."""
  last = recipe.epochs + recipe.extra

  def first(item, data):
    stand = train.fresh(network, recipe, of(item, data)[0])
    return stand.variables, stand.moments, jnp.float32(0)

  def some(item, done, more, data):
    (variables, moments, _), item = item
    stand, loss = train.further(
        network, recipe, *of(item, data),
        train.Stand(done, variables, moments), done + more)
    return stand.variables, stand.moments, loss.astype(jnp.float32)
  begin = groups.spread(first, network, recipe, together, parallel.held)
  run = groups.spread(some, network, recipe, together, parallel.held)

  def call(items, data, start=None, seen=lambda *_: None):
    k = len(jax.tree.leaves(items)[0])
    items, done, size = parallel.shard(items, 0, k), 0, 1
    if start is None:
      carry = begin(items, data)
    else:
      done = int(start.done)
      carry = parallel.shard(
          (start.variables, start.moments, jnp.zeros(k)), 0, k)
    while done < last:
      began, more = time.time(), min(size, last - done)
      carry = run((carry, items), *parallel.replicate(
          (jnp.int32(done), jnp.int32(more))), data)
      done += more
      # The clock of one decides for all.
      size = meters.most(hosts.highest((time.time() - began) / more)[0])
      seen(done, *standing(done, carry, k))
    return parallel.unshard(carry[0], 0, k)
  return call
