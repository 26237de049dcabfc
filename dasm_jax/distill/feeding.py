"""What each compiled call of a segment is given, read ahead where streamed."""

import contextlib
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import segments
from dasm_jax.distill import setup
from dasm_jax.methods import trajectory
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices, processes
from dasm_jax.training import experts as expert_training

EXPERT_DRAWS = 7  # tells draws of expert starts from others of the same seed


def expert_feeder(experiment, segment, progress, buffer):
  """`(step, steps) -> data` of a trajectory method: where experts stood."""
  c, chunk = experiment.config.method, experiment.config.run.chunk
  window = segments.expert_epochs(
      experiment.choice, segment.index, len(experiment.plan), c.first_epoch,
      c.last_epoch,
      float(np.mean(progress.accuracy)))

  def feed(step, steps):
    drawn = [draw_expert_starts(experiment, segment, window, buffer, k)
             for k in range(step, step + steps)]
    who, when = np.concatenate(drawn, axis=1)
    rows = [np.resize(expert_training.expert_weights(buffer, who, epochs),
                      (chunk * c.starts, buffer.size))
            for epochs in (when, when + c.expert_epochs)]
    return devices.replicate(trajectory.Pairs(
        *map(jnp.asarray, rows), jnp.int32(step)))
  return feed


def draw_expert_starts(experiment, segment, window, buffer, step):
  """Experts and epochs that one step starts from, `[2, starts]` int."""
  c, low, high = experiment.config.method, *window
  rng = np.random.default_rng([experiment.config.seed, EXPERT_DRAWS,
                               segment.index,
                               step])
  last = c.last_epoch
  if c.expand and c.start_last_epoch >= 0:
    grown = (last - c.start_last_epoch) * step // c.expand
    last = min(last, c.start_last_epoch + grown)
  replay = experiment.config.segments.replay if segment.index else 0.0
  out = []
  for _ in range(c.starts):
    first = c.first_epoch if rng.random() < replay else low
    out.append((rng.integers(buffer.number),
                rng.integers(first, max(first, min(high, last)) + 1)))
  return np.array(out).T


class Position(NamedTuple):
  """A place in a segment.

  step: sweeps that are behind. batch: batches of the warm-up of the next one.
  """
  step: int
  batch: int = 0


class Schedule(NamedTuple):
  """Sweeps, some of them with batches of a warm-up before, in calls.

  batches: `step -> int`, how many are before a sweep, see `types.Warmup`.
  stop: sweeps in all. chunk: sweeps after whose multiples a call ends.
  """
  batches: Callable
  stop: int
  chunk: int

  def warms(self, at):
    """Whether the next thing is a batch of a warm-up, not a sweep."""
    return at.batch < self.batches(at.step)

  def left(self, at):
    """How many of the next thing one call may do, at most."""
    if self.warms(at):
      return self.batches(at.step) - at.batch
    end = min(self.stop, at.step - at.step % self.chunk + self.chunk)
    colds = (k for k in range(at.step + 1, end) if self.batches(k))
    return next(colds, end) - at.step

  def after(self, at, size):
    """The place after `size` of the next thing, at most `left`."""
    if self.warms(at):
      return at._replace(batch=at.batch + size)
    return Position(at.step + size)

  def number(self, at):
    """How many sweeps and batches are behind: it grows with every call."""
    return at.step + at.batch + sum(map(self.batches, range(at.step)))


def schedule_of(method, stop, chunk):
  """The `Schedule` of a `Method`."""
  batches = method.warmup.batches if method.warmup else lambda step: 0
  return Schedule(batches, stop, chunk)


def position_of(method, state):
  """The `Position` of a method's state."""
  return Position(int(state.step),
                  int(method.warmup.done(state)) if method.warmup else 0)


class FeedPlan(NamedTuple):
  """How streamed sweeps, or batches of their warm-ups, are fed.

  piece: how many are given at once. capacity: images they have room for.
  """
  piece: int
  capacity: int


@contextlib.contextmanager
def open_feed(experiment, segment, progress, method, pool, data, experts, key,
              course, at, meter):
  """Yields `(at, most) -> (data, size)`, what a method is given next.

  `size` is how many sweeps, or batches of a warm-up, it is for: `most`, or
  where images are streamed at most as many as were read together.

  Args:
    experiment, segment, progress: of the run.
    method: a `Method`; pool: a `ClassWindows` of all classes; key: of the
    segment.
    data: one of `real`; experts: a `ExpertStore`, or None.
    course: a `feeding.Schedule`; at: where to begin, an `Position`.
    meter: a `timing.CostMeter`, which is told how long steps waited.
  """
  c = experiment.config
  if 'experts' in c:
    feed = expert_feeder(experiment, segment, progress, experts)
    yield lambda at, most: (feed(at.step, most), most)
    return
  begun = network_starts(experts)
  def given(source):
    return source._replace(starts=begun)
  if not data.streamed:
    source = given(streaming.fetch(data, None))
    yield lambda at, most: (source, most)
    return
  indices = index_reader(experiment, segment, pool, data, key)
  steps = c.method.get('inner', 1) + c.run.chunk
  plans = plan_pieces(indices, data, course, at, steps)
  with _streamed_feed(data, indices, course, at, plans, meter) as feed:
    def feed_begun(at, most):
      source, size = feed(at, most)
      return given(source), size
    yield feed_begun


def index_reader(experiment, segment, windows, data, key):
  """`(at, warms) -> [indices, …]`, the real images that this process needs.

  Of the sweep at a place; or with `warms` of all the batches before it, one
  array, of which each row is a batch. Asked while the devices are at work, of
  a method that knows no devices, on the host.

  Args:
    experiment, segment: of the run.
    windows: `ClassWindows` of all classes.
    data: a `streaming.StreamedImages`; key: of the segment.
  """
  method = setup.build_method(experiment, segment, None)
  rows = experiment.rows(segment)
  mine = rows[devices.local_items(len(rows))]
  source, windows, key = devices.on_host((data.unread, windows, key))
  draw = jax.jit(method.draw)
  draw_warmup = method.warmup and jax.jit(method.warmup.draw)

  def indices(at, warms):
    if warms:
      return [streaming.local_share(draw_warmup(source, key, at.step))]
    drawn = draw(source, windows, key, at.step)
    return [drawn.by_class[mine],
            *map(streaming.local_share, drawn.shared.values())]
  return indices


def network_starts(experts):
  """`[k, parameters]` on every device: what `experts`, a `ExpertStore`, became.

  None if there is none.
  """
  if experts is None:
    return None
  who = range(experts.number)
  return devices.replicate(jnp.asarray(
      expert_training.expert_weights(experts, who, [experts.epochs]
                                     * len(who))))


def plan_pieces(indices, data, course, at, steps):
  """`{warms: FeedPlan}` of sweeps and of batches of their warm-ups.

  Args:
    indices: see `index_reader`; data: a `streaming.StreamedImages`.
    course, at: see `open_feed`.
    steps: sweeps to plan for: some begin with a warm-up.
  """
  # Shapes tell how many; they cost nothing. A process may have fewer than
  # another, but all run one program.
  def count(step, warms):
    found = jax.eval_shape(lambda: indices(Position(step), warms))
    return sum(int(np.prod(x.shape[warms:])) for x in found)

  whole = range(at.step, min(at.step + steps, course.stop))
  counts = {False: [count(step, False) for step in whole], True: [
      count(step, True) for step in whole if course.batches(step)][:1]}
  most = {False: course.chunk, True: max(map(course.batches, whole))}
  plans = {}
  for warms, mine in counts.items():
    if mine:
      mine = np.array(processes.maximum(*mine))
      piece = int(np.clip(data.room // mine.max(), 1, most[warms]))
      sums = piece * mine if warms else np.convolve(
          mine, np.ones(min(piece, len(mine)), int), 'valid')
      plans[warms] = FeedPlan(piece, min(len(data.labels), int(sums.max())))
  return plans


@contextlib.contextmanager
def _streamed_feed(data, indices, course, at, plans, meter):
  """Yields `(at, most) -> (data, size)`, the next piece read meanwhile.

  Args:
    data: a `streaming.StreamedImages`.
    indices: see `index_reader`; course, at: see `open_feed`; plans: see
      `plan_pieces`.
    meter: a `timing.CostMeter`.
  """
  last = functools.lru_cache(1)(
      lambda step: np.asarray(indices(Position(step), True)[0]))

  def size_at(at):
    return min(plans[course.warms(at)].piece, course.left(at))

  def pieces(at):
    while at.step < course.stop:
      yield at
      at = course.after(at, size_at(at))

  def wanted(at):
    size, capacity = size_at(at), plans[course.warms(at)].capacity
    if course.warms(at):
      return last(at.step)[at.batch:at.batch + size], capacity
    found = [x for k in range(size)
             for x in indices(Position(at.step + k), False)]
    return np.concatenate([np.ravel(x) for x in found]), capacity

  with streaming.prefetched(data, pieces(at), wanted) as coming:
    held, end = None, at

    def feed(at, most):
      nonlocal held, end
      if at == end:
        began = time.perf_counter()
        held, end = None, course.after(at, size_at(at))
        _, held = next(coming)
        meter.waited += time.perf_counter() - began
      left = (end.batch - at.batch if course.warms(at)
              else end.step - at.step)
      return held, min(most, left)  # a call may use a part of a piece

    yield feed
