"""The plan of DASM: which synthetic images meet which real ones, and when.

Pure NumPy. A segment is a slice of every class's synthetic images; its window
is the part of each class's real images that it is matched with. The paper
gives the principle (segments in turn, easy to hard, by a model trained on all
earlier segments); the formulas here are a documented reconstruction of it.
"""

from typing import NamedTuple

import numpy as np

from dasm_jax.errors import UserError, unknown

# ---- Which synthetic images


class Segment(NamedTuple):
  """`index` of its run, and the `slots` (slice) of each class it fills.

  rows: the classes (slice) that are filled now; phase: how many parts of the
    classes were filled before, see `phases`.
  """
  index: int
  slots: slice
  rows: slice = slice(None)
  phase: int = 0

  @property
  def width(self):
    """Images a class."""
    return self.slots.stop - self.slots.start


class WindowChoice(NamedTuple):
  """Settings of the windows.

  name: a key of `WINDOWS`.
  gamma: `aligned` drops the easiest `gamma * accuracy` of a class.
  hardest: `aligned` drops this share at the hard end (label noise).
  share: the part of a class that `slide`, `static`, `reversed` and `hardest`
    keep, and that `drop_easy` drops.
  first: what the first segment of `aligned` sees: 1 is everything, less the
    easiest share by a network trained on real data.
  """
  name: str = 'aligned'
  gamma: float = 0.6
  hardest: float = 0.03
  share: float = 0.5
  first: float = 1.0


def default_count(ipc):
  """How many segments to take by default: 1, 2, 5 or 10 for a given ipc."""
  # Ours: PDD takes 5, SeqMatch 2 or 3. More where each still has many images.
  for limit, segments in ((2, 1), (50, 2), (500, 5)):
    if ipc < limit:
      return segments
  return 10


def plan(ipc, segments):
  """`segments` equal slices of `ipc` images, the remainder to the first.

  Raises:
    UserError: fewer images than segments, or no segment.
  """
  if not 1 <= segments <= ipc:
    raise UserError(f'segments={segments} does not split ipc={ipc}; '
                    f'choose from 1 to {ipc}')
  each = ipc // segments
  ends = [ipc - each * (segments - 1 - k) for k in range(segments)]
  starts = [0, *ends[:-1]]
  return [Segment(k, slice(a, b))
          for k, (a, b) in enumerate(zip(starts, ends, strict=True))]


def phases(segment, classes, number):
  """A segment in `number` parts of the classes, equal to within one class.

  Raises:
    UserError: fewer classes than parts, or no part.
  """
  if not 1 <= number <= classes:
    raise UserError(f'--config.syn.phases={number} does not split {classes} '
                    f'classes; choose from 1 to {classes}')
  ends = [classes * k // number for k in range(number + 1)]
  return [segment._replace(rows=slice(*ends[k:k + 2]), phase=k)
          for k in range(number)]


def steps(total, segments, index):
  """Sweeps of segment `index`: `total` in all, equal to within one."""
  # Differences of one rounded line, so that they add up to the total.
  return total * (index + 1) // segments - total * index // segments


# ---- Which real images


def scoring_networks(choice, index):
  """Who scores the real images for a segment: None, `real` or `previous`.

  `real` is a network trained on real data, `previous` networks trained on all
  earlier segments.
  """
  if choice.name not in WINDOWS:
    raise unknown('window', choice.name, WINDOWS)
  if choice.name == 'aligned' and index == 0:
    return 'real' if choice.first < 1 else None
  # Before the first segment there is no set to train on.
  who = WINDOWS[choice.name][1]
  return 'real' if who == 'previous' and index == 0 else who


class Judged(NamedTuple):
  """The real images, and how hard they are.

  labels: `[n]` int, each below `classes`.
  scores: `[n]`, higher is harder, as `scoring_networks` asks for; else None.
  accuracy: `[classes]` of the scoring networks on the images, or None.
  """
  labels: np.ndarray
  classes: int
  scores: np.ndarray | None = None
  accuracy: np.ndarray | None = None


def windows(choice, index, segments, judged, floor=1, seed=0):
  """The real images that a segment may see.

  Args:
    choice: a `WindowChoice`.
    index: the segment, from 0, of `segments`.
    judged: the images, `Judged`.
    floor: never fewer images a class than this, or all of a smaller class.
    seed: of `random`: a number, or several.

  Returns:
    A list of int arrays, one a class, each sorted by index.

  Raises:
    UserError: an unknown window.
  """
  if choice.name not in WINDOWS:
    raise unknown('window', choice.name, WINDOWS)
  rule = WINDOWS[choice.name][0]
  rows = []
  for c in range(judged.classes):
    members = np.flatnonzero(judged.labels == c)
    if judged.scores is None:
      order = np.random.default_rng([*np.ravel(seed), c]).permutation(
          members)
    else:
      # Of equal scores the first image, on every machine.
      order = members[np.argsort(judged.scores[members], kind='stable')]
    known = 0.0 if judged.accuracy is None else float(judged.accuracy[c])
    low, high = rule(choice, index, segments, known)
    rows.append(np.sort(_trim(order, low, high, floor)))
  return rows


def _trim(order, low, high, floor):
  """`order` between the quantiles, widened to `floor`, easy side first."""
  # Widened towards the easy side: mislabelled images are at the other.
  n = len(order)
  start, stop = int(np.floor(low * n)), int(np.ceil(high * n))
  floor = min(floor, n)
  start = max(0, min(start, stop - floor))
  return order[start:max(stop, start + floor)]


def _aligned(choice, index, segments, accuracy):
  # The more of a class the probes know, the harder the images that are left.
  if index == 0:
    return 0.0, choice.first
  return choice.gamma * accuracy, 1 - choice.hardest


def _sliding(choice, index, segments, accuracy):
  start = (1 - choice.share) * index / max(segments - 1, 1)
  return start, start + choice.share


def _reversed(choice, index, segments, accuracy):
  return _sliding(choice, segments - 1 - index, segments, accuracy)


def _random_part(choice, index, segments, accuracy):
  return index / segments, (index + 1) / segments


# Name -> (quantiles of a class from easy to hard, who scores).
WINDOWS = {
    'aligned': (_aligned, 'previous'),
    'slide': (_sliding, 'previous'),
    'static': (_sliding, 'real'),
    'reversed': (_reversed, 'previous'),
    'random': (_random_part, None),
    'hardest': (lambda c, *_: (1 - c.share, 1.0), 'previous'),
    'drop_easy': (lambda c, *_: (c.share, 1.0), 'real'),
    'everything': (lambda *_: (0.0, 1.0), None),
}


def expert_epochs(choice, index, segments, epochs, accuracy):
  """Which epochs of experts a segment may start from, by the same windows.

  Time is difficulty here: what experts learn first is easy. The epochs stand
  in for the samples of a class, from easy to hard.

  Args:
    choice, index, segments: see `windows`.
    epochs: first and last that there are to choose from, both included.
    accuracy: of the scoring networks on all real images, from 0 to 1.

  Returns:
    (low, high), both included and within epochs.
  """
  first, last = epochs
  low, high = WINDOWS[choice.name][0](choice, index, segments, accuracy)
  inside = _trim(np.arange(first, last + 1), low, high, 1)
  return int(inside[0]), int(inside[-1])


# ---- First images


def unused_first(rows, used, size):
  """Of each window the images that no segment began with, if enough are left.

  Args:
    rows: the windows, see `windows`.
    used: `[n]` bool.
    size: how many are enough; where there are fewer, the window stays whole.
  """
  left = [row[~used[row]] for row in rows]
  return [new if len(new) >= size else row
          for new, row in zip(left, rows, strict=True)]


def first_images(rows, labels, used, size, seed):
  """Real images to start a segment from: of its window, new ones first.

  Args:
    rows: the windows, see `windows`.
    labels: `[n]` int.
    used: `[n]` bool, images that earlier segments started from.
    size: images a class.
    seed: anything that `numpy.random.default_rng` takes.

  Returns:
    `[classes, size]` int; a class that is too small repeats images.
  """
  rng = np.random.default_rng(seed)
  out = []
  for c, row in enumerate(rows):
    members = rng.permutation(np.flatnonzero(labels == c))
    inside = np.isin(members, row)
    # Unused in the window, then used there, then the rest of the class.
    order = np.argsort(2 * ~inside + used[members], kind='stable')
    out.append(np.resize(members[order], size))
  return np.array(out)
