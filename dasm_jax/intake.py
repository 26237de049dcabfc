"""The data set of a job: in memory, or read as its images are used."""

import math

import numpy as np

from dasm_jax import data, hosts, parallel
from dasm_jax.data import lazy
from dasm_jax.errors import UserError

STREAM = ('auto', 'always', 'never')
SHARE = 0.5  # of a device's memory that the images may take


def dataset(config):
  """The `Dataset` that a configuration names.

  Its test images are always in memory; its train images are a `lazy.Lazy`
  where `dataset.stream` says `always`, or `auto` and they do not fit.

  Raises:
    UserError: what `data.load` and `lazy.open` refuse.
  """
  d = config.dataset
  given = dict(data_dir=d.data_dir or None, size=d.size, holdout=d.holdout,
               seed=config.seed, classes=d.classes)
  if d.stream == 'never' or d.stream == 'auto' and fits(config, given):
    return data.load(d.name, **given)
  if d.zca:
    raise UserError(f'--config.dataset.zca={d.zca} whitens by all images, '
                    'which are read from the disk as they do not fit on the '
                    'device; set --config.dataset.zca=0 or a smaller '
                    '--config.dataset.size=')
  found = lazy.open(d.name, **given, workers=d.workers,
                    say=print if hosts.leads() else lambda line: None)
  test = found.test.read(np.arange(len(found.test)))
  return found._replace(test=data.Split(test, found.test.labels))


def fits(config, given):
  """Whether the images take no more than `SHARE` of a device's memory."""
  try:
    outline = data.outline(config.dataset.name, **given)
  except UserError:  # Nobody knows before it is prepared.
    return True
  return not streams(config, outline)


def streams(config, dataset_, memory=None):
  """Whether the train images of a `Dataset` are read as they are used.

  memory: bytes of a device; None: of those here.
  """
  if config.dataset.stream != 'auto':
    return config.dataset.stream == 'always'
  return size(dataset_, config.dataset.zca) > SHARE * (
      memory or parallel.memory())


def size(dataset_, zca=0.0):
  """Bytes of the images of both splits on a device."""
  each = math.prod(dataset_.train.shape) * (4 if zca else 1)
  return each * sum(len(split.labels)
                    for split in (dataset_.train, dataset_.test))
