"""Class-balanced selections, against slow ones; forgetting, by hand."""

import numpy as np
import pytest

from dasm_jax import coresets
from dasm_jax.errors import UserError

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat([0, 1, 2], [9, 6, 12]))
VALUES = {None: None, 'features': RNG.normal(size=(27, 4)),
          'scores': RNG.integers(0, 4, 27) / 4.,
          'el2n': RNG.integers(0, 4, 27) / 4.,
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
  values = VALUES[coresets.CORESETS[name].needs]
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


def slow(name, values, c, ipc, skip=0):
  """`ipc` indices of class c, by sorting pairs; `skip` images are left out."""
  if name == 'forgetting':
    never = ~np.any(values, 0)
    values = np.where(never, len(values), slow_events(values))
  hardest = sorted((-values[i], i) for i in range(27) if LABELS[i] == c)[skip:]
  if name == 'lowest':
    hardest = sorted((-score, i) for score, i in hardest)
  return [i for _, i in hardest[:ipc]]


# Images that a share leaves out of classes of 9, 6 and 12.
@pytest.mark.parametrize('skip, out', [
    (0., (0, 0, 0)), (1 / 3, (3, 2, 4)), (.05, (0, 0, 1)), (.4, (4, 2, 5))])
@pytest.mark.parametrize('name', ['lowest', 'highest', 'el2n', 'forgetting'])
def test_scores_against_a_sort(name, skip, out):
  values = VALUES[coresets.CORESETS[name].needs]
  got = coresets.choose(name, values, LABELS, 4, 3, skip=skip)
  assert got.tolist() == [slow(name, values, c, 4, out[c]) for c in range(3)]


SCORED = [name for name, row in coresets.CORESETS.items()
          if row.score is not None]


@pytest.mark.parametrize('name', SCORED)
def test_too_little_is_left(name):
  """Then the easiest stay, as many as are asked for."""
  values = VALUES[coresets.CORESETS[name].needs]
  for skip in .8, .999:
    got = coresets.choose(name, values, LABELS, 5, 3, skip=skip)
    for c, size in enumerate((9, 6, 12)):
      assert sorted(got[c]) == sorted(slow(
          name if name == 'forgetting' else 'highest', values, c, 5, size - 5))


def test_the_share_is_one_of_the_whole_class():
  """Who is not among the images to choose from counts, too."""
  scores, rows = np.arange(10.)[::-1], [np.array([0, 1, 3, 5, 7, 9])]
  def got(ipc, skip):
    return coresets.choose_from(rows, 'highest', scores, np.zeros(10, int), ipc,
                                skip=skip).tolist()[0]
  assert got(2, 0.) == [0, 1]
  assert got(2, .1) == [1, 3]
  assert got(2, .3) == [3, 5]
  assert got(2, .4) == [5, 7]
  # Five of six are asked for: only one may go.
  assert got(5, .4) == [1, 3, 5, 7, 9]
  assert got(6, .4) == [0, 1, 3, 5, 7, 9]


@pytest.mark.parametrize('name', sorted({*coresets.CORESETS} - {*SCORED}))
def test_what_has_no_score_skips_nothing(name):
  values = VALUES[coresets.CORESETS[name].needs]
  with pytest.raises(UserError, match=f'which {name} does not go by; set 0, or '
                     'choose from ccs, el2n, forgetting, highest, lowest'):
    coresets.choose(name, values, LABELS, 2, 3, skip=.1)


def counts_of(scores, chosen, strata):
  """How many of the chosen are in each range of the scores."""
  low, high = scores.min(), scores.max()
  counts = [0] * strata
  for i in chosen:
    k = int((scores[i] - low) / (high - low) * strata)
    counts[min(k, strata - 1)] += 1
  return counts


def test_ccs_by_hand():
  # In three ranges: 0 to 1 has one image, 1 to 2 four, 2 to 3 seven.
  scores = np.array([0, 1, 1.1, 1.2, 1.9, 2, 2.2, 2.4, 2.5, 2.6, 2.8, 3])
  for ipc, want in ((1, [0, 0, 1]), (2, [0, 1, 1]), (3, [1, 1, 1]),
                    (4, [1, 1, 2]), (7, [1, 3, 3]), (8, [1, 3, 4]),
                    (10, [1, 4, 5]), (12, [1, 4, 7])):
    chosen, = coresets.ccs(scores, np.zeros(12, int), ipc, 1, strata=3)
    assert counts_of(scores, chosen, 3) == want, ipc
    assert (np.diff(scores[chosen] // 1) >= 0).all() or ipc > 6
  # Half of the images of a range, each as often as the others.
  picked = np.concatenate([coresets.ccs(scores, np.zeros(12, int), 4, 1,
                                        strata=3, seed=seed)[0]
                           for seed in range(600)])
  counts = np.bincount(picked, minlength=12)
  assert counts[0] == 600
  np.testing.assert_allclose(counts[1:5], 600 / 4, atol=55)
  np.testing.assert_allclose(counts[5:], 600 * 2 / 7, atol=65)


def slow_budgets(sizes, budget):
  """As the paper has it: the smallest range is taken out first."""
  sizes, takes = dict(enumerate(sizes)), {}
  while sizes:
    least = min(sizes, key=lambda k: (sizes[k], k))
    takes[least] = min(sizes.pop(least), budget // (len(sizes) + 1))
    budget -= takes[least]
  return [takes[k] for k in sorted(takes)]


@pytest.mark.parametrize('skip', [0., .3])
@pytest.mark.parametrize('ipc', [1, 7, 20, 60])
def test_ccs_against_a_loop(ipc, skip):
  scores = RNG.exponential(size=180)
  labels = RNG.permutation(np.repeat([0, 1], [80, 100]))
  got = coresets.choose('ccs', scores, labels, ipc, 2, skip=skip)
  for c, chosen in enumerate(got):
    kept = np.sort(scores[labels == c])
    kept = kept[:len(kept) - min(round(skip * len(kept)), len(kept) - ipc)]
    mine = np.concatenate([kept, scores[chosen]])
    both = counts_of(mine, range(len(mine)), 50)
    sizes = counts_of(kept, range(len(kept)), 50)
    assert scores[chosen].max() <= kept[-1]
    np.testing.assert_array_equal(
        np.subtract(both, sizes), slow_budgets(sizes, ipc))


def test_ccs_where_ranges_say_nothing():
  labels = np.zeros(6, int)
  same = coresets.ccs(np.full(6, 2.), labels, 4, 1)[0]
  assert len(set(same)) == 4
  # Ranges are of what is finite; the rest is at the ends, or comes last.
  wild = np.array([np.nan, np.inf, 0, 1, -np.inf, np.nan])
  assert coresets.ccs(wild, labels, 6, 1, strata=2)[0][4:].tolist() == [0, 5]
  ends = coresets.ccs(wild, labels, 2, 1, strata=2, seed=1)[0]
  assert ends[0] in (2, 4) and ends[1] in (1, 3)
  for nobody in np.nan, np.inf:
    got = coresets.ccs(np.full(6, nobody), labels, 3, 1)[0]
    assert len(set(got)) == 3


def test_moderate_by_hand():
  # From the mean, 4: 4, 3, 2, 3, 6; the median is 3.
  features = np.array([[0.], [1], [2], [7], [10]])
  got = coresets.moderate(features, np.zeros(5, int), 5, 1)
  assert got.tolist() == [[1, 3, 0, 2, 4]]


def test_moderate_against_a_loop():
  features = VALUES['features']
  for c, got in enumerate(coresets.moderate(features, LABELS, 6, 3)):
    members = [i for i in range(27) if LABELS[i] == c]
    mean = sum(features[i] for i in members) / len(members)
    far = {i: sum((features[i] - mean) ** 2) ** .5 for i in members}
    ordered = sorted(far.values())
    half = len(ordered) // 2
    median = (ordered[half] + ordered[-half - 1]) / 2
    want = sorted(members, key=lambda i: abs(far[i] - median))
    # Where the number is even two are as near as each other, but for rounding.
    assert {*got[:2]} == {*want[:2]} or got[0] == want[0]
    assert got[2:].tolist() == want[2:6]


def test_k_means_finds_clusters():
  """Of clusters far apart the image nearest to the mean of each."""
  where = RNG.permutation(np.repeat(np.arange(5), [3, 8, 5, 9, 1]))
  features = 1000. * np.eye(5)[where] + RNG.normal(size=(26, 5))
  for seed in range(3):
    got, = coresets.k_means(features, np.zeros(26, int), 5, 1, seed=seed)
    want = []
    for cluster in range(5):
      own = np.flatnonzero(where == cluster)
      mean = features[own].mean(0)
      want.append(min(own, key=lambda i: sum((features[i] - mean) ** 2)))
    assert sorted(got) == sorted(want)


def slow_k_means(x, count, rng):
  """Picks as `coresets.k_means`, by loops."""
  def square(a, b):
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
  centres = [x[rng.integers(len(x))]]
  while len(centres) < count:
    chance = np.array([min(square(a, c) for c in centres) for a in x])
    centres.append(x[rng.choice(len(x), p=chance / chance.sum())])
  for _ in range(100):
    groups = [[] for _ in centres]
    for a in x:
      groups[min(range(count), key=lambda j: square(a, centres[j]))].append(a)
    centres = [np.mean(group, 0) if group else centre
               for group, centre in zip(groups, centres, strict=True)]
  chosen = []
  for centre in centres:
    left = [i for i in range(len(x)) if i not in chosen]
    chosen.append(min(left, key=lambda i: square(x[i], centre)))
  return chosen


def test_k_means_against_loops():
  rng = np.random.default_rng(3)
  want = [np.flatnonzero(LABELS == c)[slow_k_means(
      VALUES['features'][LABELS == c], 4, rng)] for c in range(3)]
  np.testing.assert_array_equal(
      coresets.k_means(VALUES['features'], LABELS, 4, 3, seed=3), want)


def test_k_means_of_copies():
  """No image twice, where there are fewer different ones than centres."""
  features = np.repeat([[0., 0], [5, 5]], [4, 3], axis=0)
  for seed in range(4):
    got, = coresets.k_means(features, np.zeros(7, int), 5, 1, seed=seed)
    # Both, and of copies the first one.
    assert {0, 4} < {*got} and len({*got}) == 5


# What draws, or begins with the first image, goes by their order.
@pytest.mark.parametrize('name', [
    name for name in coresets.CORESETS
    if name not in ('random', 'ccs', 'k_means', 'k_center')])
def test_their_order_does_not_matter(name):
  needs = coresets.CORESETS[name].needs
  order = RNG.permutation(27)
  if needs == 'history':  # each image with as many events as its number
    values = np.arange(60)[:, None] < 2 * np.arange(27)
    values = values & (np.arange(60)[:, None] % 2 == 0)
  else:
    values = RNG.normal(size=(27, 4) if needs == 'features' else 27)
  skip = .2 * (name in SCORED)
  there = coresets.choose(name, values, LABELS, 4, 3, skip=skip)
  turned = values[:, order] if needs == 'history' else values[order]
  here = order[coresets.choose(name, turned, LABELS[order], 4, 3, skip=skip)]
  if name == 'moderate':  # see there, of two that are as near
    here, there = np.sort(here), np.sort(there)
  np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize('name', coresets.CORESETS)
@pytest.mark.parametrize('ipc', [1, 6])
def test_every_selection_is_balanced(name, ipc):
  values = VALUES[coresets.CORESETS[name].needs]
  got = coresets.choose(name, values, LABELS, ipc, 3)
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
  # Nor is it the hardest.
  got = coresets.choose('highest', scores, np.zeros(3, int), 2, 1, skip=.3)
  assert got.tolist() == [[2, 1]]


@pytest.mark.parametrize('name', [
    name for name, row in coresets.CORESETS.items() if row.needs == 'features'])
def test_features_that_are_no_numbers_come_last(name):
  features = VALUES['features'].copy()
  # The first of each class, and one more.
  bad = [np.flatnonzero(LABELS == c)[i] for c in range(3) for i in (0, 3)]
  features[bad[::2], 1], features[bad[1::2]] = np.nan, np.inf
  got = coresets.choose(name, features, LABELS, 6, 3)
  assert got[1, 4:].tolist() == bad[2:4]  # a class of six
  assert not {*bad[:2], *bad[4:]} & {*np.ravel(got)}
  assert all(len({*row}) == 6 for row in got.tolist())
  # As if these were not there.
  rows = [np.setdiff1d(np.flatnonzero(LABELS == c), bad) for c in range(3)]
  np.testing.assert_array_equal(
      coresets.choose(name, features, LABELS, 4, 3),
      coresets.choose_from(rows, name, VALUES['features'], LABELS, 4))
  nobody = coresets.choose(name, np.full((27, 4), np.nan), LABELS, 2, 3)
  assert all(len({*row}) == 2 for row in nobody.tolist())


@pytest.mark.parametrize('name', coresets.CORESETS)
def test_mistakes(name):
  values = VALUES[coresets.CORESETS[name].needs]
  with pytest.raises(UserError, match='ipc=7 images of class 1, which has the '
                     'fewest, 6; choose from 1 to 6'):
    coresets.choose(name, values, LABELS, 7, 3)
  with pytest.raises(UserError, match='ipc=0 .* choose from 1 to 6'):
    coresets.choose(name, values, LABELS, 0, 3)
  with pytest.raises(UserError, match='class 3 has no images'):
    coresets.choose(name, values, LABELS, 1, 4)


def test_what_it_is_called():
  assert coresets.describe('el2n', 0.) == 'el2n'
  assert coresets.describe('el2n', .7) == 'el2n, without the hardest 70 %'


def test_unknown_name():
  with pytest.raises(UserError, match="selection 'x'; choose from ccs"):
    coresets.choose('x', None, LABELS, 1, 3)
