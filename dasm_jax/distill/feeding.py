"""What each compiled call of a segment is given, read ahead where streamed.

Sections: in which order sweeps and their warm-ups follow (`Schedule`), what a
call is given (`open_feed`), real images read ahead, where experts stood.
"""

import contextlib
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import config, segments, streams
from dasm_jax.distill import initialise, setup
from dasm_jax.methods import registry, trajectory
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices, processes
from dasm_jax.streams import Stream
from dasm_jax.training import experts as expert_training

# ---- In which order


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
    # Up to the next multiple of a chunk, wherever it begins: rows of metrics
    # then end alike in a run that was stopped and in one that was not.
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


# ---- What a call is given


@contextlib.contextmanager
def open_feed(made, phase, progress, schedule, at):
  """Yields `(at, most) -> (data, size)`, what a method is given next.

  `size` is how many sweeps, or batches of a warm-up, it is for: `most`, or
  where images are streamed at most as many as were read together.

  Args:
    made: a `setup.Run`, whose meter adds up how long steps waited.
    phase: a `Segment` of some classes; progress: where it stands.
    schedule: a `Schedule`; at: where to begin, a `Position`.
  """
  c, data = made.experiment.config, made.data
  if registry.family_of(c.method).experts:
    pairs = expert_feed(made, phase, progress)
    yield lambda at, most: (pairs(at.step, most), most)
    return
  starts = dict(starts=network_starts(made),
                finished=finished_networks(progress))
  if not data.streamed:
    source = streaming.fetch(data, None)._replace(**starts)
    yield lambda at, most: (source, most)
    return
  indices = index_reader(made, phase, progress)
  plans = plan_pieces(indices, data, schedule, at,
                      c.method.get('inner', 1) + c.run.chunk)
  with streamed_feed(data, made.meter, indices, schedule, at, plans) as feed:
    def with_starts(at, most):
      source, size = feed(at, most)
      return source._replace(**starts), size
    yield with_starts


# ---- Real images, read ahead


def index_reader(made, phase, progress):
  """`(at, warms) -> [indices, …]`, the real images that this process needs.

  Of the sweep at a place; or with `warms` of all the batches before it, one
  array, of which each row is a batch. Asked while the devices are at work, of
  a method that knows no devices, on the host. Arguments as for `open_feed`.
  """
  # By the method's own draw, so that what is read is what `step` looks at; on
  # the host, where the next draw need not wait for the running call.
  method = setup.build_method(made.experiment, phase, None)
  rows = made.experiment.rows(phase)
  mine = rows[devices.local_items(len(rows))]
  source, windows, key = devices.on_host((
      made.data.unread, initialise.all_windows(made, progress),
      setup.sweeps_key(made.key, phase)))
  draw = jax.jit(method.draw)
  draw_warmup = method.warmup and jax.jit(method.warmup.draw)

  def indices(at, warms):
    if warms:
      return [streaming.local_share(draw_warmup(source, key, at.step))]
    drawn = draw(source, windows, key, at.step)
    return [drawn.by_class[mine],
            *map(streaming.local_share, drawn.shared.values())]
  return indices


class FeedPlan(NamedTuple):
  """How streamed sweeps, or batches of their warm-ups, are fed.

  piece: how many are given at once. capacity: images they have room for.
  """
  piece: int
  capacity: int


def plan_pieces(indices, data, schedule, at, steps):
  """`{warms: FeedPlan}` of sweeps and of batches of their warm-ups.

  Args:
    indices: see `index_reader`; data: a `streaming.StreamedImages`.
    schedule, at: see `open_feed`.
    steps: sweeps to plan for: some begin with a warm-up.
  """
  # Shapes tell how many; they cost nothing. A process may have fewer than
  # another, but all run one program.
  def count(step, warms):
    found = jax.eval_shape(lambda: indices(Position(step), warms))
    return sum(int(np.prod(x.shape[warms:])) for x in found)

  whole = range(at.step, min(at.step + steps, schedule.stop))
  counts = {False: [count(step, False) for step in whole], True: [
      count(step, True) for step in whole if schedule.batches(step)][:1]}
  most = {False: schedule.chunk, True: max(map(schedule.batches, whole))}
  plans = {}
  for warms, mine in counts.items():
    if mine:
      # Room for the largest sum of so many: one capacity is one program.
      mine = np.array(processes.maximum(*mine))
      piece = int(np.clip(data.room // mine.max(), 1, most[warms]))
      sums = piece * mine if warms else np.convolve(
          mine, np.ones(min(piece, len(mine)), int), 'valid')
      plans[warms] = FeedPlan(piece, min(len(data.labels), int(sums.max())))
  return plans


@contextlib.contextmanager
def streamed_feed(data, meter, indices, schedule, at, plans):
  """Yields `(at, most) -> (data, size)`, the next piece read meanwhile.

  Args:
    data: a `streaming.StreamedImages`.
    meter: a `timing.CostMeter`, told how long steps waited.
    indices: see `index_reader`; schedule, at: see `open_feed`; plans: see
      `plan_pieces`.
  """
  # A warm-up's batches are drawn once for all of its pieces.
  last = functools.lru_cache(1)(
      lambda step: np.asarray(indices(Position(step), True)[0]))

  def size_at(at):
    return min(plans[schedule.warms(at)].piece, schedule.left(at))

  def pieces(at):
    while at.step < schedule.stop:
      yield at
      at = schedule.after(at, size_at(at))

  def wanted(at):
    size, capacity = size_at(at), plans[schedule.warms(at)].capacity
    if schedule.warms(at):
      return last(at.step)[at.batch:at.batch + size], capacity
    found = [x for k in range(size)
             for x in indices(Position(at.step + k), False)]
    return np.concatenate([np.ravel(x) for x in found]), capacity

  with streaming.prefetched(data, pieces(at), wanted) as coming:
    held, end = None, at

    def feed(at, most):
      nonlocal held, end
      # The old piece goes before the next comes: there is room for few.
      if at == end:
        began = time.perf_counter()
        held, end = None, schedule.after(at, size_at(at))
        _, held = next(coming)
        meter.waited += time.perf_counter() - began
      left = (end.batch - at.batch if schedule.warms(at)
              else end.step - at.step)
      return held, min(most, left)  # a call may use a part of a piece

    yield feed


def network_starts(made):
  """`[k, parameters]` on every device: what matching networks begin as.

  Networks that real images have trained; None: noise. `made`: a `setup.Run`.
  """
  experiment, store = made.experiment, made.experts
  if config.begins_as_judges(experiment.config):
    row = expert_training.flat_variables(experiment.network)[0]
    return devices.replicate(jax.vmap(row)(initialise.real_networks(made)[0]))
  if store is None:
    return None
  who = range(store.number)
  return devices.replicate(jnp.asarray(expert_training.expert_weights(
      store, who, [store.epochs] * len(who))))


def finished_networks(progress):
  """`[k, parameters]` on every device: the probes that a segment keeps."""
  if not len(progress.probes):
    return None
  return devices.replicate(jnp.asarray(progress.probes))


# ---- Where experts stood


def expert_feed(made, phase, progress):
  """`(step, steps) -> trajectory.Pairs`; arguments as for `open_feed`."""
  experiment, c = made.experiment, made.experiment.config.method
  chunk, store = experiment.config.run.chunk, made.experts
  window = segments.expert_epochs(
      experiment.choice, phase.index, len(experiment.plan),
      (c.first_epoch, c.last_epoch), float(np.mean(progress.accuracy)))

  def feed(step, steps):
    drawn = [draw_expert_starts(experiment, phase, window, store.number, k)
             for k in range(step, step + steps)]
    who, when = np.concatenate(drawn, axis=1)
    # Filled up to a whole chunk: one shape for any number of steps.
    rows = [np.resize(expert_training.expert_weights(store, who, epochs),
                      (chunk * c.starts, store.size))
            for epochs in (when, when + c.expert_epochs)]
    return devices.replicate(trajectory.Pairs(
        *map(jnp.asarray, rows), jnp.int32(step)))
  return feed


def draw_expert_starts(experiment, phase, window, experts, step):
  """Experts and epochs that one step starts from, `[2, starts]` int.

  window: first and last epoch of the segment; experts: how many there are.
  """
  c, low, high = experiment.config.method, *window
  # By the step alone, so that a resumed run draws the same.
  rng = np.random.default_rng(streams.seed(
      experiment.config.seed, Stream.EXPERT_STARTS, phase.index, step))
  # DATM's last epoch grows with the steps.
  last = c.last_epoch
  if c.expand and c.start_last_epoch >= 0:
    grown = (last - c.start_last_epoch) * step // c.expand
    last = min(last, c.start_last_epoch + grown)
  # Later segments begin some students early, too: matching late epochs alone
  # forgets the early ones.
  replay = experiment.config.segments.replay if phase.index else 0.0
  out = []
  for _ in range(c.starts):
    first = c.first_epoch if rng.random() < replay else low
    out.append((rng.integers(experts),
                rng.integers(first, max(first, min(high, last)) + 1)))
  return np.array(out).T
