"""The real training images of a run: on the devices, or read as they are used.

A step looks at few real images, and which ones its key tells. So a set that
does not fit is streamed by the same draws: the images that the next steps look
at are read ahead, and a `Source` of these alone takes the place of the whole.
"""

import jax.numpy as jnp
import numpy as np

from dasm_jax import parallel
from dasm_jax import source as sources
from dasm_jax.data import splits
from dasm_jax.errors import UserError
from dasm_jax.types import Window


def place(dataset, codec):
  """The images of a `Dataset`: `(real, test)`, ready for the devices.

  real: `Resident` or `Streamed`, of the train split. test: a `Source` on every
  device. codec: a `synthetic.Codec`, whose mean and std or whitening they get.
  """
  classes = len(dataset.class_names)
  def source(split):
    return parallel.replicate(sources.source(
        split, classes, codec.mean, codec.std, codec.zca))
  train, test = dataset.train, source(dataset.test)
  if streamed(dataset):
    return Streamed(train, classes, codec.mean, codec.std), test
  return Resident(source(train)), test


def streamed(dataset):
  """Whether train images are read from the disk as they are used."""
  return not isinstance(dataset.train, splits.Split)


def fetch(data, indices, capacity=None):
  """A `Source` with the images at `indices`, of a `Source` or of these."""
  if isinstance(data, sources.Source):
    return data
  return data.fetch(indices, capacity)


def fetch_own(data, items, room=None):
  """`fetch` of what this process's part of some items looks at.

  Args:
    data: as of `fetch`.
    items: `[n, …]` int, indices of images for each of `n` items that
      `parallel.spread` is given; or a function that tells them.
    room: items that there is to be room for, at least n; None for n.
  """
  if not getattr(data, 'streamed', False):
    return fetch(data, None)
  items = np.asarray(items() if callable(items) else items)
  each = items[0].size
  return fetch(data, items[parallel.own(len(items))],
               parallel.most(room or len(items)) * each)


def pieces(data, whole, piece):
  """How many of `whole` things to do at once: `piece` if it is streamed."""
  return min(whole, piece) if getattr(data, 'streamed', False) else whole


class Resident:
  """All on every device.

  labels: `[n]` int, NumPy. everything: `Window` of all images of each class.
  """
  streamed = False

  def __init__(self, source):
    """source: a `Source` on every device."""
    self._source, self.labels = source, np.asarray(source.labels)
    self.everything = self._source.everything

  def whole(self, what):
    """The `Source` of all images; `what` needs it."""
    del what
    return self._source

  def fetch(self, indices, capacity=None):
    """A `Source` that has the images at `indices`."""
    del indices, capacity
    return self._source


def refused(what):
  """A `UserError`: `what` cannot be done with images that are streamed."""
  return UserError(
      f'{what} goes through all real images again and again, which are read '
      'from the disk as they do not fit on the device; do without it, or set a '
      'smaller --config.dataset.size=, fewer --config.dataset.classes=, or '
      '--config.dataset.stream=never if they do fit')


class Streamed:
  """Read from the disk; as `Resident` otherwise."""
  streamed = True

  def __init__(self, split, classes, mean, std):
    """split: a `data.lazy.Lazy`; the rest as of `sources.source`."""
    self.split, self.labels = split, np.asarray(split.labels)
    rows = [np.flatnonzero(self.labels == c) for c in range(classes)]
    self._blank = parallel.replicate(sources.Source(
        None, jnp.asarray(self.labels),
        Window(*map(jnp.asarray, sources.window(rows))),
        jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)))
    self.everything = self._blank.everything

  def whole(self, what):
    """Raises `UserError`: `what` needs all images at once."""
    raise refused(what)

  def fetch(self, indices, capacity=None):
    """A `Source` on every device that has the images at `indices`.

    capacity: images that there is room for; None for just these.
    """
    unique = np.unique(np.asarray(indices))
    return self.place(unique, self.split.read(unique), capacity)

  def place(self, unique, images, capacity=None):
    """The same of `images` that were read already, `unique` their indices."""
    room = np.zeros((capacity or len(unique), *images.shape[1:]), np.uint8)
    room[:len(unique)] = images
    slots = np.zeros(len(self.labels), np.int32)
    slots[unique] = np.arange(len(unique))
    images, slots = parallel.replicate((room, slots))
    return self._blank._replace(images=images, slots=slots)
