"""What no way of reading a data set takes: one line each."""

import numpy as np

from dasm_jax.data.splits import shorten
from dasm_jax.data.table import DATASETS
from dasm_jax.errors import UserError


def options(name, size, holdout):
  """Refuses an empty name, a size that is none, a fraction that is none."""
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


def classes(name, labels, names):
  """Refuses classes without train images, and labels without a name."""
  counts = np.bincount(labels, minlength=len(names))
  if len(counts) > len(names):
    raise UserError(f'data set {name!r} has labels up to {len(counts) - 1} but '
                    f'names for {len(names)} classes')
  bare = [names[index] for index in np.flatnonzero(counts == 0)]
  if bare:
    raise UserError(f'data set {name!r} has no train images of {len(bare)} of '
                    f'{len(names)} classes: {shorten(bare)}')


def tests(name, labels, names, train_shape, test_shape):
  """Refuses an empty test split, strange labels, images of another shape."""
  if not len(labels):
    raise UserError(f'data set {name!r} has nothing to test on: no class has '
                    'two images, or none of its test images can be read')
  if int(labels.max()) >= len(names):
    raise UserError(f'data set {name!r} has test labels up to '
                    f'{int(labels.max())} for {len(names)} classes')
  if test_shape != train_shape:
    raise UserError(
        f'data set {name!r} has train images {train_shape} and test images '
        f'{test_shape}; set --config.dataset.size=')
