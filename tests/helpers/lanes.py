"""The fast lane: what `launch/test.sh --fast` runs, `-m 'not slow'`."""

import pytest


def slow_but(fast, values, long=()):
  """Values to parametrize with, of which the fast lane has `fast` alone.

  long: those that only `launch/test.sh --all` has.
  """
  return [value if value in fast else pytest.param(
      *(value if isinstance(value, tuple) else [value]),
      marks=[pytest.mark.slow, *[pytest.mark.long] * (value in long)])
      for value in values]


def slow(known, values, long=()):
  """The same, of which the fast lane has all but `known`: what is new, too."""
  return slow_but(
      [value for value in values if value not in known], values, long)
