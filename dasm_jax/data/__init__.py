"""Data sets by name: host arrays of uint8 images. No JAX in here.

`describe` says what is known of a set before its images are read, `open` reads
them as they are asked for, `load` all of them at once. What a name means is
for its kind alone to know, see `registry.KINDS`.
"""

from typing import Any

import numpy as np

from dasm_jax.data import dataset as datasets
from dasm_jax.data import reader
from dasm_jax.data.arrays import from_arrays
from dasm_jax.data.dataset import (
  Dataset,
  Description,
  Request,
  Split,
  statistics,
)
from dasm_jax.data.reader import ReadOptions
from dasm_jax.data.registry import DATASETS, kind_of
from dasm_jax.errors import UserError

__all__ = ['DATASETS', 'Dataset', 'Description', 'ReadOptions', 'Request',
           'Split', 'absolute', 'check', 'describe', 'from_arrays', 'here',
           'load', 'open', 'open_described', 'outline', 'outline_described',
           'statistics']


def describe(name: str, **given: Any) -> Description:
  """The `Description` of a data set; no image is read.

  Takes what `load` takes. Raises `UserError` for what can be told so early,
  but for a set that is not here: see `Description.check`.

  Args:
    name, given: as of `load`.

  Returns:
    A `Description`.
  """
  request = Request(name, **given)
  datasets.check_request(request)
  found = kind_of(name).describe(request)
  return found if found.request else found._replace(request=request)


def absolute(name: str) -> str:
  """The name by which a data set is known from any working directory.

  Args:
    name: of a data set.

  Returns:
    A name.
  """
  return kind_of(name).absolute(name)


def check(name: str, **given: Any) -> None:
  """Refuses what `load` would refuse, as far as no image need be read.

  Takes what `load` takes; raises `UserError`. Give it `holdout` too: with it
  a data set needs no test split.

  Args:
    name, given: as of `load`.
  """
  described = describe(name, **given)
  described.check()
  if described.class_names:
    datasets.class_indices(described.class_names, described.request.classes)


def open(name: str, *, options: ReadOptions | None = None, **given: Any
         ) -> Dataset:
  """A `Dataset` whose images are read as they are asked for: `LazySplit`s.

  The images are those of `load`. Broken images are still in it, and are
  replaced when they are read. Mean and standard deviation are those that the
  field normalises with, else of a sample of the train images, which is read
  when they are asked for.

  Args:
    name, given: as of `load`; with size 0 the images must be of one size, that
      of the first.
    options: `ReadOptions`.

  Returns:
    A `Dataset` of `LazySplit`s.
  """
  return open_described(describe(name, **given), options)


def open_described(described: Description, options: ReadOptions | None = None
                   ) -> Dataset:
  """`open` of what `describe` returned, which is not looked for again.

  Args:
    described: a `Description`.
    options: `ReadOptions`.

  Returns:
    A `Dataset` of `LazySplit`s.
  """
  request, options = described.request, options or ReadOptions()
  # A set that has to be prepared first is prepared here.
  contents = kind_of(request.name).open(described, options)
  return reader.lazy_dataset(request, contents, options)


def load(name: str, **given: Any) -> Dataset:
  """A `Dataset` in memory; `open` is for one that is too large.

  Args:
    name: `digits`, one of `DATASETS`, any image classification set of TFDS, a
      prepared TFDS directory (a path, or a name in the data directory), or
      `folder:PATH` of images, or `npz:PATH` of arrays (`data.arrays`).
    given: what else a `Request` may ask for:
      data_dir: where TFDS sets are; else TFDS_DATA_DIR, else TFDS's default.
      size: images become squares of this many pixels; 0 leaves them.
      holdout: if positive, `test` is this fraction of each class of train,
        which loses it, and the real test split is not touched.
      seed: which images are held out; None: evenly spaced ones.
      classes: which of its classes, see `datasets.choose_classes`; '' takes
        all.
      test_crop: share of their side that images of the test split keep, around
        the centre.
      resize, background: how an image becomes a square, and what is put behind
        one that is transparent; see `images.Shaping`.
      statistics: one of `registry.STATISTICS`; auto takes the field's of a
        known set, ImageNet's for a folder with colours, else its own.

  Returns:
    A `Dataset` of `Split`s.

  Raises:
    UserError: a name that nobody knows, and what cannot be read.
  """
  return open(name, **given).in_memory()


def here(name: str, **given: Any) -> bool:
  """Whether a data set lies here, ready to be read; takes what `load` takes.

  Args:
    name, given: as of `load`.

  Returns:
    A bool.
  """
  try:
    return not describe(name, **given).missing
  except UserError:
    return False


def outline(name: str, **given: Any) -> Dataset:
  """As `load`, with black images: only the description of a set is read.

  Takes what `load` takes. Raises `UserError`, also where that does not say how
  many images there are.

  Args:
    name, given: as of `load`.

  Returns:
    A `Dataset` of black images.
  """
  return outline_described(describe(name, **given))


def outline_described(described: Description) -> Dataset:
  """`outline` of what `describe` returned: images of no memory.

  Args:
    described: a `Description`.

  Returns:
    A `Dataset` of black images.
  """
  request = described.request
  train, test, shape = described.content()
  if request.size:
    shape = (request.size, request.size, shape[-1])
  if None in shape:
    raise UserError(f'images of data set {request.name!r} differ in size; set '
                    '--config.dataset.size=')
  names, (_, train), (_, test) = datasets.select(
      request, described.class_names, train, test)
  datasets.check_test_split(request.name, test, names, shape, shape)
  # One black pixel that is all of them.
  splits = (Split(np.broadcast_to(np.uint8(0), (len(labels), *shape)), labels)
            for labels in (train, test))
  grey = (0.5,) * shape[-1]
  return Dataset(request.name, *splits, names, (grey, grey))
