"""In which order the sweeps of a segment and their warm-ups follow."""

from collections.abc import Callable
from typing import NamedTuple


class At(NamedTuple):
  """A place in a segment.

  step: sweeps that are behind. batch: batches of the warm-up of the next one.
  """
  step: int
  batch: int = 0


class Course(NamedTuple):
  """Sweeps, some of them with batches of a warm-up before, in calls.

  batches: `step -> int`, how many are before a sweep, see `types.Warm`.
  stop: sweeps in all. chunk: sweeps after whose multiples a call ends.
  """
  batches: Callable
  stop: int
  chunk: int

  def warms(self, at):
    """Whether the next thing is a batch of a warm-up, not a sweep."""
    return at.batch < self.batches(at.step)

  def left(self, at):
    """How many of the next thing one call may do, at most."""
    if self.warms(at):
      return self.batches(at.step) - at.batch
    end = min(self.stop, at.step - at.step % self.chunk + self.chunk)
    colds = (k for k in range(at.step + 1, end) if self.batches(k))
    return next(colds, end) - at.step

  def after(self, at, size):
    """The place after `size` of the next thing, at most `left`."""
    if self.warms(at):
      return at._replace(batch=at.batch + size)
    return At(at.step + size)

  def number(self, at):
    """How many sweeps and batches are behind: it grows with every call."""
    return at.step + at.batch + sum(map(self.batches, range(at.step)))


def of(method, stop, chunk):
  """The `Course` of a `Method`."""
  return Course(method.warm.batches if method.warm else lambda step: 0, stop,
                chunk)


def at(method, state):
  """The `At` of a method's state."""
  return At(int(state.step),
            int(method.warm.done(state)) if method.warm else 0)
