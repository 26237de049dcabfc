"""Files of the format safetensors: arrays by name, and no code.

Eight bytes tell the length of a JSON header, which tells of each array its
type, its shape, and where in the rest of the file its bytes are.
"""

import json
import math
import struct

import ml_dtypes
import numpy as np

DTYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16,
    'BF16': ml_dtypes.bfloat16, 'I64': np.int64, 'I32': np.int32,
    'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_}
MOST_HEADER = 10 ** 7  # bytes; the format allows ten times that
# What reading a file that is none, cut or damaged raises.
FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError,
          RecursionError, OverflowError)


def write(file, arrays, metadata):
  """Writes arrays, `{name: array}`, and texts, `{name: text}`."""
  names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
  header, at = {'__metadata__': metadata}, 0
  for name, array in arrays.items():
    header[name] = {'dtype': names[array.dtype], 'shape': list(array.shape),
                    'data_offsets': [at, at + array.nbytes]}
    at += array.nbytes
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)  # so that numbers begin at multiples of 8
  file.write(struct.pack('<Q', len(text)) + text)
  for array in arrays.values():
    file.write(little_endian(array))


def little_endian(array):
  """The bytes of an array, whatever the order of this machine is."""
  return np.ascontiguousarray(array, array.dtype.newbyteorder('<')).tobytes()


def read(file):
  """The arrays of a file, `{name: array}`; bfloat16 is widened to float32.

  No more memory is taken than the file has bytes. Raises one of `FAULTS`.
  """
  size = file.seek(0, 2)
  file.seek(0)
  length = int.from_bytes(file.read(8), 'little')
  if not 0 < length <= min(MOST_HEADER, size - 8):
    raise ValueError('its header is longer than the file')
  header = json.loads(file.read(length))
  header.pop('__metadata__', None)
  spans = [entry['data_offsets'] for entry in header.values()]
  if sum(end - begin for begin, end in spans) > size:
    raise ValueError('its arrays are larger than the file')
  return {name: _array(file, entry, 8 + length, size)
          for name, entry in header.items()}


def _array(file, entry, start, size):
  dtype, shape = np.dtype(DTYPES[entry['dtype']]), entry['shape']
  begin, end = entry['data_offsets']
  fits = (all(type(x) is int and x >= 0 for x in (*shape, begin, end))
          and math.prod(shape) * dtype.itemsize == end - begin
          and start + end <= size)
  if not fits:
    raise ValueError(f'an array of shape {str(shape)[:40]} does not fit in it')
  file.seek(start + begin)
  # The format's numbers are little-endian, whatever this machine's are.
  array = np.frombuffer(file.read(end - begin), dtype.newbyteorder('<')).astype(
      dtype).reshape(shape)
  return array.astype(np.float32) if dtype == ml_dtypes.bfloat16 else array
