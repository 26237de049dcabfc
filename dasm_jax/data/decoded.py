"""Decoded images kept on a disk: decoding is slow, and training comes back.

A file has room for every image of a split, and another a checksum for each that
is there. Both are sparse, and several processes may fill them: each image is
the same whoever decodes it.
"""

import hashlib
import logging
import math
import os
import pathlib
import shutil
import weakref
import zlib

import numpy as np

from dasm_jax import paths, words
from dasm_jax.errors import UserError

VERSION = 1  # of the files, and of what decoding makes
MARGIN = 64 * 2 ** 20  # bytes that are left free
OPTION = '--config.dataset.cache'


class Decoded:
  """The decoded images of one split, as far as they are there.

  An image counts only with its checksum, so what was cut short by a crash is
  decoded again.
  """

  def __init__(self, path, count, shape):
    """path: of the images, the checksums beside it; count: rows; shape: of one.

    Raises OSError.
    """
    self.path, self._size = path, math.prod(shape)
    self._images = self._opened(path, count * self._size)
    self._sums = self._opened(path.with_suffix('.sums'), 4 * count)
    self._there = np.frombuffer(
        os.pread(self._sums, 4 * count, 0), '<u4').copy()
    self._sound = np.zeros(count, bool)  # that were checked by this process
    self._full = False

  def _opened(self, path, size):
    """A descriptor of a file that is made so long, of no bytes on the disk."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    weakref.finalize(self, os.close, handle)
    if os.fstat(handle).st_size != size:
      os.ftruncate(handle, size)
    return handle

  def has(self, rows):
    """How many of some rows are there."""
    return int(np.count_nonzero(self._there[rows]))

  def take(self, rows, out, places):
    """Copies images to `out[places]`; whether each was there, `[k]` bool."""
    found = self._there[rows] != 0
    for j in np.flatnonzero(found):
      row, image = int(rows[j]), memoryview(out[places[j]]).cast('B')
      read = os.preadv(self._images, [image], row * self._size)
      if read != self._size or not (
          self._sound[row] or _sum(image) == self._there[row]):
        self._there[row], found[j] = 0, False
      else:
        self._sound[row] = True
    return found

  def put(self, rows, out, places):
    """Keeps the images at `out[places]`; warns once if there is no room."""
    if self._full:
      return
    try:
      for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        image = memoryview(out[place]).cast('B')
        total = _sum(image)
        _write(self._images, image, row * self._size)
        _write(self._sums, np.array(total, '<u4').tobytes(), 4 * row)
        self._there[row], self._sound[row] = total, True
    except OSError as error:
      self._full = True
      logging.getLogger('dasm_jax').warning(
          'no more decoded images are kept in %s: %s', self.path,
          error.strerror)


def kept(folder, name, parts, shape, say):
  """`(split, store, rows)` of a set, whose stores keep what they decode.

  Stores in memory stay as they are.

  Args:
    folder: of `OPTION`, which is made if need be.
    name: of the set.
    parts: such triples, rows: those of the store that are wanted.
    shape: of an image.
    say: is told how many are there.

  Raises:
    UserError: a folder elsewhere, one that cannot be written, too little room.
  """
  if paths.is_far(folder):
    raise UserError(f'{OPTION}={folder} has to be a directory of this machine: '
                    'images are read one by one')
  return [(split, store if store.identity is None else store._replace(
      kept=_kept(folder, f'{name} {split}', store, rows, shape, say)), rows)
          for split, store, rows in parts]


def _kept(folder, name, store, rows, shape, say):
  """The `Decoded` of a store."""
  from PIL import __version__ as pillow
  digest = hashlib.sha256(
      f'{VERSION} {pillow} {shape} {store.identity()}'.encode()).hexdigest()
  plain = ''.join(x if x.isalnum() else '_' for x in name.split('/')[-1])[-60:]
  path = pathlib.Path(folder) / f'{plain}_{digest[:16]}.images'
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Decoded(path, len(store.labels), shape)
  except OSError as error:
    raise UserError(f'cannot keep decoded images in {OPTION}={folder}: '
                    f'{error.strerror}; give another directory') from error
  lacking = (len(rows) - made.has(rows)) * math.prod(shape)
  free = shutil.disk_usage(folder).free
  if lacking and lacking + MARGIN > free:
    raise UserError(
        f'{OPTION}={folder} needs {words.size(lacking)} more for {name}, where '
        f'{words.size(free)} are free; give another directory, or none')
  say(f'decoded images of {name}: {made.has(rows)} of {len(rows)} are in '
      f'{str(path)!r}')
  return made


def _write(handle, data, offset):
  """All of `data`: a disk that gets full takes a part of it first."""
  done = os.pwrite(handle, data, offset)
  while done < len(data):
    done += os.pwrite(handle, data[done:], offset + done)


def _sum(image):
  """A checksum that is not 0, which says that there is none."""
  return zlib.crc32(image) or 1
