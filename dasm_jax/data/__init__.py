"""Data sets by name: host arrays of uint8 images. No JAX in here."""

from dasm_jax.data import dataset as datasets
from dasm_jax.data import describe, digits, folder, tfds
from dasm_jax.data.dataset import Dataset, Split, hold_out, statistics
from dasm_jax.data.tfds_prepare import locate

__all__ = ['DATASETS', 'Dataset', 'Row', 'Split', 'check', 'here', 'load',
           'outline']


def check(name, *, data_dir=None, size=0, holdout=0.0, classes=''):
  """Refuses what `load` would refuse, as far as no image need be read.

  Takes what `load` takes; raises `UserError`. Give it `holdout` too: with it
  a data set needs no test split.
  """
  datasets.check_options(name, size, holdout)
  if name == 'digits':
    digits.check()
  elif name.startswith(folder.PREFIX):
    layout = folder.check(name[len(folder.PREFIX):], holdout)
    datasets.class_indices(layout.class_names, classes)
  else:
    names = tfds.check(name, data_dir, holdout).info.features['label'].names
    if names:
      datasets.class_indices(tuple(names), classes)


def load(name, *, data_dir=None, size=0, holdout=0.0, seed=0, classes=''):
  """A `Dataset` in memory; `reader.open_lazy` is for one that is too large.

  name: `digits`, one of `DATASETS`, any image classification set of TFDS, a
    prepared TFDS directory (a path, or a name in the data directory), or
    `folder:PATH` of images.
  data_dir: where TFDS sets are; else TFDS_DATA_DIR, else TFDS's default.
  size: images become squares of this many pixels; 0 leaves them.
  holdout: if positive, `test` is this fraction of each class of train, which
    loses it, and the real test split is not touched.
  seed: which images are held out.
  classes: which of its classes, see `datasets.choose_classes`; '' takes all.
  Raises `UserError`.
  """
  datasets.check_options(name, size, holdout)
  row = None
  if name == 'digits':
    train, test, names = digits.load(size)
  elif name.startswith(folder.PREFIX):
    train, test, names = folder.load(
        name[len(folder.PREFIX):], size, holdout, classes)
  else:
    train, test, names, row = tfds.load(
        name, data_dir, size, holdout, classes)
  train, test, names = _chosen(train, test, names, classes)
  datasets.check_classes(name, train.labels, names)
  if holdout:
    train, test = hold_out(train, holdout, seed, names)
  datasets.check_test_split(name, test.labels, names, train.images.shape[1:],
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
      rows, labels, chosen = datasets.choose_classes(split.labels, names,
                                                     classes)
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
  return describe.names_of(name) is not None


def outline(name, *, data_dir=None, size=0, holdout=0.0, seed=0, classes=''):
  """As `load`, with black images: only the description of a set is read.

  Raises `UserError`, also where that does not say how many images there are.
  """
  datasets.check_options(name, size, holdout)
  dataset = describe.outline(name, data_dir=data_dir, size=size,
                             holdout=holdout, seed=seed)
  train, test, names = _chosen(
      dataset.train, dataset.test, dataset.class_names, classes)
  dataset = dataset._replace(train=train, test=test, class_names=names)
  datasets.check_classes(name, train.labels, dataset.class_names)
  datasets.check_test_split(name, test.labels, dataset.class_names, train.shape,
                            test.shape)
  return dataset
