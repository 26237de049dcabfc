"""The data set of a run: in memory, or read as its images are used."""

import contextlib
import hashlib
import math

import numpy as np

from dasm_jax import data
from dasm_jax.data import registry
from dasm_jax.errors import UserError
from dasm_jax.runtime import devices, processes, records

STREAM_CHOICES = ('auto', 'always', 'never')
RESIDENT_SHARE = 0.5  # of a device's memory that the images may take
DIGEST_SAMPLE = 100  # images by which a data set is known again
TEST_SHARE = 0.1  # and that test images may take where the others are streamed


def request_of(config):
  """What a configuration asks of `data.describe`, by its arguments' names."""
  d = config.dataset
  return dict(name=d.moved_to or d.name, data_dir=d.data_dir or None,
              size=d.size, holdout=d.holdout, seed=config.seed,
              classes=d.classes, resize=d.resize, background=d.background,
              statistics=d.statistics, test_crop=d.test_crop)


def load_configured(config, memory=None, look=None):
  """The `Dataset` that a configuration names, see `load`."""
  d = config.dataset
  # What is known by its name (experts) stays so where the images have moved.
  return load(**request_of(config), stream=d.stream, zca=d.zca,
              workers=d.workers, cache=d.cache, memory=memory,
              look=look)._replace(name=d.name)


# What `written_request` writes where it is not the usual.
SELDOM = {'resize': 'crop', 'background': 'white', 'statistics': 'auto',
          'test_crop': 1.0}


def statistics_of(config, dataset_):
  """One of `registry.STATISTICS`: auto only where its meaning never changed."""
  if (dataset_.statistics == registry.IMAGENET
      and config.dataset.name not in data.DATASETS):
    return 'imagenet'  # of a folder: version 0.1 took its own
  return config.dataset.statistics


def written_request(config, dataset_):
  """What the card of a set says of its data, which `load_again` takes.

  Paths are whole. cut: what was held out of a set without test images, drawn
  by the seed.
  """
  asked = request_of(config) | {
      'statistics': statistics_of(config, dataset_)}
  out = {key: asked[key] for key in ('size', 'holdout', 'seed', 'classes')}
  out |= {key: asked[key] for key, usual in SELDOM.items()
          if asked[key] != usual}
  if dataset_.cut:
    out['cut'] = dataset_.cut
  return {'name': data.absolute(asked['name']), **out}


def load_again(written, **given):
  """The `Dataset` of what a card says; given: see `load`."""
  written = dict(written)
  drawn = written.pop('cut', 0) or written['holdout']
  # Version 0.1 held out a fifth that was evenly spaced, whatever the seed.
  return load(**written | {'seed': written['seed'] if drawn else None}, **given)


def load(name, *, stream='auto', zca=0.0, workers=0, cache='', memory=None,
         look=None, **given):
  """A `Dataset` whose images are in memory, or read as they are used.

  Its train images are a `reader.LazySplit` where `stream` says `always`, or
  `auto` and they do not fit; then so are its test images if they are many.

  Args:
    name, given: see `data.load`.
    stream: one of `STREAM_CHOICES`.
    zca: of a whitening, which asks for all images.
    workers: processes that decode; cache: where decoded images are kept; of
      images that are streamed, see `data.ReadOptions`.
    memory: see `streams`.
    look: given the data set with black images, before any are read; only where
      their number and size are known.

  Raises:
    UserError: what `data.open` refuses, and whitening of streamed images.
  """
  described = data.describe(name, **given)
  if look:
    with contextlib.suppress(_Unknown):
      look(_outline(described))
  if stream == 'never' or (
      stream == 'auto' and fits_in_memory(described, zca, memory)):
    return data.open_described(described).in_memory()
  check_whitening(zca)
  found = data.open_described(described, data.ReadOptions(
      workers=workers, cache=cache,
      say=print if processes.is_leader() else lambda line: None))
  # A class that cannot be read is told of here already.
  if found.statistics is None:
    found.train.statistics()
  else:
    found.train.read(np.unique(found.train.labels, return_index=True)[1])
  # Where test images are few they are read once and stay in memory: every
  # network of the evaluation looks at them.
  return found if streams_tests(found, memory) else found._replace(
      test=found.test.in_memory())


def streams_tests(dataset_, memory=None):
  """Whether test images, of a set that is streamed, are so as well.

  memory: see `streams`.
  """
  each = math.prod(dataset_.test.shape)
  return each * len(dataset_.test.labels) > TEST_SHARE * (
      memory or devices.memory())


def check_same_data(path, dataset_, say, run=''):
  """Makes sure that a data set is the one that a run began with.

  Its digest is kept in a file: of the labels, and of some uint8 images, which
  another version of a decoder may make others.

  Args:
    path: of the file.
    dataset_: a `Dataset`.
    say: called with a line about images that differ.
    run: the name of the run.

  Raises:
    UserError: other labels, so that the state of a run means other images.
  """
  # Every label counts, as indices of images are kept in checkpoints; pixels
  # only tell of a change, so some of them, spread over the set, will do.
  split = dataset_.train
  labels = np.ascontiguousarray(split.labels)
  some = split.read(np.linspace(
      0, len(labels) - 1, min(DIGEST_SAMPLE, len(labels))).astype(int))
  now = {'images': len(labels), 'labels': hashlib.sha256(labels).hexdigest(),
         'pixels': hashlib.sha256(np.ascontiguousarray(some)).hexdigest()
         if some.dtype == np.uint8 else ''}  # whitening is to rounding
  before = records.read(path, 'data', run, lambda there: (
      [there[name] for name in now]))
  if before is None:  # the first start of the run, or it says nothing
    records.write(path, 'data', run, now)
    return
  if now['labels'] != before['labels']:
    raise UserError(
        f'the {now["images"]} train images of {dataset_.name!r} are not those '
        f'that this run began with ({before["images"]}, or in other classes): '
        'find these, or choose another --workdir')
  if now['pixels'] != before['pixels']:
    say(f'note      some train images of {dataset_.name} have changed since '
        'this run began')


STREAMED = 'but here they are read from the disk as they are used'
NEVER = 'or --config.dataset.stream=never if they fit on the device'


def check_whitening(zca):
  """Raises `UserError` for a whitening: it would need all images at once."""
  if zca:
    raise UserError(f'--config.dataset.zca={zca} whitens by all images, '
                    f'{STREAMED}; set --config.dataset.zca=0 or a smaller '
                    f'--config.dataset.size=, {NEVER}')


def fits_in_memory(described, zca=0.0, memory=None):
  """Whether the images take `RESIDENT_SHARE` of a device's memory at most.

  described: a `data.Description`; memory: see `streams`.
  """
  try:
    outline = _outline(described)
  except _Unknown:
    return True
  return image_bytes(outline, zca) <= RESIDENT_SHARE * (
      memory or devices.memory())


class _Unknown(Exception):
  """Nobody knows before a set is prepared."""


def _outline(described):
  try:
    return data.outline_described(described)
  except UserError as error:
    raise _Unknown from error


def streams(config, dataset_, memory=None):
  """Whether the train images of a `Dataset` are read as they are used.

  memory: bytes of a device; None: of those here.
  """
  if config.dataset.stream != 'auto':
    return config.dataset.stream == 'always'
  return image_bytes(dataset_, config.dataset.zca) > RESIDENT_SHARE * (
      memory or devices.memory())


def image_bytes(dataset_, zca=0.0):
  """Bytes of the images of both splits on a device."""
  # uint8, but float32 once they are whitened.
  each = math.prod(dataset_.train.shape) * (4 if zca else 1)
  return each * sum(len(split.labels)
                    for split in (dataset_.train, dataset_.test))
