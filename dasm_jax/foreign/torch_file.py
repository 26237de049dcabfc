"""What torch.save wrote, as NumPy arrays: without PyTorch, and nothing is run.

A pickle is a program, whose words may call anything. Here it is first read
word by word, and only those are let through of which trees of tensors are
made; then it is run with a table of names of which none is a real function.
Tensors are looked up, and checked against the bytes that are there, when the
whole tree is known.

Sections: names that a pickle may say, what it may be made of, tensors, the two
layouts of a file (a zip since PyTorch 1.6, a chain of pickles before).
"""

import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from typing import NamedTuple

import ml_dtypes
import numpy as np

from dasm_jax.errors import UserError
from dasm_jax.runtime import paths

MOST_PICKLE = 2 ** 26  # bytes of a pickle, in which no image is
MOST_OPCODES = 200_000  # of an image set: some hundred
DEEPEST = 50  # containers within each other
# Arrays may take twice the file (views of one storage) and so many bytes more.
MOST_GROWTH, MOST_EXTRA = 2, 2 ** 26
MAGIC = 0x1950a86a20f9469cfc6c  # of the old layout

# Of a storage: those that begin with `torch.`, and of elements in tensors.
STORAGES = {
    'FloatStorage': np.float32, 'DoubleStorage': np.float64,
    'HalfStorage': np.float16, 'BFloat16Storage': ml_dtypes.bfloat16,
    'CharStorage': np.int8, 'ByteStorage': np.uint8, 'ShortStorage': np.int16,
    'IntStorage': np.int32, 'LongStorage': np.int64, 'BoolStorage': np.bool_}
DTYPES = {np.dtype(x).name: x for x in STORAGES.values()} | {
    name: getattr(np, name) for name in ('uint16', 'uint32', 'uint64')}

# What protocols 2 to 5 write trees of tensors with. No words that make or
# change objects of classes (NEWOBJ, INST, …), and no numbers in text.
OPCODES = {
    'PROTO', 'FRAME', 'STOP', 'MARK', 'POP', 'POP_MARK', 'NONE', 'NEWTRUE',
    'NEWFALSE', 'BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'BINFLOAT',
    'BINUNICODE', 'SHORT_BINUNICODE', 'BINSTRING', 'SHORT_BINSTRING',
    'BINBYTES', 'SHORT_BINBYTES', 'EMPTY_TUPLE', 'EMPTY_LIST', 'EMPTY_DICT',
    'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'LIST', 'DICT', 'APPEND', 'APPENDS',
    'SETITEM', 'SETITEMS', 'BINGET', 'LONG_BINGET', 'BINPUT', 'LONG_BINPUT',
    'MEMOIZE', 'GLOBAL', 'STACK_GLOBAL', 'REDUCE', 'BUILD', 'BINPERSID'}


class Malformed(ValueError):
  """A file that is cut, damaged, or none of torch.save."""


class Refused(ValueError):
  """What no tree of tensors needs, in words."""


def read(path):
  """The tree that torch.save wrote.

  Args:
    path: of a file, here or remote.

  Returns:
    Arrays, numbers, texts, None, and lists, tuples and dicts of these. Tensors
    are contiguous copies; bfloat16 is widened to float32, a Parameter is its
    tensor, an OrderedDict a dict.

  Raises:
    UserError: no such file, another or a damaged one, or one that asks for
      what is neither tensor nor number. Nothing of it was run then.
  """
  path = paths.to_path(path)
  try:
    with paths.remote_access(path), path.open('rb') as file:
      return _read(file)
  except Refused as error:
    raise UserError(
        f'{str(path)!r} holds {error}, which is no part of a set of images: '
        'nothing of it was run. Have its author save tensors alone, by '
        'torch.save({"images": …, "labels": …}, FILE)') from error
  except (Malformed, OSError, ValueError, EOFError, KeyError, IndexError,
          TypeError, AttributeError, OverflowError, RecursionError, MemoryError,
          NotImplementedError, RuntimeError, pickle.UnpicklingError,
          struct.error, zlib.error, zipfile.BadZipFile) as error:
    if isinstance(error, UserError):
      raise
    why = (str(error) if isinstance(error, Malformed)
           else getattr(error, 'strerror', None) or 'it is cut or damaged')
    raise UserError(f'{str(path)!r} is no whole file of torch.save: {why}; '
                    'fetch it again') from error


def _read(file):
  size = file.seek(0, 2)
  file.seek(0)
  start = file.read(4)
  file.seek(0)
  if start[:2] == b'PK':
    return _read_zip(file, size)
  if start[:1] == b'\x80':
    return _read_chain(file, size)
  raise Malformed('it begins as none does')


# ---- Names that a pickle may say


class _Inert:
  """What stands for an object of PyTorch or NumPy; it takes no state."""
  __slots__ = ()

  def __setstate__(self, state):
    raise Refused(f'a state for {type(self).__name__.strip("_").lower()}')


class _Name(_Inert):
  """A name that a pickle said, which may be called if `make` is not None."""
  __slots__ = ('name', 'make')

  def __init__(self, name, make=None):
    self.name, self.make = name, make

  def __call__(self, *args):
    if self.make is None:
      raise Refused(f'a call of {self.name}')
    return self.make(*args)


class _Storage(_Inert):
  __slots__ = ('key', 'dtype', 'count')

  def __init__(self, key, dtype, count):
    self.key, self.dtype, self.count = key, dtype, count


class _Tensor(_Inert):
  __slots__ = ('storage', 'offset', 'size', 'stride', 'dtype')

  def __init__(self, storage, offset, size, stride, dtype):
    self.storage, self.offset = storage, offset
    self.size, self.stride, self.dtype = size, stride, dtype


class _Mapping(dict):
  """An OrderedDict; state dicts have a `_metadata` beside, which is dropped."""
  __slots__ = ()

  def __setstate__(self, state):
    del state


class _NumpyDtype(_Inert):
  __slots__ = ('code', 'order')

  def __init__(self, code, *_):
    if not (isinstance(code, str) and re.fullmatch(r'[fiu][1248]|b1', code)):
      raise Refused(f'NumPy values of type {str(code)[:20]!r}')
    self.code, self.order = code, '<'

  def __setstate__(self, state):
    if state[1] not in ('<', '|', '>', '='):
      raise Malformed('it has a type of no known byte order')
    self.order = state[1]

  def get(self):
    """As NumPy has it."""
    return np.dtype(self.code).newbyteorder(self.order)


class _NumpyArray(_Inert):
  __slots__ = ('state',)

  def __init__(self, *_):
    self.state = None

  def __setstate__(self, state):
    self.state = state

  def get(self):
    _, shape, dtype, by_columns, content = self.state
    if not isinstance(dtype, _NumpyDtype) or not isinstance(content, bytes):
      raise Refused('a NumPy array of objects')
    dtype = dtype.get()
    if math.prod(_lengths(shape)) * dtype.itemsize != len(content):
      raise Malformed(f'it has no array of shape {shape}')
    return np.frombuffer(content, dtype).reshape(
        shape, order='F' if by_columns else 'C').copy()


class _NumpyScalar(_Inert):
  __slots__ = ('dtype', 'content')

  def __init__(self, dtype, content):
    self.dtype, self.content = dtype, content

  def get(self):
    if not isinstance(self.dtype, _NumpyDtype) or not isinstance(
        self.content, bytes):
      raise Refused('a NumPy value that is no number')
    return np.frombuffer(self.content, self.dtype.get(), 1)[0].item()


def _tensor(storage, offset, size, stride, *_):
  return _Tensor(storage, offset, size, stride, None)


def _typed_tensor(storage, offset, size, stride, grad, hooks, dtype, *_):
  del grad, hooks
  if not isinstance(dtype, _Name):
    raise Malformed('a tensor of it has no type')
  return _Tensor(storage, offset, size, stride,
                 DTYPES[dtype.name.removeprefix('torch.')])


def _parameter(tensor, *_):
  if not isinstance(tensor, _Tensor):
    raise Refused('a Parameter that is no tensor')
  return tensor


def _of_type(call, kind, arguments, *_):
  # Of a tensor with attributes, which are dropped.
  if not (isinstance(call, _Name) and isinstance(kind, _Name)
          and kind.name in ('torch.Tensor', 'torch.nn.parameter.Parameter')):
    raise Refused('a kind of tensor of its own')
  return call(*arguments)


def _mapping(pairs=()):
  return _Mapping(pairs)


def _latin1(text, encoding):
  # So protocol 2 writes bytes.
  if encoding not in ('latin1', 'latin-1'):
    raise Refused(f'bytes in {str(encoding)[:20]!r}')
  return text.encode('latin1')


def _size(lengths=()):
  return tuple(lengths)


_CALLS = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _typed_tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._tensor._rebuild_from_type_v2': _of_type,
    'torch.Tensor': None,
    'torch.nn.parameter.Parameter': None,
    'torch.Size': _size,
    'collections.OrderedDict': _mapping,
    '_codecs.encode': _latin1,
    'numpy.dtype': _NumpyDtype,
    'numpy.ndarray': None,
    'torch.storage.UntypedStorage': None,
    **{f'torch.{name}': None for name in (*STORAGES, *DTYPES)},
    # Called numpy.core before NumPy 2.
    **{f'numpy.{core}.multiarray.{name}': call
       for core in ('core', '_core') for name, call in (
           ('scalar', _NumpyScalar), ('_reconstruct', _NumpyArray))}}


class _Unpickler(pickle.Unpickler):
  """Runs a pickle whose words `_scan` has let through."""

  def __init__(self, file):
    super().__init__(file, encoding='latin1')  # of PyTorch under Python 2
    self.storages = {}

  def find_class(self, module, name):
    full = f'{module}.{name}'
    if full not in _CALLS:
      raise Refused(full[:80])
    # Made anew each time: what a pickle does to it, it does to itself.
    return _Name(full, _CALLS[full])

  def persistent_load(self, pid):
    if not (isinstance(pid, tuple) and len(pid) in (5, 6)
            and pid[0] == 'storage' and isinstance(pid[1], _Name)):
      raise Refused('a reference that is no storage')
    _, kind, key, _, count, *view = pid
    if view not in ([], [None]):
      raise Refused('a storage that is a part of another, as PyTorch 0.3 had')
    if not isinstance(key, str) or not _is_length(count):
      raise Malformed('a storage of it has no name or length')
    dtype = (np.uint8 if kind.name.endswith('.UntypedStorage')
             else STORAGES[kind.name.removeprefix('torch.')])
    found = self.storages.setdefault(key, _Storage(key, dtype, count))
    if (found.dtype, found.count) != (dtype, count):
      raise Malformed(f'storage {key[:20]!r} of it is said to be two things')
    return found


# ---- What a pickle may be made of


def _scan(content, start=0):
  """Where the pickle at `start` ends; raises unless all its words are known."""
  file = io.BytesIO(content)
  file.seek(start)
  for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
    if number >= MOST_OPCODES:
      raise Refused(f'a pickle of more than {MOST_OPCODES} words')
    if opcode.name not in OPCODES:
      raise Refused(f'the pickle word {opcode.name}')
    if opcode.name == 'GLOBAL' and argument.replace(' ', '.') not in _CALLS:
      raise Refused(argument.replace(' ', '.')[:80])
    # Python makes room for as many as are asked for.
    if opcode.name in ('BINPUT', 'LONG_BINPUT') and argument > number:
      raise Refused(f'a pickle that remembers word {argument} of {number}')
  return file.tell()


def _load(content):
  """`(tree of inert objects, storages by key)` of a scanned pickle."""
  unpickler = _Unpickler(io.BytesIO(content))
  return unpickler.load(), unpickler.storages


class _Values:
  """Turns a tree of inert objects into one of arrays, each made once.

  content: `_Storage -> bytes`. most: bytes that all arrays may take.
  """

  def __init__(self, content, most):
    self.content, self.left = content, most
    self.made, self.open = {}, set()

  def of(self, node, depth=0):
    """What a node stands for."""
    if node is None or isinstance(node, bool | int | float | str | bytes):
      return node
    # A list that is in itself would have no end; one that is there twice is
    # looked at once, else some dozen could stand for billions.
    at = id(node)
    if at in self.made:
      return self.made[at]
    if at in self.open or depth > DEEPEST:
      raise Refused(f'containers more than {DEEPEST} deep')
    self.open.add(at)
    self.made[at] = found = self._make(node, depth + 1)
    self.open.discard(at)
    return found

  def _make(self, node, depth):
    if isinstance(node, dict):
      if not all(isinstance(key, bool | int | float | str) for key in node):
        raise Refused('a dict whose keys are no texts or numbers')
      return {key: self.of(value, depth) for key, value in node.items()}
    if isinstance(node, list | tuple):
      return type(node)([self.of(value, depth) for value in node])
    if isinstance(node, _Tensor):
      return self._array(node)
    if isinstance(node, _NumpyArray | _NumpyScalar):
      return node.get()
    if isinstance(node, _Name) and node.make is None:
      return node.name  # torch.float32, said as a setting
    raise Refused(f'a {type(node).__name__.strip("_")}')

  def _array(self, tensor):
    if not isinstance(tensor.storage, _Storage):
      raise Malformed('a tensor of it has no storage')
    dtype = np.dtype(tensor.dtype or tensor.storage.dtype)
    shape, steps = _lengths(tensor.size), _lengths(tensor.stride)
    if len(shape) != len(steps) or not _is_length(tensor.offset):
      raise Malformed(f'a tensor of it has shape {shape} and strides {steps}')
    # Python's integers do not overflow.
    self.left -= math.prod(shape) * max(dtype.itemsize, 4)
    if self.left < 0:
      raise Refused(f'tensors of much more than the file, {shape} for one')
    content = self.content(tensor.storage)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(
        shape, steps, strict=True))
    if math.prod(shape) == 0:
      return np.zeros(shape, dtype)
    if (last + 1) * dtype.itemsize > len(content):
      raise Malformed(f'a tensor of shape {shape} reaches beyond its storage')
    flat = np.frombuffer(content, dtype, last + 1 - tensor.offset,
                         tensor.offset * dtype.itemsize)
    view = np.lib.stride_tricks.as_strided(
        flat, shape, [step * dtype.itemsize for step in steps], writeable=False)
    if dtype == np.bool_:
      return view.view(np.uint8) != 0  # a byte may be anything
    return np.array(view, np.float32 if dtype == ml_dtypes.bfloat16 else dtype,
                    order='C')


def _is_length(value):
  return type(value) is int and 0 <= value < 2 ** 48


def _lengths(values):
  if not (isinstance(values, tuple | list) and len(values) <= 32
          and all(map(_is_length, values))):
    raise Malformed(f'a tensor of it has the shape {str(values)[:40]}')
  return tuple(values)


# ---- The two layouts


def _read_zip(file, size):
  with zipfile.ZipFile(file) as archive:
    members = {member.filename: member for member in archive.infolist()}
    _check_members(archive.infolist(), size)
    roots = [name.removesuffix('data.pkl') for name in members
             if re.fullmatch(r'([^/]+/)?data\.pkl', name)]
    if len(roots) != 1:
      raise Malformed('it is another kind of zip, without a data.pkl')
    root = roots[0]
    if f'{root}constants.pkl' in members:
      raise Refused('a program (TorchScript)')
    order = members.get(f'{root}byteorder')
    if order and archive.read(order) != b'little':
      raise Refused('numbers in another byte order')
    if members[f'{root}data.pkl'].file_size > MOST_PICKLE:
      raise Refused(f'a pickle of more than {MOST_PICKLE} bytes')
    content = archive.read(f'{root}data.pkl')
    tree, _ = _load(content[:_scan(content)])
    storages = {}

    def bytes_of(storage):
      name = f'{root}data/{storage.key}'
      if name not in members:
        raise Malformed(f'it lacks {name[:60]!r}')
      if storage.key not in storages:
        storages[storage.key] = archive.read(name)
      found = storages[storage.key]
      if storage.count * np.dtype(storage.dtype).itemsize > len(found):
        raise Malformed(f'{name[:60]!r} of it is too short')
      return found
    return _Values(bytes_of, MOST_GROWTH * size + MOST_EXTRA).of(tree)


def _check_members(members, size):
  """Raises unless the members are stored, apart, and within the file."""
  if len({member.filename for member in members}) < len(members):
    raise Refused('a zip with two members of one name')
  for member in members:
    name = member.filename
    if name.startswith('/') or '\\' in name or '..' in name.split('/'):
      raise Refused(f'a zip member called {name[:40]!r}')
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
      raise Refused('a zip that is compressed or encrypted, as torch.save '
                    'writes none')
    if member.file_size != member.compress_size:
      raise Malformed(f'{name[:40]!r} of it has two sizes')
  # So no byte can be in two of them and be read again and again.
  if sum(member.file_size for member in members) > size:
    raise Refused('a zip whose members are larger than itself')


def _read_chain(file, size):
  """Of the layout before 1.6: five pickles, then the storages one by one."""
  head, at, pickles = file.read(MOST_PICKLE), 0, []
  for _ in range(5):
    end = _scan(head, at)
    pickles.append(_load(head[at:end]))
    at = end
    if pickles[0][0] != MAGIC:
      raise Malformed('it is another kind of pickle')
  _, (protocol, _), (system, _), (tree, storages), (keys, _) = pickles
  if protocol != 1001 or not isinstance(system, dict):
    raise Malformed('it is of no known version')
  if not system.get('little_endian', True):
    raise Refused('numbers in another byte order')
  if not isinstance(keys, list) or not all(
      isinstance(key, str) and key in storages for key in keys):
    raise Malformed('it has storages that nothing needs')
  places = {}
  for key in keys:
    file.seek(at)
    count, = struct.unpack('<q', file.read(8))
    length = storages[key].count * np.dtype(storages[key].dtype).itemsize
    if count != storages[key].count or at + 8 + length > size:
      raise Malformed(f'storage {key[:20]!r} of it is cut')
    places[key] = _Place(at + 8, length)
    at += 8 + length

  def bytes_of(storage):
    file.seek(places[storage.key].start)
    return file.read(places[storage.key].length)
  return _Values(bytes_of, MOST_GROWTH * size + MOST_EXTRA).of(tree)


class _Place(NamedTuple):
  start: int
  length: int
