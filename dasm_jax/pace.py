"""How fast steps go."""

import time

LEAST = 2.0  # seconds that tell how many more there will be


class Pace:
  """How fast steps go, the first chunk (with its compilation) left out."""

  def __init__(self, images, clock=time.time, cycle=1):
    """images: of a step. cycle: steps after which what they cost repeats."""
    self._images, self._clock, self._cycle = images, clock, cycle
    self._begin, self._steps, self.calls = None, 0, 0

  def add(self, steps):
    """Notes that `steps` more are done; `calls` counts how often."""
    self.calls += 1
    if self._begin is None:
      self._begin = self._clock()
    else:
      self._steps += steps

  @property
  def speed(self):
    """Images a second, or None before there is anything to tell."""
    return self._images / self._each() if self._steps else None

  def left(self, steps):
    """Seconds that `steps` more will take; None before one can tell."""
    if self._steps < self._cycle or self._clock() - self._begin < LEAST:
      return None
    return steps * self._each()

  def _each(self):
    return max(self._clock() - self._begin, 1e-9) / self._steps
