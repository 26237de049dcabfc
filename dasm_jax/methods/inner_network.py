"""The inner network, where matching happens: from its start to its end."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import synthetic
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import experts, train_step
from dasm_jax.types import Array, Batch, Warm

STATISTICS_IMAGES = 16  # real images a class for batch norm's averages (DC)


def new_network(network, data, key):
  """`Variables` of a new network: one of `data.starts`, else initialised.

  Source: IDC's program, which draws each of ImageNet-100's from ten.
  """
  if data.starts is None:
    return network.init(key)
  row = jax.random.randint(key, (), 0, len(data.starts))
  return experts.flat_parameters(network)[1](data.starts[row])


def with_statistics(network, variables, data, key, axis_name=None):
  """Batch norm's running averages from real images, as DC does; else none."""
  if not jax.tree.leaves(variables.stats):
    return variables
  images = sources.take(
      data, statistics_indices(data.everything, key), axis_name).images
  return variables._replace(stats=network.apply(variables, images, True)[1])


def local_share(found):
  """Of images `[…, n]` that all devices look at those this process reads.

  `sources.take` exchanges them between the devices.
  """
  return found[..., devices.local_items(found.shape[-1])]


def statistics_indices(everything, key):
  """The real images that `with_statistics` looks at, `[n]` int32."""
  keys = jax.random.split(key, len(everything.counts))
  return jax.vmap(sources.draw_without_repeats, (0, 0, 0, None))(
      keys, *everything, STATISTICS_IMAGES).reshape(-1)


def sweep_keys(key, step):
  """Keys of a sweep: of its new network, averages, matching, training."""
  return jax.random.split(jax.random.fold_in(key, step), 4)


def train_on_real(network, tx, settings, axis_name, data, key, steps, variables,
                  moments, begin=0, end=None):
  """SGD steps on batches of real images of all classes.

  Of `steps` in all those from `begin` to `end`, which may be traced.
  """
  change = train_step.augmentation(settings.net)
  order = training_indices(len(data.labels), settings.net.batch, steps, key)
  alter = jax.random.split(jax.random.split(key)[1], steps)

  def one(i, carry):
    batch = change(alter[i], sources.take(data, order[i], axis_name))
    return train_step.sgd_step(network, tx, *carry, batch, settings.net.lr,
                               axis_name)[:2]

  return jax.lax.fori_loop(begin, steps if end is None else end, one,
                           (variables, moments))


def training_indices(n, size, steps, key):
  """The real images that `from_real` looks at, `[steps, size]` int32."""
  if not steps:
    return jnp.zeros((0, size), jnp.int32)
  shuffle = jax.random.split(key)[0]
  passes = -(-steps * size // n)
  return jnp.concatenate([
      jax.random.permutation(k, n) for k in jax.random.split(shuffle, passes)
  ])[:steps * size].reshape(steps, size)


def between_sweeps(network, tx, settings, axis_name):
  """`(variables, moments, syn, data, pool, key) -> (variables, moments)`."""
  def on_real(variables, moments, syn, data, pool, key):
    del syn, pool
    return train_on_real(network, tx, settings, axis_name, data, key,
                    settings.steps, variables, moments)

  def on_synthetic(variables, moments, syn, data, pool, key):
    del pool
    batch = Batch(*synthetic.training_inputs(settings.codec, syn))
    each = len(batch.images) // len(syn.images)
    if axis_name is not None:
      batch = jax.lax.all_gather(batch, axis_name, tiled=True)
    # Rows that only fill a device stand at the end.
    batch = jax.tree.map(
        lambda x: x[:each * sources.class_count(data)], batch)
    change = train_step.augmentation(settings.net)
    def do(carry, indices, key):
      part = change(key, jax.tree.map(lambda x: x[indices], batch))
      return train_step.sgd_step(network, tx, *carry, part, settings.net.lr)[:2]
    def one(carry, key):
      return train_step.run_epoch(do, carry, key, len(batch.images),
                                  settings.net.batch), None
    return jax.lax.scan(one, (variables, moments),
                        jax.random.split(key, settings.steps))[0]

  return {'real': on_real, 'synthetic': on_synthetic}[settings.train_on]


def warmup_runner(network, tx, settings, axis_name):
  """`(carry, data, key, size) -> carry`, `size` more of its batches.

  carry: `(variables, moments, batches it has had)`; a network that has had
  none is begun before. key: that of the network. size may be traced.
  """
  def run(carry, data, key, size):
    variables, moments, had = carry
    start, order = jax.random.split(key)
    def begin(*_):
      variables = new_network(network, data, start)
      return variables, tx.init(variables.params)
    variables, moments = jax.lax.cond(
        had == 0, begin, lambda *old: old, variables, moments)
    if settings.warmup:
      variables, moments = train_on_real(
          network, tx, settings, axis_name, data, order, settings.warmup,
          variables, moments, had, had + size)
    return variables, moments, had + size
  return run


def warmup_indices(settings):
  """`Warm.looks` for `Settings` of a method of sweeps."""
  draw = jax.jit(training_indices, static_argnums=(0, 1, 2))

  def images(n, key, step):
    order = jax.random.split(sweep_keys(key, step)[0])[1]
    return local_share(draw(n, settings.net.batch, settings.warmup, order))
  return images


def warmup_of(settings, run, rest):
  """The `Warm` of a method whose networks live `settings.inner` sweeps.

  run: as `Warm.run`. rest: `Method` of the sweeps alone. None where there is
  no warm-up, or only the state tells when a network begins.
  """
  if settings.watch or not settings.warmup:
    return None
  def batches(step):
    return 0 if step % settings.inner else settings.warmup
  return Warm(batches, lambda state: state.warmed, run,
              warmup_indices(settings), rest)


def joined_indices(sweeps, warm):
  """`Method.looks` of sweeps with their warm-ups."""
  if warm is None:
    return sweeps
  def found(pool, mine, n, key, step):
    before = [warm.looks(n, key, step)] if warm.batches(step) else []
    return [*sweeps(pool, mine, n, key, step), *before]
  return found


class Lifetime(NamedTuple):
  """The life of a network as pure functions.

  init: `() -> memory`, carried in the method's state, alike on all devices.
  over: `(memory, step) -> bool`, whether this sweep begins with a new network.
  train: `(variables, moments, memory, syn, data, pool, key, step) ->
    (variables, moments, memory)`, after the images have moved.
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
    trainer: `(variables, moments, syn, data, pool, key) -> (variables,
      moments)`.
  """
  def train_(variables, moments, memory, syn, data, pool, key, step):
    # The network is thrown away after its last sweep: no need to train it.
    variables, moments = jax.lax.cond(
        step % inner < inner - 1, trainer, lambda v, m, *_: (v, m),
        variables, moments, syn, data, pool, key)
    return variables, moments, memory
  return Lifetime(lambda: (), lambda memory, step: step % inner == 0, train_)


def watched_lifetime(watch, sweeps, passes, trainer, accuracy):
  """A network lives and trains while that does something (CAFE's loops).

  After each sweep its accuracy is measured; the network ends when a window of
  them rests, or after `sweeps`. Else it trains pass by pass until a window of
  accuracies, one a pass, has moved, or for `passes`: the published loop has no
  such end and can go on for ever.

  Args:
    watch: a `AccuracyWatch`.
    sweeps, passes: the most of each.
    trainer: as for `counted`, one pass.
    accuracy: `(variables, data, pool, key) -> []`, the same on all devices.

  Source: CAFE (2203.01531), its dynamic bi-level optimization.
  """
  def init():
    return WatchMemory(jnp.zeros((), jnp.int32), jnp.zeros(watch.window))

  def over(memory, step):
    return (step == 0) | (memory.age == 0)

  def go(variables, moments, syn, data, pool, key):
    def on(carry):
      _, _, seen, done = carry
      moved = (done >= watch.window) & (span(seen) > watch.move)
      return (done < passes) & ~moved
    def one(carry):
      variables, moments, seen, done = carry
      alter, look = jax.random.split(jax.random.fold_in(key, done))
      variables, moments = trainer(variables, moments, syn, data, pool, alter)
      seen = push(seen, accuracy(variables, data, pool, look))
      return variables, moments, seen, done + 1
    start = variables, moments, jnp.zeros(watch.window), jnp.int32(0)
    return jax.lax.while_loop(on, one, start)[:2]

  def train_(variables, moments, memory, syn, data, pool, key, step):
    look, rest = jax.random.split(key)
    age = jnp.where(step == 0, 0, memory.age) + 1
    seen = push(memory.seen, accuracy(variables, data, pool, look))
    ended = (age >= sweeps) | (
        (age >= watch.window) & (span(seen) < watch.rest))
    variables, moments = jax.lax.cond(
        ended, lambda v, m, *_: (v, m), go,
        variables, moments, syn, data, pool, rest)
    return variables, moments, WatchMemory(jnp.where(ended, 0, age), seen)

  return Lifetime(init, over, train_)


def push(seen, value):
  """The last values `[window]` with a new one at the end."""
  return jnp.append(seen[1:], value)


def span(seen):
  """Largest less smallest."""
  return seen.max() - seen.min()


def watched_accuracy(network, images, axis_name=None):
  """`(variables, data, pool, key) -> []`: on `images` real images a class.

  They are drawn from the whole training set; each device looks at its classes.
  """
  def measure(variables, data, pool, key):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, pool.classes)
    def hits(args):
      key, row = args
      chosen = sources.draw_without_repeats(key, *row, images)
      return train_step.is_correct(network, variables, data, chosen).sum()
    found = jax.lax.map(hits, (keys, pool.everything)) * pool.present
    found = found.sum()
    if axis_name is not None:
      found = jax.lax.psum(found, axis_name)
    return found / (images * sources.class_count(data))
  return measure
