"""Data sets too large for memory: images are read as they are asked for."""

import functools
import logging
import threading

import numpy as np

from dasm_jax.data import (
  decoded,
  digits,
  folder,
  index,
  records,
  refusals,
  stores,
  subset,
)
from dasm_jax.data.pool import Pool, cores
from dasm_jax.data.splits import (
  Dataset,
  count_levels,
  empty,
  following,
  held_rows,
  moments,
  none_readable,
  shorten,
  stratify,
)
from dasm_jax.data.table import row_of

SAMPLE = 2000  # images that mean and standard deviation are of


class Lazy:
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
      pool.Stopped: if `stop` said so.
    """
    indices = np.asarray(indices)
    if indices.size and not (np.issubdtype(indices.dtype, np.integer)
                             and 0 <= indices.min()
                             and indices.max() < len(self)):
      raise IndexError(f'indices must be integers from 0 to {len(self) - 1}')
    flat = self._instead[indices.ravel().astype(np.int64)]
    unique, first, inverse = np.unique(
        flat, return_index=True, return_inverse=True)
    out = empty((len(flat), *self.shape))
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
    rows = following(self.labels, at)
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


def open(name, *, data_dir=None, size=0, holdout=0.0, seed=0, classes='',
         threads=None, workers=0, cache='', say=lambda line: None):
  """The `Dataset` of `data.load`, its splits `Lazy`: the same pixels.

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
  refusals.options(name, size, holdout)
  lanes = cores() if threads is None else threads
  row = None
  if name == 'digits':
    parts, class_names = _digits(size)
  elif name.startswith(folder.PREFIX):
    parts, class_names = _folder(
        name[len(folder.PREFIX):], size, holdout, say, classes)
  else:
    parts, class_names, row = _records(
        name, data_dir, size, holdout, lanes, say)
  parts, class_names = _of_classes(parts, class_names, classes)
  (train, rows, shape), test = parts
  refusals.classes(name, train.labels[rows], class_names)
  if holdout:
    kept, held = held_rows(train.labels[rows], holdout, seed, class_names)
    test, rows = (train, rows[held], shape), rows[kept]
  refusals.tests(name, test[0].labels[test[1]], class_names, shape, test[2])
  both = [('train', train, rows), ('test', *test[:2])]
  if cache:
    both = decoded.kept(cache, name, both, shape, say)
  pool = Pool([store for _, store, _ in both], shape, threads, workers)
  made = [Lazy(f'{name} {split}', class_names, store, rows, pool, which, shape)
          for which, (split, store, rows) in enumerate(both)]
  mean, std = (row.mean, row.std) if row else ((), ())
  if len(mean) != shape[-1]:
    mean, std = _statistics(made[0], say)
  return Dataset(name, *made, class_names, mean, std)


def _of_classes(parts, class_names, classes):
  """The rows of the wanted classes, in stores that label them anew."""
  if not classes:
    return parts, class_names
  chosen, new = subset.indices(class_names, classes), []
  labels = np.full(len(class_names), -1, np.int32)
  labels[chosen] = np.arange(len(chosen))
  for part in parts:
    if part is not None:
      store, rows, shape = part
      store = store._replace(labels=labels[store.labels])
      part = store, rows[store.labels[rows] >= 0], shape
    new.append(part)
  return new, tuple(class_names[index] for index in chosen)


def _part(store, shape, rows=None):
  """A store, which of its rows, the shape of its images."""
  return store, np.arange(len(store.labels)) if rows is None else rows, shape


def _digits(size):
  *splits, class_names = digits.load(size)
  return [_part(stores.arrays(split), split.images.shape[1:])
          for split in splits], class_names


def _folder(path, size, holdout, say, classes):
  layout = folder.check(path, holdout)
  say(f'listing the images in {str(layout.train)!r}')
  paths, labels = stores.listing(layout.train, layout)
  count = len(paths)
  if layout.test is not None:
    more = stores.listing(layout.test, layout)
    paths, labels = paths + more[0], np.concatenate([labels, more[1]])
  whole = stores.files(paths, labels, size)
  # Those of others may have another size, or colours.
  wanted = subset.indices(layout.class_names, classes) if classes else labels
  rows = np.flatnonzero(np.isin(labels, wanted))
  some = [paths[row] for row in rows]
  height, width = (size, size) if size else stores.first_shape(
      stores.files(some, labels[rows], 0))[:2]
  shape = height, width, stores.channels_of(some)
  splits = stratify(labels, 0.2) if layout.cut else (
      np.split(np.arange(len(paths)), [count]))
  return [_part(whole, shape, rows) for rows in splits], layout.class_names


def _records(name, data_dir, size, holdout, lanes, say):
  builder, test_name = records.prepared(name, data_dir, holdout)
  parts, splits = [], list(filter(None, ['train', test_name]))
  stores.allow_files(sum(builder.info.splits[split].num_shards
                         for split in splits))
  for split in splits:
    labels = index.labels(name, builder, split, lanes, say)
    with records.opened(name, builder, split) as source:
      channels = builder.info.features['image'].shape[-1]
      identity = functools.partial(index.identity, builder, split)
      store = stores.records(source, labels, split, channels, size, identity)
      shape = stores.first_shape(store)
    parts.append(_part(stores.records(
        source, labels, split, shape[-1], size, identity), shape))
  class_names = records.class_names(builder, parts[0][0].labels)
  return [*parts, None][:2], class_names, row_of(builder.name)


def _statistics(train, say):
  """`splits.statistics` of a sample, block by block."""
  count = min(SAMPLE, len(train))
  if count < len(train):
    say(f'mean and standard deviation are of {count} of {len(train)} images')
  rows = np.arange(count) * len(train) // count
  return moments(sum(count_levels(train.read(rows[at:at + 100]))
                     for at in range(0, count, 100)))
