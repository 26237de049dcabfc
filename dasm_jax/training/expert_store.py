"""Expert buffers: files of weights by epoch, of which two rows are read.

A folder holds `buffer.json`, which says what the experts are, and a file for
each, `expert_0007.bin`: `[epochs + 1, parameters]`, row t after epoch t, as
little-endian float32 or bfloat16. A file has its name only once it is whole;
before, it ends in `.part`. Where only the last row counts, it is the only one.
`expert_0007.sums` has a checksum of each row, little-endian uint32; stores of
earlier versions have none.
"""

import contextlib
import json
import os
import pathlib
import shutil
import zlib
from typing import NamedTuple

import ml_dtypes
import numpy as np

from dasm_jax.errors import UserError, unknown
from dasm_jax.runtime import records, text

# Little-endian by name: the files may be read on another machine.
DTYPES = {'float32': np.dtype('<f4'),
          'bfloat16': np.dtype(ml_dtypes.bfloat16)}
SUM = np.dtype('<u4')
DISK_MARGIN = 64 * 2 ** 20  # bytes that a buffer leaves free on its disk


class ExpertStore(NamedTuple):
  """A folder of experts.

  number: how many are used. epochs: stored after row 0. size: parameters.
  dtype: a name in `DTYPES`. last: whether the last epoch alone is kept.
  """
  folder: pathlib.Path
  number: int
  epochs: int
  size: int
  dtype: str
  last: bool = False

  @property
  def bytes(self):
    """Of one expert."""
    rows = 1 if self.last else self.epochs + 1
    return rows * self.size * DTYPES[self.dtype].itemsize

  def path(self, expert):
    """The file of one expert."""
    return self.folder / f'expert_{expert:04d}.bin'

  def part(self, expert):
    """The file of one that is in training."""
    return self.path(expert).with_suffix('.part')

  def sums(self, expert):
    """The file of the checksums of its rows."""
    return self.path(expert).with_suffix('.sums')

  def begun(self, expert):
    """How many epochs of one in training, row 0 included, are written."""
    try:
      size, sums = (path(expert).stat().st_size
                    for path in (self.part, self.sums))
    except FileNotFoundError:
      return 0
    # Where the last row is the only one, none before it can be missing.
    return self.epochs if self.last else min(
        size // (self.size * DTYPES[self.dtype].itemsize),
        sums // SUM.itemsize)

  def missing(self):
    """The experts that are not there yet."""
    return [k for k in range(self.number) if not self.path(k).exists()]


def claim_store(folder, about, number, epochs, size, dtype='float32',
                last=False):
  """The buffer in `folder`, which is made if there is none.

  Args:
    folder: a path.
    about: a flat dict that JSON can hold: data set, network, training. What a
      buffer there was made of has to be the same.
    number: experts wanted; a folder may hold more.
    epochs: of each; a folder may hold more.
    size: parameters of the network.
    dtype: a name in `DTYPES`.
    last: whether only the last epoch is kept; `about` has to tell which.

  Raises:
    UserError: a buffer made of something else, of fewer epochs, one that
      cannot be read, one that is cut short, too little room for it.
  """
  if dtype not in DTYPES:
    raise unknown('dtype of experts', dtype, DTYPES)
  # All is checked before anything is made: what is refused leaves no folder.
  folder = pathlib.Path(folder)
  path = folder / 'buffer.json'
  about = json.loads(json.dumps({**about, 'size': size, 'dtype': dtype}))
  if path.exists():
    epochs = _check_same(path, about, epochs)
  buffer = ExpertStore(folder, number, epochs, size, dtype, last)
  for expert in range(number):
    _check_whole(buffer, expert)
  _check_room(buffer)
  if not path.exists():
    with _write_errors(folder):
      folder.mkdir(parents=True, exist_ok=True)
      records.write(path, 'experts', '', {**about, 'epochs': epochs}, indent=2)
  return buffer


def _check_same(path, about, epochs):
  """The number of epochs that are stored, if all else is as asked."""
  # Those of earlier versions have no seal. Nothing is set aside: experts may
  # have taken days, and other runs use them.
  try:
    there = records.load(path, 'experts', None,
                         lambda there: int(there['epochs']))
  except records.Damaged as error:
    raise UserError(f'{str(path)!r} does not describe experts: it is {error}; '
                    'give another --config.experts.dir') from None
  stored = int(there.pop('epochs'))
  # Epochs are compared by themselves: more than are asked for will do.
  differ = [f'{name} {there.get(name)!r}, not {about.get(name)!r}'
            for name in sorted({*there, *about})
            if there.get(name) != about.get(name)]
  if differ:
    raise UserError(f'the experts in {str(path.parent)!r} were made with '
                    f'{"; ".join(differ)}; give another --config.experts.dir')
  if stored < epochs:
    raise UserError(
        f'the experts in {str(path.parent)!r} have {stored} epochs, but '
        f'{epochs} are asked for; lower --config.experts.epochs with '
        '--config.method.last_epoch, or give another --config.experts.dir')
  return stored


def _check_whole(buffer, expert):
  path = buffer.path(expert)
  try:
    found = path.stat().st_size
  except FileNotFoundError:
    return
  if found != buffer.bytes:
    raise UserError(
        f'{str(path)!r} is damaged: {found} bytes, not {buffer.bytes}; delete '
        'it, and this expert will be trained again')


def _check_room(buffer):
  """Refuses what will not fit, before any expert is trained."""
  # Experts that are begun have taken some of it already.
  needed = sum(buffer.bytes - (path.stat().st_size if path.exists() else 0)
               for path in map(buffer.part, buffer.missing()))
  # The folder may be new: its disk is that of the nearest one that exists.
  there = buffer.folder
  while not there.exists():
    there = there.parent
  free = shutil.disk_usage(there).free
  if needed and needed + DISK_MARGIN > free:
    way = ('--workdir on a larger disk, or fewer --config.method.pretrained'
           if buffer.last else
           '--config.experts.dir on a larger disk, --config.experts.dtype='
           'bfloat16, or fewer --config.experts.number or .epochs')
    lacking = text.plural(len(buffer.missing()), 'expert')
    raise UserError(
        f'{lacking} need {needed / 1e9:.3g} GB in {str(buffer.folder)!r}, '
        f'where {free / 1e9:.3g} GB are free; use {way}')


@contextlib.contextmanager
def _write_errors(folder):
  try:
    yield
  except OSError as error:
    raise UserError(
        f'cannot write experts to {str(folder)!r}: {error.strerror}; those '
        'that are finished stay, make room and start again') from error


class ExpertWriter:
  """Writes one expert, epoch by epoch; `finish` gives the file its name."""

  def __init__(self, buffer, expert, begun=0):
    """begun: how many rows are there and stay; see `ExpertStore.begun`."""
    self._buffer, self._path = buffer, buffer.path(expert)
    self._part, self._before = buffer.part(expert), buffer.epochs - begun
    # Rows after those that stay are cut off: training goes on from a state that
    # is older than they are, and writes them again.
    kept = 0 if buffer.last else begun
    with _write_errors(buffer.folder):
      self._file = _opened_at(
          self._part, kept * buffer.size * DTYPES[buffer.dtype].itemsize)
      self._sums = _opened_at(buffer.sums(expert), kept * SUM.itemsize)

  def add(self, row):
    """Adds the weights `[size]` after the next epoch (first: at the start)."""
    # `_before` is 0 or more until the last row.
    self._before -= 1
    if self._buffer.last and self._before >= 0:
      return
    row = np.asarray(row).astype(DTYPES[self._buffer.dtype]).tobytes()
    with _write_errors(self._buffer.folder):
      self._file.write(row)
      self._sums.write(np.array(zlib.crc32(row), SUM).tobytes())

  def flush(self):
    """Makes durable what was added."""
    with _write_errors(self._buffer.folder):
      for file in self._file, self._sums:
        file.flush()
        os.fsync(file.fileno())

  def finish(self):
    """Makes the file durable and gives it its name."""
    self.flush()
    with _write_errors(self._buffer.folder):
      self._sums.close()
      self._file.close()
      os.replace(self._part, self._path)

  def close(self):
    """Leaves an expert that is not finished as it is."""
    for file in self._file, self._sums:
      with contextlib.suppress(OSError):
        file.close()


def _opened_at(path, size):
  """A file to add to, of which that many bytes stay."""
  file = path.open('r+b' if size else 'wb')
  file.truncate(size)
  file.seek(0, os.SEEK_END)
  return file


def read_rows(buffer, experts, epochs):
  """Weights of `experts[i]` after `epochs[i]`, float32 `[n, size]`.

  Only these rows are read from the disk.

  Raises:
    UserError: a file that is missing, damaged or cut short by now.
  """
  # A store may be many times as large as memory: a row is found by its place.
  out = np.empty((len(experts), buffer.size), np.float32)
  dtype = DTYPES[buffer.dtype]
  width = buffer.size * dtype.itemsize
  for i, (expert, epoch) in enumerate(zip(experts, epochs, strict=True)):
    path = buffer.path(expert)
    try:
      at = 0 if buffer.last else int(epoch)
      with path.open('rb') as file:
        file.seek(at * width)
        data = file.read(width)
      row, total = np.frombuffer(data, dtype), _sum_of(buffer, expert, at)
    except (OSError, ValueError) as error:
      raise UserError(f'cannot read the expert {str(path)!r}: {error}; start '
                      'again, and it will be trained again') from None
    if len(row) != buffer.size:
      raise UserError(f'{str(path)!r} ends before epoch {epoch}; delete it, '
                      'and this expert will be trained again')
    if total not in (None, zlib.crc32(data)):
      raise UserError(f'{str(path)!r} is damaged at epoch {epoch}, or not of '
                      f'{buffer.sums(expert).name}; delete it, and this expert '
                      'will be trained again')
    out[i] = row
  return out


def _sum_of(buffer, expert, row):
  """The checksum of a row; None where none were kept."""
  try:
    with buffer.sums(expert).open('rb') as file:
      file.seek(row * SUM.itemsize)
      return int(np.frombuffer(file.read(SUM.itemsize), SUM)[0])
  except FileNotFoundError:
    return None
  except IndexError:  # cut short
    return -1
