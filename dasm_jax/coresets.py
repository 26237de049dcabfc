"""Choosing real images, the same number of each class, in NumPy.

By features (herding, k-center), by difficulty, by what training forgets, or
by chance; `choose` has them all under one signature.

Sections: the selections, selections by name, forgetting events.
"""

from typing import NamedTuple

import numpy as np

from dasm_jax.errors import UserError, unknown

STARTS = ('first', 'mean')

# ---- Selections


def herding(features, labels, ipc, classes, *, descending=False):
  """Picks samples whose running sum follows the mean of their class.

  Pick k (from 0) of a class minimises `|(k + 1) mean - sum_picked - x|` over
  the samples x that are not picked yet; the first one on ties.

  Args:
    features: `[n, d]`, computed with as float64.
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

  def pick(x):
    mean, total, free = x.mean(0), np.zeros(x.shape[1]), np.ones(len(x), bool)
    chosen = []
    for k in range(ipc):
      distance = np.linalg.norm((k + 1) * mean - total - x, axis=1)
      best = int(np.argmin(np.where(free, sign * distance, np.inf)))
      chosen.append(best)
      free[best] = False
      total = total + x[best]
    return chosen
  return _per_class(pick, features, labels, ipc, classes)


def k_center(features, labels, ipc, classes, *, first='first'):
  """Picks the sample farthest from all picked ones, class by class.

  Pick k maximises `min_{p picked} |x - p|`; the first one on ties.

  Args:
    features: `[n, d]`, computed with as float64.
    labels: `[n]` int.
    ipc: picks a class.
    classes: number of classes.
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

  def pick(x):
    from_mean = np.linalg.norm(x - x.mean(0), axis=1)
    chosen = [0 if first == 'first' else int(np.argmin(from_mean))]
    # Kept up pick by pick: no matrix of all distances of a class is made.
    nearest = np.full(len(x), np.inf)
    while len(chosen) < ipc:
      distance = np.linalg.norm(x - x[chosen[-1]], axis=1)
      nearest = np.minimum(nearest, distance)
      # A picked sample may tie at 0 with its copies; it is not free again.
      nearest[chosen[-1]] = -1
      chosen.append(int(np.argmax(nearest)))
    return chosen
  return _per_class(pick, features, labels, ipc, classes)


def covering_radius(features, labels, chosen):
  """`max_x min_{p chosen} |x - p|` of each class, `[classes]` float64.

  Args:
    features: `[n, d]`.
    labels: `[n]` int.
    chosen: `[classes, ipc]` indices, as from `k_center`.
  """
  features = np.asarray(features, np.float64)
  return np.array([
      np.min([np.linalg.norm(features[labels == c] - features[p], axis=1)
              for p in picked], axis=0).max()
      for c, picked in enumerate(chosen)])


def random(labels, ipc, classes, *, seed=0):
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
  return _per_class(lambda x: rng.permutation(len(x))[:ipc], labels, labels,
                    ipc, classes)


def lowest(scores, labels, ipc, classes):
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
  return _per_class(lambda x: np.argsort(x, kind='stable')[:ipc], scores,
                    labels, ipc, classes)


def highest(scores, labels, ipc, classes):
  """As `lowest`, from high to low; what is not a number comes last."""
  # Not the lowest turned round: of equal scores the first image counts here,
  # too, and NaN is sorted to the end either way.
  return lowest(-np.asarray(scores, np.float64), labels, ipc, classes)


# ---- Selections by name


def choose(name, values, labels, ipc, classes, seed=0):
  """The selection called `name`.

  Args:
    name: a key of `CORESETS`.
    values: what the table says that it needs: `features` `[n, d]`, `scores`
      `[n]` (higher is harder), a `history` `[epochs, n]` of what was correct
      (see `coresets.learning_history`) or `[networks, epochs, n]`, or None.
    labels: `[n]` int.
    ipc: picks a class.
    classes: number of classes.
    seed: of `random`.

  Returns:
    `[classes, ipc]` int64 indices.

  Raises:
    UserError: an unknown name, an `ipc` below 1 or above the size of a class.
  """
  if name not in CORESETS:
    raise unknown('selection', name, CORESETS)
  return CORESETS[name][1](values, labels, ipc, classes, seed)


def choose_from(rows, name, values, labels, ipc, seed=0):
  """As `choose`, of some of the images alone.

  Args:
    rows: their indices, a list of `[k]` int, one a class, each sorted.
    name, values, labels, ipc, seed: as there, values and labels of all images.

  Returns:
    `[classes, ipc]` int64 indices into all images.
  """
  at = np.concatenate(rows)
  if values is not None:
    # Features `[n, d]` begin with the images, scores and histories end so.
    axis = 0 if CORESETS[name][0] == 'features' else -1
    values = np.take(values, at, axis)
  return at[choose(name, values, labels[at], ipc, len(rows), seed)]


# Name -> (what it needs, `(values, labels, ipc, classes, seed) -> indices`).
CORESETS = {
    'random': (None, lambda _, y, ipc, n, seed: random(y, ipc, n, seed=seed)),
    'herding': ('features', lambda x, y, ipc, n, _: herding(x, y, ipc, n)),
    'k_center': ('features', lambda x, y, ipc, n, _: k_center(x, y, ipc, n)),
    'lowest': ('scores', lambda x, y, ipc, n, _: lowest(x, y, ipc, n)),
    'highest': ('scores', lambda x, y, ipc, n, _: highest(x, y, ipc, n)),
    # The most forgotten, as the dataset distillation papers compare with.
    'forgetting': ('history', lambda x, y, ipc, n, _: highest(
        np.reshape(forgetting_events(x), (-1, len(y))).mean(0), y, ipc, n)),
}


def _per_class(pick, values, labels, ipc, classes):
  """`pick` of the values of each class, as indices into all of them."""
  values, labels = np.asarray(values, np.float64), np.asarray(labels)
  counts = [np.sum(labels == c) for c in range(classes)]
  # The smallest class decides: all have the same number of images.
  c = int(np.argmin(counts))
  if not counts[c]:
    raise UserError(f'class {c} has no images to choose from; leave it out')
  if not 1 <= ipc <= counts[c]:
    raise UserError(f'ipc={ipc} images of class {c}, which has the fewest, '
                    f'{counts[c]}; choose from 1 to {counts[c]}')
  # `pick` counts within the class.
  members = [np.flatnonzero(labels == c) for c in range(classes)]
  return np.array([m[pick(values[m])] for m in members], np.int64)


# ---- Forgetting events


class LearningHistory(NamedTuple):
  """What a training history says of each sample.

  events: `[n]` int, times that it went from right to wrong.
  first: `[n]` int, the epoch (from 0) that first got it right, -1 for never.
  """
  events: np.ndarray
  first: np.ndarray

  @property
  def never(self):
    """`[n]` bool, samples that no epoch got right; they have no events."""
    return self.first < 0

  @property
  def unforgettable(self):
    """`[n]` bool, samples that stayed right from `first` on."""
    return ~self.never & (self.events == 0)


def learning_history(correct):
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


def forgetting_events(correct):
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
