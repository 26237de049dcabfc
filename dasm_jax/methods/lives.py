"""How long a matching network lives, and how long it trains between sweeps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import source as sources
from dasm_jax import train
from dasm_jax.types import Array


class Life(NamedTuple):
  """The life of a network as pure functions.

  init: `() -> memory`, carried in the method's state, alike on all devices.
  over: `(memory, step) -> bool`, whether this sweep begins with a new network.
  train: `(variables, moments, memory, syn, data, pool, key, step) ->
    (variables, moments, memory)`, after the images have moved.
  """
  init: Callable
  over: Callable
  train: Callable


class Watch(NamedTuple):
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


class Memory(NamedTuple):
  """Of a watched network: sweeps lived `[]`, last accuracies `[window]`."""
  age: Array
  seen: Array


def counted(inner, trainer):
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
  return Life(lambda: (), lambda memory, step: step % inner == 0, train_)


def watched(watch, sweeps, passes, trainer, accuracy):
  """A network lives and trains while that does something (CAFE's loops).

  After each sweep its accuracy is measured; the network ends when a window of
  them rests, or after `sweeps`. Else it trains pass by pass until a window of
  accuracies, one a pass, has moved, or for `passes`: the published loop has no
  such end and can go on for ever.

  Args:
    watch: a `Watch`.
    sweeps, passes: the most of each.
    trainer: as for `counted`, one pass.
    accuracy: `(variables, data, pool, key) -> []`, the same on all devices.

  Source: CAFE (2203.01531), its dynamic bi-level optimization.
  """
  def init():
    return Memory(jnp.zeros((), jnp.int32), jnp.zeros(watch.window))

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
    return variables, moments, Memory(jnp.where(ended, 0, age), seen)

  return Life(init, over, train_)


def push(seen, value):
  """The last values `[window]` with a new one at the end."""
  return jnp.append(seen[1:], value)


def span(seen):
  """Largest less smallest."""
  return seen.max() - seen.min()


def accuracy(network, images, axis_name=None):
  """`(variables, data, pool, key) -> []`: on `images` real images a class.

  They are drawn from the whole training set; each device looks at its classes.
  """
  def measure(variables, data, pool, key):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, pool.classes)
    def hits(args):
      key, row = args
      chosen = sources.draw(key, *row, images)
      return train.correct(network, variables, data, chosen).sum()
    found = jax.lax.map(hits, (keys, pool.everything)) * pool.present
    found = found.sum()
    if axis_name is not None:
      found = jax.lax.psum(found, axis_name)
    return found / (images * sources.classes_of(data))
  return measure
