"""Data sets by name: host arrays of uint8 images. No JAX in here."""

import numpy as np

from dasm_jax.data import digits, folder, records, subset
from dasm_jax.data.splits import (
  Dataset,
  Split,
  hold_out,
  shorten,
  statistics,
)
from dasm_jax.data.table import DATASETS, Row
from dasm_jax.errors import UserError

__all__ = ['DATASETS', 'Dataset', 'Row', 'Split', 'check', 'load']

_FOLDER = 'folder:'


def check(name, *, data_dir=None, size=0, holdout=0.0, classes=''):
  """Refuses what `load` would refuse, as far as no image need be read.

  Takes what `load` takes; raises `UserError`. Give it `holdout` too: with it
  a data set needs no test split.
  """
  _check_options(name, size, holdout)
  if name == 'digits':
    digits.check()
  elif name.startswith(_FOLDER):
    layout = folder.check(name[len(_FOLDER):], holdout)
    subset.indices(layout.class_names, classes)
  else:
    names = records.check(name, data_dir, holdout).info.features['label'].names
    if names:
      subset.indices(tuple(names), classes)


def load(name, *, data_dir=None, size=0, holdout=0.0, seed=0, classes=''):
  """A `Dataset` in memory.

  name: `digits`, one of `DATASETS`, any image classification set of TFDS, a
    prepared TFDS directory (a path, or a name in the data directory), or
    `folder:PATH` of images.
  data_dir: where TFDS sets are; else TFDS_DATA_DIR, else TFDS's default.
  size: images become squares of this many pixels; 0 leaves them.
  holdout: if positive, `test` is this fraction of each class of train, which
    loses it, and the real test split is not touched.
  seed: which images are held out.
  classes: which of its classes, see `subset.choose`; '' takes all.
  Raises `UserError`.
  """
  _check_options(name, size, holdout)
  row = None
  if name == 'digits':
    train, test, names = digits.load()
    train, test = _resized(train, size), _resized(test, size)
  elif name.startswith(_FOLDER):
    train, test, names = folder.load(
        name[len(_FOLDER):], size, holdout, classes)
  else:
    train, test, names, row = records.load(
        name, data_dir, size, holdout, classes)
  train, test, names = _chosen(train, test, names, classes)
  _check_classes(name, train, names)
  if holdout:
    train, test = hold_out(train, holdout, seed, names)
  _check_test(name, train, test, names)
  mean, std = (row.mean, row.std) if row else ((), ())
  if len(mean) != train.images.shape[-1]:
    mean, std = statistics(train.images)
  return Dataset(name, train, test, names, mean, std)


def _chosen(train, test, names, classes):
  """Both splits and the names with the wanted classes only."""
  if not classes:
    return train, test, names
  out = []
  for split in (train, test):
    if split is not None:
      rows, labels, chosen = subset.choose(split.labels, names, classes)
      # What was read for them alone need not be copied.
      whole = len(rows) == len(split.labels)
      split = Split(split.images if whole else split.images[rows], labels)
    out.append(split)
  return *out, chosen


def _check_options(name, size, holdout):
  if not isinstance(name, str) or not name.strip():
    raise UserError(f'data set name {name!r} is empty; choose from digits, '
                    f'{", ".join(DATASETS)}, any of TFDS, or folder:PATH')
  whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
  if not (whole and size >= 0):
    raise UserError(f'--config.dataset.size={size!r} must be a positive number '
                    'of pixels, or 0 to leave the images as they are')
  number = (isinstance(holdout, (int, float, np.number))
            and not isinstance(holdout, bool))
  if not (number and 0 <= holdout < 1):
    raise UserError(f'--config.dataset.holdout={holdout!r} must be a fraction, '
                    'at least 0 and less than 1')


def _resized(split, size):
  from dasm_jax.data.images import fit_array
  if not size:
    return split
  return Split(np.stack([fit_array(image, size) for image in split.images]),
               split.labels)


def _check_classes(name, train, names):
  counts = np.bincount(train.labels, minlength=len(names))
  if len(counts) > len(names):
    raise UserError(f'data set {name!r} has labels up to {len(counts) - 1} but '
                    f'names for {len(names)} classes')
  bare = [names[index] for index in np.flatnonzero(counts == 0)]
  if bare:
    raise UserError(f'data set {name!r} has no train images of {len(bare)} of '
                    f'{len(names)} classes: {shorten(bare)}')


def _check_test(name, train, test, names):
  if not len(test.labels):
    raise UserError(f'data set {name!r} has nothing to test on: no class has '
                    'two images, or none of its test images can be read')
  if int(test.labels.max()) >= len(names):
    raise UserError(f'data set {name!r} has test labels up to '
                    f'{int(test.labels.max())} for {len(names)} classes')
  if test.images.shape[1:] != train.images.shape[1:]:
    raise UserError(
        f'data set {name!r} has train images {train.images.shape[1:]} and test '
        f'images {test.images.shape[1:]}; set --config.dataset.size=')
