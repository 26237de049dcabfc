"""Folders of images, a folder a class.

Sections: what a data set owes, the files, which folder is what, a look at some
images.
"""

import contextlib
import functools
import hashlib
import logging
import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dasm_jax.data import images
from dasm_jax.data.dataset import (
  Description,
  brief,
  check_request,
  class_indices,
  shorten,
)
from dasm_jax.data.images import SUFFIXES
from dasm_jax.data.reader import (
  Contents,
  Store,
  first_shape,
  part_of,
  put_images,
)
from dasm_jax.data.registry import IF_MOVED, IMAGENET
from dasm_jax.errors import UserError
from dasm_jax.runtime import environment, paths
from dasm_jax.runtime.text import plural

PREFIX = 'folder:'
# What the folders of splits are called, in any case; of those to test on the
# first that has classes is taken.
TRAINS = 'train', 'training'
TESTS = 'test', 'testing', 'val', 'validation', 'valid', 'eval', 'evaluation'
CUT = 0.2  # of each class, where there is nothing to test on
# The original Tiny ImageNet keeps its validation images in one folder and
# their classes in this file.
ANNOTATIONS = 'val_annotations.txt'
# Besides what begins with a dot: folders that systems put among those of users.
SYSTEM_FOLDERS = frozenset((
    '@eadir', '#recycle', '#snapshot', '__macosx', '__pycache__',
    '$recycle.bin', 'system volume information', 'lost+found'))
SAMPLE = 20  # images that are looked at before the others


class Layout(NamedTuple):
  """Where things are; test: None where none are."""
  train: Path
  test: Path | None
  class_names: tuple


class Files(NamedTuple):
  """The image files of a folder, those to train on first.

  paths: texts. labels: `[n]` int32.
  splits: indices of train and of test files, each increasing.
  hidden: texts, the image files that are left out.
  """
  paths: list
  labels: np.ndarray
  splits: list
  hidden: list


# ---- What a data set owes


def describe(request):
  """The `Description` of a request; lists class folders, opens no image.

  Raises `UserError` if there is no such folder, no class, a class without
  images, a test class that is not trained, no test.
  """
  layout, split = _layout(request.name.removeprefix(PREFIX), request.holdout)
  if not (split or request.holdout):
    request = request._replace(cut=CUT)
    check_request(request)
  # A million files take their time to list: once for all who ask.
  files = functools.cache(lambda: _list_files(layout))

  def content():
    found = files()
    train, test = (found.labels[rows] for rows in found.splits)
    return train, test, _shape(found, _wanted(found, layout, request), request)

  return Description(layout.class_names, content, (layout, files),
                     request=request)


def open(described, options):
  """The `Contents`: images turned upright, gray if all files are.

  test: the folder's own, or none. Raises `UserError` where no image can be
  read.
  """
  (layout, files), request = described.source, described.request
  options.say(f'listing the images in {str(layout.train)!r}')
  found = files()
  if found.hidden:
    logging.getLogger('dasm_jax').warning(
        'left out of %s, as hidden or in a folder of the system: %s (%s)',
        request.name, plural(len(found.hidden), 'image file'),
        shorten(found.hidden, 2))
  rows = _wanted(found, layout, request)
  shape = _shape(found, rows, request)
  _look_at_some([found.paths[row] for row in rows], request)
  train, test = (
      part_of(_file_store(found, one), shape, part)
      for one, part in zip((request.shaping, request.test_shaping),
                           found.splits, strict=True))
  # Those of ImageNet, as rates are published for images normalised with them.
  return Contents(train, test if layout.test else None, layout.class_names,
                  IMAGENET if shape[-1] == 3 else None)


def _wanted(found, layout, request):
  """Rows of the classes that are asked for; others may have another shape."""
  wanted = class_indices(layout.class_names, request.classes)
  return np.flatnonzero(np.isin(found.labels, wanted))


def _shape(found, rows, request):
  """(height, width, channels) of the images of some rows."""
  side = request.shaping.size
  sides = (side, side) if side else first_shape(
      _file_store(found, request.shaping), rows)[:2]
  return (*sides, channels_of([found.paths[row] for row in rows]))


def absolute(name):
  """The same name with a whole path."""
  path = os.path.expanduser(name.removeprefix(PREFIX))
  return PREFIX + os.path.abspath(path)


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
    except (MemoryError, UserError):
      raise
    except Exception:  # Broken: it has no colours either.
      continue
  return 1


# ---- The files


def _file_store(files, shaping):
  """A `Store` of all `Files`; shaping: of a `Request`."""
  names = files.paths
  return Store(files.labels, lambda rows: [names[row] for row in rows],
               functools.partial(_decode_files, shaping),
               lambda row: names[row],
               lambda: f'{shaping} {_files_digest(names)}', _mean_bytes(names))


def _evenly(names, most):
  """At most about so many of some names, evenly spaced."""
  return names[::max(1, -(-len(names) // most))]


def _mean_bytes(names):
  """Bytes of a file, of some of them."""
  sizes = []
  for name in _evenly(names, SAMPLE):
    with contextlib.suppress(OSError):  # A broken one, whatever it is.
      sizes.append(os.stat(name).st_size)
  return float(np.mean(sizes)) if sizes else 0.0


def _decode_files(shaping, items, out, places):
  return put_images(items, out, places,
                    lambda path: images.decode(path, shaping))


def _files_digest(names):
  """What tells some files from others that were in their places."""
  digest = hashlib.sha256()
  for name in names:
    try:
      text = paths.identity(name)
    except OSError:  # A broken one, whatever it is.
      text = name
    digest.update(os.fsencode(f'{text}\n'))
  return digest.hexdigest()


def _list_files(layout):
  """The `Files` of a `Layout`."""
  names, labels, counts, hidden = [], [], [], []
  for path in filter(None, (layout.train, layout.test)):
    for name, label in _labelled(path, layout.class_names, hidden):
      names.append(name)
      labels.append(label)
    counts.append(len(names))
  return Files(names, np.array(labels, np.int32),
               np.split(np.arange(len(names)), counts[:1]), hidden)


def _labelled(path, names, hidden):
  """Each `(file, label)` below `path`, by class, then by file name.

  hidden: takes the image files that are left out.
  """
  known = {name: label for label, name in enumerate(names)}
  if (path / ANNOTATIONS).is_file():
    for line in _lines(path / ANNOTATIONS):
      row = line.split()
      if len(row) > 1 and row[1] in known:
        yield str(path / 'images' / row[0]), known[row[1]]
    return
  for entry in _entries(path):
    if _is_hidden(entry.name) and entry.is_dir(follow_symlinks=False):
      hidden += _images(entry.path)
  for name, label in known.items():
    if (path / name).is_dir():
      # As paths are ordered, folder by folder, and several times as fast.
      for file in sorted(_images(path / name, hidden),
                         key=lambda x: x.split(os.sep)):
        yield file, label


def _lines(path):
  try:
    return path.read_text('utf-8').splitlines()
  except (OSError, ValueError) as error:
    raise UserError(f'cannot read {str(path)!r}: {brief(error)}') from error


def _images(path, hidden=None):
  """The image files somewhere below `path`, texts in no order, lazily.

  hidden: takes those that are hidden and left out; None: they are not.
  """
  # Of a million files none is asked what it is: its folder says so.
  for entry in _entries(path):
    seen = hidden is None or not _is_hidden(entry.name)
    if entry.is_dir(follow_symlinks=False):
      if seen:
        yield from _images(entry.path, hidden)
      else:
        hidden += _images(entry.path)
    elif (os.path.splitext(entry.name)[1].lower() in SUFFIXES
          and entry.is_file()):
      if seen:
        yield entry.path
      else:
        hidden.append(entry.path)


def _entries(path):
  """What is in a folder, as `os.scandir` has it; `UserError` if it cannot."""
  try:
    with os.scandir(path) as entries:
      yield from entries
  except OSError as error:
    raise UserError(f'cannot list {str(path)!r}: {brief(error)}') from error


# ---- Which folder is what


def _is_hidden(name):
  return name.startswith('.') or name.casefold() in SYSTEM_FOLDERS


def _folders(path):
  """The names of the visible folders in `path`, sorted."""
  names = sorted(entry.name for entry in _entries(path)
                 if entry.is_dir() and not _is_hidden(entry.name))
  for name in names:
    if any(unicodedata.category(sign) in ('Cc', 'Cs') for sign in name):
      raise UserError(f'folder {ascii(name)} in {str(path)!r} has signs that '
                      'cannot be shown in its name; rename it')
  return names


def _split_word(name):
  """Of `TRAINS` or `TESTS`, what the name of a folder says, or None."""
  word = re.sub('[^a-z]', '', name.casefold())
  word = re.sub('(set|data|images|split)$', '', word)
  return word if word in (*TRAINS, *TESTS) else None


def _layout(path, holdout):
  """`(Layout, whether there are splits)` of a folder; see `describe`."""
  root = Path(environment.expand(path, '--config.dataset.name=folder:'))
  if not path or not root.is_dir():
    why = ('the path of folder: is empty' if not path else
           f'{str(root)!r} is a file, no folder' if root.exists() else
           f'{str(root)!r} does not exist')
    raise UserError(f'{why}; give folder:PATH with PATH/train/CLASS/*.png or '
                    f'PATH/CLASS/*.png{IF_MOVED}')
  words = {name: word for name in _folders(root)
           if (word := _split_word(name))}
  # A class may be called 'train': then it holds images, not folders.
  splits = {name: word for name, word in words.items()
            if _folders(root / name) or (root / name / ANNOTATIONS).is_file()}
  trains = [name for name, word in splits.items() if word in TRAINS]
  _check_splits(root, words, splits, trains)
  train = root / trains[0] if trains else root
  names = _folders(train)
  if len(names) < 2:
    inner = train / names[0] if names else train
    deeper = (f'; its classes may be those of folder:{inner}'
              if names and len(_folders(inner)) > 1 else '')
    raise UserError(f'{str(train)!r} has {len(names)} class folders; two are '
                    f'needed, each with the images of one class{deeper}')
  _refuse_empty(train, names)
  test = _test_folder(root, splits, names) if trains else None
  if trains and test is None and not holdout:
    raise UserError(
        f'{str(root)!r} has train but no test, val or the like with the same '
        f'class folders; add one, use folder:{train} (a fifth becomes test), '
        'or set --config.dataset.holdout=0.1')
  return Layout(train, test, tuple(names)), bool(trains)


def _check_splits(root, words, splits, trains):
  """Refuses splits that would be taken for classes, and two of one kind.

  words: `{folder: split word}` in `root`. splits: those with folders of their
  own. trains: of these the ones to train on.
  """
  if len(trains) > 1:
    raise UserError(f'{str(root)!r} has several folders to train on: '
                    f'{shorten(trains)}; keep one')
  for word in set(splits.values()):
    same = [name for name in splits if splits[name] == word]
    if len(same) > 1:
      raise UserError(f'{str(root)!r} has {shorten(same)}, which are one split '
                      'written in several ways; keep one')
  if splits and not trains:
    name = next(iter(splits))
    raise UserError(
        f'{str(root)!r} has class folders in {shorten(splits)} and none in a '
        'folder called train; make one, or give the folder that holds the '
        f'classes, such as folder:{root / name}')
  if not splits and len(words) > 1 and len(words) == len(_folders(root)):
    raise UserError(
        f'{str(root)!r} has no class folders in {shorten(words)}; put the '
        'images of each class into a folder of its own there')


def _refuse_empty(path, names):
  bare = [name for name in names
          if next(_images(path / name, []), None) is None]
  if bare:
    raise UserError(f'no images in {str(path)!r} of class {shorten(bare)}; add '
                    f'some ({" ".join(sorted(SUFFIXES))}) or remove the folder')


def _test_folder(root, splits, names):
  """The first folder to test on that has classes (an unlabelled has none).

  splits: `{folder: word}`. names: of the classes.
  """
  for test in (root / name for word in TESTS for name in splits
               if splits[name] == word):
    if (test / ANNOTATIONS).is_file():
      return test
    found = _folders(test)
    if set(found) & set(names):
      strange = sorted(set(found) - set(names))
      if strange:
        raise UserError(f'{str(test)!r} has classes that train has not: '
                        f'{shorten(strange)}')
      _refuse_empty(test, found)
      return test
  return None


# ---- A look at some images


def _look_at_some(names, request):
  """Tells of transparent images; refuses what would be read as nothing.

  names: image files, of which some are looked at. request: a `Request`.

  Raises:
    UserError: drawings in the colour of the background; 16-bit files of which
      no number is above 255.
  """
  from PIL import Image
  clear, blank, highest = [], [], []
  background = request.background
  for path in _evenly(names, SAMPLE):
    try:
      with Image.open(path) as image:
        if image.mode.startswith('I;16'):
          highest.append(int(np.max(np.asarray(image))))
        elif image.has_transparency_data:
          alpha = np.asarray(image.convert('RGBA'))[..., 3]
          if alpha.min() < 255:
            clear.append(path)
            shown = np.asarray(images.on_background(image, background))
            if np.ptp(alpha) and not np.ptp(shown):
              blank.append(path)
    except MemoryError:
      raise
    except Exception:  # A broken one is told of when it is read.
      continue
  if highest and 0 < max(highest) < 256:
    raise UserError(
        f'the 16-bit images of {request.name} have no number above 255: their '
        'upper 8 bits, which are read, are black; convert them to 8 bits')
  other = next(x for x in images.BACKGROUNDS if x != background)
  if blank and 2 * len(blank) > len(clear):
    raise UserError(
        f'{len(blank)} of {len(clear)} transparent images of {request.name} '
        f'that were looked at show nothing on {background} ({blank[0]}); set '
        f'--config.dataset.background={other}')
  if clear:
    logging.getLogger('dasm_jax').warning(
        'images of %s are transparent in places (%s) and are put on %s; '
        '--config.dataset.background=%s puts them on %s', request.name,
        clear[0], background, other, other)
