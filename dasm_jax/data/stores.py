"""Where the images of a split are, and how some of them become arrays."""

import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dasm_jax import paths
from dasm_jax.data import folder
from dasm_jax.data.decoded import Decoded
from dasm_jax.data.images import decode, decode_bytes, is_gray
from dasm_jax.data.splits import brief
from dasm_jax.errors import UserError


class Store(NamedTuple):
  """A split that is not decoded yet; its rows have a fixed order.

  labels: `[n]` int32.
  items: rows (a list) to what `decode` needs of them; picklable.
  decode: `(items, out, places)`, writes item j to `out[places[j]]` and returns
    `[(j, error)]` of the broken ones; picklable.
  named: row to what a warning calls it.
  identity: `() -> text` that tells the images from others; None where they are
    in memory.
  kept: a `decoded.Decoded` of the rows, or None.
  """
  labels: np.ndarray
  items: Callable
  decode: Callable
  named: Callable
  identity: Callable | None = None
  kept: Decoded | None = None


def arrays(split):
  """A `Store` of a `Split` in memory."""
  return Store(split.labels, lambda rows: split.images[rows], _copy, str)


def files(names, labels, size):
  """A `Store` of image files, turned upright; size: as in `data.load`."""
  return Store(labels, lambda rows: [names[row] for row in rows],
               functools.partial(_decode_files, size), lambda row: names[row],
               lambda: f'{size} {_digest(names)}')


def records(source, labels, split, channels, size, identity):
  """A `Store` of a TFDS data source of encoded images.

  split: its name; channels: those of the feature, or None; identity: a function
  of nothing, to a text.
  """
  return Store(labels, list, functools.partial(
      _decode_records, source, channels, size),
      lambda row: f'{split} record {row}', lambda: f'{size} {identity()}')


def _digest(names):
  """What tells some files from others that were in their places."""
  digest = hashlib.sha256()
  for name in names:
    try:
      text = paths.identity(name)
    except OSError:  # A broken one, whatever it is.
      text = name
    digest.update(f'{text}\n'.encode())
  return digest.hexdigest()


def quiet_pillow():
  """What Pillow warns of (odd EXIF, palettes, large images) it also reads.

  For good: `warnings.catch_warnings` would undo what other threads set.
  """
  warnings.filterwarnings('ignore', module=r'PIL\.')


def channels_of(names):
  """3 if any readable image file has colours, else 1; looks at headers."""
  from PIL import Image
  quiet_pillow()
  for path in names:
    try:
      with Image.open(path) as image:
        if is_gray(image):
          continue
      return decode(path).shape[-1]
    except MemoryError:
      raise
    except Exception:  # Broken: it has no colours either.
      continue
  return 1


def first_shape(store):
  """`(height, width, channels)` of the first readable image, as it is."""
  for row in range(len(store.labels)):
    found = _Shape()
    if not store.decode(store.items([row]), found, [0]):
      return found.image.shape
  raise UserError(f'none of {len(store.labels)} images can be read: '
                  f'{store.named(0)} and the others are broken')


class _Shape:
  """Takes an image of any shape, as an `out` of one."""

  def __setitem__(self, place, image):
    self.image = image


def _copy(items, out, places):
  for image, place in zip(items, places, strict=True):
    out[place] = image
  return []


def _decode_files(size, items, out, places):
  return _put(items, out, places, lambda path: decode(path, size))


def _decode_records(source, channels, size, items, out, places):
  def image(example):
    return decode_bytes(example['image'], channels, size)
  try:
    # Many at once: one at a time is several times slower.
    block = source.__getitems__([int(row) for row in items])
  except MemoryError:
    raise
  except Exception:  # One broken record fails them all: ask for each.
    return _put(items, out, places, lambda row: image(source[int(row)]))
  return _put(block, out, places, image)


def _put(items, out, places, image_of):
  """Each item's image to its place; `[(j, error)]` of those without."""
  broken = []
  for j, item in enumerate(items):
    try:
      image = image_of(item)
      shape = getattr(out, 'shape', None)
      if shape and image.shape[:2] != shape[1:3]:
        raise folder.several_sizes({image.shape[1::-1], shape[2:0:-1]})
      out[places[j]] = image  # A gray one fills all three channels.
    except (MemoryError, UserError):
      raise
    except Exception as error:  # A broken image makes its decoder raise any.
      broken.append((j, _reason(error)))
  return broken


def _reason(error):
  from PIL import UnidentifiedImageError
  if isinstance(error, UnidentifiedImageError):
    return 'not an image'  # Pillow's names an object that means nothing.
  return brief(error)


def allow_files(count):
  """Lets the process hold `count` more files open, as far as it may.

  A shard that was read stays open: ImageNet has 1024, as many as the usual
  limit of all files of a process.
  """
  import resource
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  need = count + 512
  if resource.RLIM_INFINITY in (soft, hard) and soft == hard:
    return
  limit = need if hard == resource.RLIM_INFINITY else min(need, hard)
  if soft != resource.RLIM_INFINITY and soft < limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def listing(path, layout):
  """`(paths, labels)` of a folder of classes: texts, and `[n]` int32."""
  names, labels = [], []
  for file, label in folder.labelled(path, layout.class_names):
    names.append(os.fspath(file))
    labels.append(label)
  return names, np.array(labels, np.int32)
