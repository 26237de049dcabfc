"""What a data set is here, and how it is divided and measured."""

import logging
import os
import re
from typing import NamedTuple

import numpy as np

from dasm_jax.errors import UserError


class Split(NamedTuple):
  """Images and what they show.

  images: `[n, height, width, channels]` uint8.
  labels: `[n]` int32, an index into `Dataset.class_names`.
  """
  images: np.ndarray
  labels: np.ndarray

  @property
  def shape(self):
    """`(height, width, channels)` of every image."""
    return self.images.shape[1:]

  def read(self, indices):
    """The images at `indices`, `[…, height, width, channels]`."""
    return self.images[indices]


class Dataset(NamedTuple):
  """A data set, in memory or to be read as it is needed.

  name: as it was asked for.
  train, test: `Split`s, or `lazy.Lazy`s; no image is in both.
  class_names: one per label.
  mean, std: per channel, on the [0, 1] scale, for normalising.
  """
  name: str
  train: Split
  test: Split
  class_names: tuple
  mean: tuple
  std: tuple


def empty(shape):
  """An uninitialised uint8 array; `UserError` where memory cannot hold it."""
  need = int(np.prod(shape, dtype=np.float64))
  # An allocation that is too large succeeds here and is killed later, half
  # way through the reading: so ask the machine first, where it can tell.
  try:
    have = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  except (AttributeError, OSError, ValueError):
    have = float('inf')
  if need < have:
    try:
      return np.empty(shape, np.uint8)
    except MemoryError:
      pass
  raise UserError(
      f'{shape[0]} images of {shape[1]}x{shape[2]} need {need / 2**30:.1f} GiB '
      'of memory, more than there is; set a smaller --config.dataset.size=')


def stratify(labels, fraction, seed=None):
  """Indices to keep and to hold out, `fraction` of every class, both sorted.

  Evenly spaced within a class, after a shuffle if there is a `seed`. A class
  of two or more gives at least one; a class of one gives none.
  """
  held = []
  # RandomState's stream is frozen for good, that of a Generator is not: the
  # same seed must mean the same images with every NumPy.
  random = None if seed is None else np.random.RandomState(seed % 2**32)
  for label in np.unique(labels):
    rows = np.flatnonzero(labels == label)
    if random is not None:
      rows = random.permutation(rows)
    if len(rows) > 1:
      count = min(max(1, int(len(rows) * fraction + 0.5)), len(rows) - 1)
      held.append(rows[(2 * np.arange(count) + 1) * len(rows) // (2 * count)])
  held = np.sort(np.concatenate(held)) if held else np.zeros(0, np.intp)
  return np.setdiff1d(np.arange(len(labels)), held), held


def mend(split, broken, where, class_names):
  """Puts in each broken image's place the next of its class that can be read.

  The first follows the last, as in `lazy`: both ways of reading see the same.

  Args:
    split: a `Split`, whose images are changed.
    broken: `{row: name}` of images that cannot be read.
    where: what they are of. class_names: of the labels.

  Raises:
    UserError: none of a class can be read.
  """
  for at in broken:
    rows = following(split.labels, at)
    good = next((row for row in rows if row not in broken), None)
    if good is None:
      raise none_readable(len(rows), class_names[split.labels[at]], where,
                          broken[at])
    split.images[at] = split.images[good]
  if broken:
    logging.getLogger('dasm_jax').warning(
        '%d of %d images of %s cannot be read; the next of their class stand '
        'in: %s', len(broken), len(split.labels), where,
        shorten(broken.values()))


def following(labels, at):
  """The images of a class from `at` on, the first following the last."""
  rows = np.flatnonzero(labels == labels[at])
  return np.roll(rows, -np.searchsorted(rows, at))


def none_readable(count, name, where, one):
  """A `UserError`: no image of a class can be read, `one` is why or which."""
  return UserError(f'none of the {count} images of class {name!r} in {where} '
                   f'can be read, {one} for one')


def take(split, rows):
  """The images of a split at `rows`."""
  return Split(split.images[rows], split.labels[rows])


def held_rows(labels, fraction, seed, class_names):
  """`(kept, held)`, `fraction` of each class held; else `UserError`."""
  counts = np.bincount(labels, minlength=len(class_names))
  few = [class_names[i] for i in np.flatnonzero(counts == 1)]
  if few:
    raise UserError(
        f'--config.dataset.holdout={fraction} needs two train images of every '
        f'class; there is one of {shorten(few)}')
  return stratify(labels, fraction, seed)


def hold_out(train, fraction, seed, class_names):
  """`(train, held)`, `Split`s, by `held_rows`."""
  kept, held = held_rows(train.labels, fraction, seed, class_names)
  return take(train, kept), take(train, held)


def statistics(images):
  """`(mean, std)` per channel of uint8 images, exact, on the [0, 1] scale."""
  return moments(sum(count_levels(images[start:start + 1000])
                     for start in range(0, len(images), 1000)))


def count_levels(images):
  """How often each channel has each level: `[channels, 256]` int64."""
  # Counting levels is exact and needs no float copy of the images.
  return np.stack([np.bincount(images[..., channel].ravel(), minlength=256)
                   for channel in range(images.shape[-1])])


def moments(counts):
  """`(mean, std)` per channel on the [0, 1] scale, of `count_levels`."""
  levels = np.arange(256) / 255
  means, stds = [], []
  for row in counts:
    share = row / row.sum()
    mean = float(share @ levels)
    std = float(np.sqrt(share @ (levels - mean) ** 2))
    means.append(mean)
    # A constant channel has nothing to scale, and must not divide by zero.
    stds.append(std if std > 1e-6 else 1.0)
  return tuple(means), tuple(stds)


def shorten(names, limit=5):
  """A few names and how many more, on one line."""
  names = [str(name) for name in names]
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(names[:limit]) + more


def brief(error, limit=200):
  """An exception on one line, cut: some list every data set there is."""
  # TFDS puts its own call before every message.
  text = re.sub(r'^Failed to construct dataset .*?}": ', '',
                ' '.join(str(error).split()))
  text = f'{type(error).__name__}: {text}'
  return text if len(text) <= limit else text[:limit - 3] + '...'
