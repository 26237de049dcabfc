"""The inner network, where matching happens: from its start to its end.

It is begun (`beginner`), perhaps trained on real images first (`real_trainer`),
given batch norm's averages (`with_averages`), trained between sweeps, and ended
(`lifetime`): after a number of sweeps, or when its accuracy rests (CAFE).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import streams, synthetic
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import experts, train_step
from dasm_jax.types import Array, Batch, Synthetic

STATISTICS_IMAGES = 16  # real images a class for batch norm's averages (DC)


# ---- Its start


class SweepKeys(NamedTuple):
  """Keys of a sweep: of its new network, averages, matching, training."""
  network: Array
  averages: Array
  match: Array
  train: Array


def sweep_keys(key, step):
  """The `SweepKeys` of a sweep of the segment that has this key."""
  # By the step alone, so that a resumed run, and a host that reads ahead, find
  # the same keys.
  return SweepKeys(*jax.random.split(jax.random.fold_in(key, step), 4))


def is_last(inner, step):
  """Whether a sweep is the last of a network that lives `inner` of them."""
  return step % inner == inner - 1


def beginner(network, tx, from_finished=0.0):
  """`(when, carry, data, key) -> carry`: a new network, if it is time for one.

  A carry is `(variables, opt_state)`. The network is one of `data.starts` if
  there are any (IDC on ImageNet-100 has ten), drawn by chance, else fresh; of
  all networks the share `from_finished` is one of `data.finished` instead, if
  there are any.
  """
  def begin(when, carry, data, key):
    # The other half draws the batches of its warm-up (`matching._warmup`).
    start, _ = jax.random.split(key)
    def one_of(rows, key):
      row = jax.random.randint(key, (), 0, len(rows))
      return experts.flat_variables(network)[1](rows[row])
    def new(_):
      variables = (network.init(start) if data.starts is None
                   else one_of(data.starts, start))
      if from_finished and data.finished is not None:
        again, which = jax.random.split(jax.random.fold_in(start, 1))
        variables = jax.lax.cond(
            jax.random.bernoulli(again, from_finished),
            lambda: one_of(data.finished, which), lambda: variables)
      return variables, tx.init(variables.params)
    return devices.perform(when, new, carry)
  return begin


def with_averages(network, variables, data, indices, axis_name=None):
  """Batch norm's running averages from real images, as DC does.

  indices: `[n]`, see `statistics_indices`; None where there is no batch norm.
  """
  if indices is None:
    return variables
  # One pass, as in DC's program: it moves the averages a tenth of the way to
  # those of these images.
  images = sources.take(data, indices, axis_name).images
  return variables._replace(stats=network.apply(variables, images, True)[1])


def statistics_indices(everything, key):
  """The real images whose averages batch norm takes, `[n]` int32."""
  keys = jax.random.split(key, len(everything.counts))
  return jax.vmap(sources.draw_without_repeats, (0, 0, 0, None))(
      keys, *everything, STATISTICS_IMAGES).reshape(-1)


# ---- Its training


def training_indices(n, size, steps, key):
  """Batches of all `n` real images, `[steps, size]` int32, pass by pass."""
  if not steps:
    return jnp.zeros((0, size), jnp.int32)
  # IDC's loader goes on within its epoch from sweep to sweep. Here each sweep
  # begins a new one, so that its key alone tells what it reads.
  shuffle = jax.random.split(key)[0]
  passes = -(-steps * size // n)
  return jnp.concatenate([
      streams.permutation(k, n) for k in jax.random.split(shuffle, passes)
  ])[:steps * size].reshape(steps, size)


def real_trainer(network, tx, recipe, axis_name=None):
  """SGD steps on batches of real images.

  Returns:
    `(carry, data, order, key, begin=0, end=None) -> carry`: `order` are
    `training_indices` by the same key; of its batches those from `begin` to
    `end`, which may be traced.
  """
  change = train_step.augmentation(recipe)

  def run(carry, data, order, key, begin=0, end=None):
    # Of no batches none can be taken, not even in a loop of no turns.
    if not len(order):
      return carry
    # A key for each batch of the whole order, wherever a call begins: a warm-up
    # in pieces is the same as in one. The first half of the key gave the order.
    alter = jax.random.split(jax.random.split(key)[1], len(order))
    def make(indices, key):
      return (change(key, sources.take(data, indices, axis_name)),)
    def do(carry, batch):
      return train_step.sgd_step(network, tx, *carry, batch, recipe.lr,
                                 axis_name)[:2]
    # Streamed images are exchanged batch by batch.
    if end is None and data.slots is None:
      return devices.run_batches(do, carry, make, (order, alter))
    return devices.loop(
        begin, len(order) if end is None else end,
        lambda i, carry: do(carry, *make(order[i], alter[i])), carry)
  return run


class Surroundings(NamedTuple):
  """What an inner network may be trained on between two sweeps.

  syn: the set as it is now. data: a `Source`. windows: `ClassWindows`. order:
  `[steps, batch]`, real images, or None.
  """
  syn: Synthetic
  data: object
  windows: object
  order: Array | None


def _on_real(network, tx, settings, axis_name):
  """`(carry, around, key) -> carry`: trains on batches of real images."""
  train = real_trainer(network, tx, settings.net, axis_name)
  def run(carry, around, key):
    order = training_indices(
        len(around.data.labels), settings.net.batch, settings.steps, key) if (
            around.order is None) else around.order
    return train(carry, around.data, order, key)
  return run


def _on_synthetic(network, tx, settings, axis_name):
  """The same on the whole synthetic set, `steps` passes over it."""
  change = train_step.augmentation(settings.net)

  def run(carry, around, key):
    syn = around.syn
    batch = Batch(*synthetic.training_inputs(settings.codec, syn))
    each = len(batch.images) // len(syn.images)
    if axis_name is not None:
      batch = jax.lax.all_gather(batch, axis_name, tiled=True)
    # Rows that only fill a device stand at the end.
    batch = jax.tree.map(
        lambda x: x[:each * sources.class_count(around.data)], batch)
    def make(indices, key):
      return (change(key, jax.tree.map(lambda x: x[indices], batch)),)
    def do(carry, part):
      return train_step.sgd_step(
          network, tx, *carry, part, settings.net.lr)[:2]
    def one(carry, key):
      return train_step.run_epoch(do, carry, key, len(batch.images),
                                  settings.net.batch, make), None
    return jax.lax.scan(one, carry, jax.random.split(key, settings.steps))[0]
  return run


TRAINERS = {'real': _on_real, 'synthetic': _on_synthetic}


# ---- Its end


def lifetime(network, tx, settings, axis_name=None):
  """The `Lifetime` that the settings of a matching method ask for."""
  train = TRAINERS[settings.train_on]
  if not settings.watch:
    return fixed_lifetime(settings.inner, train(
        network, tx, settings, axis_name))
  # Accuracy is looked at after each pass.
  once = train(network, tx, settings._replace(steps=1), axis_name)
  return watched_lifetime(
      settings.watch, settings.inner, settings.steps, once,
      watched_accuracy(network, settings.watch.images, axis_name))


class Lifetime(NamedTuple):
  """The life of a network as pure functions.

  init: `() -> memory`, carried in the method's state, alike on all devices.
  over: `(memory, step) -> bool`, whether this sweep begins with a new network.
  train: `(carry, memory, around, key, step) -> (carry, memory)`, after the
    images have moved; around are `Surroundings`.
  """
  init: Callable
  over: Callable
  train: Callable


class AccuracyWatch(NamedTuple):
  """What CAFE watches: accuracies on real images, drawn anew for each.

  images: a class. window: how many accuracies count.
  rest: a network ends once those of a window of sweeps span less.
  move: training between two sweeps ends once those of a window of passes span
    more.
  """
  images: int
  window: int
  rest: float
  move: float


class WatchMemory(NamedTuple):
  """Of a watched network: sweeps lived `[]`, last accuracies `[window]`."""
  age: Array
  seen: Array


def fixed_lifetime(inner, trainer):
  """A network lives `inner` sweeps and is trained between any two.

  Args:
    inner: sweeps.
    trainer: `(carry, around, key) -> carry`.
  """
  def train(carry, memory, around, key, step):
    # The network is thrown away after its last sweep: no need to train it.
    carry = devices.perform(
        jnp.logical_not(is_last(inner, step)),
        lambda carry: trainer(carry, around, key), carry)
    return carry, memory
  return Lifetime(lambda: (), lambda memory, step: step % inner == 0, train)


def watched_lifetime(watch, sweeps, passes, trainer, accuracy):
  """A network lives and trains while that does something (CAFE's loops).

  After each sweep its accuracy is measured; the network ends when a window of
  them rests, or after `sweeps`. Else it trains pass by pass until a window of
  accuracies, one a pass, has moved, or for `passes`: the published loop has no
  such end and can go on for ever.

  Args:
    watch: an `AccuracyWatch`.
    sweeps, passes: the most of each.
    trainer: as for `fixed_lifetime`, one pass.
    accuracy: `(variables, data, windows, key) -> []`, the same on all devices.

  Source: CAFE (2203.01531), its dynamic bi-level optimization.
  """
  def init():
    return WatchMemory(jnp.zeros((), jnp.int32), jnp.zeros(watch.window))

  def over(memory, step):
    return (step == 0) | (memory.age == 0)

  def train_until_moved(carry, around, key):
    def on(state):
      _, seen, done = state
      moved = (done >= watch.window) & (span(seen) > watch.move)
      return (done < passes) & ~moved
    def one(state):
      carry, seen, done = state
      alter, look = jax.random.split(jax.random.fold_in(key, done))
      carry = trainer(carry, around, alter)
      seen = push(seen, accuracy(carry[0], around.data, around.windows, look))
      return carry, seen, done + 1
    # Devices leave the loop together, as they see one accuracy: else the next
    # exchange between them would wait for ever.
    start = carry, jnp.zeros(watch.window), jnp.int32(0)
    return jax.lax.while_loop(on, one, start)[0]

  def train(carry, memory, around, key, step):
    look, rest = jax.random.split(key)
    age = jnp.where(step == 0, 0, memory.age) + 1
    seen = push(memory.seen,
                accuracy(carry[0], around.data, around.windows, look))
    # Until a window is full, zeros of its start stand in it.
    ended = (age >= sweeps) | (
        (age >= watch.window) & (span(seen) < watch.rest))
    carry = devices.perform(
        ~ended, lambda carry: train_until_moved(carry, around, rest), carry)
    return carry, WatchMemory(jnp.where(ended, 0, age), seen)

  return Lifetime(init, over, train)


def push(seen, value):
  """The last values `[window]` with a new one at the end."""
  return jnp.append(seen[1:], value)


def span(seen):
  """Largest less smallest."""
  return seen.max() - seen.min()


def watched_accuracy(network, images, axis_name=None):
  """`(variables, data, windows, key) -> []`: on `images` real images a class.

  They are drawn from the whole training set; each device looks at its classes.
  """
  def measure(variables, data, windows, key):
    # By class number: draws are alike however devices split the classes.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, windows.classes)
    def hits(args):
      key, row = args
      chosen = sources.draw_without_repeats(key, *row, images)
      return train_step.is_correct(network, variables, data, chosen).sum()
    found = jax.lax.map(hits, (keys, windows.everything)) * windows.present
    found = found.sum()
    if axis_name is not None:
      found = jax.lax.psum(found, axis_name)
    return found / (images * sources.class_count(data))
  return measure
