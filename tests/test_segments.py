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
  for row, labels_of in zip(rows, range(2), strict=True):
    assert len(set(row.tolist())) == len(row) and (labels[row] == labels_of
                                                   ).all()
    if scores is not None:  # from easy to hard
      assert (np.diff(scores[row]) >= 0).all()
  return [sorted(row.tolist()) for row in rows]


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
    # Where nobody tells candidates, all images are.
    ('frontier', 0, 2, {}, ALL),
    ('frontier', 0, 2, {'first': 0.4}, [0, 1, 2, 3]),
    ('frontier', 1, 2, {'share': 0.3}, [0, 1, 2]),
    ('ccfs', 1, 2, {'share': 0.3}, [0, 1, 2]),
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
    (1, 1), (2, 1), (49, 1), (50, 5), (1000, 5)])
def test_number_by_default(ipc, want):
  assert segments.default_count(ipc) == want
  assert segments.default_count(ipc, many=1) == min(ipc, 5)
  reason = segments.default_reason(ipc)
  assert ('not measured' in reason) == (want == 1)
  assert ('as more pay for IDC' in reason) == (want == 5)
  assert 'are measured to pay' in segments.default_reason(20, many=10)
  assert 'more cost nothing' in segments.default_reason(ipc, many=1)


@pytest.mark.parametrize('total, number', [(10, 3), (7, 7), (300, 2), (11, 4)])
def test_steps_sum(total, number):
  each = [segments.steps(total, number, k) for k in range(number)]
  assert sum(each) == total
  assert max(each) - min(each) <= 1 and min(each) > 0


@pytest.mark.parametrize('name, index, options, want', [
    ('aligned', 0, {}, (None, None, None)),
    ('aligned', 0, {'first': .5}, ('real', None, None)),
    ('aligned', 1, {}, ('previous', None, None)),
    ('slide', 0, {}, ('real', None, None)),
    ('slide', 1, {}, ('previous', None, None)),
    ('static', 1, {}, ('real', None, None)),
    ('static', 1, {'ordered': False}, (None, None, None)),
    ('drop_easy', 2, {}, ('real', None, None)),
    ('everything', 1, {}, (None, None, None)),
    ('random', 0, {}, (None, None, None)),
    ('frontier', 0, {}, (None, None, None)),
    ('frontier', 0, {'first': .5}, ('real', None, None)),
    ('frontier', 1, {}, ('real', 'previous', None)),
    ('frontier', 1, {'ordered': False}, (None, 'previous', None)),
    ('ccfs', 1, {}, ('real', 'previous', 'real'))])
def test_who_is_asked(name, index, options, want):
  assert segments.asked_networks(
      segments.WindowChoice(name, **options), index) == want


def test_unknown_window():
  with pytest.raises(UserError, match="'x'; choose from aligned, ccfs, drop_"):
    window('x', 0, 2)
  with pytest.raises(UserError, match="unknown window 'x'"):
    segments.asked_networks(segments.WindowChoice('x'), 0)


def frontier(missed, used=(), floor=1, share=.5, scores=SCORES, seed=0):
  """The window of a second segment, as difficulties in tenths, in its order."""
  given = np.zeros(20, bool), np.zeros(20, bool)
  for into, tenths in zip(given, (missed, used), strict=True):
    into[np.isin(np.rint(10 * SCORES).astype(int), tenths)] = True
  judged = segments.Judged(LABELS, 2, scores, None, *given)
  rows = segments.windows(segments.WindowChoice('frontier', share=share), 1, 2,
                          judged, floor, seed)
  tenths = [np.rint(10 * SCORES[row]).astype(int).tolist() for row in rows]
  return tenths, segments.frontier_counts(judged).tolist()


@pytest.mark.parametrize('missed, used, floor, share, want', [
    # The easiest share of what is missed, rounded up.
    ([3, 4, 6, 8, 9], [], 1, .5, [3, 4, 6]),
    ([3, 4, 6, 8, 9], [], 1, 1., [3, 4, 6, 8, 9]),
    # What a segment began with is no candidate any more.
    ([3, 4, 6, 8, 9], [3, 4], 1, 1., [6, 8, 9]),
    # At least the floor: of harder candidates first, then of those that are
    # known, from easy to hard, then of used ones.
    ([3, 4, 6, 8, 9], [], 4, .2, [3, 4, 6, 8]),
    ([8, 9], [], 4, .5, [8, 9, 0, 1]),
    ([8, 9], [0, 2], 4, .5, [8, 9, 1, 3]),
    ([8, 9], [0, 1, 2, 3, 4, 9], 7, .5, [8, 5, 6, 7, 0, 1, 2]),
    # Right about everything: as if nobody had been asked.
    ([], [], 3, .5, [0, 1, 2]),
    ([], list(range(9)), 2, .5, [9, 0]),
    # A class that is smaller than the floor is there whole.
    ([5], [], 99, .5, [5, 0, 1, 2, 3, 4, 6, 7, 8, 9])])
def test_frontier_by_hand(missed, used, floor, share, want):
  rows, counts = frontier(missed, used, floor, share)
  assert rows == [want, want]
  assert counts == [len(set(missed) - set(used))] * 2


def test_frontier_without_an_order_is_by_chance():
  parts = [frontier([3, 4, 6, 8, 9], share=.4, scores=None, seed=k)[0]
           for k in range(6)]
  assert all(len(row) == 2 and set(row) <= {3, 4, 6, 8, 9}
             for part in parts for row in part)
  assert len({tuple(part[0]) for part in parts}) > 1


def test_epochs_of_experts_by_the_frontier():
  """Of epochs those are left where the first are as many as is known."""
  def epochs(index, accuracy, **options):
    return segments.expert_epochs(segments.WindowChoice(
        'frontier', **options), index, 3, (10, 19), accuracy)
  assert epochs(0, 0.) == (10, 19)
  assert epochs(0, 0., first=.3) == (10, 12)
  assert epochs(1, .6, share=.5) == (16, 17)
  assert epochs(2, 1., share=.5)[1] == 19


@pytest.mark.parametrize('ipc, shares, widths', [
    (200, (5, 5, 10, 20, 30, 30), [10, 10, 20, 40, 60, 60]),
    (10, (.5, .5), [5, 5]), (3, (98, 1, 1), [1, 1, 1]),
    (10, (5, 5, 10, 20, 30, 30), [1, 1, 1, 1, 3, 3]), (7, (3,), [7])])
def test_chosen_sizes(ipc, shares, widths):
  plan = segments.plan(ipc, len(shares), shares)
  assert [one.width for one in plan] == widths
  assert [one.slots.start for one in plan] == [0, *np.cumsum(widths)[:-1]]


def test_sizes_of_another_number_of_segments():
  with pytest.raises(UserError, match='are 2, but segments=3; give one a seg'):
    segments.plan(10, 3, (50, 50))


@pytest.mark.parametrize('rates, each, want', [
    ((), False, [3, 4, 3]), ((), True, [10, 10, 10]),
    ((1., 0., .5), False, [5, 0, 5]), ((0., 0., 1.), False, [0, 0, 10]),
    ((1., 0., 1.), True, [10, 0, 10])])
def test_sweeps_of_segments_that_move(rates, each, want):
  got = [segments.steps(10, 3, k, rates, each) for k in range(3)]
  assert sum(got) == sum(want) and sorted(got) == sorted(want)
  assert [bool(x) for x in got] == [bool(x) for x in want]


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
  # What stays as it is is taken once, as long as there are others.
  got = segments.first_images(rows, LABELS, used, 6, 0, once=True)
  assert set(got[1]) == {14, 15, 16, 17, 18, 19}


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


def test_the_easiest_start_in_the_order_of_the_window():
  rows = [np.array([7, 2, 5, 0]), np.array([19, 11, 15])]
  used = np.zeros(20, bool)
  used[[2, 11]] = True
  got = segments.first_images(rows, LABELS, used, 3, 0, easiest=True)
  assert got.tolist() == [[7, 5, 0], [19, 15, 11]]
  # Of what is outside the rest is by chance.
  more = segments.first_images(rows, LABELS, used, 6, 0, easiest=True)
  assert more[0][:4].tolist() == [7, 5, 0, 2] and len(set(more[0])) == 6
