"""The labels of all records of a set, read once and kept on disk."""

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from dasm_jax import paths, words
from dasm_jax.data import records
from dasm_jax.data.pool import ordered

VERSION = 1  # of the file: a digest of 32 bytes, then the labels, int32
BLOCK = 200  # records read at once
SECONDS = 10  # between two lines of progress


def labels(name, builder, split, threads, say):
  """`[n]` int32 of a prepared TFDS split; decodes no image.

  ImageNet has 1.28 million records of 110 kB with a label somewhere in each,
  so the labels are written beside the set, or below `~/.cache` where that is
  read-only, under the digest of the shards' paths, sizes and times; a file
  that is damaged or of another set is as none.

  threads: how many read. say: is told of progress, a line at a time. Raises
  `UserError` for a split that cannot be read and for missing labels.
  """
  with records.opened(name, builder, split) as source:
    places = _places(builder, split)
    for path in places:
      found = _load(path, len(source))
      if found is not None:
        return found
    found = _read(source, f'{name} {split}', threads, say)
  records.refuse_missing(name, split, found)
  if not any(_save(path, found) for path in places):
    say(f'cannot keep the labels of {name} {split}: nothing can be written to '
        + ' or '.join(str(path.parent) for path in places))
  return found


def _read(source, what, threads, say):
  count = len(source)
  blocks = [range(at, min(at + BLOCK, count)) for at in range(0, count, BLOCK)]

  def block(rows):
    # Python integers: an array of indices is refused.
    return [example['label'] for example in source.__getitems__(list(rows))]

  found = np.empty(count, np.int32)
  said = start = time.monotonic()
  for rows, part in zip(blocks, ordered(block, blocks, threads), strict=True):
    found[rows.start:rows.stop] = part
    now = time.monotonic()
    if now - said >= SECONDS:
      said = now
      left = (now - start) * (count / rows.stop - 1)
      say(f'reading the labels of {what}, once: {rows.stop} of {count}, about '
          f'{words.seconds(left)} left')
  return found


def _places(builder, split):
  """Where the labels may be, the best place first."""
  name = f'{split}-{identity(builder, split)[:24]}.labels'
  cache = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  kept = cache / 'dasm_jax' / 'index' / f'{builder.name}-{name}'
  if paths.is_far(builder.data_dir):
    return kept,
  return Path(builder.data_dir) / f'.dasm_jax-{name}', kept


def identity(builder, split):
  """What tells a prepared TFDS split from others, hexadecimal digits."""
  digest = hashlib.sha256(f'{VERSION}'.encode())
  for path in builder.info.splits[split].filepaths:
    digest.update(f'\n{paths.identity(path)}'.encode())
  return digest.hexdigest()


def _load(path, count):
  """The labels of a file, None if it is not whole."""
  try:
    data = path.read_bytes()
  except OSError:
    return None
  if (len(data) != 32 + 4 * count
      or hashlib.sha256(data[32:]).digest() != data[:32]):
    return None
  return np.frombuffer(data[32:], '<i4').astype(np.int32)


def _save(path, found):
  """Writes the labels all at once; whether that could be done."""
  data = found.astype('<i4').tobytes()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Root may write there all the same, against the will of who set it so.
    if not path.parent.stat().st_mode & 0o222:
      return False
    # A name of its own: others may be writing the same.
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f'{path.name}.')
    try:
      with os.fdopen(handle, 'wb') as file:
        file.write(hashlib.sha256(data).digest() + data)
      os.chmod(aside, 0o644)
      os.replace(aside, path)
    except BaseException:
      os.unlink(aside)
      raise
  except OSError:
    return False
  # What is beside the set under another digest is of a set that was.
  if path.name.startswith('.'):
    for old in path.parent.glob(f'{path.name.rsplit("-", 1)[0]}-*.labels'):
      if old != path:
        with contextlib.suppress(OSError):
          old.unlink()
  return True
