"""Inner programs of an experiment: a sweep, or an epoch, of shapes alone.

What a run calls over and over. They are compiled ahead of time for chips that
are not here (`compiled`), and timed where one is (tests/benchmarks/chip.py).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax.cost import estimate
from dasm_jax.distill import setup
from dasm_jax.methods import trajectory
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import ensemble
from dasm_jax.types import Batch, Synthetic, Window


class Program(NamedTuple):
  """An inner program.

  function: what is compiled. arguments: shapes. axes: a prefix of them, 0 what
  devices share out, None what each has; None: of one device. results: the same
  of what it returns.
  """
  function: object
  arguments: tuple
  axes: tuple | None = None
  results: object = 0


def shape(*sides, dtype=jnp.float32):
  """An array of no memory."""
  return jax.ShapeDtypeStruct(sides, dtype)


def key_shape():
  """A key of no memory."""
  return jax.eval_shape(lambda: jax.random.key(0))


# ---- Functions


def sweep_function(method, state):
  """A sweep of a method, or a step, as a turn of the loop of many of them.

  Args:
    method: a `Method`.
    state: its state, or the shapes of one.

  Returns:
    `(pack, run)`: `run(pack(state), data, windows, key) -> (packed, metrics)`.
  """
  pack, unpack = devices.kept_as(state)

  def run(packed, data, windows, key):
    state, metrics = devices.sweep(method, unpack(packed), data, windows, key)
    return pack(state), metrics
  return pack, run


def epoch_function(experiment, networks):
  """An epoch of training: `(function, keys -> state)`.

  networks: how many, at once or in turn as a run has them on this backend; None
  is one alone, without a leading axis.
  """
  network, recipe = experiment.network, experiment.recipe

  def run(key, batch, state):
    return ensemble.fit_epochs(
        network, recipe, key, batch, state, state.done + 1)

  def start(key):
    state = ensemble.fresh_state(network, recipe, key)
    return state._replace(done=jnp.int32(0), within=0)
  if networks is None:
    return run, start

  def every(keys, batch, state):
    return devices.map_items(lambda key, state: run(key, batch, state))(
        keys, state)
  return every, jax.vmap(start)


# ---- Programs


def sweep(experiment, phase):
  """One sweep of a method, or one step of a trajectory method.

  Args:
    experiment: an `Experiment`.
    phase: a part of a segment, as of `Experiment.phases`.

  Returns:
    A `Program`.
  """
  many = devices.count() > 1
  method = setup.build_method(experiment, phase, devices.AXIS if many else None)
  k, all_classes = len(experiment.rows(phase)), experiment.classes
  image = experiment.shape
  # Classes that are shared out fill each device; of trajectories none are.
  rows = devices.padded(k) if jax.tree.leaves(method.axes) else k
  syn = Synthetic(shape(rows, phase.width, *image),
                  shape(rows, phase.width, all_classes), shape())
  k = devices.padded(k)
  state = jax.eval_shape(method.init, key_shape(), syn)
  n = estimate.images_held(
      experiment, 'train', devices.memory(), devices.count())
  def window(classes):
    return Window(shape(classes, -(-n // all_classes), dtype=jnp.int32),
                  shape(classes, dtype=jnp.int32))
  data = _pairs(experiment) if 'starts' in experiment.config.method else (
      sources.Source(
          shape(n, *sources.flat_shape(image), dtype=jnp.uint8),
          shape(n, dtype=jnp.int32), window(all_classes), shape(image[-1]),
          shape(image[-1]), like=shape(*image, dtype=jnp.uint8)))
  frozen = phase.slots.start
  windows = sources.ClassWindows(
      shape(k, dtype=jnp.int32), shape(k), window(k), window(k),
      Batch(shape(k, frozen, *image), shape(k, frozen, all_classes)))

  if many:
    # What is shared out is told of the state as it is.
    return Program(
        functools.partial(devices.sweep, method),
        (state, data, windows, key_shape()), (method.axes, None, 0, None),
        (method.axes, None))
  pack, run = sweep_function(method, state)
  return Program(
      run, (jax.eval_shape(pack, state), data, windows, key_shape()))


def _pairs(experiment):
  weights = jax.eval_shape(experiment.network.init, jax.random.key(0)).params
  size = sum(x.size for x in jax.tree.leaves(weights))
  rows = shape(experiment.config.method.starts, size)
  return trajectory.Pairs(rows, rows, shape(dtype=jnp.int32))


def epoch(experiment, images, networks):
  """An epoch of networks on so many images, a `Program`.

  networks: of `epoch_function`.
  """
  batch = Batch(shape(images, *experiment.shape),
                shape(images, experiment.classes))
  run, start = epoch_function(experiment, networks)
  if networks is None:
    return Program(run, (key_shape(), batch,
                         jax.eval_shape(start, key_shape())))
  networks = devices.padded(networks)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), networks))
  return Program(run, (keys, batch, jax.eval_shape(start, keys)), (0, None, 0))
