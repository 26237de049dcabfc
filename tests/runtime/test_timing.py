"""How fast steps go, and when one can tell."""

import pytest

from dasm_jax.runtime import timing


class Clock:
  now = 50.

  def __call__(self):
    return self.now


def test_the_first_call_does_not_count():
  clock = Clock()
  speed = timing.Throughput(10, clock)
  assert speed.speed is None and speed.left(5) is None
  clock.now += 100  # it compiles
  speed.add(4)
  assert speed.speed is None and speed.left(5) is None and speed.calls == 1
  clock.now += 1
  speed.add(2)
  assert speed.speed == pytest.approx(20)
  assert speed.left(5) is None  # too soon to tell
  clock.now += 2
  speed.add(4)
  assert speed.speed == pytest.approx(20)
  assert speed.left(5) == pytest.approx(2.5) and speed.calls == 3


def test_means_of_unequal_calls():
  means = timing.MetricMeans()
  means.add({'loss': 1.}, 1)
  means.add({'loss': 4.}, 2)
  assert means.take() == {'loss': 3.}


def test_what_a_cycle_costs_is_known_after_one():
  clock = Clock()
  speed = timing.Throughput(10, clock, cycle=6)
  for steps in 1, 3, 2:
    clock.now += 10
    speed.add(steps)
  assert speed.left(6) is None
  clock.now += 10
  speed.add(1)
  assert speed.left(6) == pytest.approx(30)
