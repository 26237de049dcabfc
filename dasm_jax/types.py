"""The few types that everything passes on: NamedTuples, hence pytrees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any


# ---- Sets of images


class Batch(NamedTuple):
  """What a network sees.

  images: `[..., height, width, channels]`, normalised float.
  labels: `[..., classes]`, one-hot or soft, rows sum to one.
  """
  images: Array
  labels: Array


class SoftLabelled(NamedTuple):
  """A `Batch` `[n, …]` that teachers label anew in every epoch (SRe2L).

  logits: `[epochs, n, classes]` float16, of a teacher for each image as that
    epoch shows it; after the last epoch comes the first again.
  seed: `[]` uint32, of what an epoch shows: order, augmentation, CutMix.
  temperature: `[]`, by which a network's logits are divided, and these.
  """
  images: Array
  labels: Array
  logits: Array
  seed: Array
  temperature: Array


class Synthetic(NamedTuple):
  """What is learned. Class-major: a class is an index, a segment a slice.

  images: `[classes, ipc, height, width, channels]` as stored, see
    `synthetic.Codec`.
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


# ---- Functions that others hand in

# Of parameters of any kind: the mean loss of a batch, its logits, its features
# block by block.
LossFn = Callable[[PyTree, Batch], Array]
LogitsFn = Callable[[PyTree, Array], Array]
FeaturesFn = Callable[[PyTree, Array], tuple[Array, ...]]
# `(syn, params, target, key) -> (scalar, metrics)`, see `objectives`.
Objective = Callable[..., tuple[Array, dict[str, Array]]]
# `(key, images, shared) -> images`, see `augment.build`.
Augmentation = Callable[..., Array]


# ---- Networks


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


# ---- Methods


class Drawn(NamedTuple):
  """Which real images one sweep reads, int32 indices into the data set.

  by_class: `[classes, n]`, of each class by itself.
  shared: `{what for: [..., n]}`, looked at together by all devices.
  """
  by_class: Array
  shared: dict


class Method(NamedTuple):
  """How a synthetic set is learned, as pure functions.

  init: `(key, syn) -> state`.
  draw: `(data, windows, key, step) -> Drawn`, every real image that a sweep
    reads: `data` is a `Source` whose images are not looked at, `windows` are
    `ClassWindows`. Where images are streamed the host calls it too, of all
    classes, to read ahead.
  step: `(state, data, windows, drawn, key) -> (state, metrics)`, one sweep over
    all classes; may be jitted, scanned or pmapped by anybody.
  axes: `state` with 0 where a leaf begins with the classes, else None.
  foretold: whether `draw` tells all that `step` reads; else all images must be
    there.
  warmup: a `Warmup`, if some sweeps begin with one.
  """
  init: Callable
  draw: Callable
  step: Callable
  axes: object
  foretold: bool = True
  warmup: object = None


class Warmup(NamedTuple):
  """What a method's networks learn before some sweeps, batch by batch.

  It may be longer than one call should last, and look at more real images than
  there is room for: so it is no part of `Method.step`, which goes on from where
  it ended.

  batches: `step -> int`, how many there are before a sweep; plain ints.
  done: `state -> []` int32, how many of those before its next sweep it had.
  draw: `(data, key, step) -> [batches, images]` int32, which real images each
    reads.
  step: `(state, data, drawn, key, size) -> state`, `size` more of them.
  """
  batches: Callable
  done: Callable
  draw: Callable
  step: Callable
