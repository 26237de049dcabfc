"""Folders of images, a folder a class."""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dasm_jax.data.dataset import (
  Split,
  brief,
  class_indices,
  empty_images,
  replace_broken,
  shorten,
  stratify,
  take_rows,
)
from dasm_jax.data.images import SUFFIXES, decode
from dasm_jax.errors import UserError

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


def _folders(path):
  """The names of the visible folders in `path`, sorted."""
  try:
    return sorted(entry.name for entry in path.iterdir()
                  if entry.is_dir() and not entry.name.startswith('.'))
  except OSError as error:
    raise UserError(f'cannot list {str(path)!r}: {brief(error)}') from error


def _files(path):
  """The image files somewhere below `path`, in no order, lazily."""
  # Of a million files none is asked what it is: its folder says so.
  with os.scandir(path) as entries:
    for entry in entries:
      if entry.is_dir(follow_symlinks=False):
        yield from _files(entry.path)
      elif (os.path.splitext(entry.name)[1].lower() in SUFFIXES
            and not entry.name.startswith('.') and entry.is_file()):
        yield Path(entry.path)


def check(path, holdout=0.0):
  """The `Layout` of a folder of images.

  Lists files, opens none. Raises `UserError` if there is no such folder, no
  class, a class without images, a test class that is not trained, no test.
  """
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


def labelled(path, names):
  """Each `(file, label)` below `path`, by class, then by file name."""
  known = {name: label for label, name in enumerate(names)}
  if (path / ANNOTATIONS).is_file():
    for line in (path / ANNOTATIONS).read_text('utf-8').splitlines():
      row = line.split()
      if len(row) > 1 and row[1] in known:
        yield path / 'images' / row[0], known[row[1]]
    return
  for name, label in known.items():
    if (path / name).is_dir():
      for file in sorted(_files(path / name)):
        yield file, label


def load(path, size=None, holdout=0.0, classes=''):
  """`(train, test, class_names)` of a folder of images.

  test: the folder's own, else a fifth of each class, always the same; None
    if the folder has none and `holdout` makes it unneeded.
  classes: only theirs are read, see `datasets.choose_classes`; labels stay the
  folder's. A broken file is replaced by the next of its class, with a warning.
  Raises `UserError` for what `check` refuses, a class of broken files, and
  where images differ in size and `size` is not given.
  """
  layout = check(path, holdout)
  wanted = set(class_indices(layout.class_names, classes))
  def listed(where):
    return [(file, label) for file, label in labelled(
        where, layout.class_names) if label in wanted]
  files = listed(layout.train)
  count = len(files)
  if layout.test is not None:
    files += listed(layout.test)
  whole, broken = _read(files, size)
  if layout.cut:
    rows, held = stratify(whole.labels, 0.2)
    parts = (take_rows(whole, rows), rows), (take_rows(whole, held), held)
  else:
    parts = [(Split(whole.images[part], whole.labels[part]),
              np.arange(len(files))[part])
             for part in (slice(count), slice(count, None))]
  for part, places in parts:
    replace_broken(part, {at: broken[row] for at,
                          row in enumerate(places.tolist())
                          if row in broken}, f'folder {str(path)!r}',
                          layout.class_names)
  (train, _), (test, _) = parts
  alone = layout.test is None and not layout.cut
  return train, None if alone else test, layout.class_names


def _read(files, size):
  """`(split, broken)`: all images, those in `broken` (`{row: path}`) empty."""
  images, broken = None, {}
  # What Pillow warns of (odd EXIF, palettes, large images) it also reads.
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for index, (path, _) in enumerate(files):
      try:
        image = decode(path, size)
      except MemoryError:
        raise
      except Exception:  # A broken file makes its decoder raise anything.
        broken[index] = path
        continue
      if images is None:
        images = empty_images((len(files), *image.shape))
      if image.shape[:2] != images.shape[1:3]:
        raise _several_sizes(files)
      if image.shape[-1] > images.shape[-1]:
        # All were gray so far; this one is not. Happens once at most.
        images = np.repeat(images, 3, axis=-1)
      images[index] = image  # A gray one fills all three channels.
  if images is None:
    raise UserError(f'none of {len(files)} image files can be read: '
                    f'{shorten(path for path, _ in files)}')
  return Split(images, np.array([label for _, label in files], np.int32)), (
      broken)


def _several_sizes(files):
  from PIL import Image
  sizes = set()
  for path, _ in files:
    try:
      with Image.open(path) as image:
        sizes.add(image.size)
    except Exception:  # Broken: skipped, as in reading.
      continue
  return several_sizes(sizes)


def several_sizes(sizes):
  """`UserError` for images of more than one `(width, height)`."""
  found = shorten(f'{width}x{height}' for width, height in sorted(sizes))
  return UserError(
      f'the images are of several sizes (width x height: {found}); set '
      '--config.dataset.size=64 (say) to resize and crop all to 64x64')
