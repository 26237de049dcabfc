"""How often training forgets a sample, from what it got right, in NumPy."""

from typing import NamedTuple

import numpy as np


class Learning(NamedTuple):
  """What a training history says of each sample.

  events: `[n]` int, times that it went from right to wrong.
  first: `[n]` int, the epoch (from 0) that first got it right, -1 for never.
  """
  events: np.ndarray
  first: np.ndarray

  @property
  def never(self):
    """`[n]` bool, samples that no epoch got right; they have no events."""
    return self.first < 0

  @property
  def unforgettable(self):
    """`[n]` bool, samples that stayed right from `first` on."""
    return ~self.never & (self.events == 0)


def learning(correct):
  """Forgetting events, and when each sample was first learned.

  An event is an epoch t >= 1 with `correct[t - 1]` and not `correct[t]`.

  Args:
    correct: `[…, epochs, n]` bool or 0 and 1: was sample i classified
      correctly when epoch t saw it (or after it, but always the same of the
      two). What stands before, such as networks, stays.

  Returns:
    A `Learning`.

  Source: Toneva et al. (1812.05159), definitions 1 and 2.
  """
  correct = np.asarray(correct, bool)
  events = np.sum(correct[..., :-1, :] & ~correct[..., 1:, :], -2)
  return Learning(events, np.where(correct.any(-2), correct.argmax(-2), -1))


def forgetting(correct):
  """How hard each sample is to keep: its forgetting events.

  A sample that was never learned has none, though none is harder: it counts
  as `epochs`, more than any sample can be forgotten.

  Args:
    correct: `[…, epochs, n]`, see `learning`.

  Returns:
    `[…, n]` int, higher is harder.

  Source: Toneva et al. (1812.05159), section 3.
  """
  known = learning(correct)
  return np.where(known.never, np.shape(correct)[-2], known.events)
