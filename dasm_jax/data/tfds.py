"""TFDS sets to arrays, without TensorFlow; the labels of all records."""

import contextlib
import hashlib
import importlib.util
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from dasm_jax.data import tfds_prepare
from dasm_jax.data.dataset import (
  Split,
  brief,
  class_indices,
  empty_images,
  replace_broken,
  shorten,
)
from dasm_jax.data.folder import several_sizes
from dasm_jax.data.images import decode_bytes
from dasm_jax.data.registry import row_of
from dasm_jax.data.tfds_prepare import locate, tfds_name
from dasm_jax.data.workers import map_ordered
from dasm_jax.errors import UserError
from dasm_jax.runtime import paths, text

# How many records to read at once: one at a time is several times slower.
READ_BLOCK = 1000


def check(name, data_dir=None, holdout=0.0):
  """A TFDS builder that `read` can use once it is prepared.

  Reads no images. Raises `UserError` for an unknown name, a set that is not
  prepared and cannot be, no image and label, no split to train or test on.
  """
  if importlib.util.find_spec('tensorflow_datasets') is None:
    raise UserError(f'data set {name!r} needs tensorflow-datasets, which is '
                    'not installed: pip install tensorflow-datasets '
                    "array-record; 'digits' and folder:PATH do without")
  directory = locate(name, data_dir)
  with tfds_prepare.quiet_tfds():
    if directory is None:
      builder = tfds_prepare.registered_builder(name, data_dir)
      _check_features(name, builder)
      if not builder.info.splits:
        tfds_prepare.check_possible(name, builder, data_dir)
    else:
      builder = _builder_at(name, directory)
      _check_features(name, builder)
    if builder.info.splits:
      test_split(name, builder, holdout)
  return builder


def _builder_at(name, directory):
  import tensorflow_datasets as tfds
  try:
    builder = tfds.builder_from_directory(str(directory))
    formats = {item.value for item in builder.info.available_file_formats()}
  except Exception as error:  # Whatever a damaged description raises.
    raise UserError(f'cannot read the TFDS set in {str(directory)!r}: '
                    f'{brief(error)}') from error
  if 'array_record' not in formats:
    raise UserError(
        f'data set {name!r} in {str(directory)!r} is prepared as '
        f'{", ".join(sorted(formats))}, which cannot be read without '
        'TensorFlow; prepare it as array_record in another directory: python '
        f'-c "import tensorflow_datasets as tfds; '
        f'tfds.builder({tfds_name(name)!r}, data_dir=\'DIR\', '
        'file_format=\'array_record\').download_and_prepare()"')
  return builder


def _check_features(name, builder):
  import tensorflow_datasets as tfds
  features = builder.info.features
  have = dict(features) if hasattr(features, 'keys') else {}
  image, label = have.get('image'), have.get('label')
  if not (isinstance(image, tfds.features.Image) and len(image.shape) == 3
          and image.np_dtype == np.uint8  # `dtype` imports TensorFlow.
          and isinstance(label, tfds.features.ClassLabel)):
    raise UserError(
        f'data set {name!r} is not for image classification: it needs '
        "features 'image' (uint8) and 'label' (of classes) and has "
        f'{shorten(have) or type(features).__name__}')


def test_split(name, builder, holdout):
  """The split to test on, None if `holdout` replaces it; checks train too."""
  splits = builder.info.splits
  have = [key for key in splits if splits[key].num_examples]
  if 'train' not in have:
    raise UserError(f'data set {name!r} has no train split; it has '
                    f'{shorten(have) or "none"}')
  if holdout:
    return None
  row = row_of(builder.name)
  for split in ([row.test] if row else []) + ['test', 'validation']:
    if split in have:
      return split
  raise UserError(f'data set {name!r} has no test or validation split (it has '
                  f'{shorten(have)}); set --config.dataset.holdout=0.1 to hold '
                  'out a part of train')


def prepared_builder(name, data_dir=None, holdout=0.0):
  """`(builder, test_name)` of a TFDS set, prepared if need be.

  test_name: the split to test on, None if `holdout` makes it unneeded. Raises
  `UserError` for what `check` refuses and for a set that cannot be prepared.
  """
  builder = check(name, data_dir, holdout)
  with tfds_prepare.quiet_tfds():
    if not builder.info.splits:
      with tfds_prepare.preparation_lock(data_dir):
        builder = check(name, data_dir, holdout)  # another may have been here
        if not builder.info.splits:
          tfds_prepare.prepare(name, builder, data_dir)
    return builder, test_split(name, builder, holdout)


def load(name, data_dir=None, size=None, holdout=0.0, classes=''):
  """`(train, test, class_names, row)` of a TFDS set, prepared if need be.

  test: None if `holdout` makes it unneeded; row: see `registry.row_of`.
  classes: only theirs are decoded, see `datasets.choose_classes`; labels stay
  the set's.
  Raises `UserError` for what `prepared` refuses, for a set that cannot be
  read, for images of several sizes and for missing labels.
  """
  builder, test_name = prepared_builder(name, data_dir, holdout)
  names = builder.info.features['label'].names
  wanted = class_indices(names, classes) if classes and names else None
  train = _read_split(name, builder, 'train', size, wanted)
  test = _read_split(name, builder, test_name, size,
                     wanted) if test_name else None
  return train, test, class_names(builder, train.labels), row_of(builder.name)


def class_names(builder, labels):
  """The names of the classes, numbers where the set has none."""
  label = builder.info.features['label']
  count = label.num_classes or int(labels.max()) + 1
  return tuple(label.names or map(str, range(count)))


@contextlib.contextmanager
def open_source(name, builder, split):
  """The data source of a split, its images encoded; one line if that fails."""
  import tensorflow_datasets as tfds
  try:
    with tfds_prepare.quiet_tfds():
      # TFDS's own decoding takes three times as long as Pillow alone.
      yield builder.as_data_source(
          split=split, decoders={'image': tfds.decode.SkipDecoding()})
  except UserError:
    raise
  except Exception as error:  # A missing shard, a broken record or image.
    raise UserError(f'cannot read split {split!r} of data set {name!r} in '
                    f'{str(builder.data_dir)!r}: {brief(error)}') from error


def check_labelled(name, split, labels):
  """`UserError` if images have no label, as those of a contest's test."""
  missing = int((labels < 0).sum())
  if missing:
    raise UserError(
        f'{missing} of {len(labels)} images in split {split!r} of data set '
        f'{name!r} have no label; to test on a part of train instead, set '
        '--config.dataset.holdout=0.1')


def _read_split(name, builder, split, size, wanted):
  with open_source(name, builder, split) as source:
    found, broken = _read_arrays(
        source, builder.info.features['image'].shape[-1], size, wanted)
  check_labelled(name, split, found.labels)
  replace_broken(found, broken, f'split {split!r} of {name!r}',
                 class_names(builder, found.labels))
  return found


def _read_arrays(source, channels, size, wanted=None):
  """All of a data source, or its images of the `wanted` labels.

  Returns:
    `(split, broken)`: a `Split`, and `{row: name}` of the images in it that
    cannot be read.
  """
  count, images, labels, broken = len(source), None, [], {}
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Pillow's, of images it does read.
    for start in range(0, count, READ_BLOCK):
      # Python integers: an array of indices is refused.
      rows = list(range(start, min(start + READ_BLOCK, count)))
      block = [(row, example) for row, example in zip(
          rows, source.__getitems__(rows), strict=True)
               if wanted is None or example['label'] in wanted]
      for row, example in block:
        try:
          image = decode_bytes(example['image'], channels, size)
        except MemoryError:
          raise
        except Exception as error:  # A decoder raises anything.
          broken[len(labels)] = f'record {row} ({brief(error, 60)})'
          labels.append(example['label'])
          continue
        if images is None:
          images = empty_images((count if wanted is None else 0, *image.shape))
        if image.shape[:2] != images.shape[1:3]:
          raise several_sizes({images.shape[2:0:-1], image.shape[1::-1]})
        if len(labels) >= len(images):  # Only where a part is wanted.
          more = empty_images((len(labels) // 2 + READ_BLOCK, *image.shape))
          images = np.concatenate([images, more])
        images[len(labels)] = image
        labels.append(example['label'])
  if images is None:
    images = np.zeros((0, 1, 1, channels), np.uint8)
  if len(labels) > len(images):  # the last ones are broken
    images = np.concatenate([images, empty_images(
        (len(labels) - len(images), *images.shape[1:]))])
  return Split(images[:len(labels)], np.array(labels, np.int32)), broken

LABELS_VERSION = 1  # of the file: a digest of 32 bytes, then the labels, int32
LABELS_BLOCK = 200  # records read at once
PROGRESS_SECONDS = 10  # between two lines of progress


def read_labels(name, builder, split, threads, say):
  """`[n]` int32 of a prepared TFDS split; decodes no image.

  ImageNet has 1.28 million records of 110 kB with a label somewhere in each,
  so the labels are written beside the set, or below `~/.cache` where that is
  read-only, under the digest of the shards' paths, sizes and times; a file
  that is damaged or of another set is as none.

  threads: how many read. say: is told of progress, a line at a time. Raises
  `UserError` for a split that cannot be read and for missing labels.
  """
  with open_source(name, builder, split) as source:
    places = _label_files(builder, split)
    for path in places:
      found = _load_labels(path, len(source))
      if found is not None:
        return found
    found = _scan_labels(source, f'{name} {split}', threads, say)
  check_labelled(name, split, found)
  if not any(_save_labels(path, found) for path in places):
    say(f'cannot keep the labels of {name} {split}: nothing can be written to '
        + ' or '.join(str(path.parent) for path in places))
  return found


def _scan_labels(source, what, threads, say):
  count = len(source)
  blocks = [range(at, min(at + LABELS_BLOCK, count)) for at in range(0, count,
                                                                     LABELS_BLOCK)]

  def block(rows):
    # Python integers: an array of indices is refused.
    return [example['label'] for example in source.__getitems__(list(rows))]

  found = np.empty(count, np.int32)
  said = start = time.monotonic()
  for rows, part in zip(blocks, map_ordered(block, blocks, threads),
                        strict=True):
    found[rows.start:rows.stop] = part
    now = time.monotonic()
    if now - said >= PROGRESS_SECONDS:
      said = now
      left = (now - start) * (count / rows.stop - 1)
      say(f'reading the labels of {what}, once: {rows.stop} of {count}, about '
          f'{text.duration(left)} left')
  return found


def _label_files(builder, split):
  """Where the labels may be, the best place first."""
  name = f'{split}-{split_identity(builder, split)[:24]}.labels'
  cache = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
  kept = cache / 'dasm_jax' / 'index' / f'{builder.name}-{name}'
  if paths.is_remote(builder.data_dir):
    return kept,
  return Path(builder.data_dir) / f'.dasm_jax-{name}', kept


def split_identity(builder, split):
  """What tells a prepared TFDS split from others, hexadecimal digits."""
  digest = hashlib.sha256(f'{LABELS_VERSION}'.encode())
  for path in builder.info.splits[split].filepaths:
    digest.update(f'\n{paths.identity(path)}'.encode())
  return digest.hexdigest()


def _load_labels(path, count):
  """The labels of a file, None if it is not whole."""
  try:
    data = path.read_bytes()
  except OSError:
    return None
  if (len(data) != 32 + 4 * count
      or hashlib.sha256(data[32:]).digest() != data[:32]):
    return None
  return np.frombuffer(data[32:], '<i4').astype(np.int32)


def _save_labels(path, found):
  """Writes the labels all at once; whether that could be done."""
  data = found.astype('<i4').tobytes()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Root may write there all the same, against the will of who set it so.
    if not path.parent.stat().st_mode & 0o222:
      return False
    # A name of its own: others may be writing the same.
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f'{path.name}.')
    try:
      with os.fdopen(handle, 'wb') as file:
        file.write(hashlib.sha256(data).digest() + data)
      os.chmod(aside, 0o644)
      os.replace(aside, path)
    except BaseException:
      os.unlink(aside)
      raise
  except OSError:
    return False
  # What is beside the set under another digest is of a set that was.
  if path.name.startswith('.'):
    for old in path.parent.glob(f'{path.name.rsplit("-", 1)[0]}-*.labels'):
      if old != path:
        with contextlib.suppress(OSError):
          old.unlink()
  return True
