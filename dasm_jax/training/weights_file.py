"""A trained network in a file: an .npz of arrays by name, ours or PyTorch's.

Ours are paths into `Variables`: `params/Conv_0/kernel`, `stats/Norm_0/mean`. A
PyTorch network is written by one line, without anything of ours:

    numpy.savez('teacher.npz', **{name: value.cpu().numpy()
                                  for name, value in net.state_dict().items()})

Its layers are taken in their order: the k-th convolution of the file is the
k-th of the network, and so are norms and linear layers.
"""

import os
import re

import jax
import numpy as np

from dasm_jax.errors import UserError
from dasm_jax.runtime import npz, paths, records
from dasm_jax.types import Network, Variables

# Of a layer in PyTorch: what kind it is by the dimensions of its weight.
KINDS = {4: 'Conv', 2: 'Dense', 1: 'Norm'}
COUNTERS = 'num_batches_tracked'  # of its batch norm; here nothing asks it


def save(path: str | os.PathLike, variables: Variables) -> None:
  """Writes `Variables`, all at once; `UserError` if the disk refuses.

  Args:
    path: of the .npz file.
    variables: `Variables`.
  """
  arrays = {_name(keys): np.asarray(value) for keys, value in
            jax.tree_util.tree_flatten_with_path(variables._asdict())[0]}
  with records.replacing(path) as file:
    np.savez(file, **arrays)


def load(path: str | os.PathLike, network: Network, shape: tuple[int, ...]
         ) -> Variables:
  """The `Variables` of a file, float32.

  Args:
    path: of the .npz file.
    network: the `Network` that it is of; shape: (height, width, channels) of
      its images.

  Returns:
    `Variables`.

  Raises:
    UserError: a file that cannot be read, or is of another network.
  """
  arrays = _read(path)
  wanted = jax.eval_shape(network.init, jax.random.key(0))
  flat, tree = jax.tree_util.tree_flatten_with_path(wanted._asdict())
  names = [_name(keys) for keys, _ in flat]
  if not set(arrays) & set(names):
    maps = jax.eval_shape(
        lambda v, x: network.features(v, x)[-1], wanted,
        jax.ShapeDtypeStruct((1, *shape), np.float32))
    arrays = _from_pytorch(path, arrays, maps.shape[1:])
  _compare(path, {name: x.shape for name, x in arrays.items()},
           {name: x.shape for name, (_, x) in zip(names, flat, strict=True)})
  return Variables(**jax.tree.unflatten(
      tree, [np.asarray(arrays[name], np.float32) for name in names]))


def _name(keys):
  return '/'.join(str(key.key) for key in keys)


def _read(path):
  try:
    return npz.read(paths.to_path(path))
  except FileNotFoundError:
    raise UserError(f'no file {str(path)!r}; --config.method.teacher takes an '
                    '.npz of weights') from None
  except npz.FAULTS as error:
    text = ' '.join(str(error).split())[:200] or type(error).__name__
    raise UserError(f'cannot read the weights in {str(path)[:200]!r}: {text}; '
                    '--config.method.teacher takes an .npz of arrays, as '
                    'numpy.savez writes it') from None


def _from_pytorch(path, arrays, maps):
  """PyTorch's arrays by our names.

  maps: (height, width, channels) of what the last linear layer reads.
  """
  layers = {}
  for name, value in arrays.items():
    layer, _, leaf = name.rpartition('.')
    if leaf != COUNTERS:
      layers.setdefault(layer, {})[leaf] = value
  found, counts = {}, dict.fromkeys(KINDS.values(), 0)
  for layer, leaves in layers.items():
    kind = KINDS.get(np.ndim(leaves.get('weight', 0)))
    if kind is None:
      raise UserError(f'{str(path)!r} has {layer!r} without a weight of a '
                      'convolution, norm or linear layer; give weights by '
                      "PyTorch's names or ours")
    at, counts[kind] = f'{kind}_{counts[kind]}', counts[kind] + 1
    found.update(_layer(at, kind, leaves, maps))
  return found


def _layer(at, kind, leaves, maps):
  weight = leaves['weight']
  if kind == 'Conv':
    yield f'params/{at}/kernel', weight.transpose(2, 3, 1, 0)
  elif kind == 'Norm':
    yield f'params/{at}/scale', weight
  else:
    # Theirs reads channels first; where the map is one pixel it is the same.
    height, width, channels = maps
    if weight.shape[1] == height * width * channels:
      weight = weight.reshape(-1, channels, height, width).transpose(
          0, 2, 3, 1).reshape(len(weight), -1)
    yield f'params/{at}/kernel', weight.T
  for leaf, name in (('bias', f'params/{at}/bias'),
                     ('running_mean', f'stats/{at}/mean'),
                     ('running_var', f'stats/{at}/var')):
    if leaf in leaves:
      yield name, leaves[leaf]


def _compare(path, given, wanted):
  """Raises `UserError` for the first array that is not as the network's."""
  for name in sorted(given.keys() | wanted.keys(), key=_natural):
    if given.get(name) != wanted.get(name):
      raise UserError(
          f'the weights in {str(path)!r} are of another network: {name} is '
          f'{given.get(name, "missing")}, not {wanted.get(name, "there")}; '
          'see --config.network')


def _natural(name):
  return [int(part) if part.isdigit() else part
          for part in re.split(r'(\d+)', name)]
