"""Formats that hold a set as it is stored, bit for bit: files of arrays.

Images are `[n, height, width, channels]` (`pt`: channels first), class after
class, as stored: not decoded, not normalised. Labels are class numbers `[n]`
int64, or probabilities `[n, classes]`. Nothing here needs another package, and
nothing that is read can name code.

Sections: what such a file holds, safetensors, npz, what PyTorch reads, ours.
"""

import math
import struct
import zipfile

import numpy as np

from dasm_jax.evaluate import saved_set
from dasm_jax.runtime import npz, records, safetensors

SET = 'set'  # the name of the file, before its ending

# ---- What such a file holds

# Of `saved_set.to_arrays`; the others are said in the card.
NUMBERS = ('images', 'labels', 'mean', 'std', 'zca_mean', 'zca_matrix', 'told')


def flat(arrays):
  """The numbers of a set, image after image, with labels as int64."""
  out = {name: arrays[name] for name in NUMBERS if name in arrays}
  for name in ('images', 'labels'):
    array = arrays[name]
    out[name] = array.reshape(-1, *array.shape[2:])
  if out['labels'].ndim == 1:
    out['labels'] = out['labels'].astype(np.int64)
  return out


def stored(found, card, told):
  """The arrays of a set of the numbers of a file; the inverse of `flat`.

  Args:
    found: `{name: array}`. card: of the set. told: of the export.

  Raises:
    ValueError, KeyError, TypeError: they are none.
  """
  names, storage = told['class_names'], card['storage']
  out = dict(found)
  for name in ('images', 'labels'):
    out[name] = found[name].reshape(len(names), -1, *found[name].shape[1:])
  if out['labels'].ndim == 2:
    out['labels'] = out['labels'].astype(np.int32)
  # In the order of `saved_set.to_arrays`.
  texts = {'label_kind': np.array(told['label_kind']),
           'class_names': np.array(names),
           'factor': np.int32(storage['factor']),
           'space': np.array(storage['space'])}
  order = ('images', 'labels', 'label_kind', 'class_names', 'mean', 'std',
           'factor', 'space', 'told', 'zca_mean', 'zca_matrix')
  merged = out | texts
  return {name: merged[name] for name in order if name in merged}


# ---- safetensors


def write_safetensors(folder, source):
  """Writes set.safetensors; returns its name and what the card says of it."""
  with records.replacing(folder / f'{SET}.safetensors') as file:
    safetensors.write(file, flat(source.arrays), {
        'space': source.set.codec.space, 'factor': str(source.set.codec.factor),
        'label_kind': source.card['label_kind']})
  return [f'{SET}.safetensors'], {}


def read_safetensors(folder, card, told):
  """The arrays of set.safetensors; see `stored`."""
  with (folder / f'{SET}.safetensors').open('rb') as file:
    return stored(safetensors.read(file), card, told)


# ---- npz


def write_npz(folder, source):
  """Writes set.npz, of numbers alone; see `write_safetensors`."""
  with records.replacing(folder / f'{SET}.npz') as file:
    np.savez(file, **flat(source.arrays))
  return [f'{SET}.npz'], {}


def read_npz(folder, card, told):
  """The arrays of set.npz; see `stored`."""
  return stored(npz.read(folder / f'{SET}.npz'), card, told)


# ---- What PyTorch reads

_STORAGES = {'float32': 'Float', 'float16': 'Half', 'float64': 'Double',
             'int64': 'Long', 'int32': 'Int', 'uint8': 'Byte'}


def write_pt(folder, source):
  """Writes set.pt, which torch.load(weights_only=True) opens.

  A zip file of storages and of one pickle, which is written by hand and names
  what rebuilds tensors, nothing else. Images are `[n, channels, height,
  width]`; the matrix of a whitening is still of channels last.

  Returns:
    Its name, and of each array its type, shape and place in the zip file.
  """
  set_, places, members = source.set, {}, []
  arrays = flat(source.arrays)
  arrays['images'] = np.moveaxis(arrays['images'], -1, 1)
  for name, array in arrays.items():
    places[name] = [array.dtype.name, list(array.shape),
                    f'{SET}/data/{len(members)}']
    members.append(safetensors.little_endian(array))
  tree = {name: _Tensor(str(number), *place[:2]) for number, (name, place)
          in enumerate(places.items())}
  tree |= {'class_names': list(set_.class_names), 'space': set_.codec.space,
           'factor': set_.codec.factor, 'formation': set_.codec.kind,
           'label_kind': source.card['label_kind']}
  with records.replacing(folder / f'{SET}.pt') as raw, zipfile.ZipFile(
      raw, 'w', zipfile.ZIP_STORED) as file:
    # Of one time, so that the same set is the same file.
    def add(name, content):
      file.writestr(zipfile.ZipInfo(f'{SET}/{name}'), content)
    add('data.pkl', b'\x80\x02' + b''.join(_pickled(tree)) + b'.')
    add('byteorder', b'little')
    for number, content in enumerate(members):
      add(f'data/{number}', content)
    add('version', b'3\n')
  return [f'{SET}.pt'], {'arrays': places}


class _Tensor:
  """A tensor in a tree for `_pickled`: the number of its storage, its type."""

  def __init__(self, key, kind, shape):
    self.key, self.kind, self.shape = key, kind, shape


def _pickled(tree):
  """Yields the opcodes, of protocol 2, that make a tree."""
  if isinstance(tree, dict):
    yield b'}('
    for name, value in tree.items():
      yield from _pickled(name)
      yield from _pickled(value)
    yield b'u'
  elif isinstance(tree, list | tuple):
    yield b'](' if isinstance(tree, list) else b'('
    for value in tree:
      yield from _pickled(value)
    yield b'e' if isinstance(tree, list) else b't'
  elif isinstance(tree, str):
    text = tree.encode('utf-8', 'surrogatepass')
    yield b'X' + struct.pack('<I', len(text)) + text
  elif isinstance(tree, bool):
    yield b'\x88' if tree else b'\x89'
  elif isinstance(tree, int):
    # Of the opcodes that weights_only knows, one for any size.
    yield b'\x8a\x08' + struct.pack('<q', tree)
  else:
    yield from _pickled_tensor(tree)


def _pickled_tensor(tensor):
  shape, strides = tensor.shape, []
  for place in range(len(shape)):
    strides.append(math.prod(shape[place + 1:]))
  # _rebuild_tensor_v2(storage, offset, shape, strides, grad?, hooks)
  yield b'ctorch._utils\n_rebuild_tensor_v2\n('
  yield b'('
  yield from _pickled('storage')
  yield f'ctorch\n{_STORAGES[tensor.kind]}Storage\n'.encode()
  yield from _pickled(tensor.key)
  yield from _pickled('cpu')
  yield from _pickled(math.prod(shape))
  yield b'tQ'
  for value in (0, tuple(shape), tuple(strides), False):
    yield from _pickled(value)
  yield b'ccollections\nOrderedDict\n)RtR'


def _checked_shape(values):
  if not all(type(value) is int and value >= 0 for value in values):
    raise ValueError(f'a shape of {values!r}')
  return tuple(values)


def read_pt(folder, card, told):
  """The arrays of set.pt, by what the card says: its pickle is not read."""
  path, found = folder / f'{SET}.pt', {}
  with zipfile.ZipFile(path) as file:
    for name, (kind, shape, member) in told['arrays'].items():
      if name not in NUMBERS or kind not in _STORAGES:
        raise ValueError(f'{name} of type {kind}')
      entry, shape = file.getinfo(member), _checked_shape(shape)
      kind = np.dtype(kind).newbyteorder('<')
      if entry.compress_type != zipfile.ZIP_STORED or (
          entry.file_size != math.prod(shape) * kind.itemsize):
        raise ValueError(f'{name} is not of shape {shape}')
      found[name] = np.frombuffer(file.read(entry), kind).reshape(
          shape).astype(kind.newbyteorder('='))
  found['images'] = np.ascontiguousarray(np.moveaxis(found['images'], 1, -1))
  return stored(found, card, told)


# ---- Ours


def write_card_set(folder, source):
  """Writes our synthetic.npz; see `write_safetensors`."""
  saved_set.write(folder / 'synthetic.npz', source.arrays, source.card)
  return ['synthetic.npz'], {}


def read_card_set(folder, card, told):
  """The arrays of synthetic.npz, which has all of them."""
  del card, told
  found = npz.read(folder / 'synthetic.npz')
  del found['card']
  return found
