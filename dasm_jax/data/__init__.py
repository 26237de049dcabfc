"""Data sets by name: host arrays of uint8 images. No JAX in here."""

from dasm_jax.data import (
  digits,
  folder,
  outlines,
  records,
  refusals,
  subset,
)
from dasm_jax.data.directory import locate
from dasm_jax.data.splits import Dataset, Split, hold_out, statistics
from dasm_jax.data.table import DATASETS, Row

__all__ = ['DATASETS', 'Dataset', 'Row', 'Split', 'check', 'here', 'load',
           'outline']


def check(name, *, data_dir=None, size=0, holdout=0.0, classes=''):
  """Refuses what `load` would refuse, as far as no image need be read.

  Takes what `load` takes; raises `UserError`. Give it `holdout` too: with it
  a data set needs no test split.
  """
  refusals.options(name, size, holdout)
  if name == 'digits':
    digits.check()
  elif name.startswith(folder.PREFIX):
    layout = folder.check(name[len(folder.PREFIX):], holdout)
    subset.indices(layout.class_names, classes)
  else:
    names = records.check(name, data_dir, holdout).info.features['label'].names
    if names:
      subset.indices(tuple(names), classes)


def load(name, *, data_dir=None, size=0, holdout=0.0, seed=0, classes=''):
  """A `Dataset` in memory; `lazy.open` is for one that is too large.

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
  refusals.options(name, size, holdout)
  row = None
  if name == 'digits':
    train, test, names = digits.load(size)
  elif name.startswith(folder.PREFIX):
    train, test, names = folder.load(
        name[len(folder.PREFIX):], size, holdout, classes)
  else:
    train, test, names, row = records.load(
        name, data_dir, size, holdout, classes)
  train, test, names = _chosen(train, test, names, classes)
  refusals.classes(name, train.labels, names)
  if holdout:
    train, test = hold_out(train, holdout, seed, names)
  refusals.tests(name, test.labels, names, train.images.shape[1:],
                 test.images.shape[1:])
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
      # An outline's images are one that is repeated: indices would copy it.
      alike = split.images.strides[0] == 0
      which = slice(len(rows)) if whole or alike else rows
      split = Split(split.images[which], labels)
    out.append(split)
  return *out, chosen


def here(name, data_dir=None):
  """Whether a data set lies here, ready to be read."""
  return name == 'digits' or name.startswith(folder.PREFIX) or (
      locate(name, data_dir) is not None)


def in_tfds(name):
  """Whether TFDS knows a data set, so that it can prepare it."""
  return outlines.names_of(name) is not None


def outline(name, *, data_dir=None, size=0, holdout=0.0, seed=0, classes=''):
  """As `load`, with black images: only the description of a set is read.

  Raises `UserError`, also where that does not say how many images there are.
  """
  refusals.options(name, size, holdout)
  dataset = outlines.outline(name, data_dir=data_dir, size=size,
                             holdout=holdout, seed=seed)
  train, test, names = _chosen(
      dataset.train, dataset.test, dataset.class_names, classes)
  dataset = dataset._replace(train=train, test=test, class_names=names)
  refusals.classes(name, train.labels, dataset.class_names)
  refusals.tests(name, test.labels, dataset.class_names, train.shape,
                 test.shape)
  return dataset
