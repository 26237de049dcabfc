"""Data sets that are arrays already: given in Python, or in one .npz file.

A file `npz:PATH` holds `train_images`, `train_labels`, `test_images` and
`test_labels` (Keras' names `x_train`, `y_train`, … do as well), or `images` and
`labels` alone, of which a part becomes the test split. `class_names` are its
own, else numbers. Nothing in such a file is run.

Sections: arrays, a file of them.
"""

import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from dasm_jax.data.dataset import (
  Dataset,
  Description,
  Split,
  check_classes,
  check_request,
  check_test_split,
  stratify,
)
from dasm_jax.data.reader import Contents, array_part
from dasm_jax.data.registry import IF_MOVED
from dasm_jax.errors import UserError
from dasm_jax.runtime import npz

PREFIX = 'npz:'
CUT = 0.2  # of each class, where there is nothing to test on
# What the arrays may be called, the first that are there.
TRAINS = ('train_images', 'train_labels'), ('x_train', 'y_train'), (
    'images', 'labels')
TESTS = ('test_images', 'test_labels'), ('x_test', 'y_test'), (
    'val_images', 'val_labels')
NAMES = 'class_names'


# ---- Arrays


def from_arrays(name: str, train: tuple[ArrayLike, ArrayLike],
                test: tuple[ArrayLike, ArrayLike] | None = None, *,
                class_names: Sequence[str] = (),
                statistics: tuple | None = None, seed: int = 0) -> Dataset:
  """A `Dataset` of arrays in memory, for `distill.run.run(…, dataset=…)`.

  Args:
    name: what it is called; the configuration calls it the same.
    train: `(images, labels)`: uint8 `[n, height, width, channels]` from 0 to
      255, or `[n, height, width]` of gray ones; class numbers `[n]` from 0.
    test: the same; None holds out a fifth of each class of train.
    class_names: one per label; () numbers them.
    statistics: `(mean, std)` per channel on the [0, 1] scale to normalise
      with; None takes those of the train images.
    seed: of what is held out, see `stratify`.

  Returns:
    A `Dataset` of `Split`s.

  Raises:
    UserError: arrays of another kind, labels that do not fit them, a class
      without images.
  """
  splits = [Split(*checked(f'{which} images of data set {name!r}', *given))
            for which, given in (('train', train), ('test', test)) if given]
  names = tuple(map(str, class_names)) or tuple(
      str(k) for k in range(1 + max(int(x.labels.max()) for x in splits)))
  check_classes(name, splits[0].labels, names)
  cut = 0.0
  if test is None:
    images, labels = splits[0]
    splits = [Split(images[rows], labels[rows])
              for rows in stratify(labels, CUT, seed)]
    cut = CUT
  first, second = splits
  check_test_split(name, second.labels, names, first.shape, second.shape)
  if statistics is not None and any(
      len(x) != first.shape[-1] for x in statistics):
    raise UserError(f'statistics={statistics} of data set {name!r} are not '
                    f'(mean, std) of {first.shape[-1]} channels each')
  return Dataset(name, first, second, names, statistics, cut)


def checked(what: str, images: ArrayLike, labels: ArrayLike
            ) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels as a `Split` has them.

  Args:
    what: the images, in words.
    images: uint8 `[n, height, width, channels]`, or without channels.
    labels: `[n]` or `[n, 1]` whole numbers from 0.

  Returns:
    `(images [n, height, width, channels] uint8, labels [n] int32)`.

  Raises:
    UserError: anything else.
  """
  images, labels = np.asarray(images), np.asarray(labels)
  check_shape(what, images.shape, images.dtype)
  if labels.shape == (len(images), 1):
    labels = labels[:, 0]
  if labels.shape != (len(images),):
    hint = ('; numpy.argmax(labels, 1) makes class numbers of one-hot rows'
            if labels.ndim == 2 and len(labels) == len(images) else '')
    raise UserError(f'{what}: labels of shape {labels.shape} are not one class '
                    f'number for each of {len(images)} images{hint}')
  if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
    raise UserError(f'{what}: labels must be whole numbers from 0, not '
                    f'{labels.dtype} from {labels.min()}')
  return (images if images.ndim == 4 else images[..., None],
          labels.astype(np.int32))


def check_shape(what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
  """Refuses arrays that are no images.

  Args:
    what: the images, in words.
    shape: of the array.
    dtype: of the array.

  Raises:
    UserError: no uint8; other dimensions; channels that are not 1 or 3.
  """
  if dtype != np.uint8:
    raise UserError(
        f'{what} are {dtype}, and uint8 from 0 to 255 is wanted; '
        'numpy.uint8(numpy.round(255 * images)) makes it of floats on [0, 1]')
  if len(shape) not in (3, 4) or 0 in shape:
    raise UserError(f'{what} have shape {shape}, and [n, height, width, '
                    'channels] is wanted, n and the others at least 1')
  if len(shape) == 4 and shape[3] not in (1, 3):
    way = ('numpy.moveaxis(images, 1, 3) puts the channels last'
           if shape[1] in (1, 3) else 'leave out what is no colour')
    raise UserError(f'{what} have shape {shape}, whose last number is that of '
                    f'the channels and must be 1 or 3; {way}')


# ---- A file of them


def describe(request):
  """The `Description` of a request; reads labels, and of images their shape.

  Raises `UserError` if there is no such file, or it is none of arrays.
  """
  path = _path(request.name)
  try:
    headers = npz.headers(path)
  except npz.FAULTS as error:
    why = getattr(error, 'strerror', None) or 'it is damaged, or no such file'
    raise UserError(f'cannot read the arrays in {str(path)!r}: {why}; '
                    f'numpy.savez writes them{IF_MOVED}') from None
  train, test = (_pair(headers, names) for names in (TRAINS, TESTS))
  if train is None:
    raise UserError(
        f'{str(path)!r} has the arrays {", ".join(sorted(headers)) or "none"}, '
        f'and {" and ".join(TRAINS[0])} (and the same of test), or '
        f'{" and ".join(TRAINS[2])}, are wanted')
  for pair in (train, test):
    if pair:
      shape, dtype = headers[pair[0]]
      check_shape(f'{pair[0]} of {str(path)!r}', shape, dtype)
  if not (test or request.holdout):
    request = request._replace(cut=CUT)
    check_request(request)
  arrays = functools.cache(lambda: _read(path, None))

  def labels_of(pair):
    # Images of no memory: of these the number counts alone.
    shape, dtype = headers[pair[0]]
    return checked(f'{pair[0]} of {str(path)!r}', np.broadcast_to(
        np.zeros((), dtype), shape), labels[pair[1]])[1]

  labels = _read(path, [pair[1] for pair in (train, test) if pair] + [
      NAMES] * (NAMES in headers))
  first = labels_of(train)
  second = labels_of(test) if test else np.zeros(0, np.int32)
  names = tuple(map(str, labels[NAMES])) if NAMES in headers else tuple(
      str(k) for k in range(1 + max(x.max() for x in (first, second) if len(x)))
  )
  shape = headers[train[0]][0][1:]
  shape = shape if len(shape) == 3 else (*shape, 1)
  return Description(names, lambda: (first, second, shape),
                     (arrays, train, test), request=request)


def open(described, options):
  """The `Contents`; test: the file's own, or none."""
  del options
  (arrays, *pairs), request = described.source, described.request
  parts = [array_part(*checked(pair[0], *(arrays()[name] for name in pair)),
                      shaping) if pair else None
           for pair, shaping in zip(
               pairs, (request.shaping, request.test_shaping), strict=True)]
  return Contents(*parts, described.class_names)


def absolute(name):
  """The same name with a whole path."""
  return PREFIX + os.path.abspath(_path(name))


def _path(name):
  return pathlib.Path(os.path.expanduser(name.removeprefix(PREFIX)))


def _pair(headers, choices):
  """The first pair of names whose arrays are both there, or None."""
  return next((pair for pair in choices if set(pair) <= set(headers)), None)


def _read(path, names):
  try:
    return npz.read(path, names)
  except npz.FAULTS as error:
    why = ' '.join(str(error).split())[:100]
    raise UserError(f'cannot read the arrays in {str(path)!r}: {why}; '
                    'numpy.savez writes them') from None
