"""Inner programs that aot.py compiles and chip.py runs, before their arguments.
"""

import jax
import jax.numpy as jnp

from dasm_jax.runtime import devices
from dasm_jax.training import ensemble


def sweep(method, state):
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


def epoch(experiment, networks):
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
