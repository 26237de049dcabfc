"""The plan of DASM: which synthetic images meet which real ones, and when.

Pure NumPy. A segment is a slice of every class's synthetic images; its window
is the part of each class's real images that it is matched with. The paper
gives the principle (segments in turn, easy to hard, by a model trained on all
earlier segments); the formulas here are a documented reconstruction of it.
"""

from collections.abc import Callable, Sequence
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
  def width(self) -> int:
    """Images a class."""
    return self.slots.stop - self.slots.start


class WindowChoice(NamedTuple):
  """Settings of the windows.

  name: a key of `WINDOWS`.
  gamma: `aligned` drops the easiest `gamma * accuracy` of a class.
  hardest: `aligned` drops this share at the hard end (label noise).
  share: the part that `slide`, `static`, `reversed` and `hardest` keep of a
    class, that `drop_easy` drops of it, and that `frontier` and `ccfs` keep of
    the images that the probes get wrong.
  first: what the first segment of `aligned`, `frontier` and `ccfs` sees: 1 is
    everything, less the easiest share by networks trained on real data.
  ordered: whether networks trained on real data put images in order; if not,
    windows that would ask them are by chance.
  """
  name: str = 'frontier'
  gamma: float = 0.6
  hardest: float = 0.03
  share: float = 0.2
  first: float = 1.0
  ordered: bool = True


# Images a class from which segments are taken, and how many, by what was
# measured (RESULTS.md). A method may take them earlier (`registry.Spec.many`).
MANY, COUNT = 50, 5
# Below so many decoded images a class a segment alone is too few to match what
# its window tells: it is matched in union with those before it. At 16x16 and
# ipc 10 that gains points, at 40 and 50 decoded images it loses (RESULTS.md).
FEW = 40


def default_count(ipc: int, many: int = MANY) -> int:
  """How many segments to take by default: one, or `COUNT`.

  Args:
    ipc: images a class.
    many: of these on segments are taken; 1 where images stay as they are, as
      segments cost no updates there.

  Returns:
    An int from 1 to `COUNT`.
  """
  return min(ipc, COUNT) if ipc >= many else 1


def default_reason(ipc: int, many: int = MANY) -> str:
  """Why so many, in words.

  Args:
    ipc: images a class.
    many: as of `default_count`.

  Returns:
    A text.
  """
  if many == 1:
    return 'by default: real images stay as they are, so that more cost nothing'
  if ipc < many:
    return (f'by default below {many} images a class, where more are not '
            'measured to pay')
  return f'by default from {many} images a class on, ' + (
      'where more are measured to pay' if many < MANY else
      'as more pay for IDC and DM there')


def plan(ipc: int, segments: int, shares: Sequence[float] = ()
         ) -> list[Segment]:
  """Slices of `ipc` images a class, equal or of chosen sizes.

  Args:
    ipc: images a class.
    segments: how many slices; the remainder of equal ones goes to the first.
    shares: their sizes, in shares of any sum, one a segment; () is equal ones.
      Each has an image at least, taken from what follows.

  Returns:
    A list of `Segment`, in the order that they are learned.

  Raises:
    UserError: fewer images than segments, no segment, or a share for another
      number of segments.
  """
  if not 1 <= segments <= ipc:
    raise UserError(f'segments={segments} does not split ipc={ipc}; '
                    f'choose from 1 to {ipc}')
  if shares and len(shares) != segments:
    raise UserError(f'shares={tuple(shares)} are {len(shares)}, but segments='
                    f'{segments}; give one a segment')
  if shares:
    # Rounded where they end, so that the sizes add up.
    ends = np.round(ipc * np.cumsum(shares) / np.sum(shares)).astype(int)
    for k in range(segments):
      before = ends[k - 1] if k else 0
      ends[k] = np.clip(ends[k], before + 1, ipc - (segments - 1 - k))
    ends = ends.tolist()
  else:
    each = ipc // segments
    ends = [ipc - each * (segments - 1 - k) for k in range(segments)]
  starts = [0, *ends[:-1]]
  return [Segment(k, slice(a, b))
          for k, (a, b) in enumerate(zip(starts, ends, strict=True))]


def phases(segment: Segment, classes: int, number: int) -> list[Segment]:
  """A segment in `number` parts of the classes, equal to within one class.

  Args:
    segment: a `Segment`.
    classes: how many there are.
    number: of parts.

  Returns:
    A list of `Segment`, of the same slots.

  Raises:
    UserError: fewer classes than parts, or no part.
  """
  if not 1 <= number <= classes:
    raise UserError(f'--config.syn.phases={number} does not split {classes} '
                    f'classes; choose from 1 to {classes}')
  ends = [classes * k // number for k in range(number + 1)]
  return [segment._replace(rows=slice(*ends[k:k + 2]), phase=k)
          for k in range(number)]


def steps(total: int, segments: int, index: int, rates: Sequence[float] = (),
          each: bool = False) -> int:
  """Sweeps of segment `index`.

  Args:
    total: of all segments together, equal to within one.
    segments: how many there are.
    index: from 0.
    rates: factors on the rate of their images, one a segment; a segment that
      does not move (0) has no sweeps. () is 1 everywhere.
    each: whether every segment has as many as `total`.

  Returns:
    An int.
  """
  moving = [k for k in range(segments) if not rates or rates[k]]
  if index not in moving:
    return 0
  if each:
    return total
  # Differences of one rounded line, so that they add up to the total.
  at, number = moving.index(index), len(moving)
  return total * (at + 1) // number - total * at // number


# ---- Which real images


class Asked(NamedTuple):
  """Which networks a window asks, each `real`, `previous` or None.

  order: those that put the images in order, from easy to hard. missed: those
    whose mistakes are the candidates. known: those that must be right about
    them. `real` are trained on real data, `previous` on all earlier segments.
  """
  order: str | None = None
  missed: str | None = None
  known: str | None = None


def asked_networks(choice: WindowChoice, index: int) -> Asked:
  """The `Asked` of a segment's window; `UserError` for an unknown one.

  Args:
    choice: a `WindowChoice`.
    index: of the segment, from 0.

  Returns:
    An `Asked`.
  """
  if choice.name not in WINDOWS:
    raise unknown('window', choice.name, WINDOWS)
  row = WINDOWS[choice.name]
  # Before the first segment there is no set to train on.
  if index == 0:
    opens = choice.first < 1 if row.opens else row.asked.order is not None
    found = Asked('real' if opens else None)
  else:
    found = row.asked
  return found if choice.ordered or found.order != 'real' else (
      found._replace(order=None))


class Judged(NamedTuple):
  """The real images, and how hard they are.

  labels: `[n]` int, each below `classes`.
  scores: `[n]`, higher is harder, by the networks that put them in order, see
    `asked_networks`; None: by chance.
  accuracy: `[classes]` of the scoring networks on the images, or None.
  missed: `[n]` bool, the candidates, as `asked_networks` asks for; None: all.
  used: `[n]` bool, images that earlier segments began with; None: none.
  """
  labels: np.ndarray
  classes: int
  scores: np.ndarray | None = None
  accuracy: np.ndarray | None = None
  missed: np.ndarray | None = None
  used: np.ndarray | None = None


def windows(choice: WindowChoice, index: int, segments: int, judged: Judged,
            floor: int = 1, seed: int | Sequence[int] = 0) -> list[np.ndarray]:
  """The real images that a segment may see.

  The rule of a window gives two quantiles of a class, or, where the networks
  asked tell candidates, of those that no earlier segment began with. Where
  there are too few of these the next follow: other unused images from easy to
  hard, then used ones.

  Args:
    choice: a `WindowChoice`.
    index: the segment, from 0, of `segments`.
    judged: the images, `Judged`.
    floor: never fewer images a class than this, or all of a smaller class.
    seed: of windows by chance: a number, or several.

  Returns:
    A list of int arrays, one a class, each from easy to hard.

  Raises:
    UserError: an unknown window.
  """
  if choice.name not in WINDOWS:
    raise unknown('window', choice.name, WINDOWS)
  rule, rows = WINDOWS[choice.name].between, []
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
    count = len(order)
    if judged.missed is not None:
      used = (np.zeros(len(judged.labels), bool) if judged.used is None
              else judged.used)
      order, count = _candidates_first(order, judged.missed, used)
    rows.append(_trim(order, low, high, floor, count))
  return rows


def _candidates_first(order, missed, used):
  """`order` with unused candidates in front, and how many these are."""
  last = np.where(used[order], 2, np.where(missed[order], 0, 1))
  return order[np.argsort(last, kind='stable')], int(np.sum(last == 0))


def frontier_counts(judged: Judged) -> np.ndarray:
  """How many candidates each class has, `[classes]`; see `windows`.

  Args:
    judged: the images, `Judged`, with `missed`.

  Returns:
    `[classes]` int.
  """
  unused = judged.missed if judged.used is None else (
      judged.missed & ~judged.used)
  return np.bincount(judged.labels[unused], minlength=judged.classes)


def _trim(order, low, high, floor, count=None):
  """`order` between two quantiles, widened to `floor`, easy side first.

  count: how many of `order` the quantiles are of, the first; None: all.
  """
  # Widened towards the easy side: mislabelled images are at the other.
  n = len(order) if count is None else count
  start, stop = int(np.floor(low * n)), int(np.ceil(high * n))
  floor = min(floor, len(order))
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


def _frontier(choice, index, segments, accuracy):
  # Of images that are all candidates: what is known is no part of them.
  return 0.0, choice.share if index else choice.first


class Window(NamedTuple):
  """A kind of window.

  between: `(choice, index, segments, accuracy) -> (low, high)`, quantiles of a
    class, or of its candidates, from easy to hard.
  asked: the `Asked` of later segments.
  opens: whether the first segment sees what `WindowChoice.first` says.
  """
  between: Callable
  asked: Asked = Asked()
  opens: bool = False


# `frontier` is ours after CCFS (2503.18872), whose candidates also have to be
# right for a network trained on real data: `ccfs`.
_PREVIOUS, _REAL = Asked('previous'), Asked('real')
WINDOWS = {
    'frontier': Window(_frontier, Asked('real', 'previous'), True),
    'ccfs': Window(_frontier, Asked('real', 'previous', 'real'), True),
    'aligned': Window(_aligned, _PREVIOUS, True),
    'slide': Window(_sliding, _PREVIOUS),
    'static': Window(_sliding, _REAL),
    'reversed': Window(_reversed, _PREVIOUS),
    'random': Window(_random_part),
    'hardest': Window(lambda c, *_: (1 - c.share, 1.0), _PREVIOUS),
    'drop_easy': Window(lambda c, *_: (c.share, 1.0), _REAL),
    'everything': Window(lambda *_: (0.0, 1.0)),
}


def expert_epochs(choice: WindowChoice, index: int, segments: int,
                  epochs: tuple[int, int], accuracy: float) -> tuple[int, int]:
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
  row = WINDOWS[choice.name]
  low, high = row.between(choice, index, segments, accuracy)
  if row.asked.missed and index:
    # Of images the candidates are those that are not known: so of epochs, those
    # that are left where the first are as many as are known.
    low, high = (accuracy + (1 - accuracy) * x for x in (low, high))
  inside = _trim(np.arange(first, last + 1), low, high, 1)
  return int(inside[0]), int(inside[-1])


# ---- First images


def unused_first(rows: Sequence[np.ndarray], used: np.ndarray, size: int
                 ) -> list[np.ndarray]:
  """Of each window the images that no segment began with, if enough are left.

  Args:
    rows: the windows, see `windows`.
    used: `[n]` bool.
    size: how many are enough; where there are fewer, the window stays whole.

  Returns:
    A list of int arrays, one a class.
  """
  left = [row[~used[row]] for row in rows]
  return [new if len(new) >= size else row
          for new, row in zip(left, rows, strict=True)]


def first_images(rows: Sequence[np.ndarray], labels: np.ndarray,
                 used: np.ndarray, size: int, seed: int | Sequence[int],
                 easiest: bool = False, once: bool = False) -> np.ndarray:
  """Real images to start a segment from: of its window, new ones first.

  Args:
    rows: the windows, see `windows`.
    labels: `[n]` int.
    used: `[n]` bool, images that earlier segments started from.
    size: images a class.
    seed: anything that `numpy.random.default_rng` takes.
    easiest: whether to take the window in its order, not by chance.
    once: whether new ones outside the window come before used ones in it, as
      for images that stay as they are.

  Returns:
    `[classes, size]` int; a class that is too small repeats images.
  """
  rng = np.random.default_rng(seed)
  out = []
  for c, row in enumerate(rows):
    members = rng.permutation(np.flatnonzero(labels == c))
    inside = np.isin(members, row)
    if easiest:
      members = np.concatenate([row, members[~inside]])
      inside = np.arange(len(members)) < len(row)
    # Unused in the window, then used there, then the rest of the class.
    outside, again = (1, 2) if once else (2, 1)
    order = np.argsort(outside * ~inside + again * used[members],
                       kind='stable')
    out.append(np.resize(members[order], size))
  return np.array(out)
