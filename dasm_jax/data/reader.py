"""Data sets too large for memory: images are read as they are asked for.

A `Store` knows where the images of a split are and how some of them become
arrays; a `LazySplit` reads from one, and mends what is broken.
"""

import functools
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dasm_jax.data import cache as image_cache
from dasm_jax.data import dataset as datasets
from dasm_jax.data import digits, folder, images, tfds
from dasm_jax.data.cache import DecodedImages
from dasm_jax.data.dataset import (
  Dataset,
  brief,
  count_levels,
  empty_images,
  held_out_rows,
  moments_of_levels,
  none_readable,
  same_class_from,
  shorten,
  stratify,
)
from dasm_jax.data.images import decode, decode_bytes, is_gray
from dasm_jax.data.registry import row_of
from dasm_jax.data.workers import DecoderPool, cores
from dasm_jax.errors import UserError
from dasm_jax.runtime import paths


class Store(NamedTuple):
  """A split that is not decoded yet; its rows have a fixed order.

  labels: `[n]` int32.
  items: rows (a list) to what `decode` needs of them; picklable.
  decode: `(items, out, places)`, writes item j to `out[places[j]]` and returns
    `[(j, error)]` of the broken ones; picklable.
  named: row to what a warning calls it.
  identity: `() -> text` that tells the images from others; None where they are
    in memory.
  kept: a `cache.DecodedImages` of the rows, or None.
  """
  labels: np.ndarray
  items: Callable
  decode: Callable
  named: Callable
  identity: Callable | None = None
  kept: DecodedImages | None = None


def array_store(split):
  """A `Store` of a `Split` in memory."""
  return Store(split.labels, lambda rows: split.images[rows], _copy_arrays, str)


def file_store(names, labels, size):
  """A `Store` of image files, turned upright; size: as in `data.load`."""
  return Store(labels, lambda rows: [names[row] for row in rows],
               functools.partial(_decode_files, size), lambda row: names[row],
               lambda: f'{size} {_files_digest(names)}')


def record_store(source, labels, split, channels, size, identity):
  """A `Store` of a TFDS data source of encoded images.

  split: its name; channels: those of the feature, or None; identity: a function
  of nothing, to a text.
  """
  return Store(labels, list, functools.partial(
      _decode_records, source, channels, size),
      lambda row: f'{split} record {row}', lambda: f'{size} {identity()}')


def _files_digest(names):
  """What tells some files from others that were in their places."""
  digest = hashlib.sha256()
  for name in names:
    try:
      text = paths.identity(name)
    except OSError:  # A broken one, whatever it is.
      text = name
    digest.update(f'{text}\n'.encode())
  return digest.hexdigest()


def channels_of(names):
  """3 if any readable image file has colours, else 1; looks at headers."""
  from PIL import Image
  images.quiet_pillow()
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
    found = _ShapeProbe()
    if not store.decode(store.items([row]), found, [0]):
      return found.image.shape
  raise UserError(f'none of {len(store.labels)} images can be read: '
                  f'{store.named(0)} and the others are broken')


class _ShapeProbe:
  """Takes an image of any shape, as an `out` of one."""

  def __setitem__(self, place, image):
    self.image = image


def _copy_arrays(items, out, places):
  for image, place in zip(items, places, strict=True):
    out[place] = image
  return []


def _decode_files(size, items, out, places):
  return _put_images(items, out, places, lambda path: decode(path, size))


def _decode_records(source, channels, size, items, out, places):
  def image(example):
    return decode_bytes(example['image'], channels, size)
  try:
    # Many at once: one at a time is several times slower.
    block = source.__getitems__([int(row) for row in items])
  except MemoryError:
    raise
  except Exception:  # One broken record fails them all: ask for each.
    return _put_images(items, out, places, lambda row: image(source[int(row)]))
  return _put_images(block, out, places, image)


def _put_images(items, out, places, image_of):
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
      broken.append((j, _broken_reason(error)))
  return broken


def _broken_reason(error):
  from PIL import UnidentifiedImageError
  if isinstance(error, UnidentifiedImageError):
    return 'not an image'  # Pillow's names an object that means nothing.
  return brief(error)


def allow_open_files(count):
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


def list_folder(path, layout):
  """`(paths, labels)` of a folder of classes: texts, and `[n]` int32."""
  names, labels = [], []
  for file, label in folder.labelled(path, layout.class_names):
    names.append(os.fspath(file))
    labels.append(label)
  return names, np.array(labels, np.int32)

STATISTICS_SAMPLE = 2000  # images that mean and standard deviation are of


class LazySplit:
  """A split that is read image by image.

  labels: `[n]` int32, an index into `Dataset.class_names`.
  shape: `(height, width, channels)` of every image.
  """

  def __init__(self, name, class_names, store, rows, pool, which, shape):
    """rows: `[n]`, those of the store that the split has, sorted."""
    self.labels = store.labels[rows]
    self.shape = shape
    self._name, self._class_names, self._store = name, class_names, store
    self._rows, self._pool, self._which = rows, pool, which
    self._instead = np.arange(len(rows))
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
    out = empty_images((len(flat), *self.shape))
    broken = self._pool.fill(
        self._which, self._rows[unique], out, first, stop)
    if broken:
      self._mend([(int(unique[j]), error) for j, error in broken],
                 [out[first[j]] for j, _ in broken])
    for place, source in enumerate(first[inverse]):
      if source != place:
        out[place] = out[source]
    return out.reshape(*indices.shape, *self.shape)

  def _mend(self, broken, images):
    """Fills `images` with what stands in for the `broken`; warns once."""
    with self._mending:
      new = []
      for (at, error), image in zip(broken, images, strict=True):
        other = self._stand_in(at, error, image)
        if other != at and self._instead[at] == at:
          new.append(f'{self._store.named(self._rows[at])} ({error})')
        self._instead[at] = other
    if new:
      logging.getLogger('dasm_jax').warning(
          '%d of %d images of %s cannot be read (%d so far); the next of their '
          'class stand in: %s', len(new), len(self), self._name,
          len(self.replaced), shorten(new))

  def _stand_in(self, at, error, image):
    """The first readable of a class from `at` on, its pixels in `image`."""
    rows = same_class_from(self.labels, at)
    # A second look at the image itself: storage may have been busy.
    for other in rows:
      if self._instead[other] != other:
        continue
      items = self._store.items([int(self._rows[other])])
      if not self._store.decode(items, image[None], [0]):
        return int(other)
    raise none_readable(
        len(rows), self._class_names[self.labels[at]], self._name,
        f'{self._store.named(self._rows[at])} ({error})')

  def close(self):
    """Ends the processes that read, of both splits of a data set."""
    self._pool.close()


def open_lazy(name, *, data_dir=None, size=0, holdout=0.0, seed=0, classes='',
              threads=None, workers=0, cache='', say=lambda line: None):
  """The `Dataset` of `data.load`, its splits `LazySplit`: the same pixels.

  Broken images are still in it, and are replaced when they are read. Mean and
  standard deviation are a row's, else of up to 2000 train images, evenly
  spaced.

  name, data_dir, holdout, seed, classes: as in `data.load`.
  size: likewise; with 0 the images must be of one size, that of the first.
  threads: that decode; None for as many as cores, 0 for none.
  workers: processes that decode instead, started when they are needed.
  cache: a directory for decoded images, which are decoded once; '' for none.
  say: is told, a line at a time, what takes long.
  Raises `UserError`.
  """
  datasets.check_options(name, size, holdout)
  lanes = cores() if threads is None else threads
  row = None
  if name == 'digits':
    parts, class_names = _open_digits(size)
  elif name.startswith(folder.PREFIX):
    parts, class_names = _open_folder(
        name[len(folder.PREFIX):], size, holdout, say, classes)
  else:
    parts, class_names, row = _open_tfds(
        name, data_dir, size, holdout, lanes, say)
  parts, class_names = _choose_stores(parts, class_names, classes)
  (train, rows, shape), test = parts
  datasets.check_classes(name, train.labels[rows], class_names)
  if holdout:
    kept, held = held_out_rows(train.labels[rows], holdout, seed, class_names)
    test, rows = (train, rows[held], shape), rows[kept]
  datasets.check_test_split(name, test[0].labels[test[1]], class_names, shape,
                            test[2])
  both = [('train', train, rows), ('test', *test[:2])]
  if cache:
    both = image_cache.with_cache(cache, name, both, shape, say)
  pool = DecoderPool([store for _, store, _ in both], shape, threads, workers)
  made = [LazySplit(f'{name} {split}', class_names, store, rows, pool, which,
                    shape)
          for which, (split, store, rows) in enumerate(both)]
  mean, std = (row.mean, row.std) if row else ((), ())
  if len(mean) != shape[-1]:
    mean, std = _sample_statistics(made[0], say)
  return Dataset(name, *made, class_names, mean, std)


def _choose_stores(parts, class_names, classes):
  """The rows of the wanted classes, in stores that label them anew."""
  if not classes:
    return parts, class_names
  chosen, new = datasets.class_indices(class_names, classes), []
  labels = np.full(len(class_names), -1, np.int32)
  labels[chosen] = np.arange(len(chosen))
  for part in parts:
    if part is not None:
      store, rows, shape = part
      store = store._replace(labels=labels[store.labels])
      part = store, rows[store.labels[rows] >= 0], shape
    new.append(part)
  return new, tuple(class_names[index] for index in chosen)


def _whole_store(store, shape, rows=None):
  """A store, which of its rows, the shape of its images."""
  return store, np.arange(len(store.labels)) if rows is None else rows, shape


def _open_digits(size):
  *splits, class_names = digits.load(size)
  return [_whole_store(array_store(split), split.images.shape[1:])
          for split in splits], class_names


def _open_folder(path, size, holdout, say, classes):
  layout = folder.check(path, holdout)
  say(f'listing the images in {str(layout.train)!r}')
  paths, labels = list_folder(layout.train, layout)
  count = len(paths)
  if layout.test is not None:
    more = list_folder(layout.test, layout)
    paths, labels = paths + more[0], np.concatenate([labels, more[1]])
  whole = file_store(paths, labels, size)
  # Those of others may have another size, or colours.
  wanted = datasets.class_indices(layout.class_names,
                                  classes) if classes else labels
  rows = np.flatnonzero(np.isin(labels, wanted))
  some = [paths[row] for row in rows]
  height, width = (size, size) if size else first_shape(
      file_store(some, labels[rows], 0))[:2]
  shape = height, width, channels_of(some)
  splits = stratify(labels, 0.2) if layout.cut else (
      np.split(np.arange(len(paths)), [count]))
  return [_whole_store(whole, shape, rows)
          for rows in splits], layout.class_names


def _open_tfds(name, data_dir, size, holdout, lanes, say):
  builder, test_name = tfds.prepared_builder(name, data_dir, holdout)
  parts, splits = [], list(filter(None, ['train', test_name]))
  allow_open_files(sum(builder.info.splits[split].num_shards
                       for split in splits))
  for split in splits:
    labels = tfds.read_labels(name, builder, split, lanes, say)
    with tfds.open_source(name, builder, split) as source:
      channels = builder.info.features['image'].shape[-1]
      identity = functools.partial(tfds.split_identity, builder, split)
      store = record_store(source, labels, split, channels, size, identity)
      shape = first_shape(store)
    parts.append(_whole_store(record_store(
        source, labels, split, shape[-1], size, identity), shape))
  class_names = tfds.class_names(builder, parts[0][0].labels)
  return [*parts, None][:2], class_names, row_of(builder.name)


def _sample_statistics(train, say):
  """`datasets.statistics` of a sample, block by block."""
  count = min(STATISTICS_SAMPLE, len(train))
  if count < len(train):
    say(f'mean and standard deviation are of {count} of {len(train)} images')
  rows = np.arange(count) * len(train) // count
  return moments_of_levels(sum(count_levels(train.read(rows[at:at + 100]))
                               for at in range(0, count, 100)))
