"""Choosing real images by their features: herding and k-center, in NumPy."""

import numpy as np

from dasm_jax.errors import UserError, unknown

STARTS = ('first', 'mean')


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
    UserError: a class with fewer than `ipc` samples.

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
    UserError: a class with fewer than `ipc` samples, an unknown start.

  Source: Gonzalez (1985); Sener and Savarese (1708.00489).
  """
  if first not in STARTS:
    raise unknown('start of k-center', first, STARTS)

  def pick(x):
    from_mean = np.linalg.norm(x - x.mean(0), axis=1)
    chosen = [0 if first == 'first' else int(np.argmin(from_mean))]
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


def _per_class(pick, features, labels, ipc, classes):
  features = np.asarray(features, np.float64)
  rows = []
  for c in range(classes):
    members = np.flatnonzero(np.asarray(labels) == c)
    if len(members) < ipc:
      raise UserError(f'class {c} has {len(members)} images, fewer than the '
                      f'{ipc} to choose')
    rows.append(members[pick(features[members])])
  return np.array(rows, np.int64)
