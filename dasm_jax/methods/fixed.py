"""No matching at all: the images stay what they began as (coresets)."""

from typing import NamedTuple

import jax.numpy as jnp

from dasm_jax.types import Array, Drawn, Method, Synthetic, Variables


class State(NamedTuple):
  """As that of the other methods, as far as there is anything to carry."""
  syn: Synthetic
  step: Array  # [] int32
  variables: Variables | None = None  # of a teacher that chose (RDED)


def build(network, c, matching=None, options=None):
  """A `Method` whose steps move no image."""
  del matching, options

  def init(key, syn):
    # Who begins a segment puts the trained one in its place.
    teacher = network.init(key) if 'teacher' in c else None
    return State(syn, jnp.zeros((), jnp.int32), teacher)

  def draw(data, windows, key, step):
    del data, key, step
    # Nothing is read: the first images were chosen before.
    return Drawn(jnp.zeros((len(windows.classes), 0), jnp.int32), {})

  def step(state, data, windows, drawn, key):
    del data, windows, drawn, key
    return state._replace(step=state.step + 1), {}

  return Method(init, draw, step, State(Synthetic(0, 0, None), None))


def describe(c):
  """What it does, in one line."""
  del c
  return 'real images stay as they are'


def images_per_step(c, classes, decoded, steps):
  """0: there are no steps."""
  del c, classes, decoded, steps
  return 0
