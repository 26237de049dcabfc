"""Real data on the device, and traceable draws from it."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax.transforms import zca
from dasm_jax.types import Array, Batch, Window

CHUNK = 1000  # images whitened at a time
# Numbers of an image that is long, and of a line of a TPU's memory.
LONG, LANES = 2 ** 15, 128


class Source(NamedTuple):
  """A data set that fits on the device; the same on every one.

  images: `[n, height * width * channels]` uint8, or floats as networks see
    them, as `flat` puts them; `[n, height, width, channels]` where `like` is
    None.
  labels: `[n]` int32.
  everything: `Window` of all images of each class.
  mean, std: `[channels]` on [0, 1].
  slots: None if `images` are all there are. Else only those that the next steps
    read are here, and `[n]` int32 says where in `images` each of them is.
  starts: None, or `[k, parameters]` float32, networks that were trained before;
    each inner network begins as one of them, drawn by chance.
  finished: likewise, networks that finished segments have trained.
  like: `[height, width, channels]`, an image whose shape alone is looked at.
  """
  images: Array
  labels: Array
  everything: Window
  mean: Array
  std: Array
  slots: Array | None = None
  starts: Array | None = None
  finished: Array | None = None
  like: Array | None = None


class ClassWindows(NamedTuple):
  """What the classes at hand may be matched with; all begin with classes.

  classes: `[k]` int32, the class each row stands for.
  present: `[k]` float32, 1, or 0 for a row that only fills a device.
  window: `Window` of the segment.
  everything: `Window` of the whole class, for replay.
  frozen: `Batch` of finished stored images `[k, done, …]`.
  """
  classes: Array
  present: Array
  window: Window
  everything: Window
  frozen: Batch


def pad_window(rows):
  """Lists of indices, one a class, as a padded `Window` (NumPy)."""
  counts = np.array([len(row) for row in rows], np.int32)
  # One column at least: there is nothing to draw from an array of none.
  indices = np.zeros((len(rows), max(1, counts.max())), np.int32)
  for c, row in enumerate(rows):
    indices[c, :len(row)] = row
  return Window(indices, counts)


def make_source(split, classes, mean, std, whitening=None):
  """A `Source` from uint8 images `[n, …]` and labels `[n]` on the host.

  whitening: a `zca.Zca` in place of mean and std; the images are whitened
  here, once, and are float32 then.
  """
  rows = [np.flatnonzero(split.labels == c) for c in range(classes)]
  # In parts: whitening makes several float copies of what it is given.
  images = split.images if whitening is None else np.concatenate([
      np.asarray(zca.whiten(whitening, split.images[at:at + CHUNK]))
      for at in range(0, len(split.images), CHUNK)])
  return Source(jnp.asarray(flat(images)), jnp.asarray(split.labels),
                Window(*map(jnp.asarray, pad_window(rows))),
                jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32),
                like=jnp.zeros(images.shape[1:], jnp.uint8))


def flat(images):
  """Images `[n, …]` as rows `[n, numbers]`, or long ones as `[n, …, LANES]`.

  A TPU lays `[n, h, w, c]` out with n last, so that a batch of 64 touches all
  of the set (5.1 ms of CIFAR-10, as its compiler estimates, and a copy four
  times as large); of rows it reads 64 (.02 ms). Of rows longer than `LONG` it
  would first cut the whole set into shorter ones (13.8 ms and 1.5 GB of 12,812
  images of 224 pixels): there each image is a block of whole lines (.2 ms).
  """
  numbers = math.prod(images.shape[1:])
  long = numbers > LONG and not numbers % LANES
  return images.reshape(len(images), *((-1, LANES) if long else (numbers,)))


def flat_shape(shape):
  """The shape of one image of `shape` as `flat` puts it."""
  return flat(np.broadcast_to(np.uint8(0), (1, *shape))).shape[1:]


def image_shape(data):
  """(height, width, channels) of a `Source`, a `Batch` or a `SoftLabelled`."""
  like = getattr(data, 'like', None)
  return (data.images if like is None else like).shape[-3:]


def class_count(data):
  """Number of classes of a `Source`, or of one of `streaming`."""
  return data.everything.counts.shape[0]


def take(data, indices, axis_name=None):
  """The `Batch` at `indices`, normalised, one-hot.

  Args:
    data: a `Source`.
    indices: of any shape; with `axis_name` `[n]`, the same on every device.
    axis_name: where images are streamed, a device has only its share of them,
      `devices.local_items`; all have all after the exchange.
  """
  if axis_name is None or data.slots is None:
    at = indices if data.slots is None else data.slots[indices]
    images, shape = data.images[at], jnp.shape(indices)
  else:
    # Each device looks up its share, whose images its process has read, as
    # `devices.local_items` cuts alike. They are exchanged before they become
    # floats: a quarter of the bytes.
    n = jax.lax.axis_size(axis_name)
    share = -(-len(indices) // n)
    rows = jnp.resize(data.slots[indices], (n, share))
    images = jax.lax.all_gather(
        data.images[rows[jax.lax.axis_index(axis_name)]], axis_name,
        tiled=True)[:len(indices)]
    shape = jnp.shape(indices)
  if data.like is not None:
    images = images.reshape(*shape, *data.like.shape)
  if images.dtype == jnp.uint8:
    images = (images.astype(jnp.float32) / 255 - data.mean) / data.std
  return Batch(images, jax.nn.one_hot(data.labels[indices], class_count(data)))


def take_any(data, indices):
  """The `Batch` at `indices` of a `Source`, a `Batch` or a `SoftLabelled`."""
  if isinstance(data, Source):
    return take(data, indices)
  return Batch(data.images[indices], data.labels[indices])


def draw_without_repeats(key, row, count, size):
  """`size` entries of the first `count` of `row`, none twice if enough.

  A class with fewer than `size` images gives each as evenly as it can.

  Args:
    key: a key.
    row: `[capacity]` int32.
    count: traced int, at least 1.
    size: how many.

  Returns:
    `[size]` int32.
  """
  # A random order of the whole row, as `count` is traced and no shape can
  # depend on it. Draws are below 1: what only pads the row comes after them.
  capacity = row.shape[0]
  rank = jax.random.uniform(key, (capacity,))
  rank = jnp.where(jnp.arange(capacity) < count, rank, 2)
  if size <= capacity:
    order = jax.lax.top_k(-rank, size)[1]
  else:
    order = jnp.argsort(rank)
  return row[order[jnp.arange(size) % jnp.minimum(count, len(order))]]


def class_indices(windows, keys, size, replay=0.0):
  """The real images of a batch for each class, `[k, size]` int32.

  Args:
    windows: `ClassWindows` of k classes.
    keys: `[k]` keys.
    size: images a class.
    replay: share drawn from the whole class rather than from the window.
  """
  again = round(size * replay)

  def one(key, window, everything):
    if not again:
      return draw_without_repeats(key, *window, size)
    first, second = jax.random.split(key)
    repeated = draw_without_repeats(second, *everything, again)
    if size == again:
      return repeated
    return jnp.concatenate([
        draw_without_repeats(first, *window, size - again), repeated])

  return jax.vmap(one)(keys, windows.window, windows.everything)
