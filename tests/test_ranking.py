"""DD-Ranking's scores, by hand and at their ends."""

import math

import numpy as np
import pytest

from dasm_jax import ranking
from dasm_jax.errors import UserError


def test_by_hand():
  lag, gain = ranking.hlr(.85, .65), ranking.ior(.65, .55)
  assert (lag, gain) == (pytest.approx(.2), pytest.approx(.1))
  def of(alpha):
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
  assert ranking.lrs(lag, gain) == pytest.approx(of(.5 * .1 - .5 * .2))
  assert ranking.lrs(lag, gain, .9) == pytest.approx(of(.9 * .1 - .1 * .2))
  assert ranking.ars(.3, -.1, .75) == pytest.approx(of(.75 * .3 - .25 * .1))


def test_ends():
  assert ranking.lrs(1, -1) == 0 and ranking.lrs(-1, 1) == pytest.approx(1)
  assert ranking.ars(-1, -1) == 0 and ranking.ars(1, 1) == pytest.approx(1)


def test_arrays_are_taken_one_by_one():
  full, syn = np.float32([.9, .8]), np.float32([.5, .7])
  lags = ranking.hlr(full, syn)
  gains = ranking.ior(syn, .4)
  got = ranking.lrs(lags, gains, [.5, .2])
  assert got.shape == (2,) and got.dtype == np.float64
  np.testing.assert_array_equal(got, [
      ranking.lrs(lags[0], gains[0], .5), ranking.lrs(lags[1], gains[1], .2)])
  assert isinstance(ranking.lrs(.1, .2), float)


def test_percentages_are_refused():
  with pytest.raises(UserError, match='of 20 is outside -1 to 1; give fracti'):
    ranking.lrs(ranking.hlr(85, 65), .1)
  with pytest.raises(UserError, match='not percentages'):
    ranking.ars([.1, .2], [.1, -3])
  with pytest.raises(UserError, match='weight=1.5 is a share; choose from 0'):
    ranking.ars(.1, .1, 1.5)
