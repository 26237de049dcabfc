"""What the steps of a segment are given, read ahead if it is streamed."""

import contextlib
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import hosts, parallel, real, school
from dasm_jax.course import At


class Plan(NamedTuple):
  """How streamed sweeps, or batches of their warm-ups, are fed.

  piece: how many are given at once. capacity: images they have room for.
  """
  piece: int
  capacity: int


@contextlib.contextmanager
def feeder(job, segment, progress, method, pool, data, experts, key, course,
           at, meter):
  """Yields `(at, most) -> (data, size)`, what a method is given next.

  `size` is how many sweeps, or batches of a warm-up, it is for: `most`, or
  where images are streamed at most as many as were read together.

  Args:
    job, segment, progress: of the run.
    method: a `Method`; pool: a `Pool` of all classes; key: of the segment.
    data: one of `real`; experts: a `Buffer`, or None.
    course: a `course.Course`; at: where to begin, an `At`.
    meter: a `meters.Meter`, which is told how long steps waited.
  """
  c = job.config
  if 'experts' in c:
    feed = school.feeder(job, segment, progress, experts)
    yield lambda at, most: (feed(at.step, most), most)
    return
  begun = starts(experts)
  def given(source):
    return source._replace(starts=begun)
  if not data.streamed:
    source = given(real.fetch(data, None))
    yield lambda at, most: (source, most)
    return
  n = len(data.labels)
  looks = looked(job, segment, method, pool, n, key)
  plans = planned(looks, n, course, at, c.method.get('inner', 1) + c.run.chunk,
                  data.room)
  with _streamed(data, looks, course, at, plans, meter) as feed:
    def feed_begun(at, most):
      source, size = feed(at, most)
      return given(source), size
    yield feed_begun


def looked(job, segment, method, pool, n, key):
  """`(at, warms) -> [indices, …]`, what this process needs of n real images.

  Of the sweep at a place; or with `warms` of all the batches before it, one
  array, of which each row is a batch. Asked while the devices are at work.
  """
  rows = job.rows(segment)
  pool_, mine, key_ = parallel.on_host(
      (pool, jnp.asarray(rows[parallel.own(len(rows))]), key))
  sweeps = method.warm.rest if method.warm else method

  def looks(at, warms):
    if warms:
      return [method.warm.looks(n, key_, at.step)]
    return sweeps.looks(pool_, mine, n, key_, at.step)
  return looks


def starts(experts):
  """`[k, parameters]` on every device: what `experts`, a `Buffer`, became.

  None if there is none.
  """
  if experts is None:
    return None
  who = range(experts.number)
  return parallel.replicate(jnp.asarray(
      school.weights(experts, who, [experts.epochs] * len(who))))


def planned(looks, n, course, at, steps, room):
  """`{warms: Plan}` of sweeps and of batches of their warm-ups.

  Args:
    looks: see `looked`; n: images there are.
    course, at: see `feeder`.
    steps: sweeps to plan for: how many images one looks at repeats with the
      networks, or falls.
    room: images that one piece may have, of more than one sweep or batch.
  """
  # Shapes tell how many; they cost nothing. A process may have fewer than
  # another, but all run one program.
  def count(step, warms):
    found = jax.eval_shape(lambda: looks(At(step), warms))
    return sum(int(np.prod(x.shape[warms:])) for x in found)

  whole = range(at.step, min(at.step + steps, course.stop))
  counts = {False: [count(step, False) for step in whole], True: [
      count(step, True) for step in whole if course.batches(step)][:1]}
  most = {False: course.chunk, True: max(map(course.batches, whole))}
  plans = {}
  for warms, mine in counts.items():
    if mine:
      mine = np.array(hosts.highest(*mine))
      piece = int(np.clip(room // mine.max(), 1, most[warms]))
      sums = piece * mine if warms else np.convolve(
          mine, np.ones(min(piece, len(mine)), int), 'valid')
      plans[warms] = Plan(piece, min(n, int(sums.max())))
  return plans


@contextlib.contextmanager
def _streamed(data, looks, course, at, plans, meter):
  """Yields `(at, most) -> (data, size)`, the next piece read meanwhile.

  Args:
    data: a `real.Streamed`.
    looks: see `looked`; course, at: see `feeder`; plans: see `planned`.
    meter: a `meters.Meter`.
  """
  last = functools.lru_cache(1)(
      lambda step: np.asarray(looks(At(step), True)[0]))

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
    found = [x for k in range(size) for x in looks(At(at.step + k), False)]
    return np.concatenate([np.ravel(x) for x in found]), capacity

  with real.in_turn(data, pieces(at), wanted) as coming:
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
