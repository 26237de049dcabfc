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

from dasm_jax.errors import UserError
from dasm_jax.runtime import environment, paths, text

CACHE_VERSION = 2  # of the files, and of what decoding makes
OPTION = '--config.dataset.cache'


class DecodedImages:
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
      if not self._read(row, image):
        self._there[row], found[j] = 0, False
    return found

  def _read(self, row, image):
    """Whether an image could be read as it was written."""
    # With an offset of its own: threads share the place in a file.
    try:
      read = os.preadv(self._images, [image], row * self._size)
    except OSError:  # It can be decoded all the same.
      return False
    # Each time: others may have cut the file meanwhile, and written to it.
    return read == self._size and _checksum(image) == self._there[row]

  def put(self, rows, out, places):
    """Keeps the images at `out[places]`; warns once if there is no room."""
    if self._full:
      return
    try:
      for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        image = memoryview(out[place]).cast('B')
        total = _checksum(image)
        # The checksum last: what a crash cuts short counts as not there.
        _write_all(self._images, image, row * self._size)
        _write_all(self._sums, np.array(total, '<u4').tobytes(), 4 * row)
        self._there[row] = total
    except OSError as error:
      self._full = True
      logging.getLogger('dasm_jax').warning(
          'no more decoded images are kept in %s: %s', self.path,
          error.strerror)


def with_cache(folder, name, parts, say):
  """The same parts, whose stores keep what they decode.

  Stores in memory stay as they are, and all where nothing can be kept.

  Args:
    folder: of `OPTION`, which is made if need be.
    name: of the set.
    parts: `{split: reader.Part}`.
    say: is told how many images are there, or why none are kept.

  Raises:
    UserError: a folder that is not of this machine.
  """
  if paths.is_remote(folder):
    raise UserError(f'{OPTION}={folder} has to be a directory of this machine: '
                    'images are read one by one')
  made, known = {}, {}
  for split, part in parts.items():
    store = part.store
    if store.identity is not None:
      if store.identity not in known:  # of held-out images it is the same
        known[store.identity] = store.identity()
      kept = _cache_of(folder, name, split, part, known[store.identity], say)
      part = part._replace(store=store._replace(kept=kept))
    made[split] = part
  return made


def _cache_of(folder, name, split, part, identity, say):
  """The `DecodedImages` of a part, or None where nothing can be written."""
  from PIL import __version__ as pillow
  digest = hashlib.sha256(
      f'{CACHE_VERSION} {pillow} {part.shape} {identity}'.encode()).hexdigest()
  plain = ''.join(x if x.isalnum() else '_'
                  for x in name.split('/')[-1])[-60:]
  folder = environment.expand(folder, '--config.dataset.cache')
  path = pathlib.Path(folder) / f'{plain}_{digest[:16]}.images'
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = DecodedImages(path, len(part.store.labels), part.shape)
    free = shutil.disk_usage(folder).free
  except OSError as error:  # It is a help, and no more.
    say(f'note      no decoded images of {name} {split} are kept in '
        f'{OPTION}={folder}: {error.strerror}')
    return None
  there, count = made.has(part.rows), len(part.rows)
  more = text.size((count - there) * math.prod(part.shape))
  say(f'decoded images of {name} {split}: {there} of {count} are in '
      f'{str(path)!r}' + (f', which may take {more} more; '
                          f'{text.size(free)} are free' if there < count
                          else ''))
  return made


def _write_all(handle, data, offset):
  """All of `data`: a disk that gets full takes a part of it first."""
  done = os.pwrite(handle, data, offset)
  while done < len(data):
    done += os.pwrite(handle, data[done:], offset + done)


def _checksum(image):
  """A checksum that is not 0, which says that there is none."""
  return zlib.crc32(image) or 1
