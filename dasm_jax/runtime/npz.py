"""Files of NumPy arrays that may be a stranger's: nothing in them is run."""

import math
import zipfile
import zlib

import numpy as np

# What such a file may grow to: bytes, and times its size on the disk.
MOST_BYTES, MOST_GROWTH = 2 ** 30, 50
# What zip and NumPy raise for a file that is damaged, or none of theirs.
FAULTS = (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError,
          RecursionError, NotImplementedError, RuntimeError, zipfile.BadZipFile,
          zlib.error)


def read(path, names=None):
  """The arrays of an .npz by name, in their order; raises one of `FAULTS`.

  path: with `open('rb')`, here or of a bucket. names: those that are read; None
  reads all.
  """
  # Opened here: NumPy forgets to close a file that it cannot read.
  with path.open('rb') as raw:
    _checked_headers(raw)
    with np.load(raw, allow_pickle=False) as file:
      return {name: file[name] for name in file.files
              if names is None or name in names}


def headers(path):
  """`{name: (shape, dtype)}` of an .npz; raises one of `FAULTS`."""
  with path.open('rb') as raw:
    return _checked_headers(raw)


def _checked_headers(raw):
  """The headers; ValueError for an npz that takes more memory than it should.

  NumPy makes an array of the shape that a header tells before it reads it.
  """
  size, found = raw.seek(0, 2), {}
  raw.seek(0)
  with zipfile.ZipFile(raw) as file:
    members = file.infolist()
    if sum(x.file_size for x in members) > max(MOST_BYTES, MOST_GROWTH * size):
      raise ValueError('it would grow to more than it may')
    for member in members:
      with file.open(member) as array:
        version = np.lib.format.read_magic(array)
        shape, _, dtype = (
            np.lib.format.read_array_header_1_0 if version == (1, 0)
            else np.lib.format.read_array_header_2_0)(array)
        if math.prod(shape) * dtype.itemsize + array.tell() != member.file_size:
          raise ValueError(f'{member.filename} is not of shape {shape}')
        found[member.filename.removesuffix('.npy')] = shape, dtype
  raw.seek(0)
  return found
