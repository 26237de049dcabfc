"""Reading ahead: the same images, bounded, and over when it should be."""

import threading
import time

import numpy as np
import pytest

from dasm_jax import data
from dasm_jax.data import workers
from dasm_jax.pipeline import prefetch

pytestmark = pytest.mark.filterwarnings('error')


class Slow:
  """A split whose images are their indices; counts what it has read."""

  def __init__(self, seconds=0.0):
    self.seconds, self.read_so_far = seconds, 0

  def read(self, indices, stop):
    self.read_so_far += 1
    end = time.monotonic() + self.seconds
    while time.monotonic() < end:
      if stop():
        raise workers.ReadCancelled
      time.sleep(0.01)
    return np.reshape(indices, (*np.shape(indices), 1, 1, 1))


def settle(condition):
  """Waits, at most some seconds, for what a thread is about to do."""
  end = time.monotonic() + 10
  while not condition() and time.monotonic() < end:
    time.sleep(0.01)
  assert condition()


def idle():
  """No thread reads ahead."""
  return not any('ahead' in thread.name for thread in threading.enumerate())


def test_ahead_is_reading():
  split = data.open('digits').train
  steps = [np.random.RandomState(step).randint(0, 99, (3, 4))
           for step in range(5)]
  with prefetch.Prefetcher(split, steps.__getitem__, range(2, 5)) as found:
    got = list(found)
  assert [step for step, _ in got] == [2, 3, 4]
  for step, images in got:
    np.testing.assert_array_equal(images, split.read(steps[step]))
  assert found.images == 36 and found.rate > 0
  assert list(found) == [] and idle()


@pytest.mark.parametrize('depth', [1, 3])
def test_ahead_is_bounded(depth):
  split = Slow()
  with prefetch.Prefetcher(split, lambda step: [step], range(9),
                           depth) as found:
    for taken in range(9):
      settle(lambda taken=taken: split.read_so_far == min(9, taken + depth))
      time.sleep(0.02)  # Nor does it read more than that.
      assert split.read_so_far == min(9, taken + depth)
      step, images = next(found)
      assert step == taken == images[0, 0, 0, 0]


def test_ahead_measures_the_wait():
  with prefetch.Prefetcher(Slow(0.2), lambda step: [step], range(2)) as found:
    next(found)
    assert 0.1 < found.wait < 5
    settle(lambda: found.images == 2)
    waited = found.wait
    next(found)
    assert found.wait < waited + 0.1
    assert 0.4 <= found.seconds


def test_ahead_closes_in_the_middle():
  found = prefetch.Prefetcher(Slow(60), lambda step: [step], range(9))
  time.sleep(0.05)
  start = time.monotonic()
  found.close()
  assert time.monotonic() - start < 5 and idle()
  assert list(found) == []
  found.close()


def test_errors_come_where_they_belong():
  class Mine(Exception):
    pass

  def indices(step):
    if step == 2:
      raise Mine('at two')
    return [step]

  found = prefetch.Prefetcher(Slow(), indices, range(9), depth=3)
  assert [next(found)[0], next(found)[0]] == [0, 1]
  with pytest.raises(Mine, match='at two'):
    next(found)
  assert list(found) == [] and idle()


def test_a_wrong_index_comes_through():
  split = data.open('digits').train
  with (prefetch.Prefetcher(split, lambda step: [-1], range(2)) as found,
        pytest.raises(IndexError, match='integers from 0')):
    next(found)
