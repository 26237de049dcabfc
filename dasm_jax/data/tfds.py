"""Sets of TFDS, without TensorFlow; the labels of all their records."""

import contextlib
import functools
import hashlib
import importlib.util
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from dasm_jax.data import images, tfds_features, tfds_prepare, workers
from dasm_jax.data.dataset import (
  Description,
  brief,
  class_indices,
  shorten,
)
from dasm_jax.data.reader import (
  Contents,
  Store,
  first_shape,
  part_of,
  put_images,
)
from dasm_jax.data.registry import DATASETS, row_of
from dasm_jax.data.tfds_prepare import locate, tfds_name
from dasm_jax.errors import UserError
from dasm_jax.runtime import environment, paths, text


def describe(request):
  """The `Description` of a request, its source TFDS's builder, None without.

  Reads no record. Raises `UserError` for an unknown name, no image and label,
  no split to train or test on; its `check` for a set that is not prepared and
  cannot be.
  """
  name = request.name
  if importlib.util.find_spec('tensorflow_datasets') is None:
    raise UserError(f'data set {name!r} needs tensorflow-datasets, which is '
                    'not installed: pip install tensorflow-datasets '
                    "array-record; 'digits' and folder:PATH do without")
  directory = locate(name, request.data_dir)
  with tfds_prepare.quiet_tfds():
    try:
      builder = (tfds_prepare.registered_builder(name, request.data_dir)
                 if directory is None else _builder_at(name, directory))
      _check_features(name, builder)
      if builder.info.splits:
        _test_split(request, builder)
    except UserError as error:
      # Tiny ImageNet is not in TFDS, and much is known of it all the same.
      if directory is not None or name not in DATASETS:
        raise
      return _known(request, None, error)
  if builder.info.splits:
    names = _class_names(builder)
    return Description(names, lambda: _content(request, builder, names),
                       builder)
  return _known(request, builder, None)


def _content(request, builder, names):
  """See `Description.content`; of a prepared set."""
  if not names:
    raise UserError(f'TFDS does not say how many classes data set '
                    f'{request.name!r} has')
  test, splits = _test_split(request, builder), builder.info.splits
  train, test = (np.arange(splits[split].num_examples if split else 0)
                 % len(names) for split in ('train', test))
  return train, test, builder.info.features['image'].shape


def _known(request, builder, refusal):
  """The `Description` of a set that is not prepared.

  builder: that TFDS has for it; None: it has none, `refusal` says so.
  """
  name, row = request.name, DATASETS.get(request.name)

  def check():
    if refusal is not None:
      raise refusal
    with tfds_prepare.quiet_tfds():
      tfds_prepare.check_possible(name, builder, request.data_dir)

  def content():
    if row is None:
      check()
      raise UserError(f'data set {name!r} is not prepared, and TFDS does not '
                      'say how many images and classes it has; prepare it '
                      'first')
    return *(np.arange(count) % row.classes for count in row.counts), row.shape

  names = tuple(map(str, range(row.classes))) if row else ()
  if builder is not None:
    names = _class_names(builder) or names
  return Description(
      names, content, builder, check,
      'it has to be prepared first, as TFDS has none' if builder is None else
      'a run will first ask TFDS to prepare it')


def open(described, options):
  """The `Contents` of a set, which is prepared if need be.

  test: None if a holdout makes it unneeded. Raises `UserError` for a set that
  cannot be prepared or read, for missing labels, and where no image can be
  read.
  """
  described.check()
  request, builder = described.request, described.source
  with tfds_prepare.quiet_tfds():
    if not builder.info.splits:
      builder = _prepared(request)
    test = _test_split(request, builder)
  splits = list(filter(None, ('train', test)))
  _allow_open_files(sum(builder.info.splits[split].num_shards
                        for split in splits))
  train, *tests = (_part(request, builder, split, options) for split in splits)
  names = _class_names(builder) or tuple(
      map(str, range(int(train.labels.max()) + 1)))
  row = row_of(builder.name)
  return Contents(train, tests[0] if tests else None, names,
                  (row.mean, row.std) if row else None)


def absolute(name):
  """The same, with a whole path if it is one of a directory here."""
  here = not paths.is_remote(name) and (
      tfds_prepare.is_path(name) or os.sep in name)
  path = os.path.abspath(os.path.expanduser(name))
  return path if here and os.path.isdir(path) else name


def _prepared(request):
  """The builder of a set that is prepared here, by this process or another."""
  name, data_dir = request.name, request.data_dir
  with tfds_prepare.preparation_lock(data_dir):
    builder = describe(request).source  # another may have been here
    if not builder.info.splits:
      tfds_prepare.prepare(name, builder, data_dir)
  return builder


def _part(request, builder, split, options):
  """The `Part` of all records of a split."""
  labels = read_labels(request.name, builder, split, options)
  shaping = request.shaping if split == 'train' else request.test_shaping
  feature, names = builder.info.features['image'], _class_names(builder)
  with open_source(request.name, builder, split) as source:
    store = Store(
        labels, list,
        functools.partial(_decode_records, source, feature.shape[-1], shaping),
        lambda row: f'{split} record {row}',
        lambda: f'{shaping} {split_identity(builder, split)}',
        _record_bytes(builder, split))
    rows = np.arange(len(labels))
    # The images of other classes may have another size.
    if request.classes and names:
      rows = np.flatnonzero(np.isin(
          labels, class_indices(names, request.classes)))
    shape = first_shape(store, rows if len(rows) else np.arange(len(labels)))
  # Where the set leaves it open, its first image tells the channels of all.
  return part_of(store._replace(decode=functools.partial(
      _decode_records, source, shape[-1], shaping)), shape)


def _record_bytes(builder, split):
  """Bytes of a record of a split, on average."""
  found = builder.info.splits[split]
  return found.num_bytes / max(1, found.num_examples)


def _decode_records(source, channels, shaping, items, out, places):
  def image_of(record):
    data = features_of(record)['image'].bytes_list.value[0]
    return images.decode_bytes(data, channels, shaping)
  rows = [int(row) for row in items]  # An array of indices is refused.
  try:
    # Many at once: one at a time is several times slower.
    records = source.__getitems__(rows)
  except MemoryError:
    raise
  except Exception:  # One broken record fails them all: ask for each.
    return put_images(rows, out, places, lambda row: image_of(source[row]))
  return put_images(records, out, places, image_of)


def features_of(record):
  """The features of an encoded record, by name."""
  from tensorflow_datasets.proto import tf_example_pb2
  # TFDS's own way to them takes twenty times as long, twice what Pillow takes
  # to decode a small image.
  return tf_example_pb2.Example.FromString(record).features.feature


def _allow_open_files(count):
  """Lets the process hold `count` more files open, as far as it may.

  A shard that was read stays open: ImageNet has 1024, as many as the usual
  limit of all files of a process.
  """
  import resource
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  need = count + 512
  if resource.RLIM_INFINITY in (soft, hard) and soft == hard:
    return
  limit = need if hard == resource.RLIM_INFINITY else min(need, hard)
  if soft != resource.RLIM_INFINITY and soft < limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _builder_at(name, directory):
  import tensorflow_datasets as tfds
  tfds_features.check_features(directory)
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


def _test_split(request, builder):
  """The split to test on, None if a holdout replaces it; checks train too."""
  name, splits = request.name, builder.info.splits
  have = [key for key in splits if splits[key].num_examples]
  if 'train' not in have:
    raise UserError(f'data set {name!r} has no train split; it has '
                    f'{shorten(have) or "none"}')
  if request.holdout:
    return None
  row = row_of(builder.name)
  for split in ([row.test] if row else []) + ['test', 'validation']:
    if split in have:
      return split
  raise UserError(f'data set {name!r} has no test or validation split (it has '
                  f'{shorten(have)}); set --config.dataset.holdout=0.1 to hold '
                  'out a part of train')


def _class_names(builder):
  """The names of the classes, numbers where the set has none; () if unknown."""
  label = builder.info.features['label']
  return tuple(label.names or map(str, range(label.num_classes or 0)))


@contextlib.contextmanager
def open_source(name, builder, split):
  """The data source of a split's encoded records; one line if that fails."""
  import tensorflow_datasets as tfds
  try:
    with tfds_prepare.quiet_tfds():
      raw = tfds.decode.DeserializeMethod.RAW_BYTES
      yield builder.as_data_source(split=split, deserialize_method=raw)
  except UserError:
    raise
  except Exception as error:  # A missing shard, a broken record or image.
    raise UserError(f'cannot read split {split!r} of data set {name!r} in '
                    f'{str(builder.data_dir)!r}: {brief(error)}') from error


def check_labelled(name, split, labels, classes=None):
  """`UserError` if images have no label, as those of a contest's test.

  Nor may one be beyond the classes, of which there are at most as many as
  images where the set does not say how many: tables have a row for each.
  """
  classes = classes or len(labels)
  if len(labels) and labels.max() >= classes:
    raise UserError(f'split {split!r} of data set {name!r} has a label of '
                    f'{labels.max()}, but {classes} classes; its records or '
                    'its description are damaged')
  missing = int((labels < 0).sum())
  if missing:
    raise UserError(
        f'{missing} of {len(labels)} images in split {split!r} of data set '
        f'{name!r} have no label; to test on a part of train instead, set '
        '--config.dataset.holdout=0.1')


LABELS_VERSION = 1  # of the file: a digest of 32 bytes, then the labels, int32
PROGRESS_SECONDS = 10  # between two lines of progress
LABEL_BYTES = 20e6  # of records read at once
ALONE_BYTES = 1e9  # of a split whose labels are not worth the start of threads


def read_labels(name, builder, split, options, block=None,
                progress=PROGRESS_SECONDS):
  """`[n]` int32 of a prepared TFDS split; decodes no image.

  ImageNet has 1.28 million records of 110 kB with a label somewhere in each,
  so the labels are written beside the set, or below `~/.cache` where that is
  read-only, under the digest of the shards' paths, sizes and times; a file
  that is damaged or of another set is as none.

  Args:
    name: of the set. builder: of TFDS. split: a name.
    options: `ReadOptions`, which tell how many threads read, and who is told.
    block: records read at once; None: as many as make 20 MB.
    progress: seconds between two lines of it.

  Raises:
    UserError: a split that cannot be read; missing labels.
  """
  known = builder.info.features['label'].num_classes
  with open_source(name, builder, split) as source:
    places = _label_files(builder, split)
    for path in places:
      found = _load_labels(path, len(source), known)
      if found is not None:
        return found
    size, threads = _record_bytes(builder, split), options.threads
    block = block or int(np.clip(LABEL_BYTES / max(1, size), 50, 1000))
    if threads is None:
      threads = workers.cores() if size * len(source) > ALONE_BYTES else 0
    found = np.empty(len(source), np.int32)
    said = start = time.monotonic()
    for done, part in _scan_labels(source, block, threads):
      found[done - len(part):done] = part
      now = time.monotonic()
      if now - said >= progress:
        said = now
        left = (now - start) * (len(source) / done - 1)
        options.say(f'reading the labels of {name} {split}, once: {done} of '
                    f'{len(source)}, about {text.duration(left)} left')
  check_labelled(name, split, found, known)
  if not any(_save_labels(path, found) for path in places):
    options.say(f'cannot keep the labels of {name} {split}: nothing can be '
                'written to ' + ' or '.join(str(path.parent)
                                            for path in places))
  return found


def _scan_labels(source, block, threads):
  """Yields `(records read so far, the labels of the last of them)`."""
  def labels_of(rows):
    # Python integers: an array of indices is refused.
    found = np.array([features_of(record)['label'].int64_list.value[0]
                      for record in source.__getitems__(list(rows))])
    # One that int32 cannot hold is beyond all classes anyway.
    return rows.stop, found.clip(-1, 2 ** 31 - 1)
  blocks = [range(at, min(at + block, len(source)))
            for at in range(0, len(source), block)]
  return workers.map_ordered(labels_of, blocks, threads)


def _label_files(builder, split):
  """Where the labels may be, the best place first."""
  name = f'{split}-{split_identity(builder, split)[:24]}.labels'
  cache = environment.cache_folder() or tempfile.gettempdir()
  kept = Path(cache) / 'dasm_jax' / 'index' / f'{builder.name}-{name}'
  if paths.is_remote(builder.data_dir):
    return kept,
  return Path(builder.data_dir) / f'.dasm_jax-{name}', kept


def split_identity(builder, split):
  """What tells a prepared TFDS split from others, hexadecimal digits."""
  digest = hashlib.sha256(f'{LABELS_VERSION}'.encode())
  for path in builder.info.splits[split].filepaths:
    digest.update(f'\n{paths.identity(path)}'.encode())
  return digest.hexdigest()


def _load_labels(path, count, classes):
  """The labels of a file, None if it is not whole or of other classes."""
  try:
    data = path.read_bytes()
  except OSError:
    return None
  if (len(data) != 32 + 4 * count
      or hashlib.sha256(data[32:]).digest() != data[:32]):
    return None
  found = np.frombuffer(data[32:], '<i4').astype(np.int32)
  fits = (found >= 0) & (found < (classes or count))
  return found if fits.all() else None


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
