"""Choosing real images, the same number of each class, in NumPy.

By features (herding, k-center, k-means, moderate), by difficulty (lowest,
highest, spread over it), by what training forgets, or by chance; `choose` has
them all under one signature, and leaves out the hardest images where asked to.

Sections: by features, by chance, by difficulty, selections by name, forgetting
events.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dasm_jax.errors import UserError, unknown

Seed = Any  # what `numpy.random.default_rng` takes
STARTS = ('first', 'mean')
ROUNDS = 100  # of k-means, at most
STRATA = 50  # of `ccs`, as its program has them

# ---- By features


def herding(features: ArrayLike, labels: ArrayLike, ipc: int, classes: int, *,
            descending: bool = False) -> np.ndarray:
  """Picks samples whose running sum follows the mean of their class.

  Pick k (from 0) of a class minimises `|(k + 1) mean - sum_picked - x|` over
  the samples x that are not picked yet; the first one on ties.

  Args:
    features: `[n, d]`, computed with as float64; an image whose features are
      not all finite comes last.
    labels: `[n]` int.
    ipc: picks a class.
    classes: number of classes.
    descending: maximise instead.

  Returns:
    `[classes, ipc]` int64 indices into `features`, in the order of picking.

  Raises:
    UserError: an `ipc` below 1 or above the size of a class.

  Source: Welling (ICML 2009), as used by IDC (2205.14959).
  """
  sign = -1 if descending else 1

  def pick(x, count):
    mean, total, free = x.mean(0), np.zeros(x.shape[1]), np.ones(len(x), bool)
    chosen = []
    for k in range(count):
      distance = np.linalg.norm((k + 1) * mean - total - x, axis=1)
      best = int(np.argmin(np.where(free, sign * distance, np.inf)))
      chosen.append(best)
      free[best] = False
      total = total + x[best]
    return chosen
  return _per_class(pick, features, labels, ipc, classes)


def k_center(features: ArrayLike, labels: ArrayLike, ipc: int, classes: int, *,
             first: str = 'first') -> np.ndarray:
  """Picks the sample farthest from all picked ones, class by class.

  Pick k maximises `min_{p picked} |x - p|`; the first one on ties.

  Args:
    features, labels, ipc, classes: see `herding`.
    first: `first` starts from the first sample of a class, `mean` from the
      one nearest to the mean of the class.

  Returns:
    `[classes, ipc]` int64 indices into `features`, in the order of picking.

  Raises:
    UserError: an `ipc` below 1 or above the size of a class, an unknown start.

  Source: Gonzalez (1985); Sener and Savarese (1708.00489).
  """
  if first not in STARTS:
    raise unknown('start of k-center', first, STARTS)

  def pick(x, count):
    from_mean = np.linalg.norm(x - x.mean(0), axis=1)
    chosen = [0 if first == 'first' else int(np.argmin(from_mean))]
    # Kept up pick by pick: no matrix of all distances of a class is made.
    nearest = np.full(len(x), np.inf)
    while len(chosen) < count:
      distance = np.linalg.norm(x - x[chosen[-1]], axis=1)
      nearest = np.minimum(nearest, distance)
      # A picked sample may tie at 0 with its copies; it is not free again.
      nearest[chosen[-1]] = -1
      chosen.append(int(np.argmax(nearest)))
    return chosen
  return _per_class(pick, features, labels, ipc, classes)


def covering_radius(features: ArrayLike, labels: ArrayLike,
                    chosen: Iterable[ArrayLike]) -> np.ndarray:
  """`max_x min_{p chosen} |x - p|` of each class, `[classes]` float64.

  Args:
    features: `[n, d]`.
    labels: `[n]` int.
    chosen: `[classes, ipc]` indices, as from `k_center`.

  Returns:
    `[classes]`.
  """
  features, labels = np.asarray(features, np.float64), np.asarray(labels)
  return np.array([
      np.min([np.linalg.norm(features[labels == c] - features[p], axis=1)
              for p in picked], axis=0).max()
      for c, picked in enumerate(chosen)])


def moderate(features: ArrayLike, labels: ArrayLike, ipc: int, classes: int
             ) -> np.ndarray:
  """Picks samples that are as far from the mean of their class as most are.

  With `d_i = |x_i - mean|`, those with the smallest `|d_i - median(d)|`; the
  first one on ties.

  Args:
    features, labels, ipc, classes: see `herding`.

  Returns:
    `[classes, ipc]` int64 indices into `features`, in the order of picking.

  Raises:
    UserError: an `ipc` below 1 or above the size of a class.

  Source: Xia et al., Moderate coreset (ICLR 2023), section 3.
  """
  def pick(x, count):
    distance = np.linalg.norm(x - x.mean(0), axis=1)
    return np.argsort(np.abs(distance - np.median(distance)),
                      kind='stable')[:count]
  return _per_class(pick, features, labels, ipc, classes)


def k_means(features: ArrayLike, labels: ArrayLike, ipc: int, classes: int, *,
            seed: Seed = 0) -> np.ndarray:
  """Picks the samples nearest to the centres of `ipc` clusters of their class.

  The centres `c_j` lower `sum_i min_j |x_i - c_j|^2` until they stand still, or
  for `ROUNDS`. They start by k-means++: each from a sample that is drawn in
  proportion to its squared distance from those before. Each centre in turn
  takes the nearest sample that is left; the first one on ties.

  Args:
    features, labels, ipc, classes: see `herding`.
    seed: of the starts, anything that `numpy.random.default_rng` takes.

  Returns:
    `[classes, ipc]` int64 indices into `features`.

  Raises:
    UserError: an `ipc` below 1 or above the size of a class.

  Source: Lloyd (1982); Arthur and Vassilvitskii (2007), for the start. By the
    distance to such centres Sorscher et al. (2206.14486) prune data sets.
  """
  rng = np.random.default_rng(seed)

  def pick(x, count):
    centres = _settle(x, _scatter(x, count, rng))
    chosen, free = [], np.ones(len(x), bool)
    for centre in centres:
      distance = np.linalg.norm(x - centre, axis=1)
      chosen.append(int(np.argmin(np.where(free, distance, np.inf))))
      free[chosen[-1]] = False
    return chosen
  return _per_class(pick, features, labels, ipc, classes)


def _scatter(x, count, rng):
  """First centres `[count, d]` of k-means++."""
  chosen, squares = [int(rng.integers(len(x)))], np.full(len(x), np.inf)
  while len(chosen) < count:
    squares = np.minimum(squares, np.sum((x - x[chosen[-1]]) ** 2, 1))
    # Where all that is left are copies, of which any will do.
    chance = squares if squares.any() else np.ones(len(x))
    chosen.append(int(rng.choice(len(x), p=chance / chance.sum())))
  return x[chosen]


def _settle(x, centres):
  """Lloyd's steps: every centre to the mean of those it is nearest to."""
  for _ in range(ROUNDS):
    # |x - c|^2 without |x|^2, which says nothing of which is nearest.
    nearest = np.argmin(
        np.sum(centres ** 2, 1) - 2 * x @ centres.T, axis=1)
    # A centre that has nobody stays where it is.
    order = np.argsort(nearest, kind='stable')
    own, starts, counts = np.unique(
        nearest[order], return_index=True, return_counts=True)
    moved = centres.copy()
    moved[own] = np.add.reduceat(x[order], starts) / counts[:, None]
    if np.array_equal(moved, centres):
      break
    centres = moved
  return centres


# ---- By chance


def random(labels: ArrayLike, ipc: int, classes: int, *, seed: Seed = 0
           ) -> np.ndarray:
  """Picks by chance, without repetition.

  Args:
    labels: `[n]` int.
    ipc: picks a class.
    classes: number of classes.
    seed: anything that `numpy.random.default_rng` takes.

  Returns:
    `[classes, ipc]` int64 indices; a smaller `ipc` picks the first of them.

  Raises:
    UserError: an `ipc` below 1 or above the size of a class.
  """
  rng = np.random.default_rng(seed)
  return _per_class(lambda x, count: rng.permutation(len(x))[:count], labels,
                    labels, ipc, classes)


# ---- By difficulty


def lowest(scores: ArrayLike, labels: ArrayLike, ipc: int, classes: int
           ) -> np.ndarray:
  """Picks the samples of each class with the lowest scores: the easiest.

  Args:
    scores: `[n]`, as from `difficulty`; what is not a number comes last.
    labels: `[n]` int.
    ipc: picks a class.
    classes: number of classes.

  Returns:
    `[classes, ipc]` int64 indices, from low to high; the first one on ties.

  Raises:
    UserError: an `ipc` below 1 or above the size of a class.
  """
  return _per_class(
      lambda x, count: np.argsort(x, kind='stable')[:count], scores, labels,
      ipc, classes)


def highest(scores: ArrayLike, labels: ArrayLike, ipc: int, classes: int
            ) -> np.ndarray:
  """As `lowest`, from high to low; what is not a number comes last.

  Args:
    scores, labels, ipc, classes: see `lowest`.

  Returns:
    `[classes, ipc]` int64 indices, from high to low.

  Source: of EL2N, Paul et al. (2107.07075); of forgetting events, Toneva et al.
    (1812.05159). With `skip` of `choose` it is the window of SelMatch
    (2406.18561), which leaves out the hardest and takes what follows.
  """
  # Not the lowest turned round: of equal scores the first image counts here,
  # too, and NaN is last either way.
  return lowest(-np.asarray(scores, np.float64), labels, ipc, classes)


def ccs(scores: ArrayLike, labels: ArrayLike, ipc: int, classes: int, *,
        strata: int = STRATA, seed: Seed = 0) -> np.ndarray:
  """Picks samples of all difficulties: as many of each range of the score.

  The scores of a class are cut into `strata` ranges of equal width. From the
  one with the fewest samples to the one with the most, each gives
  `min(its samples, floor(what is left to pick / ranges that are left))` by
  chance, so that what a range lacks is picked from larger ones. `choose` leaves
  out the hardest before, as the paper does.

  Args:
    scores, labels, ipc, classes: see `lowest`.
    strata: number of ranges.
    seed: anything that `numpy.random.default_rng` takes.

  Returns:
    `[classes, ipc]` int64 indices, the ranges from low to high.

  Raises:
    UserError: an `ipc` below 1 or above the size of a class.

  Source: Zheng et al., coverage-centric selection (2210.15809), algorithm 1,
    which takes all classes together.
  """
  rng = np.random.default_rng(seed)

  def pick(x, count):
    members = [np.flatnonzero(_stratum(x, strata) == k) for k in range(strata)]
    takes = _spread_budget([len(m) for m in members], count)
    return np.concatenate([
        rng.permutation(m)[:take]
        for m, take in zip(members, takes, strict=True)])
  return _per_class(pick, scores, labels, ipc, classes)


def _stratum(x, strata):
  """Which of so many ranges of equal width each of `x` is in."""
  # What is infinite is in the first or the last, and widens none.
  known = x[np.isfinite(x)] if np.isfinite(x).any() else np.zeros(1)
  low, span = known.min(), np.ptp(known)
  # Of equal scores all are in the first.
  return np.clip(np.floor((x - low) / (span or 1.) * strata), 0,
                 strata - 1).astype(int)


def _spread_budget(sizes, budget):
  """How many to take of groups of such sizes, `budget` in all."""
  takes = [0] * len(sizes)
  for done, k in enumerate(np.argsort(sizes, kind='stable')):
    takes[k] = min(sizes[k], budget // (len(sizes) - done))
    budget -= takes[k]
  return takes


# ---- Selections by name


class Coreset(NamedTuple):
  """A selection, as `choose` knows it.

  needs: what it goes by: `features` `[n, d]`, `scores` `[n]` (higher is
    harder), the name of one score of `difficulty`, a `history` `[epochs, n]` of
    what was correct (see `learning_history`) or `[networks, epochs, n]`, or
    None.
  select: `(values, labels, ipc, classes, seed) -> indices`; values are what
    `score` makes of them, if there is one.
  score: `values -> scores [n]`, by which the hardest are left out, or None.
  """
  needs: str | None
  select: Callable
  score: Callable | None = None


def choose(name: str, values: ArrayLike | None, labels: ArrayLike, ipc: int,
           classes: int, seed: Seed = 0, skip: float = 0.0) -> np.ndarray:
  """The selection called `name`.

  Args:
    name: a key of `CORESETS`.
    values: what its row `needs`, see `Coreset`.
    labels: `[n]` int.
    ipc: picks a class.
    classes: number of classes.
    seed: of those that draw.
    skip: share of each class's hardest images, by the score that the selection
      goes by, that it does not see; less where fewer than `ipc` would be left.

  Returns:
    `[classes, ipc]` int64 indices.

  Raises:
    UserError: an unknown name, an `ipc` below 1 or above the size of a class,
      a share to skip of what has no score.
  """
  labels = np.asarray(labels)
  rows = [np.flatnonzero(labels == c) for c in range(classes)]
  return choose_from(rows, name, values, labels, ipc, seed, skip)


def choose_from(rows: Sequence[np.ndarray], name: str, values: ArrayLike | None,
                labels: ArrayLike, ipc: int, seed: Seed = 0, skip: float = 0.0
                ) -> np.ndarray:
  """As `choose`, of some of the images alone.

  Args:
    rows: their indices, a list of `[k]` int, one a class, each sorted.
    name, values, labels, ipc, seed, skip: as there, values and labels of all
      images; the share to skip is one of all images, too.

  Returns:
    `[classes, ipc]` int64 indices into all images.
  """
  check_skip(name, skip)
  known, labels = CORESETS[name], np.asarray(labels)
  if known.score is not None:
    values = known.score(values)
    rows = _without_hardest(rows, values, labels, ipc, skip)
  at = np.concatenate(rows)
  return at[known.select(None if values is None else np.asarray(values)[at],
                         labels[at], ipc, len(rows), seed)]


def check_skip(name: str, skip: float) -> None:
  """Raises `UserError` where a selection cannot leave out the hardest.

  Args:
    name: a key of `CORESETS`, and refused if it is none.
    skip: share of the hardest that is left out.
  """
  if name not in CORESETS:
    raise unknown('selection', name, CORESETS)
  if skip and CORESETS[name].score is None:
    scored = [key for key, row in CORESETS.items() if row.score is not None]
    raise UserError(f'to skip the hardest images takes a score, which {name} '
                    f'does not go by; set 0, or choose from '
                    f'{", ".join(sorted(scored))}')


def describe(name: str, skip: float) -> str:
  """What is chosen by, for people: `highest, without the hardest 70 %`.

  Args:
    name: a key of `CORESETS`.
    skip: share of the hardest that is left out.

  Returns:
    A text.
  """
  return name + (f', without the hardest {100 * skip:.3g} %' if skip else '')


def skipped(count: int, skip: float) -> int:
  """How many of a class of `count` images the share `skip` is.

  Args:
    count: images of a class.
    skip: share of the hardest that is left out.

  Returns:
    An int.
  """
  return round(skip * count)


def _without_hardest(rows, scores, labels, ipc, skip):
  """`rows` without the hardest `skip` of each class, but `ipc` at least."""
  left = []
  for c, row in enumerate(rows):
    members = np.flatnonzero(labels == c)
    order = members[np.argsort(-scores[members], kind='stable')]
    out = order[:skipped(len(members), skip)]
    # From the hardest on: where too few are left, the easiest come back.
    out = out[np.isin(out, row)][:max(0, len(row) - ipc)]
    left.append(np.setdiff1d(row, out, assume_unique=True))
  return left


def _mean_events(history):
  """Forgetting events `[n]`, means over networks if there are several."""
  events = forgetting_events(history)
  return events.reshape(-1, events.shape[-1]).mean(0)


def _scores(values):
  return np.asarray(values, np.float64)


CORESETS = {
    'random': Coreset(
        None, lambda _, y, ipc, n, seed: random(y, ipc, n, seed=seed)),
    'herding': Coreset(
        'features', lambda x, y, ipc, n, _: herding(x, y, ipc, n)),
    'k_center': Coreset(
        'features', lambda x, y, ipc, n, _: k_center(x, y, ipc, n)),
    'k_means': Coreset('features', lambda x, y, ipc, n, seed: k_means(
        x, y, ipc, n, seed=seed)),
    'moderate': Coreset(
        'features', lambda x, y, ipc, n, _: moderate(x, y, ipc, n)),
    'lowest': Coreset(
        'scores', lambda x, y, ipc, n, _: lowest(x, y, ipc, n), _scores),
    'highest': Coreset(
        'scores', lambda x, y, ipc, n, _: highest(x, y, ipc, n), _scores),
    # Whatever `segments.score` is: the one that its paper (2107.07075) prunes
    # by.
    'el2n': Coreset(
        'el2n', lambda x, y, ipc, n, _: highest(x, y, ipc, n), _scores),
    'ccs': Coreset('scores', lambda x, y, ipc, n, seed: ccs(
        x, y, ipc, n, seed=seed), _scores),
    # The most forgotten, as the dataset distillation papers compare with.
    'forgetting': Coreset(
        'history', lambda x, y, ipc, n, _: highest(x, y, ipc, n),
        _mean_events),
}


def _per_class(pick, values, labels, ipc, classes):
  """`pick` of the values of each class, as indices into all of them.

  pick: `(values, count) -> indices [count]`, of which it gets no value that is
  not a number: those come last, in their order.
  """
  values, labels = np.asarray(values, np.float64), np.asarray(labels)
  counts = [np.sum(labels == c) for c in range(classes)]
  # The smallest class decides: all have the same number of images.
  c = int(np.argmin(counts))
  if not counts[c]:
    raise UserError(f'class {c} has no images to choose from; leave it out')
  if not 1 <= ipc <= counts[c]:
    raise UserError(f'ipc={ipc} images of class {c}, which has the fewest, '
                    f'{counts[c]}; choose from 1 to {counts[c]}')
  # Of features one that is infinite would be in every mean and distance; a
  # score may be, and is then the highest or the lowest.
  known = (~np.isnan(values) if values.ndim == 1
           else np.isfinite(values).all(1))
  out = []
  for c in range(classes):
    members = np.flatnonzero(labels == c)
    sane, rest = members[known[members]], members[~known[members]]
    count = min(ipc, len(sane))
    # `pick` counts within the class.
    first = sane[np.asarray(pick(values[sane], count), int)] if count else sane
    out.append([*first, *rest[:ipc - count]])
  return np.array(out, np.int64)


# ---- Forgetting events


class LearningHistory(NamedTuple):
  """What a training history says of each sample.

  events: `[n]` int, times that it went from right to wrong.
  first: `[n]` int, the epoch (from 0) that first got it right, -1 for never.
  """
  events: np.ndarray
  first: np.ndarray

  @property
  def never(self) -> np.ndarray:
    """`[n]` bool, samples that no epoch got right; they have no events."""
    return self.first < 0

  @property
  def unforgettable(self) -> np.ndarray:
    """`[n]` bool, samples that stayed right from `first` on."""
    return ~self.never & (self.events == 0)


def learning_history(correct: ArrayLike) -> LearningHistory:
  """Forgetting events, and when each sample was first learned.

  An event is an epoch t >= 1 with `correct[t - 1]` and not `correct[t]`.

  Args:
    correct: `[…, epochs, n]` bool or 0 and 1: was sample i classified
      correctly when epoch t saw it (or after it, but always the same of the
      two). What stands before, such as networks, stays.

  Returns:
    A `LearningHistory`.

  Source: Toneva et al. (1812.05159), definitions 1 and 2.
  """
  correct = np.asarray(correct, bool)
  events = np.sum(correct[..., :-1, :] & ~correct[..., 1:, :], -2)
  return LearningHistory(
      events, np.where(correct.any(-2), correct.argmax(-2), -1))


def forgetting_events(correct: ArrayLike) -> np.ndarray:
  """How hard each sample is to keep: its forgetting events.

  A sample that was never learned has none, though none is harder: it counts
  as `epochs`, more than any sample can be forgotten.

  Args:
    correct: `[…, epochs, n]`, see `learning_history`.

  Returns:
    `[…, n]` int, higher is harder.

  Source: Toneva et al. (1812.05159), section 3.
  """
  known = learning_history(correct)
  return np.where(known.never, np.shape(correct)[-2], known.events)
