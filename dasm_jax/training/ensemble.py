"""Several networks trained at once, some epochs a call.

Between two calls one may say how far they are, keep them, or stop. How the
epochs are cut changes nothing. On a set that fits (`train_on_set`), on a subset
for each (`train_on_subsets`), or on all real images (`epoch_trainer`), which
may be streamed: an epoch then comes in pieces of its batches, and those of the
next piece are read while one is trained on.

Sections: one network on a set (`fit`), several on sets that fit, several on all
real images.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dasm_jax import shapes, streams
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices, processes, timing
from dasm_jax.training import packing, recipes, train_step
from dasm_jax.types import Array, Batch, Network, SoftLabelled, Variables

# ---- One network on a set


class TrainState(NamedTuple):
  """The state of networks in training.

  done: epochs. within: batches of the next epoch that are done, too.
  variables: `Variables`; opt_state: of the optimizer; their leaves begin with
  the number of networks where there are several.
  """
  done: int
  variables: Variables
  opt_state: Any
  within: int = 0


def fresh_state(network: Network, recipe: recipes.Recipe, key: Array
                ) -> TrainState:
  """The `TrainState` of a network that a key of `fit` begins; of no epochs.

  Args:
    network: a `Network`.
    recipe: a `Recipe`.
    key: a key.

  Returns:
    A `TrainState`.
  """
  # The other half of the key is of order and augmentation, see `fit_epochs`.
  return state_from(
      recipe, network.init(jax.random.split(streams.typed(key))[0]))


def state_from(recipe: recipes.Recipe, variables: Variables) -> TrainState:
  """The `TrainState` of a network that begins with these weights.

  Args:
    recipe: a `Recipe`.
    variables: `Variables`.

  Returns:
    A `TrainState`.
  """
  return TrainState(0, variables, train_step.recipe_optimizer(recipe).init(
      variables.params))


def fit(network: Network, recipe: recipes.Recipe, key: Array,
        batch: Batch | SoftLabelled | sources.Source,
        variables: Variables | None = None) -> tuple[Variables, Array]:
  """Trains a network on a set of images by a recipe.

  Args:
    network: a `Network`.
    recipe: a `Recipe`.
    key: a key: initial weights, order, augmentation.
    batch: `Batch` of all images `[n, …]`, a `Source`, or a `SoftLabelled`,
      whose seed takes the place of the key for all but the initial weights;
      the loss is then KL at its temperature, plus the teacher's entropy.
    variables: a start; None draws one.

  Returns:
    `(variables, loss)` after the last epoch; the loss is its last batch's.
  """
  start = (fresh_state(network, recipe, key) if variables is None
           else state_from(recipe, variables))
  epochs = recipe.epochs + recipe.extra
  state, loss = fit_epochs(network, recipe, key, batch, start, epochs)
  return state.variables, loss


def fit_epochs(network: Network, recipe: recipes.Recipe, key: Array,
               batch: Batch | SoftLabelled | sources.Source, state: TrainState,
               last: ArrayLike, step: Callable[..., tuple] = train_step.sgd_step
               ) -> tuple[TrainState, Array]:
  """Some epochs of `fit`: from those that are done up to `last`.

  Args:
    network, recipe, key, batch: as of `fit`.
    state: a `TrainState`.
    last: an int. It and `state.done` may be traced, and how the epochs are cut
      changes nothing.
    step: takes the arguments of `train_step.sgd_step`.

  Returns:
    `(TrainState, loss)`.
  """
  shapes.check_flat('training.ensemble.fit', batch,
                    instead='synthetic.training_inputs makes it flat')
  tx = train_step.recipe_optimizer(recipe)
  change = train_step.augmentation(recipe)
  labels = _by_teacher if isinstance(batch, SoftLabelled) else _as_given
  network, order, shown, label = labels(
      network, batch, jax.random.split(streams.typed(key))[1],
      recipe.squared)
  # Rates of the images' dtype: float64 images are trained on in float64.
  dtype = jax.eval_shape(sources.take_any, batch, jnp.arange(1)).images.dtype
  lrs, restarts = recipes.rates(recipe)
  lrs, restarts = jnp.asarray(lrs, dtype), jnp.asarray(restarts)
  fresh = tx.init(state.variables.params)

  # All that is random in an epoch comes from a key folded with its number: so
  # it does not matter where training was cut, or how often.
  def epoch(index, carry):
    variables, opt_state, loss = carry
    lr, restart, index = lrs[index], restarts[index], shown(index)
    opt_state = jax.tree.map(lambda new, old: jnp.where(restart, new, old),
                             fresh, opt_state)
    def make(indices, key):
      some = change(key, sources.take_any(batch, indices))
      return (label(some, index, indices),)
    def one(carry, some):
      variables, opt_state, _ = carry
      *trained, loss = step(network, tx, variables, opt_state, some, lr)
      # Labels of float64 beside images of float32 would make it wider.
      return *trained, loss.astype(dtype)
    return train_step.run_epoch(
        one, (variables, opt_state, loss), jax.random.fold_in(order, index),
        len(batch.labels), recipe.batch, make)

  variables, opt_state, loss = jax.lax.fori_loop(
      state.done, last, epoch,
      (state.variables, state.opt_state, jnp.zeros((), dtype)))
  return TrainState(last, variables, opt_state), loss


def _as_given(network, batch, order, squared):
  """What `fit` trains, the key of what it shows, and how it labels that.

  Returns:
    `(network, order, epoch -> epoch shown, (Batch, epoch, indices) -> Batch)`.
  """
  del batch, squared
  return network, order, lambda epoch: epoch, lambda some, *_: some


def _by_teacher(network, batch, order, squared):
  """The same for a `SoftLabelled`; squared: see `recipes.Recipe`."""
  # The key of the set takes the place of the network's: its teachers labelled
  # the images as this key shows them, and all networks see the same.
  del order
  temperature = batch.temperature

  def cooled(*given, **named):
    logits, stats = network.apply(*given, **named)
    return logits / temperature, stats

  # Cross-entropy is linear in its labels: so they carry the factor T^2.
  factor = temperature ** 2 if squared else 1.0

  def label(some, epoch, indices):
    logits = batch.logits[epoch, indices].astype(some.labels.dtype)
    return some._replace(labels=factor * jax.nn.softmax(logits / temperature))

  return (network._replace(apply=cooled), train_step.soft_label_key(batch.seed),
          lambda epoch: epoch % len(batch.logits), label)


# ---- Several networks on sets that fit


def train_on_set(network: Network, recipe: recipes.Recipe,
                 together: int | None = None, call_seconds: float | None = None,
                 step: Callable[..., tuple] = train_step.sgd_step
                 ) -> Callable[..., Variables]:
  """Trains networks on one set.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`.
    together: how many a device trains at once, see `packing.spread_networks`.
    call_seconds: that a call may last, see `timing.steps_per_call`.
    step: takes the arguments of `train_step.sgd_step`.

  Returns:
    `(keys, batch, start=None, seen=None) -> Variables [k, …]`, a network a key,
    as `fit` trains it; batch is what that takes. start: a `TrainState` of all
    to go on from. `seen(done, state, loss)` is called after each call of some
    seconds: epochs done, `() -> TrainState`, `() -> [k]` losses of the last
    batch.
  """
  return _trainer(network, recipe, (together, call_seconds), step,
                  lambda key, batch: (key, batch))


def train_on_subsets(network: Network, recipe: recipes.Recipe,
                     together: int | None = None,
                     call_seconds: float | None = None,
                     step: Callable[..., tuple] = train_step.sgd_step
                     ) -> Callable[..., Variables]:
  """The same with a subset for each network.

  Args:
    network, recipe, together, call_seconds, step: as of `train_on_set`.

  Returns:
    `((keys, indices), source, start=None, seen=None)`, indices `[k, n]` into a
    `Source`.
  """
  return _trainer(network, recipe, (together, call_seconds), step,
                  lambda item, data: (item[0], sources.take(data, item[1])))


def state_shapes(network: Network, recipe: recipes.Recipe, networks: int
                 ) -> TrainState:
  """The shapes of the `TrainState` of so many networks.

  Args:
    network: a `Network`.
    recipe: a `Recipe`.
    networks: how many.

  Returns:
    A `TrainState` of `jax.ShapeDtypeStruct`.
  """
  keys = jax.random.split(jax.random.key(0), networks)
  number = jax.ShapeDtypeStruct((), jnp.int32)
  return jax.eval_shape(jax.vmap(lambda key: fresh_state(
      network, recipe, key)), keys)._replace(done=number, within=number)


def gathered_state(done: int, carry: tuple, k: int, within: int = 0
                   ) -> tuple[Callable, Callable]:
  """`(() -> TrainState, () -> loss [k])` of k networks, gathered if one asks.

  Args:
    done: epochs.
    carry: variables, opt_state and losses, as `devices.shard` splits them.
    k: networks.
    within: batches of the next epoch that are done.

  Returns:
    The two functions.
  """
  # Both gather over the processes: all must ask for them at the same places.
  def state():
    return TrainState(done, *devices.unshard(carry[:2], 0, k), within)
  return state, lambda: devices.unshard(carry[2], 0, k)


def _trainer(network, recipe, sizes, step, of):
  """As above; of: `(item, data) -> (key, batch)` of a network."""
  together, call_seconds = sizes
  last = recipe.epochs + recipe.extra

  def first(item, data):
    state = fresh_state(network, recipe, of(item, data)[0])
    return state.variables, state.opt_state, jnp.float32(0)

  def some(item, done, more, data):
    (variables, opt_state, _), item = item
    state, loss = fit_epochs(
        network, recipe, *of(item, data),
        TrainState(done, variables, opt_state), done + more, step)
    return state.variables, state.opt_state, loss.astype(jnp.float32)
  begin = packing.spread_networks(first, network, recipe, together,
                                  devices.spread_sharded)
  run = packing.spread_networks(some, network, recipe, together,
                                devices.spread_sharded)

  def call(items, data, start=None, seen=lambda *_: None):
    k = len(jax.tree.leaves(items)[0])
    # One epoch at first, which tells how many a call may have.
    items, done, size = devices.shard(items, 0, k), 0, 1
    if start is None:
      carry = begin(items, data)
    else:
      done = int(start.done)
      # The losses are only shown, and those of the next call take their place.
      carry = devices.shard(
          (start.variables, start.opt_state, jnp.zeros(k)), 0, k)
    while done < last:
      began, more = time.time(), min(size, last - done)
      carry = run((carry, items), *devices.replicate(
          (jnp.int32(done), jnp.int32(more))), data)
      done += more
      # The clock of one decides for all: their calls have to be of one length.
      each, = processes.maximum((time.time() - began) / more)
      size = timing.steps_per_call(each, call_seconds)
      seen(done, *gathered_state(done, carry, k))
    return devices.unshard(carry[0], 0, k)
  return call


# ---- Several networks on all real images


class EpochPlan(NamedTuple):
  """One pass of `k` networks over all images.

  keys: `[k]`, of order and augmentation. lr: the rate. restart: whether the
  momentum starts anew.
  """
  keys: Array
  lr: float
  restart: bool = False


class EpochPiece(NamedTuple):
  """Batches of an epoch, one after the other.

  epoch: from 0. first: batches of the epoch before. size: how many batches.
  room: how many there are to be, the last one repeated but not trained on.
  """
  epoch: int
  first: int
  size: int
  room: int


def epoch_trainer(network: Network, recipe: recipes.Recipe,
                  step: Callable[..., tuple] = train_step.sgd_step,
                  together: int | None = None) -> Callable[..., Variables]:
  """Trains several networks for some epochs, spread over the devices.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`; its rates are not read.
    step: takes the arguments of `train_step.sgd_step`; FTD's is another.
    together: how many a device has at once, see `packing.spread_networks`.

  Returns:
    `(state, epochs, data, seen) -> Variables [k, …]`, k networks further on:
    from a `TrainState` of all, whose `done` are the first of `epochs`, a list
    of `EpochPlan`, to the last of them; `data` a `Source` or one of
    `streaming`; `seen(done, state, loss, within)` is called after each piece of
    them: epochs done, `() -> TrainState`, `() -> [k]` losses of the last batch,
    batches of the next epoch that are done.
  """
  tx, change = (
      train_step.recipe_optimizer(recipe), train_step.augmentation(recipe))

  def some(item, first, size, lr, restart, data):
    (variables, opt_state, loss), key, rows = item
    opt_state = jax.tree.map(lambda new, old: jnp.where(restart, new, old),
                             tx.init(variables.params), opt_state)
    def one(i, carry):
      # Numbered within the epoch: how it is cut changes no key.
      batch = change(train_step.batch_key(key, first + i),
                     sources.take(data, rows[i]))
      return step(network, tx, *carry[:2], batch, lr)
    # A traced length: a short piece runs the same program.
    return devices.loop(0, size, one, (variables, opt_state, loss))
  run = packing.spread_networks(some, network, recipe, together,
                                devices.spread_sharded)

  def call(state, epochs, data, seen=lambda *_: None):
    k, n = len(epochs[0].keys), len(data.labels)
    rows, batches = _epoch_rows(epochs, n, recipe.batch), -(-n // recipe.batch)
    carry = devices.shard(
        (state.variables, state.opt_state, jnp.zeros(k)), 0, k)
    pieces = _epoch_pieces(data, epochs, recipe.batch, int(state.done),
                           int(state.within))
    with streaming.prefetched(data, pieces, lambda at: (
        streaming.local_rows(rows(at)))) as coming:
      for at, source in coming:
        now = epochs[at.epoch]
        # The optimizer starts anew at the first piece of an epoch alone.
        given = devices.shard((now.keys, rows(at)), 0, k)
        told = devices.replicate((
            jnp.int32(at.first), jnp.int32(at.size), jnp.float32(now.lr),
            jnp.bool_(now.restart and not at.first)))
        carry = run((carry, *given), *told, source)
        done, within = divmod(
            at.epoch * batches + at.first + at.size, batches)
        seen(done, *gathered_state(done, carry, k, within), within)
    return devices.unshard(carry[0], 0, k)
  return call


def states_from(recipe: recipes.Recipe, variables: Variables) -> TrainState:
  """The `TrainState` of networks that begin with these weights `[k, …]`.

  Args:
    recipe: a `Recipe`.
    variables: `Variables` `[k, …]`.

  Returns:
    A `TrainState` of k networks.
  """
  many = jax.jit(jax.vmap(functools.partial(state_from, recipe)))
  return many(variables)._replace(done=0, within=0)


def _epoch_pieces(data, epochs, batch, done=0, within=0):
  """The `EpochPiece`s of all epochs but those that are done, in their order.

  A short batch is one of its own, the last.
  """
  # Sized for the process with the most networks: all cut the epochs alike.
  n = len(data.labels)
  batch = min(batch, n)
  whole, k = n // batch, len(epochs[0].keys)
  room = streaming.pieces_with_room(data, whole, devices.most_local(k) * batch)
  for epoch in range(done, len(epochs)):
    for first in range(within if epoch == done else 0, whole, room):
      yield EpochPiece(epoch, first, min(room, whole - first), room)
    if n % batch:
      yield EpochPiece(epoch, whole, 1, 1)


def _epoch_rows(epochs, n, batch):
  """`piece -> [k, room, batch]`, which of `n` images each network looks at."""
  draw = jax.jit(jax.vmap(lambda key: train_step.epoch_order(key, n)))

  # Who reads is some pieces ahead of who trains.
  @functools.lru_cache(4)
  def order(epoch):
    return np.asarray(draw(devices.on_host(epochs[epoch].keys)))

  # Repeated up to the room: a shorter piece has the shapes of the others.
  def rows(at):
    begin = at.first * batch
    width = min(batch, n - begin)
    found = order(at.epoch)[:, begin:begin + at.size * width]
    return np.pad(found.reshape(-1, at.size, width),
                  ((0, 0), (0, at.room - at.size), (0, 0)), 'edge')
  return rows


def train_on_all(network: Network, recipe: recipes.Recipe,
                 together: int | None = None) -> Callable[..., Variables]:
  """`fit` of several networks on all real images.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`.
    together: see `epoch_trainer`.

  Returns:
    `(keys, data, seen=None, start=None) -> Variables [k, …]`, a network a key;
    data and seen as for `epoch_trainer`; start: a `TrainState` to go on from.
  """
  run = epoch_trainer(network, recipe, together=together)
  begin = devices.spread(network.init, together=together)

  def call(keys, data, seen=lambda *_: None, start=None):
    # The keys of `fit`: one half begins the network; the other, folded with an
    # epoch's number, is that of the epoch.
    first, order = jnp.moveaxis(
        jax.vmap(jax.random.split)(streams.typed(keys)), 1, 0)
    start = states_from(recipe, begin(first)) if start is None else start
    return run(start, [
        EpochPlan(jax.vmap(jax.random.fold_in, (0, None))(order, index), lr,
                  restart)
        for index, (lr, restart) in enumerate(zip(
            *map(np.asarray, recipes.rates(recipe)), strict=True))], data, seen)
  return call
