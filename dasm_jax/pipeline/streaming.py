"""The real training images of a run: on the devices, or read as they are used.

A step looks at few real images, and which ones its key tells. So a set that
does not fit is streamed by the same draws: the images that the next steps look
at are read ahead, and a `Source` of these alone takes the place of the whole.
"""

import contextlib
import math
from concurrent import futures

import jax.numpy as jnp
import numpy as np

from dasm_jax.data import dataset as datasets
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline.prefetch import Prefetcher
from dasm_jax.runtime import devices
from dasm_jax.types import Window

BUFFER_MB = 512  # that a piece of streamed images may take


def place_dataset(dataset, codec, buffer_mb=BUFFER_MB):
  """The images of a `Dataset`: `(real, test)`, ready for the devices.

  real: `ResidentImages` or `StreamedImages`, of the train split. test: that of
  the test split, or a `Source` on every device. codec: a `synthetic.Codec`,
  whose mean and std or whitening they get.
  buffer_mb: see `StreamedImages`.
  """
  classes = len(dataset.class_names)
  def source(split):
    return devices.replicate(sources.make_source(
        split, classes, codec.mean, codec.std, codec.zca))
  def streamed(split):
    return StreamedImages(split, classes, codec.mean, codec.std, buffer_mb)
  train, test = dataset.train, dataset.test
  return (streamed(train) if is_lazy(train) else ResidentImages(source(train)),
          streamed(test) if is_lazy(test) else source(test))


def is_lazy(split):
  """Whether the images of a split are read from the disk as they are used."""
  return not isinstance(split, datasets.Split)


def fetch(data, indices, capacity=None):
  """A `Source` with the images at `indices`, of a `Source` or of these."""
  if isinstance(data, sources.Source):
    return data
  return data.fetch(indices, capacity)


def fetch_local(data, items, room=None):
  """`fetch` of what this process's part of some items looks at.

  items, room: see `local_rows`. items may also be a function that tells them,
  asked only where images are streamed.
  """
  if not is_streamed(data):
    return fetch(data, None)
  return fetch(data, *local_rows(items() if callable(items) else items, room))


def local_rows(items, room=None):
  """`(indices, capacity)` of what this process's part of some items looks at.

  Args:
    items: `[n, …]` int, indices of images for each of `n` items that
      `devices.spread` is given.
    room: items that there is to be room for, at least n; None for n.
  """
  # Room as in the process with the most items: all run one program, of the
  # same shapes.
  items = np.asarray(items)
  return (items[devices.local_items(len(items))],
          devices.most_local(room or len(items)) * items[0].size)


def local_share(indices):
  """Of images `[…, n]` that all devices look at those this process reads.

  `sources.take` exchanges them between the devices.
  """
  return indices[..., devices.local_items(indices.shape[-1])]


def is_streamed(data):
  """Whether images are read as they are used; of a `Source` or of these."""
  return getattr(data, 'streamed', False)


def pieces_with_room(data, whole, each):
  """How many of `whole` things to do at once: where streamed what has room.

  each: images that one of them looks at in the process that has most of them.
  """
  return max(1, min(whole, data.room // each)) if is_streamed(data) else whole


@contextlib.contextmanager
def prefetched(data, ats, wanted):
  """Yields an iterator of `(at, Source)` over things done one after the other.

  Where images are streamed, those of the next are read and put on the devices
  meanwhile.

  Args:
    data: a `Source`, or one of these.
    ats: an iterable, of things that can be told apart.
    wanted: `at -> (indices, capacity)`, see `fetch`; asked only where streamed,
      in the background, in the order of `ats`.
  """
  if not is_streamed(data):
    yield ((at, fetch(data, None)) for at in ats)
    return
  # What the reading thread asked for, until its images are put on the devices.
  asked = {}

  def indices(at):
    found, capacity = wanted(at)
    asked[at] = np.unique(np.asarray(found)), capacity
    return asked[at][0]

  # The reader is left first: that wakes a `place_next` which waits for it, so
  # that the pool can end.
  with futures.ThreadPoolExecutor(1) as pool, (
      Prefetcher(data.split, indices, ats)) as ahead:

    def place_next():
      found = next(ahead, None)
      if found is None:
        return None
      unique, capacity = asked.pop(found[0])
      return found[0], data.place(unique, found[1], capacity)

    def each():
      # The next piece goes to the devices while the caller works on this one.
      coming = pool.submit(place_next)
      while (found := coming.result()) is not None:
        coming = pool.submit(place_next)
        yield found
        del found  # Before the next arrives: it may be half of the memory.

    yield each()


class ResidentImages:
  """All on every device.

  labels: `[n]` int, NumPy. everything: `Window` of all images of each class.
  """
  streamed = False

  def __init__(self, source):
    """source: a `Source` on every device."""
    self._source, self.labels = source, np.asarray(source.labels)
    self.everything = self._source.everything

  def fetch(self, indices, capacity=None):
    """A `Source` that has the images at `indices`."""
    del indices, capacity
    return self._source


class StreamedImages:
  """Read from the disk; as `ResidentImages` otherwise.

  room: images that a piece may hold, of as many as there are things to do.
  """
  streamed = True

  def __init__(self, split, classes, mean, std, buffer_mb=BUFFER_MB):
    """split: a `reader.LazySplit`; buffer_mb: MB that a piece of images may
    take, of which two or three are held at a time; the rest as of
    `sources.make_source`.
    """
    self.split, self.labels = split, np.asarray(split.labels)
    self.room = int(buffer_mb * 2 ** 20 // math.prod(split.shape))
    rows = [np.flatnonzero(self.labels == c) for c in range(classes)]
    self._blank = devices.replicate(sources.Source(
        None, jnp.asarray(self.labels),
        Window(*map(jnp.asarray, sources.pad_window(rows))),
        jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32),
        like=jnp.zeros(split.shape, jnp.uint8)))
    self.everything = self._blank.everything

  @property
  def unread(self):
    """A `Source` without images, of which `Method.draw` tells what to read."""
    return self._blank

  def fetch(self, indices, capacity=None):
    """A `Source` on every device that has the images at `indices`.

    capacity: images that there is room for; None for just these.
    """
    unique = np.unique(np.asarray(indices))
    return self.place(unique, self.split.read(unique), capacity)

  def place(self, unique, images, capacity=None):
    """The same of `images` that were read already, `unique` their indices."""
    # Always of the capacity, even if fewer images are read: of another shape
    # the program would be compiled anew. Slots of images that are not here say
    # 0: only items whose results are thrown away look at them.
    size = min(capacity or len(unique), len(self.labels))
    room = np.zeros((size, *sources.flat_shape(images.shape[1:])), np.uint8)
    room[:len(unique)] = sources.flat(images)
    slots = np.zeros(len(self.labels), np.int32)
    slots[unique] = np.arange(len(unique))
    images, slots = devices.replicate((room, slots))
    return self._blank._replace(images=images, slots=slots)
