"""The few types that everything passes on: NamedTuples, hence pytrees."""

from collections.abc import Callable
from typing import NamedTuple

import jax

Array = jax.Array


class Batch(NamedTuple):
  """What a network sees.

  images: `[..., height, width, channels]`, normalised float.
  labels: `[..., classes]`, one-hot or soft, rows sum to one.
  """
  images: Array
  labels: Array


class SoftLabelled(NamedTuple):
  """A `Batch` `[n, …]` whose labels are told anew in every epoch.

  told: `[epochs, n, classes]` float16, logits of a teacher for each image as
    that epoch shows it; after the last epoch comes the first again.
  seed: `[]` uint32, of what an epoch shows: order, augmentation, CutMix.
  temperature: `[]`, by which a network's logits are divided, and these.
  """
  images: Array
  labels: Array
  told: Array
  seed: Array
  temperature: Array


class Synthetic(NamedTuple):
  """What is learned. Class-major: a class is an index, a segment a slice.

  images: `[classes, ipc, height, width, channels]` as stored (see Codec).
  labels: `[classes, ipc, classes]`, probabilities.
  lr: `[]`, the student's learned rate (trajectory matching).
  """
  images: Array
  labels: Array
  lr: Array


class Window(NamedTuple):
  """Which real images a segment may see, class by class.

  indices: `[classes, capacity]` int32 into the data set, padded at the end.
  counts: `[classes]` int32, how many entries of each row count.
  """
  indices: Array
  counts: Array


class Variables(NamedTuple):
  """A network's state: `params` are trained, `stats` are running averages."""
  params: dict
  stats: dict


class Network(NamedTuple):
  """A network as pure functions.

  init: `key -> Variables`.
  apply: `(variables, images, train=False) -> (logits, stats)`; `train` uses
    batch statistics and returns the updated running ones.
  features: `(variables, images, train=False) -> tuple` of each block's output
    `[n, height, width, channels]`; the last linear layer reads the last one.
  embed: `(variables, images, train=False) -> [n, d]`, that one, flattened.
  maps: as `features`, but before the pooling that ends a block; then what the
    classifier reads. `features` themselves where no block ends in pooling.
  moments: `(variables, images) -> (logits, {layer: {'mean', 'var'}})`, each
    `[n, channels]`: of what every batch norm reads, over height and width of
    each image, running averages in use.
  """
  init: Callable
  apply: Callable
  features: Callable
  embed: Callable
  maps: Callable
  moments: Callable


class Method(NamedTuple):
  """How a synthetic set is learned, as pure functions.

  init: `(key, syn) -> state`.
  step: `(state, data, pool, key) -> (state, metrics)`, one sweep over all
    classes; may be jitted, scanned or pmapped by anybody.
  axes: `state` with 0 where a leaf begins with the classes, else None.
  looks: `(pool, mine, n, key, step) -> [indices, …]`, which of the `n` real
    images this process needs for a step, int32 of any shapes; `pool` is of all
    classes, `mine` the rows that are matched here; `n` and `step` are plain
    ints. None: only the state tells, so all must be there.
  warm: a `Warm`, if some sweeps begin with one.
  """
  init: Callable
  step: Callable
  axes: object
  looks: Callable | None = None
  warm: object = None


class Warm(NamedTuple):
  """What a method's networks learn before some sweeps, batch by batch.

  `Method.step` does that, too; a warm-up may be longer than one call should
  last, and look at more real images than there is room for.

  batches: `step -> int`, how many there are before a sweep; plain ints.
  done: `state -> []` int32, how many of those before its next sweep it had.
  run: `(state, data, key, size) -> state`, `size` more of them.
  looks: `(n, key, step) -> [batches, images]` int32, which of the `n` real
    images this process needs for each.
  rest: the `Method` without it, of states that had all.
  """
  batches: Callable
  done: Callable
  run: Callable
  looks: Callable
  rest: Method
