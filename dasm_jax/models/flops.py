"""What one image costs in a network, counted in its trace."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import models
from dasm_jax.runtime import devices


class ForwardCost(NamedTuple):
  """What one image costs on its way through a network.

  flops: of products and convolutions. values: numbers that all operations
  make. maps: those that products and convolutions make. operations: how many
  there are. parameters: trained numbers.
  """
  flops: int
  values: int
  maps: int
  operations: int
  parameters: int


@functools.cache
def forward_cost(network, shape):
  """The `ForwardCost` of a network for images of `shape`, by its trace."""
  # By shapes alone: nothing is computed. As for a CPU wherever it is asked, so
  # that a machine that is not here costs the same from any other.
  variables = jax.eval_shape(network.init, jax.random.key(0))
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  with devices.building_for(devices.Target('cpu', 0)):
    jaxpr = jax.make_jaxpr(lambda v, x: network.apply(v, x)[0])(
        variables, image)
  return ForwardCost(*count_jaxpr(jaxpr.jaxpr), models.count(variables))


def count_jaxpr(jaxpr):
  """`[flops, values, maps, operations]` of a jaxpr, those within it too."""
  total = np.zeros(4, object)
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'convert_element_type':
      continue  # a part of what reads it, once compiled
    inner = list(_inner_jaxprs(list(equation.params.values())))
    if inner:
      times = equation.params.get('length', 1)  # of a scan
      total += times * sum(count_jaxpr(other) for other in inner)
      continue
    made = sum(math.prod(x.aval.shape) for x in equation.outvars)
    flops = _equation_flops(equation)
    total += [flops, made, made if flops else 0, 1]
  return total


def _inner_jaxprs(value):
  # A jaxpr, a closed one, or several (as the branches of `cond`).
  if hasattr(value, 'eqns'):
    yield value
  elif hasattr(value, 'jaxpr'):
    yield from _inner_jaxprs(value.jaxpr)
  elif isinstance(value, tuple | list):
    for one in value:
      yield from _inner_jaxprs(one)


def _equation_flops(equation):
  """Two for each multiplication of a product or a convolution."""
  made = math.prod(equation.outvars[0].aval.shape)
  if equation.primitive.name == 'dot_general':
    # Each number is a sum over the contracted axes.
    (summed, _), _ = equation.params['dimension_numbers']
    left = equation.invars[0].aval.shape
    return 2 * made * math.prod(left[axis] for axis in summed)
  if equation.primitive.name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    out, *rest = equation.params['dimension_numbers'].rhs_spec
    return 2 * made * math.prod(kernel[axis] for axis in rest)
  return 0
