"""Several networks trained on all real images, epoch by epoch.

The images may be streamed: an epoch comes in pieces of its batches, and those
of the next piece are read while one is trained on. How it is cut changes
nothing.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import fitting, groups, parallel, real, recipes, train
from dasm_jax import source as sources
from dasm_jax.types import Array


class Epoch(NamedTuple):
  """One pass of `k` networks over all images.

  keys: `[k]`, of order and augmentation. lr: the rate. restart: whether the
  momentum starts anew.
  """
  keys: Array
  lr: float
  restart: bool = False


class Piece(NamedTuple):
  """Batches of an epoch, one after the other.

  epoch: from 0. first: batches of the epoch before. size: how many batches.
  room: how many there are to be, the last one repeated but not trained on.
  """
  epoch: int
  first: int
  size: int
  room: int


def training(network, recipe, step=train.step, together=None):
  """Trains several networks for some epochs, spread over the devices.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`; its rates are not read.
    step: takes the arguments of `train.step`; FTD's is another.
    together: how many a device has at once, see `groups.spread`.

  Returns:
    `(stand, epochs, data, seen) -> Variables [k, …]`, k networks further on:
    from a `train.Stand` of all, whose `done` are the first of `epochs`, a list
    of `Epoch`, to the last of them; `data` a `Source` or one of `real`;
    `seen(done, stand, loss, within)` is called after each piece of them: epochs
    done, `() -> Stand`, `() -> [k]` losses of the last batch, batches of the
    next epoch that are done.
  """
  tx, change = train.optimizer_of(recipe), train.augmentation(recipe)

  def some(item, first, size, lr, restart, data):
    (variables, moments, loss), key, rows = item
    moments = jax.tree.map(lambda new, old: jnp.where(restart, new, old),
                           tx.init(variables.params), moments)
    def one(i, carry):
      batch = change(train.key_of_batch(key, first + i),
                     sources.take(data, rows[i]))
      return step(network, tx, *carry[:2], batch, lr)
    # A traced length: a short piece runs the same program.
    return jax.lax.fori_loop(0, size, one, (variables, moments, loss))
  run = groups.spread(some, network, recipe, together, parallel.held)

  def call(stand, epochs, data, seen=lambda *_: None):
    k, n = len(epochs[0].keys), len(data.labels)
    rows, batches = _rows(epochs, n, recipe.batch), -(-n // recipe.batch)
    carry = parallel.shard(
        (stand.variables, stand.moments, jnp.zeros(k)), 0, k)
    pieces = _pieces(data, epochs, recipe.batch, int(stand.done),
                     int(stand.within))
    with real.in_turn(data, pieces, lambda at: (
        real.of_items(rows(at)))) as coming:
      for at, source in coming:
        now = epochs[at.epoch]
        given = parallel.shard((now.keys, rows(at)), 0, k)
        told = parallel.replicate((
            jnp.int32(at.first), jnp.int32(at.size), jnp.float32(now.lr),
            jnp.bool_(now.restart and not at.first)))
        carry = run((carry, *given), *told, source)
        done, within = divmod(
            at.epoch * batches + at.first + at.size, batches)
        seen(done, *fitting.standing(done, carry, k, within), within)
    return parallel.unshard(carry[0], 0, k)
  return call


def begun(recipe, variables):
  """The `train.Stand` of networks that begin with these weights `[k, …]`."""
  many = jax.jit(jax.vmap(functools.partial(train.begun, recipe)))
  return many(variables)._replace(done=0, within=0)


def _pieces(data, epochs, batch, done=0, within=0):
  """The `Piece`s of all epochs but those that are done, in their order.

  A short batch is one of its own, the last.
  """
  n = len(data.labels)
  batch = min(batch, n)
  whole, k = n // batch, len(epochs[0].keys)
  room = real.pieces(data, whole, parallel.most(k) * batch)
  for epoch in range(done, len(epochs)):
    for first in range(within if epoch == done else 0, whole, room):
      yield Piece(epoch, first, min(room, whole - first), room)
    if n % batch:
      yield Piece(epoch, whole, 1, 1)


def _rows(epochs, n, batch):
  """`piece -> [k, room, batch]`, which of `n` images each network looks at."""
  draw = jax.jit(jax.vmap(lambda key: train.order(key, n)))

  # Who reads is some pieces ahead of who trains.
  @functools.lru_cache(4)
  def order(epoch):
    return np.asarray(draw(parallel.on_host(epochs[epoch].keys)))

  def rows(at):
    begin = at.first * batch
    width = min(batch, n - begin)
    found = order(at.epoch)[:, begin:begin + at.size * width]
    return np.pad(found.reshape(-1, at.size, width),
                  ((0, 0), (0, at.room - at.size), (0, 0)), 'edge')
  return rows


def fit(network, recipe, together=None):
  """`train.fit` of several networks on all real images.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`.
    together: see `training`.

  Returns:
    `(keys, data, seen=None, start=None) -> Variables [k, …]`, a network a key;
    data and seen as for `training`; start: a `train.Stand` to go on from.
  """
  run = training(network, recipe, together=together)
  begin = parallel.spread(network.init, together=together)

  def call(keys, data, seen=lambda *_: None, start=None):
    first, order = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    start = begun(recipe, begin(first)) if start is None else start
    return run(start, [
        Epoch(jax.vmap(jax.random.fold_in, (0, None))(order, index), lr,
              restart)
        for index, (lr, restart) in enumerate(zip(
            *map(np.asarray, recipes.rates(recipe)), strict=True))], data, seen)
  return call
