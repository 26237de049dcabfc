"""The one way images are read: as they are asked for.

A kind of data set makes a `Store` of each split, which knows where the images
are and how some of them become arrays; a `LazySplit` reads from one, and mends
what is broken. In memory is a split of which everything was read.
"""

import functools
import logging
import math
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dasm_jax.data import cache as image_cache
from dasm_jax.data import dataset as datasets
from dasm_jax.data.cache import DecodedImages
from dasm_jax.data.dataset import (
  Dataset,
  Split,
  brief,
  count_levels,
  empty_images,
  moments_of_levels,
  none_readable,
  same_class_from,
  shorten,
)
from dasm_jax.data.images import AS_IT_IS, shape_array
from dasm_jax.data.workers import DecoderPool
from dasm_jax.errors import UserError

COUNTED = 2 ** 26  # numbers of images that are counted at once


class ReadOptions(NamedTuple):
  """How images are read; what they are does not depend on it.

  threads: that decode, 0 for none; None for as many as cores where images are
    large.
  workers: processes that decode instead, started when they are needed.
  cache: a directory for decoded images, which are decoded once; '' for none.
  say: is told, a line at a time, what takes long.
  sample: images, evenly spaced, that the mean and standard deviation of a
    streamed split are of.
  """
  threads: int | None = None
  workers: int = 0
  cache: str = ''
  say: Callable = lambda line: None
  sample: int = 2000


class Store(NamedTuple):
  """A split that is not decoded yet; its rows have a fixed order.

  labels: `[n]` int32.
  items: rows (a list) to what `decode` needs of them; picklable.
  decode: `(items, out, places)`, writes item j to `out[places[j]]` and returns
    `[(j, error)]` of the broken ones; picklable.
  named: row to what a warning calls it.
  identity: `() -> text` that tells the images from others, for what is kept of
    them on disk; None where they are in memory, and nothing is kept.
  image_bytes: of an encoded image, about.
  kept: a `cache.DecodedImages` of the rows, or None.
  """
  labels: np.ndarray
  items: Callable
  decode: Callable
  named: Callable
  identity: Callable | None = None
  image_bytes: float = 0
  kept: DecodedImages | None = None


class Part(NamedTuple):
  """The images of a split, not read yet.

  store: a `Store`; rows: `[n]`, those that the split has, sorted.
  labels: `[n]` int32. shape: `(height, width, channels)` of every image.
  """
  store: Store
  rows: np.ndarray
  labels: np.ndarray
  shape: tuple


class Contents(NamedTuple):
  """What a kind of data set opens.

  train, test: `Part`s; test is None where a request needs none.
  class_names: one per label.
  statistics: `(mean, std)` that the field normalises with, or None.
  """
  train: Part
  test: Part | None
  class_names: tuple
  statistics: tuple | None = None


def part_of(store, shape, rows=None):
  """A `Part` of all rows of a store, or of some."""
  rows = np.arange(len(store.labels)) if rows is None else rows
  return Part(store, rows, store.labels[rows], shape)


def array_part(images, labels, shaping=AS_IT_IS):
  """A `Part` of images in memory.

  images: `[n, height, width, channels]` uint8; labels: `[n]` int32.
  shaping: what becomes of them, a `Shaping`.
  """
  store = Store(labels, lambda rows: images[rows],
                functools.partial(_copy_arrays, shaping), str)
  side = (shaping.size,) * 2 if shaping.size else images.shape[1:3]
  return part_of(store, (*side, images.shape[-1]))


def _copy_arrays(shaping, items, out, places):
  for image, place in zip(items, places, strict=True):
    out[place] = shape_array(image, shaping)
  return []


def put_images(items, out, places, image_of):
  """Decodes items one by one, for a store.

  Args:
    items: anything. out, places: see `Store.decode`.
    image_of: of an item, to a uint8 array `[height, width, channels]`.

  Returns:
    `[(j, error)]` of the items whose image cannot be read.

  Raises:
    UserError: for an image of another size than `out` has.
  """
  broken = []
  for j, item in enumerate(items):
    try:
      image = image_of(item)
      shape = getattr(out, 'shape', None)
      if shape and image.shape[:2] != shape[1:3]:
        raise several_sizes({image.shape[1::-1], shape[2:0:-1]})
      out[places[j]] = image  # A gray one fills all three channels.
    except (MemoryError, UserError):
      raise
    except Exception as error:  # A broken image makes its decoder raise any.
      broken.append((j, _broken_reason(error)))
  return broken


def several_sizes(sizes):
  """`UserError` for images of more than one `(width, height)`."""
  found = shorten(f'{width}x{height}' for width, height in sorted(sizes))
  return UserError(
      f'the images are of several sizes (width x height: {found}); set '
      '--config.dataset.size=64 (say) to resize and crop all to 64x64')


def _broken_reason(error):
  from PIL import Image, UnidentifiedImageError
  if isinstance(error, Image.DecompressionBombError):
    # Pillow's limit, twice what it warns of: Pillow calls it an attack.
    return (f'more than {2 * Image.MAX_IMAGE_PIXELS} pixels; make it smaller')
  if isinstance(error, UnidentifiedImageError):
    return 'not an image'  # Pillow's names an object that means nothing.
  return brief(error)


def first_shape(store, rows):
  """`(height, width, channels)` of the first readable of some rows, as it is.

  Raises `UserError` if there is none.
  """
  for row in rows:
    found = _ShapeProbe()
    if not store.decode(store.items([int(row)]), found, [0]):
      return found.image.shape
  raise UserError(f'none of {len(rows)} images can be read: '
                  f'{store.named(int(rows[0]))} and the others are broken')


class _ShapeProbe:
  """Takes an image of any shape, as an `out` of one."""

  def __setitem__(self, place, image):
    self.image = image


class LazySplit:
  """A split that is read image by image.

  labels: `[n]` int32, an index into `Dataset.class_names`.
  shape: `(height, width, channels)` of every image.
  part: the `Part` that it reads.
  """

  def __init__(self, name, class_names, part, pool, which, options):
    """name: what warnings call it. pool: a `DecoderPool` of the stores of both
    splits, which: the one of this. options: `ReadOptions`.
    """
    self.part, self.labels, self.shape = part, part.labels, part.shape
    self._name, self._class_names = name, class_names
    self._pool, self._which, self._options = pool, which, options
    self._instead = np.arange(len(part.rows))
    self._mending = threading.Lock()

  def __len__(self):
    return len(self.labels)

  @property
  def replaced(self):
    """`{index: index}`, the broken images so far and what stands in."""
    broken = np.flatnonzero(self._instead != np.arange(len(self)))
    return {int(at): int(self._instead[at]) for at in broken}

  def read(self, indices, stop=None):
    """The images at `indices` (any shape, any order), each decoded once.

    A broken image is replaced by the next of its class that can be read, the
    first following the last, which is the same whatever was read before.

    Args:
      indices: `[…]` integers from 0 to n - 1.
      stop: `() -> bool`, asked now and then whether to leave it.

    Returns:
      `[…, height, width, channels]` uint8.

    Raises:
      UserError: if no image of a class can be read.
      workers.ReadCancelled: if `stop` said so.
    """
    indices = np.asarray(indices)
    if indices.size and not (np.issubdtype(indices.dtype, np.integer)
                             and 0 <= indices.min()
                             and indices.max() < len(self)):
      raise IndexError(f'indices must be integers from 0 to {len(self) - 1}')
    flat = self._instead[indices.ravel().astype(np.int64)]
    unique, first, inverse = np.unique(
        flat, return_index=True, return_inverse=True)
    # Decoded to where it is wanted first, and copied from there to where else:
    # a set that just fits into memory has no room for a second one.
    out = empty_images((len(flat), *self.shape))
    broken = self._pool.fill(
        self._which, self.part.rows[unique], out, first, stop)
    if broken:
      self._mend([(int(unique[j]), error) for j, error in broken],
                 [out[first[j]] for j, _ in broken])
    sources = first[inverse]
    for place in np.flatnonzero(sources != np.arange(len(flat))):
      out[place] = out[sources[place]]
    return out.reshape(*indices.shape, *self.shape)

  def in_memory(self):
    """A `Split` of all images; raises what `read` raises."""
    return Split(self.read(np.arange(len(self))), self.labels)

  @functools.cached_property
  def _sampled(self):
    count = min(self._options.sample, len(self))
    if count < len(self):
      self._options.say(f'mean and standard deviation are of {count} of '
                        f'{len(self)} images')
    rows = np.arange(count) * len(self) // count
    # Few at a time: large images, counted by 64 bits, would fill the memory.
    some = max(1, min(100, COUNTED // math.prod(self.shape)))
    return moments_of_levels(sum(count_levels(self.read(rows[at:at + some]))
                                 for at in range(0, count, some)))

  def statistics(self):
    """`(mean, std)` of a sample, which is read once; raises as `read` does."""
    return self._sampled

  def _mend(self, broken, images):
    """Fills `images` with what stands in for the `broken`; warns once."""
    store, rows = self.part.store, self.part.rows
    # Two reads may find the same image broken: it is told of once.
    with self._mending:
      new = []
      for (at, error), image in zip(broken, images, strict=True):
        other = self._stand_in(at, error, image)
        if other != at and self._instead[at] == at:
          new.append(f'{store.named(rows[at])} ({error})')
        self._instead[at] = other
    if new:
      total = len(self.replaced)
      logging.getLogger('dasm_jax').warning(
          '%d of %d images of %s cannot be read%s; the next of their class '
          'stand in: %s', len(new), len(self), self._name,
          f' ({total} so far)' if total > len(new) else '', shorten(new))

  def _stand_in(self, at, error, image):
    """The first readable of a class from `at` on, its pixels in `image`."""
    store, rows = self.part.store, self.part.rows
    same = same_class_from(self.labels, at)
    # A second look at the image itself: storage may have been busy.
    for other in same:
      if self._instead[other] != other:
        continue  # Known to be broken.
      items = store.items([int(rows[other])])
      if not store.decode(items, image[None], [0]):
        return int(other)
    raise none_readable(len(same), self._class_names[self.labels[at]],
                        self._name, f'{store.named(rows[at])} ({error})')

  def close(self):
    """Ends the processes that read, of both splits of a data set."""
    self._pool.close()


def lazy_dataset(request, contents, options):
  """The `Dataset` of a request, its splits `LazySplit`s; reads no image.

  request: a `dataset.Request`; contents: the `Contents` of its kind; options:
  `ReadOptions`. Raises `UserError` for what does not fit together.
  """
  name, (train, test) = request.name, contents[:2]
  class_names, first, second = datasets.select(
      request, contents.class_names, train.labels,
      test.labels if test else None)
  # What is held out is read as train images are, from the same files.
  parts = {'train': _some(train, *first),
           'test': _some(train if request.held else test, *second)}
  datasets.check_test_split(name, parts['test'].labels, class_names,
                            train.shape, parts['test'].shape)
  if options.cache:
    parts = image_cache.with_cache(options.cache, name, parts, options.say)
  # One pool: the processes of both splits are the same.
  pool = DecoderPool([part.store for part in parts.values()], train.shape,
                     options.threads, options.workers)
  splits = (LazySplit(f'{name} {split}', class_names, part, pool, which,
                      options)
            for which, (split, part) in enumerate(parts.items()))
  return Dataset(name, *splits, class_names, datasets.known_statistics(
      request, contents.statistics, train.shape[-1]), request.cut)


def _some(part, rows, labels):
  """Those images of a `Part`, with new labels."""
  return part._replace(rows=part.rows[rows], labels=labels)
