"""The plan: slices, windows written out by hand, floors, starts."""

import numpy as np
import pytest

from dasm_jax import segments
from dasm_jax.errors import UserError

# Two classes of ten; class 0 is hardest at the front, class 1 at the back.
LABELS = np.repeat([0, 1], 10)
SCORES = np.concatenate([np.arange(10)[::-1], np.arange(10)]) / 10.0


def window(name, index, number, *, scores=SCORES, accuracy=None, floor=1,
           seed=0, labels=LABELS, **options):
  choice = segments.WindowChoice(name, **options)
  judged = segments.Judged(labels, 2, scores, accuracy)
  rows = segments.windows(choice, index, number, judged, floor, seed)
  assert all((np.diff(row) > 0).all() for row in rows)
  return [row.tolist() for row in rows]


def difficulty(rows):
  """Difficulties in tenths of each class's window."""
  return [sorted(np.rint(10 * SCORES[row]).astype(int).tolist())
          for row in rows]


ALL = list(range(10))
BY_HAND = [
    # name, segment, of, options, easy to hard in tenths (both classes alike)
    ('aligned', 0, 2, {}, ALL),
    ('aligned', 0, 2, {'first': 0.4}, [0, 1, 2, 3]),
    ('aligned', 1, 2, {'gamma': 0.5, 'hardest': 0.2}, [4, 5, 6, 7]),
    ('aligned', 1, 2, {'gamma': 0.0, 'hardest': 0.0}, ALL),
    ('slide', 0, 3, {'share': 0.4}, [0, 1, 2, 3]),
    ('slide', 1, 3, {'share': 0.4}, [3, 4, 5, 6]),
    ('slide', 2, 3, {'share': 0.4}, [6, 7, 8, 9]),
    ('slide', 0, 1, {'share': 0.5}, [0, 1, 2, 3, 4]),
    ('static', 1, 2, {'share': 0.5}, [5, 6, 7, 8, 9]),
    ('reversed', 0, 2, {'share': 0.3}, [7, 8, 9]),
    ('reversed', 1, 2, {'share': 0.3}, [0, 1, 2]),
    ('random', 0, 2, {}, [0, 1, 2, 3, 4]),
    ('random', 1, 2, {}, [5, 6, 7, 8, 9]),
    ('hardest', 0, 2, {'share': 0.2}, [8, 9]),
    ('hardest', 1, 2, {'share': 0.2}, [8, 9]),
    ('drop_easy', 1, 2, {'share': 0.7}, [7, 8, 9]),
    ('everything', 1, 2, {}, ALL),
]


@pytest.mark.parametrize('name, index, number, options, want', BY_HAND)
def test_windows_by_hand(name, index, number, options, want):
  rows = window(name, index, number, accuracy=[0.8, 0.8], **options)
  assert difficulty(rows) == [want, want]


def test_every_window_is_written_out():
  assert {row[0] for row in BY_HAND} == set(segments.WINDOWS)


def test_aligned_drops_what_a_class_is_known_by():
  rows = window('aligned', 1, 2, accuracy=[1.0, 0.5], gamma=0.6, hardest=0.0)
  assert difficulty(rows) == [[6, 7, 8, 9], [3, 4, 5, 6, 7, 8, 9]]


def test_parts_at_random_are_apart_and_repeat():
  parts = [window('random', k, 3, scores=None, seed=5) for k in range(3)]
  for c in range(2):
    # Rounding shares an image between neighbours, never leaves one out.
    every = sum((part[c] for part in parts), [])
    assert set(every) == set(np.flatnonzero(LABELS == c))
    assert len(every) <= 12
  assert parts[0] == window('random', 0, 3, scores=None, seed=5)
  assert parts[0] != window('random', 0, 3, scores=None, seed=6)


@pytest.mark.parametrize('name, index, want', [
    ('hardest', 0, [4, 5, 6, 7, 8, 9]), ('slide', 0, [0, 1, 2, 3, 4, 5]),
    ('slide', 1, [4, 5, 6, 7, 8, 9])])
def test_floor(name, index, want):
  rows = window(name, index, 2, share=0.1, floor=6)
  assert difficulty(rows) == [want, want]
  # A class smaller than the floor is taken whole.
  assert window(name, index, 2, share=0.1, floor=50) == [
      list(range(10)), list(range(10, 20))]


def test_equal_scores_keep_their_order():
  rows = window('slide', 0, 2, scores=np.zeros(20), share=0.3)
  assert rows == [[0, 1, 2], [10, 11, 12]]


@pytest.mark.parametrize('ipc, number, widths', [
    (10, 2, [5, 5]), (10, 3, [4, 3, 3]), (5, 4, [2, 1, 1, 1]), (1, 1, [1]),
    (7, 7, [1] * 7)])
def test_plan(ipc, number, widths):
  plan = segments.plan(ipc, number)
  assert [segment.width for segment in plan] == widths
  slots = [i for s in plan for i in range(s.slots.start, s.slots.stop)]
  assert slots == list(range(ipc))
  assert [segment.index for segment in plan] == list(range(number))


@pytest.mark.parametrize('ipc, number', [(2, 3), (1, 0), (4, -1)])
def test_plan_that_does_not_split(ipc, number):
  with pytest.raises(UserError, match=f'segments={number}.*from 1 to {ipc}'):
    segments.plan(ipc, number)


@pytest.mark.parametrize('ipc, want', [
    (1, 1), (2, 2), (49, 2), (50, 5), (499, 5), (500, 10)])
def test_number_by_default(ipc, want):
  assert segments.default_count(ipc) == want


@pytest.mark.parametrize('total, number', [(10, 3), (7, 7), (300, 2), (11, 4)])
def test_steps_sum(total, number):
  each = [segments.steps(total, number, k) for k in range(number)]
  assert sum(each) == total
  assert max(each) - min(each) <= 1 and min(each) > 0


def test_who_scores():
  def who(name, index, **options):
    return segments.scoring_networks(segments.WindowChoice(name, **options),
                                     index)
  assert who('aligned', 0) is None and who('aligned', 1) == 'previous'
  assert who('aligned', 0, first=0.5) == 'real'
  assert who('slide', 0) == 'real' and who('slide', 1) == 'previous'
  assert who('static', 1) == who('drop_easy', 2) == 'real'
  assert who('everything', 1) is None and who('random', 1) is None


def test_unknown_window():
  with pytest.raises(UserError, match="'x'; choose from aligned, drop_easy"):
    window('x', 0, 2)
  with pytest.raises(UserError, match="unknown window 'x'"):
    segments.scoring_networks(segments.WindowChoice('x'), 0)


def test_fresh():
  used = np.zeros(9, bool)
  used[[1, 2, 7]] = True
  rows = [np.array([0, 1, 3]), np.array([5, 7, 8])]
  got = segments.unused_first(rows, used, 2)
  assert [row.tolist() for row in got] == [[0, 3], [5, 8]]
  got = segments.unused_first(rows, used, 3)  # too few are left
  assert [row.tolist() for row in got] == [[0, 1, 3], [5, 7, 8]]


def test_start_takes_new_images_of_the_window_first():
  rows = [np.arange(2, 8), np.arange(10, 14)]
  used = np.zeros(20, bool)
  used[[2, 3]] = True
  used[10:14] = True
  got = segments.first_images(rows, LABELS, used, 4, 0)
  assert set(got[0]) <= {4, 5, 6, 7} and len(set(got[0])) == 4
  assert set(got[1]) == {10, 11, 12, 13}  # all used: of the window all the same
  got = segments.first_images(rows, LABELS, used, 8, 0)
  assert set(got[0]) >= {2, 3, 4, 5, 6, 7} and len(set(got[0])) == 8
  got = segments.first_images(rows, LABELS, used, 25, 0)
  assert all(len(set(row)) == 10 for row in got)  # too small: repeats, evenly
  assert max(np.bincount(got[0])) == 3


def test_starts_of_all_segments_are_apart():
  rows = [np.arange(10), np.arange(10, 20)]
  used, seen = np.zeros(20, bool), []
  for k in range(3):
    chosen = segments.first_images(rows, LABELS, used, 3, [0, 1, k])
    used[chosen] = True
    seen += chosen.ravel().tolist()
  assert len(set(seen)) == len(seen) == 18
  again = segments.first_images(rows, LABELS, np.zeros(20, bool), 3, [0, 1, 0])
  assert set(again.ravel()) == set(seen[:6])
  other = segments.first_images(rows, LABELS, np.zeros(20, bool), 3, [1, 1, 0])
  assert set(other.ravel()) != set(seen[:6])
