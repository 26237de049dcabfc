"""Class-balanced selections, against slow ones; forgetting, by hand."""

import numpy as np
import pytest

from dasm_jax import coresets
from dasm_jax.errors import UserError

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat([0, 1, 2], [9, 6, 12]))
VALUES = {None: None, 'features': RNG.normal(size=(27, 4)),
          'scores': RNG.integers(0, 4, 27) / 4.,
          'history': RNG.integers(0, 2, (8, 27))}


def slow_events(correct):
  counts = []
  for row in np.asarray(correct).T:
    pairs = zip(row[:-1], row[1:], strict=True)
    counts.append(sum(1 for a, b in pairs if a and not b))
  return counts


def test_forgetting_by_hand():
  correct = np.array([[0, 1, 1, 0, 0],
                      [0, 0, 1, 0, 1],
                      [0, 1, 1, 0, 0],
                      [0, 0, 1, 1, 1]])
  known = coresets.learning_history(correct)
  np.testing.assert_array_equal(known.events, [0, 2, 0, 0, 1])
  np.testing.assert_array_equal(known.first, [-1, 0, 0, 3, 1])
  np.testing.assert_array_equal(known.never, [1, 0, 0, 0, 0])
  np.testing.assert_array_equal(known.unforgettable, [0, 0, 1, 1, 0])
  np.testing.assert_array_equal(coresets.forgetting_events(correct),
                                [4, 2, 0, 0, 1])


def test_forgetting_against_a_loop():
  correct = RNG.integers(0, 2, (30, 50))
  np.testing.assert_array_equal(
      coresets.learning_history(correct).events, slow_events(correct))
  # The most that can be forgotten is less than never learned.
  worst = np.stack([np.arange(31) % 2 == 0, np.zeros(31)], 1)
  assert np.diff(coresets.forgetting_events(worst)) > 0


def test_histories_of_several_networks():
  histories = RNG.integers(0, 2, (3, 8, 27))
  got = coresets.forgetting_events(histories)
  for mine, history in zip(got, histories, strict=True):
    np.testing.assert_array_equal(mine, coresets.forgetting_events(history))
  np.testing.assert_array_equal(
      coresets.choose('forgetting', histories, LABELS, 3, 3),
      coresets.choose('highest', got.mean(0), LABELS, 3, 3))


@pytest.mark.parametrize('name', coresets.CORESETS)
def test_choosing_from_a_part(name):
  """As if there were no others."""
  values = VALUES[coresets.CORESETS[name][0]]
  rows = [np.flatnonzero(LABELS == c)[1::2] for c in range(3)]
  kept = np.concatenate(rows)
  part = values if values is None else (
      values[:, kept] if name == 'forgetting' else values[kept])
  want = kept[coresets.choose(name, part, LABELS[kept], 2, 3, seed=5)]
  got = coresets.choose_from(rows, name, values, LABELS, 2, seed=5)
  np.testing.assert_array_equal(got, want)
  assert all(set(a) <= set(b) for a, b in zip(got, rows, strict=True))


def test_one_epoch():
  np.testing.assert_array_equal(coresets.forgetting_events([[1, 0]]), [0, 1])


def slow(name, values, c, ipc):
  """`ipc` indices of class c, by sorting pairs."""
  sign = 1 if name == 'lowest' else -1
  if name == 'forgetting':
    never = ~np.any(values, 0)
    values = np.where(never, len(values), slow_events(values))
  pairs = sorted((sign * values[i], i) for i in range(27) if LABELS[i] == c)
  return [i for _, i in pairs[:ipc]]


@pytest.mark.parametrize('name', ['lowest', 'highest', 'forgetting'])
def test_scores_against_a_sort(name):
  values = VALUES[coresets.CORESETS[name][0]]
  got = coresets.choose(name, values, LABELS, 5, 3)
  assert got.tolist() == [slow(name, values, c, 5) for c in range(3)]


@pytest.mark.parametrize('name', coresets.CORESETS)
@pytest.mark.parametrize('ipc', [1, 6])
def test_every_selection_is_balanced(name, ipc):
  got = coresets.choose(name, VALUES[coresets.CORESETS[name][0]], LABELS, ipc,
                        3)
  assert got.shape == (3, ipc) and got.dtype == np.int64
  assert (LABELS[got] == [[0], [1], [2]]).all()
  assert all(len(set(row)) == ipc for row in got.tolist())


def test_random():
  got = coresets.random(LABELS, 4, 3, seed=[0, 2])
  np.testing.assert_array_equal(got, coresets.random(LABELS, 4, 3, seed=[0, 2]))
  np.testing.assert_array_equal(
      got[:, :2], coresets.random(LABELS, 2, 3, seed=[0, 2]))
  picked = [coresets.random(LABELS, 3, 3, seed=seed) for seed in range(400)]
  counts = np.bincount(np.ravel(picked), minlength=27)
  want = 400 * 3 / np.bincount(LABELS)[LABELS]
  np.testing.assert_allclose(counts, want, atol=5 * np.sqrt(want.max()))


def test_no_number_comes_last():
  scores = np.array([2., np.nan, 1.])
  for name, want in (('lowest', [2, 0, 1]), ('highest', [0, 2, 1])):
    got = coresets.choose(name, scores, np.zeros(3, int), 3, 1)
    assert got.tolist() == [want]


@pytest.mark.parametrize('name', coresets.CORESETS)
def test_mistakes(name):
  values = VALUES[coresets.CORESETS[name][0]]
  with pytest.raises(UserError, match='ipc=7 images of class 1, which has the '
                     'fewest, 6; choose from 1 to 6'):
    coresets.choose(name, values, LABELS, 7, 3)
  with pytest.raises(UserError, match='ipc=0 .* choose from 1 to 6'):
    coresets.choose(name, values, LABELS, 0, 3)
  with pytest.raises(UserError, match='class 3 has no images'):
    coresets.choose(name, values, LABELS, 1, 4)


def test_unknown_name():
  with pytest.raises(UserError, match="selection 'x'; choose from forgetting"):
    coresets.choose('x', None, LABELS, 1, 3)
