"""What a data set is here: its splits, classes, statistics, and refusals."""

import difflib
import os
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dasm_jax.data.images import BACKGROUNDS, RESIZES, Shaping
from dasm_jax.data.registry import (
  CLASS_LISTS,
  IMAGENET,
  STATISTICS,
  choices,
)
from dasm_jax.errors import UserError, unknown


class Request(NamedTuple):
  """Which images of which data set are asked for; see `data.load`.

  cut: what a kind holds out of each class where neither it nor the request has
    test images.
  """
  name: str
  data_dir: str | None = None
  size: int = 0
  holdout: float = 0.0
  seed: int | None = 0
  classes: str = ''
  resize: str = 'crop'
  background: str = 'white'
  statistics: str = 'auto'
  test_crop: float = 1.0
  cut: float = 0.0

  @property
  def held(self):
    """The share of each class of train that is the test split, or 0."""
    return self.holdout or self.cut

  @property
  def shaping(self):
    """What decoding makes of each image, a `Shaping`."""
    return Shaping(self.size, self.resize, self.background)

  @property
  def test_shaping(self):
    """The same of images of the set's own test split."""
    return self.shaping._replace(keep=self.test_crop)


class Description(NamedTuple):
  """What is known of a data set before its images are read.

  class_names: one per label; () where none is known before the labels are
    read, and `content` raises.
  content: `() -> (train labels, test labels, shape)`, `[n]` ints each, and
    (height, width, channels), None where they differ; of a set that tells only
    how many images there are, classes count as equally large. Raises
    `UserError` where nobody has counted.
  source: what the kind's `open` goes on with.
  check: `() -> None`, raises `UserError` if the set cannot be read or prepared.
  missing: '' of a set that lies here; else how a run gets it, in words.
  request: the `Request`; `data.describe` fills it in where a kind does not
    change it.
  """
  class_names: tuple
  content: Callable
  source: object = None
  check: Callable = lambda: None
  missing: str = ''
  request: Request | None = None


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

  def in_memory(self):
    """Itself; see `reader.LazySplit.in_memory`."""
    return self

  def statistics(self):
    """`(mean, std)` of all images, see `statistics`."""
    return statistics(self.images)

  def close(self):
    """Nothing; see `reader.LazySplit.close`."""


class Dataset(NamedTuple):
  """A data set, in memory or to be read as it is needed.

  name: as it was asked for.
  train, test: `Split`s, or `reader.LazySplit`s; no image is in both.
  class_names: one per label.
  statistics: `(mean, std)`, or None: then the train split measures them.
  cut: see `Request`.
  """
  name: str
  train: Split
  test: Split
  class_names: tuple
  statistics: tuple | None = None
  cut: float = 0.0

  @property
  def mean(self):
    """Per channel, on the [0, 1] scale, for normalising."""
    return (self.statistics or self.train.statistics())[0]

  @property
  def std(self):
    """Likewise."""
    return (self.statistics or self.train.statistics())[1]

  def in_memory(self):
    """The same with all images in memory, and statistics of all of them.

    Raises `UserError` for images of several sizes, and a class of broken ones.
    """
    train, test = self.train.in_memory(), self.test.in_memory()
    self.train.close()  # Nothing is left to read for the processes.
    return self._replace(train=train, test=test,
                         statistics=self.statistics or train.statistics())


def empty_images(shape):
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
      # The middles of as many equal parts of the class.
      count = min(max(1, int(len(rows) * fraction + 0.5)), len(rows) - 1)
      held.append(rows[(2 * np.arange(count) + 1) * len(rows) // (2 * count)])
  held = np.sort(np.concatenate(held)) if held else np.zeros(0, np.intp)
  return np.setdiff1d(np.arange(len(labels)), held), held


def same_class_from(labels, at):
  """The images of a class from `at` on, the first following the last."""
  rows = np.flatnonzero(labels == labels[at])
  return np.roll(rows, -np.searchsorted(rows, at))


def none_readable(count, name, where, one):
  """A `UserError`: no image of a class can be read, `one` is why or which."""
  return UserError(f'none of the {count} images of class {name!r} in {where} '
                   f'can be read, {one} for one')


def held_out_rows(labels, request, class_names):
  """`(kept, held)`, the request's share of each class held out.

  Raises `UserError` if a holdout that was asked for leaves a class untested.
  """
  counts = np.bincount(labels, minlength=len(class_names))
  few = [class_names[i] for i in np.flatnonzero(counts == 1)]
  if few and request.holdout:
    raise UserError(
        f'--config.dataset.holdout={request.holdout} needs two train images of '
        f'every class; there is one of {shorten(few)}')
  return stratify(labels, request.held, request.seed)


def select(request, class_names, train, test):
  """Which images a request is for, by their labels alone.

  Args:
    request: a `Request`.
    class_names: of all labels.
    train, test: `[n]` labels of both splits; where something is held out, test
      is not looked at, and the test images are of train.

  Returns:
    `(names, (rows, labels), (rows, labels))`: of the wanted classes; of train
    and test images the `[m]` rows, increasing, and the `[m]` int32 new labels.

  Raises:
    UserError: for the classes and for what `held_out_rows` refuses.
  """
  # A part of the classes is a data set of its own: what is held out of it does
  # not depend on the others.
  rows, labels, names = choose_classes(train, class_names, request.classes)
  check_classes(request.name, labels, names)
  if request.held:
    kept, held = held_out_rows(labels, request, names)
    return names, (rows[kept], labels[kept]), (rows[held], labels[held])
  return names, (rows, labels), choose_classes(
      test, class_names, request.classes)[:2]


def known_statistics(request, usual, channels):
  """`(mean, std)` that images are normalised with; None: they are measured.

  Args:
    request: a `Request`.
    usual: what the field normalises such a set with, or None.
    channels: of an image.

  Raises:
    UserError: ImageNet's for gray images.
  """
  wanted = {'auto': usual, 'own': None, 'imagenet': IMAGENET}[
      request.statistics]
  if wanted is None or len(wanted[0]) == channels:
    return wanted
  if request.statistics == 'imagenet':
    raise UserError(
        f'--config.dataset.statistics=imagenet is of three colours, and images '
        f'of {request.name!r} have {channels}; take own, or auto')
  return None  # The field's are of colours; those of a gray copy are measured.


def statistics(images):
  """`(mean, std)` per channel of uint8 images, exact, on the [0, 1] scale."""
  return moments_of_levels(sum(count_levels(images[start:start + 1000])
                               for start in range(0, len(images), 1000)))


def count_levels(images):
  """How often each channel has each level: `[channels, 256]` int64."""
  # Counting levels is exact and needs no float copy of the images.
  return np.stack([np.bincount(images[..., channel].ravel(), minlength=256)
                   for channel in range(images.shape[-1])])


def moments_of_levels(counts):
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


CLASSES_ENTRY = '--config.dataset.classes'


def choose_classes(labels, names, wanted):
  """Which images are of the wanted classes, and what they are called then.

  Args:
    labels: `[n]` int, an index into `names`.
    names: of all classes.
    wanted: '' (all classes), or names joined by `+` or `,`: of classes, or of
      lists in `CLASS_LISTS`. Label k is the k-th class that is named. A `+`
      or `,` of a name is written `\\+`, `\\,`.
      `NAME:p/P` is part p, from 0, of P parts of a list, `:p/P` of all classes:
      a data set of its own, whose networks know no other class.

  Returns:
    `(rows, labels, names)`: `[m]` int, increasing, into the images; `[m]`
    int32, their new labels; a tuple.

  Raises:
    UserError: an unknown class, one named twice, fewer than two, a list with
      classes that the data set has not, a part that is not there.
  """
  if not wanted:
    return np.arange(len(labels)), np.asarray(labels, np.int32), names
  at = class_indices(names, wanted)
  rows = np.flatnonzero(np.isin(labels, at))
  new = np.zeros(len(names), np.int32)
  new[at] = np.arange(len(at))
  return rows, new[labels[rows]], tuple(names[index] for index in at)


def class_indices(names, wanted):
  """The wanted classes as indices into `names`, `[k]`; see `choose_classes`."""
  if not wanted:
    return np.arange(len(names))
  # An accent is one sign where it is typed, and two as macOS writes a folder.
  known = {_composed(name): index for index, name in enumerate(names)}
  found = []
  for text in re.findall(r'(?:\\[+,\\]|[^+,])+', wanted):
    part = _composed(re.sub(r'\\([+,\\])', r'\1', text))
    part = part if part in known else part.strip()
    found += _named_classes(part, known) if part else []
  twice = {index for index in found if found.count(index) > 1}
  if twice:
    raise UserError(f'{CLASSES_ENTRY}={wanted} names '
                    f'{shorten(names[index] for index in sorted(twice))} twice')
  if len(found) < 2:
    raise UserError(
        f'{CLASSES_ENTRY}={wanted} leaves {len(found)} of {len(names)} '
                    'classes; two are needed')
  return np.array(found)


def _composed(name):
  return unicodedata.normalize('NFC', name)


def _named_classes(part, known):
  """Indices of one class, of the classes of one list, or of a part of it."""
  if part in known:
    return [known[part]]
  cut = re.fullmatch(r'(.*):(\d+)/(\d+)', part)
  if cut:
    at = _named_classes(cut[1], known) if cut[1] else list(known.values())
    k, parts = int(cut[2]), int(cut[3])
    if not k < parts <= len(at):
      raise UserError(
          f'{CLASSES_ENTRY}={part} is not a part from 0 to {parts - 1}, of '
                      f'{len(at)} at most')
    return at[k * len(at) // parts:(k + 1) * len(at) // parts]
  if part not in CLASS_LISTS:
    close = difflib.get_close_matches(part, [*known, *CLASS_LISTS], 3)
    hint = f'did you mean {" or ".join(close)}? ' if close else ''
    if any(set('+,') & set(name) for name in known):
      hint += r'a + or , of a name is written \+ or \, here; '
    raise UserError(
        f'unknown class {part!r} in {CLASSES_ENTRY}; {hint}choose from '
        f'{shorten(known)}, or the lists {", ".join(sorted(CLASS_LISTS))}')
  lacking = [name for name in CLASS_LISTS[part] if name not in known]
  if lacking:
    raise UserError(
        f'{CLASSES_ENTRY}={part} lists {len(CLASS_LISTS[part])} classes of '
        f'ImageNet, and the data set lacks {len(lacking)} of them '
        f'({shorten(lacking)}); it has {shorten(known)}; name some of these, '
        'or none for all')
  return [known[name] for name in CLASS_LISTS[part]]


def check_request(request):
  """Refuses an empty name, and values that no request can have."""
  name, size, holdout = request.name, request.size, request.holdout
  if not isinstance(name, str) or not name.strip():
    raise UserError(
        f'data set name {name!r} is empty; choose from {choices()}')
  whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
  if not (whole and size >= 0):
    raise UserError(f'--config.dataset.size={size!r} must be a positive number '
                    'of pixels, or 0 to leave the images as they are')
  number = (isinstance(holdout, (int, float, np.number))
            and not isinstance(holdout, bool))
  if not (number and 0 <= holdout < 1):
    raise UserError(f'--config.dataset.holdout={holdout!r} must be a fraction, '
                    'at least 0 and less than 1')
  _check_test_crop(request)
  if not isinstance(request.classes, str):
    raise UserError(f'{CLASSES_ENTRY}={request.classes!r} must be a text, such '
                    "as '3+7'")
  for entry, choices_ in (('resize', RESIZES), ('background', BACKGROUNDS),
                          ('statistics', STATISTICS)):
    if getattr(request, entry) not in choices_:
      raise unknown(f'--config.dataset.{entry}', getattr(request, entry),
                    choices_)


TEST_CROP = '--config.dataset.test_crop'


def _check_test_crop(request):
  share = request.test_crop
  number = isinstance(share, (int, float, np.number))
  if not (number and 0 < share <= 1):
    raise UserError(f'{TEST_CROP}={share!r} must be a share of the side, above '
                    '0 and at most 1')
  if share < 1 and not (request.size and request.resize == 'crop'):
    raise UserError(f'{TEST_CROP}={share} is of images that are cropped to a '
                    'size; set --config.dataset.size and .resize=crop')
  if share < 1 and request.held:
    raise UserError(f'{TEST_CROP}={share} is of a test split of its own, and '
                    'here a part of train is held out; set '
                    f'{TEST_CROP}=1')


def check_classes(name, labels, names):
  """Refuses classes without train images, and labels without a name."""
  counts = np.bincount(labels, minlength=len(names))
  if len(counts) > len(names):
    raise UserError(f'data set {name!r} has labels up to {len(counts) - 1} but '
                    f'names for {len(names)} classes')
  bare = [names[index] for index in np.flatnonzero(counts == 0)]
  if bare:
    raise UserError(f'data set {name!r} has no train images of {len(bare)} of '
                    f'{len(names)} classes: {shorten(bare)}')


def check_test_split(name, labels, names, train_shape, test_shape):
  """Refuses an empty test split, strange labels, images of another shape."""
  if not len(labels):
    raise UserError(f'data set {name!r} has nothing to test on: it has no test '
                    'images of these classes that can be read, and no class '
                    'has two images, of which one could be held out')
  if int(labels.max()) >= len(names):
    raise UserError(f'data set {name!r} has test labels up to '
                    f'{int(labels.max())} for {len(names)} classes')
  if test_shape != train_shape:
    raise UserError(
        f'data set {name!r} has train images {train_shape} and test images '
        f'{test_shape}; set --config.dataset.size=')
