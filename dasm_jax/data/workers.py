"""Decoding alone, by Grain's threads, or by processes behind them.

Python decodes small images faster alone than by threads, which then wait for
each other: CIFAR-10 took 1.6 times as long by two threads as by none.

Grain reads ahead and keeps the order. Its own worker processes are started
with a data set, at one or two seconds each time, and every one walks its share
of that data set; ours must live on while lists of indices are made up one
after the other, outside of them. So each of Grain's threads hands its block
to a `DecoderProcess` and waits for it. `ProcessPoolExecutor` would not do: its
processes import the user's main module again, and with it JAX.

Such a process imports NumPy, Pillow and what reads the records: not JAX, not
the user's main module. Requests and replies go through its standard input and
output, pixels through memory without a name, which no crash can leave behind.
It ends when its input does, so also when the process that started it is killed.
"""

import contextlib
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import weakref

import numpy as np

from dasm_jax.data.images import quiet_pillow
from dasm_jax.errors import UserError
from dasm_jax.runtime import paths


class DecoderProcess:
  """A process; `sound` is whether it can be asked again."""

  def __init__(self, decodes, shape, block):
    """decodes: of some `Store`s; shape: of an image; block: items at most."""
    size = max(1, block * int(np.prod(shape)))
    with _anonymous_file() as file:
      file.truncate(size)
      self._memory = mmap.mmap(file.fileno(), size)
      self._images = np.ndarray((block, *shape), np.uint8, self._memory)
      self._process = subprocess.Popen(
          [sys.executable, '-c', f'import sys; sys.path[:] = {sys.path!r}; '
           'from dasm_jax.data import workers; workers.worker_main'
           f'({file.fileno()}, {size}, {tuple(map(int, shape))})'],
          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
          pass_fds=[file.fileno()])
    self.sound = True
    # Also when the interpreter ends and nobody has closed it.
    self._end = weakref.finalize(self, _end_process, self._process)
    self._send(decodes)

  def decode(self, which, items):
    """`(images, broken)` of items of a store; a view, until the next call.

    Raises what decoding raised, and `RuntimeError` if the process is gone.
    """
    whole, self.sound = self.sound, False  # Until the reply has been read.
    if not whole:
      raise RuntimeError('a reading process was asked while it was at work')
    self._send((which, items))
    try:
      reply = pickle.load(self._process.stdout)
    except (EOFError, OSError, pickle.UnpicklingError):
      raise self._gone() from None
    self.sound = True
    if isinstance(reply, BaseException):
      raise reply
    return self._images[:len(items)], reply

  @property
  def pid(self):
    """The number of the process."""
    return self._process.pid

  def close(self):
    """Ends the process."""
    self.sound = False
    self._end()

  def _send(self, what):
    try:
      pickle.dump(what, self._process.stdin)
      self._process.stdin.flush()
    except OSError:
      raise self._gone() from None

  def _gone(self):
    self.close()
    status = self._process.returncode
    cause = (f'was killed by {signal.Signals(-status).name} (of SIGKILL the '
             'cause is mostly too little memory)' if status < 0
             else f'ended with status {status}')
    return RuntimeError(f'a process that decodes images {cause}')


def _anonymous_file():
  if hasattr(os, 'memfd_create'):
    return os.fdopen(os.memfd_create('dasm_jax'), 'r+b')
  return tempfile.TemporaryFile()


def _end_process(process):
  with contextlib.suppress(OSError):  # It may be gone already.
    process.stdin.close()
  try:
    process.wait(5)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()
  # Only now: before, a thread that waits for a reply would hold it.
  process.stdout.close()


def worker_main(file, size, shape):
  """What the process does until its input ends."""
  from dasm_jax.data.images import quiet_pillow
  # Ctrl-C and preemption are for the process that asks, which then closes.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  requests = sys.stdin.buffer
  replies = os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # Whatever a library prints must not be taken for a reply.
  memory = mmap.mmap(file, size)
  os.close(file)
  images = np.ndarray((size // int(np.prod(shape)), *shape), np.uint8, memory)
  quiet_pillow()
  paths.quiet_gcsfs()
  try:
    decodes = pickle.load(requests)
    while True:
      which, items = pickle.load(requests)
      try:
        reply = decodes[which](items, images[:len(items)], range(len(items)))
      except (UserError, MemoryError) as error:
        reply = error
      except Exception as error:  # Of any class: it may not be picklable.
        reply = RuntimeError(f'{type(error).__name__}: {error}')
      pickle.dump(reply, replies)
      replies.flush()
  except (EOFError, BrokenPipeError):
    return  # There is nobody who asks.

BLOCK = 64  # images decoded between two looks at `stop`, at most
# Images a thread alone decodes at once: small ones, and the reader of records
# takes 8 microseconds each of a thousand, 56 of a block of 64.
BLOCK_ALONE = 512
# Threads are of use for encoded images of so many bytes, half a millisecond's
# work, once so many of them were asked for, as they take a second to begin.
THREAD_BYTES, BEGIN_BYTES = 10_000, 100e6


class ReadCancelled(Exception):
  """A read was told to stop."""


def cores():
  """How many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def map_ordered(function, items, threads):
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


class DecoderPool:
  """Decodes the images of some `Store`s of one image shape."""

  def __init__(self, stores, shape, threads=None, workers=0):
    """threads: see `reader.ReadOptions`; workers: processes instead."""
    self._stores = tuple(stores)
    self._shape = shape
    self._workers = workers
    self._threads = threads
    self._asked = [0] * len(self._stores)  # bytes that were decoded, about
    # None stands for a process that is not started yet.
    self._idle = queue.SimpleQueue()
    for _ in range(workers):
      self._idle.put(None)

  def _lanes(self, which, count):
    """How many decode at a time, `count` more images of a store."""
    store = self._stores[which]
    if store.identity is None:  # in memory: there is nothing to decode
      return 0
    if self._workers or self._threads is not None:
      return self._workers or self._threads
    self._asked[which] += count * store.image_bytes
    worth = (store.image_bytes > THREAD_BYTES
             and self._asked[which] > BEGIN_BYTES)
    return cores() if worth else 0

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
      ReadCancelled, and whatever kept a process from its work.
    """
    quiet_pillow()
    store, count = self._stores[which], len(rows)
    lanes = self._lanes(which, count)

    def decode_rows(at):
      """Those of the slice `at`."""
      if stop is not None and stop():
        raise ReadCancelled
      mine, here = rows[at], places[at]
      lacking = np.arange(len(mine)) if store.kept is None else (
          np.flatnonzero(~store.kept.take(mine, out, here)))
      broken = self._decode(which, mine[lacking], out, here[lacking], lanes)
      if store.kept is not None:
        good = np.delete(lacking, [j for j, _ in broken])
        store.kept.put(mine[good], out, here[good])
      return [(at.start + int(lacking[j]), error) for j, error in broken]

    if lanes:
      block = max(1, min(BLOCK, -(-count // (2 * lanes))))
    else:
      block = BLOCK if store.image_bytes > THREAD_BYTES else BLOCK_ALONE
    blocks = [slice(at, at + block) for at in range(0, count, block)]
    return [pair for part in map_ordered(decode_rows, blocks, lanes)
            for pair in part]

  def _decode(self, which, rows, out, places, lanes):
    """`Store.decode`, here or in one of some processes."""
    if not len(rows):
      return []
    items, places = self._stores[which].items(rows.tolist()), places.tolist()
    if self._workers and lanes:
      return self._far(which, items, out, places)
    return self._stores[which].decode(items, out, places)

  def _far(self, which, items, out, places):
    """`Store.decode` in a process."""
    worker = self._idle.get()
    try:
      if worker is None:
        worker = DecoderProcess([store.decode for store in self._stores],
                                self._shape, BLOCK)
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
