"""Reading the images of the next step while this one is computed."""

import contextlib
import queue
import threading
import time

import numpy as np

from dasm_jax.data.workers import ReadCancelled

_END = object()


class Prefetcher:
  """Yields `(step, images)` of each step, read in the background.

  Besides what it has handed out, at most `depth` steps' images are in memory.
  What goes wrong in the background is raised where the step is asked for.

  wait: seconds that the consumer has waited.
  seconds: that reading took, images: that were read.
  """

  def __init__(self, split, indices, steps, depth=1):
    """Starts reading; use it as a context, or `close` it.

    split: a `reader.LazySplit`.
    indices: step to the indices that `split.read` takes, of any shape; called
      in the background, in the order of the steps.
    steps: an iterable.
    depth: a positive number.
    """
    self.wait = self.seconds = 0.0
    self.images = 0
    self._split, self._indices, self._steps = split, indices, steps
    self._room = threading.Semaphore(depth)
    self._done = queue.SimpleQueue()
    self._stop = threading.Event()
    self._over = False
    self._thread = threading.Thread(
        target=self._work, name='dasm_jax-ahead', daemon=True)
    self._thread.start()

  @property
  def rate(self):
    """Images read a second, the consumer's pace aside."""
    return self.images / self.seconds if self.seconds else 0.0

  def _work(self):
    end = _END
    try:
      for step in self._steps:
        # Room first: once they are read, images are in memory.
        self._room.acquire()
        if self._stop.is_set():
          break
        indices = self._indices(step)
        start = time.perf_counter()
        images = self._split.read(indices, stop=self._stop.is_set)
        self.seconds += time.perf_counter() - start
        self.images += np.size(indices)
        self._done.put((step, images))
        del images  # The queue's, then the consumer's: not ours.
    except ReadCancelled:
      pass
    except BaseException as error:
      end = error
    self._done.put(end)

  def __iter__(self):
    return self

  def __next__(self):
    if self._over:
      raise StopIteration
    start = time.perf_counter()
    found = self._done.get()
    self.wait += time.perf_counter() - start
    # From here on it is the consumer's, and there is room for another.
    if isinstance(found, tuple):
      self._room.release()
      return found
    self.close()
    raise StopIteration if found is _END else found

  def close(self):
    """Stops reading, in the middle of a step if need be."""
    # First the flag, then the room: a thread that waits for room wakes up, and
    # sees that it is to stop.
    self._stop.set()
    self._room.release()
    # A read that hangs on a lost disk must not hang the run.
    self._thread.join(10)
    self._over = True
    with contextlib.suppress(queue.Empty):
      while True:
        self._done.get_nowait()
    self._done.put(_END)  # For whoever waits in another thread.

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.close()
