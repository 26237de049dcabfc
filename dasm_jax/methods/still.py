"""No matching at all: the images stay what they began as (coresets)."""

from typing import NamedTuple

import jax.numpy as jnp

from dasm_jax.types import Array, Method, Synthetic


class State(NamedTuple):
  """As that of the other methods, as far as there is anything to carry."""
  syn: Synthetic
  step: Array  # [] int32


def method():
  """A `Method` whose steps move no image."""
  def init(key, syn):
    del key
    return State(syn, jnp.zeros((), jnp.int32))

  def step(state, data, pool, key):
    del data, pool, key
    return state._replace(step=state.step + 1), {}

  return Method(init, step, State(Synthetic(0, 0, None), None))
