"""Decoding in parallel: by Grain's threads, or by processes behind them.

Grain reads ahead and keeps the order. Its own worker processes are started
with a data set, at one or two seconds each time, and every one walks its share
of that data set; ours must live on while lists of indices are made up one
after the other, outside of them. So each of Grain's threads hands its block
to a process of `worker` and waits for it. `ProcessPoolExecutor` would not do:
its processes import the user's main module again, and with it JAX.
"""

import os
import queue
import threading

import numpy as np

from dasm_jax.data.stores import quiet_pillow
from dasm_jax.data.worker import Worker

BLOCK = 64  # images decoded between two looks at `stop`, at most


class Stopped(Exception):
  """A read was told to stop."""


def cores():
  """How many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def ordered(function, items, threads):
  """`map(function, items)` by Grain's threads, a few items ahead.

  items: a sequence; no result may be None; threads: 0 for none. What
  `function` raises ends it.
  """
  if not threads or len(items) < 2:
    yield from map(function, items)
    return
  import grain
  over = threading.Event()

  def one(item):
    # Items that were under way when another failed are not wanted.
    return None if over.is_set() else function(item)

  try:
    yield from grain.MapDataset.source(items).map(one).to_iter_dataset(
        grain.ReadOptions(num_threads=threads,
                          prefetch_buffer_size=2 * threads))
  finally:
    over.set()


class Pool:
  """Decodes the images of some `Store`s of one image shape."""

  def __init__(self, stores, shape, threads=None, workers=0):
    """threads: as many as cores if None; workers: processes instead."""
    self._stores = tuple(stores)
    self._shape = shape
    self._workers = workers
    self._lanes = workers or (cores() if threads is None else threads)
    # None stands for a process that is not started yet.
    self._idle = queue.SimpleQueue()
    for _ in range(workers):
      self._idle.put(None)

  def fill(self, which, rows, out, places, stop=None):
    """Decodes rows of a store to places of `out`; lists what is broken.

    Args:
      which: index of the store.
      rows: `[k]` array of its rows.
      out: `[n, height, width, channels]` uint8.
      places: `[k]` array, where in `out` each belongs.
      stop: called now and then; when it says so, the rest is left.

    Returns:
      `[(j, error)]`, `out[places[j]]` being undefined.

    Raises:
      Stopped, and whatever kept a process from its work.
    """
    quiet_pillow()
    store, count = self._stores[which], len(rows)
    block = max(1, min(BLOCK, -(-count // (2 * max(1, self._lanes)))))

    def one(at):
      if stop is not None and stop():
        raise Stopped
      mine, here = rows[at:at + block], places[at:at + block]
      lacking = np.arange(len(mine)) if store.kept is None else (
          np.flatnonzero(~store.kept.take(mine, out, here)))
      broken = self._decode(which, mine[lacking], out, here[lacking])
      if store.kept is not None:
        good = np.delete(lacking, [j for j, _ in broken])
        store.kept.put(mine[good], out, here[good])
      return [(at + int(lacking[j]), error) for j, error in broken]

    return [pair for part in ordered(one, range(0, count, block), self._lanes)
            for pair in part]

  def _decode(self, which, rows, out, places):
    """`Store.decode`, here or in a process."""
    if not len(rows):
      return []
    items, places = self._stores[which].items(rows.tolist()), places.tolist()
    return (self._far(which, items, out, places) if self._workers
            else self._stores[which].decode(items, out, places))

  def _far(self, which, items, out, places):
    """`Store.decode` in a process."""
    worker = self._idle.get()
    try:
      if worker is None:
        worker = Worker([store.decode for store in self._stores], self._shape,
                        BLOCK)
      images, broken = worker.decode(which, items)
      out[places] = images
      return broken
    finally:
      self._idle.put(worker if worker is not None and worker.sound else None)

  def close(self):
    """Ends the processes; a later `fill` starts others."""
    for worker in [self._idle.get() for _ in range(self._workers)]:
      if worker is not None:
        worker.close()
      self._idle.put(None)
