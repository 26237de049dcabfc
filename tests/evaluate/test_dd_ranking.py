"""DD-Ranking's scores, by hand and at their ends."""

import math

import numpy as np
import pytest

from dasm_jax.errors import UserError
from dasm_jax.evaluate import dd_ranking


def test_by_hand():
  lag, gain = dd_ranking.hlr(.85, .65), dd_ranking.ior(.65, .55)
  assert (lag, gain) == (pytest.approx(.2), pytest.approx(.1))
  def of(alpha):
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
  assert dd_ranking.lrs(lag, gain) == pytest.approx(of(.5 * .1 - .5 * .2))
  assert dd_ranking.lrs(lag, gain, .9) == pytest.approx(of(.9 * .1 - .1 * .2))
  assert dd_ranking.ars(.3, -.1, .75) == pytest.approx(of(.75 * .3 - .25 * .1))


def test_ends():
  assert dd_ranking.lrs(1, -1) == 0 and dd_ranking.lrs(-1, 1) == pytest.approx(
      1)
  assert dd_ranking.ars(-1, -1) == 0 and dd_ranking.ars(1, 1) == pytest.approx(
      1)


def test_arrays_are_taken_one_by_one():
  full, syn = np.float32([.9, .8]), np.float32([.5, .7])
  lags = dd_ranking.hlr(full, syn)
  gains = dd_ranking.ior(syn, .4)
  got = dd_ranking.lrs(lags, gains, [.5, .2])
  assert got.shape == (2,) and got.dtype == np.float64
  np.testing.assert_array_equal(got, [
      dd_ranking.lrs(lags[0], gains[0], .5), dd_ranking.lrs(lags[1], gains[1],
                                                            .2)])
  assert isinstance(dd_ranking.lrs(.1, .2), float)


def test_scores_of_kinds():
  kinds = {'set': [.6, .7], 'random': [.5, .5], 'full': [.9, .8],
           'hard': [.4, .6], 'set_plain': [.5, .4], 'random_plain': [.3, .45]}
  found = dd_ranking.scores(kinds)
  np.testing.assert_allclose(found['hlr'], [.5, .2])
  np.testing.assert_allclose(found['ior'], [.1, .2])
  np.testing.assert_allclose(found['lrs'], dd_ranking.normalised([-.2, 0]))
  np.testing.assert_allclose(found['ars'], dd_ranking.normalised([.15, .075]))
  # As the released program has it, from percentages.
  np.testing.assert_allclose(
      found['lrs_released'], dd_ranking.normalised([-20, 0]))
  np.testing.assert_allclose(
      found['ars_released'], dd_ranking.normalised([15, 7.5]))
  plain = dd_ranking.scores({kind: kinds[kind] for kind in (
      'set', 'random', 'full', 'hard')})
  assert set(found) - set(plain) == {'ars', 'ars_released'}
  with pytest.raises(UserError, match='not percentages'):
    dd_ranking.scores({kind: 100 * np.array(x) for kind, x in kinds.items()})


def test_percentages_are_refused():
  with pytest.raises(UserError, match='of 20 is outside -1 to 1; give fracti'):
    dd_ranking.lrs(dd_ranking.hlr(85, 65), .1)
  with pytest.raises(UserError, match='not percentages'):
    dd_ranking.ars([.1, .2], [.1, -3])
  with pytest.raises(UserError, match='weight=1.5 is a share; choose from 0'):
    dd_ranking.ars(.1, .1, 1.5)
