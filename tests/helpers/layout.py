"""PyTorch's names and layouts of a network against our linen tree.

Theirs: `features.<k>.weight`, `layer1.0.bn1.weight`, …, in the order of use;
output axis first, maps flattened in C, H, W order. Ours: `Conv_<i>`,
`Norm_<i>`, `Dense_<i>`, in the same order; output axis last, H, W, C order.
"""

import math

import jax.numpy as jnp
import numpy as np

from dasm_jax.types import Variables

LEAVES = {
    'Conv': {'weight': 'kernel', 'bias': 'bias'},
    'Dense': {'weight': 'kernel', 'bias': 'bias'},
    'Norm': {'weight': 'scale', 'bias': 'bias'},
}
BUFFERS = {'running_mean': 'mean', 'running_var': 'var'}


def to_last(x):
  """The first axis (output units, channels) moved to the end."""
  return np.moveaxis(np.asarray(x), 0, -1)


def to_first(x):
  """The inverse of `to_last`."""
  return np.moveaxis(np.asarray(x), -1, 0)


def nhwc(x):
  """Images `[..., C, H, W]` as `[..., H, W, C]`."""
  return np.moveaxis(np.asarray(x), -3, -1)


def nchw(x):
  """The inverse of `nhwc`."""
  return np.moveaxis(np.asarray(x), -1, -3)


def flat(features):
  """A map `[n, H, W, C]` flattened as PyTorch does, `[n, C * H * W]`."""
  return nchw(features).reshape(len(features), -1)


class Layout:
  """Converts the variables of one network both ways.

  Args:
    shapes: their parameter names with shapes, in their order.
    maps: `(H, W, C)` of images and features; the last one that has as many
      entries as a linear layer has inputs is what that layer reads.
  """

  def __init__(self, shapes, maps):
    self.maps = {math.prod(shape): shape for shape in maps}
    self.modules = {}
    counts = {'Conv': 0, 'Dense': 0, 'Norm': 0}
    for name, shape in shapes.items():
      prefix, leaf = name.rsplit('.', 1)
      if leaf == 'weight':
        kind = {4: 'Conv', 2: 'Dense'}.get(len(shape), 'Norm')
        self.modules[prefix] = kind, f'{kind}_{counts[kind]}'
        counts[kind] += 1

  def variables(self, params, buffers, dtype):
    """Our `Variables` from their parameters and running statistics."""
    tree, stats = {}, {}
    for name, x in params.items():
      module, leaf = self._ours(name)
      tree.setdefault(module, {})[leaf] = jnp.asarray(
          self._in(module, x), dtype)
    for name, x in buffers.items():
      prefix, leaf = name.rsplit('.', 1)
      module = self.modules[prefix][1]
      stats.setdefault(module, {})[BUFFERS[leaf]] = jnp.asarray(x, dtype)
    return Variables(tree, stats)

  def theirs(self, params, name):
    """Their array called `name` from our tree of parameters or gradients."""
    module, leaf = self._ours(name)
    x = np.asarray(params[module][leaf])
    if module.startswith('Dense') and x.ndim == 2:
      x = x.reshape(*self.maps[len(x)], -1)  # H, W, C, out
      return nchw(to_first(x)).reshape(len(to_first(x)), -1)
    return np.transpose(x, (3, 2, 0, 1)) if x.ndim == 4 else to_first(x)

  def buffer(self, stats, name):
    """Their running statistic called `name` from ours."""
    prefix, leaf = name.rsplit('.', 1)
    return np.asarray(stats[self.modules[prefix][1]][BUFFERS[leaf]])

  def kind(self, name):
    """`Conv`, `Norm` or `Dense`: the layer that `name` belongs to."""
    return self.modules[name.rsplit('.', 1)[0]][0]

  def _ours(self, name):
    prefix, leaf = name.rsplit('.', 1)
    kind, module = self.modules[prefix]
    return module, LEAVES[kind][leaf]

  def _in(self, module, x):
    if module.startswith('Dense') and x.ndim == 2:
      height, width, channels = self.maps[x.shape[1]]
      x = x.reshape(len(x), channels, height, width)
      return to_last(nhwc(x).reshape(len(x), -1))
    return to_last(x) if x.ndim != 4 else np.transpose(x, (2, 3, 1, 0))
