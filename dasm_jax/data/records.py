"""TFDS sets to arrays, without TensorFlow."""

import contextlib
import importlib.util
import warnings

import numpy as np

from dasm_jax.data import prepare
from dasm_jax.data.directory import locate, tfds_name
from dasm_jax.data.folder import several_sizes
from dasm_jax.data.images import decode_bytes
from dasm_jax.data.splits import Split, brief, empty, mend, shorten
from dasm_jax.data.subset import indices
from dasm_jax.data.table import row_of
from dasm_jax.errors import UserError

# How many records to read at once: one at a time is several times slower.
BLOCK = 1000


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
  with prepare.quiet():
    if directory is None:
      builder = prepare.registered(name, data_dir)
      _check_features(name, builder)
      if not builder.info.splits:
        prepare.check_possible(name, builder, data_dir)
    else:
      builder = _open(name, directory)
      _check_features(name, builder)
    if builder.info.splits:
      test_split(name, builder, holdout)
  return builder


def _open(name, directory):
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


def prepared(name, data_dir=None, holdout=0.0):
  """`(builder, test_name)` of a TFDS set, prepared if need be.

  test_name: the split to test on, None if `holdout` makes it unneeded. Raises
  `UserError` for what `check` refuses and for a set that cannot be prepared.
  """
  builder = check(name, data_dir, holdout)
  with prepare.quiet():
    if not builder.info.splits:
      with prepare.alone(data_dir):
        builder = check(name, data_dir, holdout)  # another may have been here
        if not builder.info.splits:
          prepare.prepare(name, builder, data_dir)
    return builder, test_split(name, builder, holdout)


def load(name, data_dir=None, size=None, holdout=0.0, classes=''):
  """`(train, test, class_names, row)` of a TFDS set, prepared if need be.

  test: None if `holdout` makes it unneeded; row: see `table.row_of`.
  classes: only theirs are decoded, see `subset.choose`; labels stay the set's.
  Raises `UserError` for what `prepared` refuses, for a set that cannot be
  read, for images of several sizes and for missing labels.
  """
  builder, test_name = prepared(name, data_dir, holdout)
  names = builder.info.features['label'].names
  wanted = indices(names, classes) if classes and names else None
  train = _read(name, builder, 'train', size, wanted)
  test = _read(name, builder, test_name, size, wanted) if test_name else None
  return train, test, class_names(builder, train.labels), row_of(builder.name)


def class_names(builder, labels):
  """The names of the classes, numbers where the set has none."""
  label = builder.info.features['label']
  count = label.num_classes or int(labels.max()) + 1
  return tuple(label.names or map(str, range(count)))


@contextlib.contextmanager
def opened(name, builder, split):
  """The data source of a split, its images encoded; one line if that fails."""
  import tensorflow_datasets as tfds
  try:
    with prepare.quiet():
      # TFDS's own decoding takes three times as long as Pillow alone.
      yield builder.as_data_source(
          split=split, decoders={'image': tfds.decode.SkipDecoding()})
  except UserError:
    raise
  except Exception as error:  # A missing shard, a broken record or image.
    raise UserError(f'cannot read split {split!r} of data set {name!r} in '
                    f'{str(builder.data_dir)!r}: {brief(error)}') from error


def refuse_missing(name, split, labels):
  """`UserError` if images have no label, as those of a contest's test."""
  missing = int((labels < 0).sum())
  if missing:
    raise UserError(
        f'{missing} of {len(labels)} images in split {split!r} of data set '
        f'{name!r} have no label; to test on a part of train instead, set '
        '--config.dataset.holdout=0.1')


def _read(name, builder, split, size, wanted):
  with opened(name, builder, split) as source:
    found, broken = _arrays(
        source, builder.info.features['image'].shape[-1], size, wanted)
  refuse_missing(name, split, found.labels)
  mend(found, broken, f'split {split!r} of {name!r}',
       class_names(builder, found.labels))
  return found


def _arrays(source, channels, size, wanted=None):
  """All of a data source, or its images of the `wanted` labels.

  Returns:
    `(split, broken)`: a `Split`, and `{row: name}` of the images in it that
    cannot be read.
  """
  count, images, labels, broken = len(source), None, [], {}
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Pillow's, of images it does read.
    for start in range(0, count, BLOCK):
      # Python integers: an array of indices is refused.
      rows = list(range(start, min(start + BLOCK, count)))
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
          images = empty((count if wanted is None else 0, *image.shape))
        if image.shape[:2] != images.shape[1:3]:
          raise several_sizes({images.shape[2:0:-1], image.shape[1::-1]})
        if len(labels) >= len(images):  # Only where a part is wanted.
          more = empty((len(labels) // 2 + BLOCK, *image.shape))
          images = np.concatenate([images, more])
        images[len(labels)] = image
        labels.append(example['label'])
  if images is None:
    images = np.zeros((0, 1, 1, channels), np.uint8)
  if len(labels) > len(images):  # the last ones are broken
    images = np.concatenate([images, empty(
        (len(labels) - len(images), *images.shape[1:]))])
  return Split(images[:len(labels)], np.array(labels, np.int32)), broken
