"""Folders of images, a folder a class."""

import contextlib
import functools
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dasm_jax.data import images
from dasm_jax.data.dataset import (
  Description,
  brief,
  class_indices,
  shorten,
  stratify,
)
from dasm_jax.data.images import SUFFIXES
from dasm_jax.data.reader import (
  Contents,
  Store,
  first_shape,
  part_of,
  put_images,
)
from dasm_jax.errors import UserError
from dasm_jax.runtime import paths

PREFIX = 'folder:'
TESTS = 'test', 'val', 'validation', 'valid'
# The original Tiny ImageNet keeps its validation images in one folder and
# their classes in this file.
ANNOTATIONS = 'val_annotations.txt'


class Layout(NamedTuple):
  """Where things are; `cut`: the test images are to be cut from `train`."""
  train: Path
  test: Path | None
  cut: bool
  class_names: tuple


class Files(NamedTuple):
  """The image files of a folder, those to train on first.

  paths: texts. labels: `[n]` int32.
  splits: indices of train and of test files, each increasing.
  """
  paths: list
  labels: np.ndarray
  splits: list


def describe(request):
  """The `Description` of a request; lists class folders, opens no image.

  Raises `UserError` if there is no such folder, no class, a class without
  images, a test class that is not trained, no test.
  """
  layout = _layout(request.name.removeprefix(PREFIX), request.holdout)
  # A million files take their time to list: once for all who ask.
  files = functools.cache(lambda: _list_files(layout))

  def content():
    found = files()
    train, test = (found.labels[rows] for rows in found.splits)
    store = _file_store(found, request.size)
    return train, test, first_shape(store, found.splits[0])

  return Description(layout.class_names, content, (layout, files))


def open(described, options):
  """The `Contents`: images turned upright, gray if all files are.

  test: the folder's own, else a fifth of each class, always the same; without
  either none. Raises `UserError` where no image can be read.
  """
  (layout, files), request = described.source, described.request
  options.say(f'listing the images in {str(layout.train)!r}')
  found = files()
  # The images of other classes may have another size, or colours.
  wanted = class_indices(layout.class_names, request.classes)
  rows = np.flatnonzero(np.isin(found.labels, wanted))
  size = request.size
  height, width = (size, size) if size else first_shape(
      _file_store(found, 0), rows)[:2]
  channels = channels_of([found.paths[row] for row in rows])
  store = _file_store(found, size)
  return Contents(*(part_of(store, (height, width, channels), part)
                    for part in found.splits), layout.class_names)


def channels_of(names):
  """3 if any readable image file has colours, else 1; looks at headers."""
  from PIL import Image
  images.quiet_pillow()
  for path in names:
    try:
      with Image.open(path) as image:
        if images.is_gray(image):
          continue
      return images.decode(path).shape[-1]
    except MemoryError:
      raise
    except Exception:  # Broken: it has no colours either.
      continue
  return 1


def _file_store(files, size):
  """A `Store` of all `Files`; size: of a `Request`."""
  names = files.paths
  return Store(files.labels, lambda rows: [names[row] for row in rows],
               functools.partial(_decode_files, size), lambda row: names[row],
               lambda: f'{size} {_files_digest(names)}', _mean_bytes(names))


def _mean_bytes(names, sample=20):
  """Bytes of a file, of some of them that are evenly spaced."""
  sizes = []
  for name in names[::-(-len(names) // sample)]:
    with contextlib.suppress(OSError):  # A broken one, whatever it is.
      sizes.append(os.stat(name).st_size)
  return float(np.mean(sizes)) if sizes else 0.0


def _decode_files(size, items, out, places):
  return put_images(items, out, places,
                    lambda path: images.decode(path, size))


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


def _folders(path):
  """The names of the visible folders in `path`, sorted."""
  try:
    return sorted(entry.name for entry in path.iterdir()
                  if entry.is_dir() and not entry.name.startswith('.'))
  except OSError as error:
    raise UserError(f'cannot list {str(path)!r}: {brief(error)}') from error


def _files(path):
  """The image files somewhere below `path`, texts in no order, lazily."""
  # Of a million files none is asked what it is: its folder says so.
  with os.scandir(path) as entries:
    for entry in entries:
      if entry.is_dir(follow_symlinks=False):
        yield from _files(entry.path)
      elif (os.path.splitext(entry.name)[1].lower() in SUFFIXES
            and not entry.name.startswith('.') and entry.is_file()):
        yield entry.path


def _layout(path, holdout):
  """The `Layout` of a folder; lists files, opens none; see `describe`."""
  root = Path(path).expanduser()
  if not path or not root.is_dir():
    raise UserError(f'folder:{path} is not a folder; give folder:PATH with '
                    'PATH/train/CLASS/*.png or PATH/CLASS/*.png')
  train = root / 'train'
  # A class may be called 'train': then it holds images, not folders.
  split = train.is_dir() and bool(_folders(train))
  if not split:
    train = root
  names = _folders(train)
  if len(names) < 2:
    raise UserError(f'{str(train)!r} has {len(names)} class folders; two are '
                    'needed, each with the images of one class')
  _refuse_empty(train, names)
  test = _test_folder(root, names) if split else None
  if split and test is None and not holdout:
    raise UserError(
        f'{str(root)!r} has train but none of {", ".join(TESTS)} with the same '
        f'class folders; add one, use folder:{train} (a fifth becomes test), '
        'or set --config.dataset.holdout=0.1')
  return Layout(train, test, not split, tuple(names))


def _refuse_empty(path, names):
  bare = [name for name in names if next(_files(path / name), None) is None]
  if bare:
    raise UserError(f'no images in {str(path)!r} of class {shorten(bare)}; add '
                    f'some ({" ".join(sorted(SUFFIXES))}) or remove the folder')


def _test_folder(root, names):
  """The first folder to test on that has classes (an unlabelled has none)."""
  for test in (root / name for name in TESTS):
    if (test / ANNOTATIONS).is_file():
      return test
    found = _folders(test) if test.is_dir() else []
    if set(found) & set(names):
      strange = sorted(set(found) - set(names))
      if strange:
        raise UserError(f'{str(test)!r} has classes that train has not: '
                        f'{shorten(strange)}')
      _refuse_empty(test, found)
      return test
  return None


def _list_files(layout):
  """The `Files` of a `Layout`."""
  names, labels, counts = [], [], []
  for path in filter(None, (layout.train, layout.test)):
    for name, label in _labelled(path, layout.class_names):
      names.append(name)
      labels.append(label)
    counts.append(len(names))
  labels = np.array(labels, np.int32)
  splits = stratify(labels, 0.2) if layout.cut else (
      np.split(np.arange(len(names)), counts[:1]))
  return Files(names, labels, splits)


def _labelled(path, names):
  """Each `(file, label)` below `path`, by class, then by file name."""
  known = {name: label for label, name in enumerate(names)}
  if (path / ANNOTATIONS).is_file():
    for line in (path / ANNOTATIONS).read_text('utf-8').splitlines():
      row = line.split()
      if len(row) > 1 and row[1] in known:
        yield str(path / 'images' / row[0]), known[row[1]]
    return
  for name, label in known.items():
    if (path / name).is_dir():
      # As paths are ordered, folder by folder, and several times as fast.
      for file in sorted(_files(path / name), key=lambda x: x.split(os.sep)):
        yield file, label
