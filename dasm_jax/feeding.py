"""What the steps of a segment are given, read ahead if it is streamed."""

import contextlib
import time
from concurrent import futures
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import hosts, parallel, school
from dasm_jax.data.ahead import Ahead
from dasm_jax.errors import UserError


class Plan(NamedTuple):
  """How a streamed segment is fed.

  piece: steps that are given at once. capacity: images they have room for.
  """
  piece: int
  capacity: int


@contextlib.contextmanager
def feeder(job, segment, progress, method, pool, real, experts, key, steps,
           meter):
  """Yields `(step, most) -> (data, steps)`, what a method's steps are given.

  `steps` is how many they are for: `most`, or where images are streamed at most
  as many as were read together.

  Args:
    job, segment, progress: of the run.
    method: a `Method`; pool: a `Pool` of all classes; key: of the segment.
    real: one of `real`; experts: a `Buffer`, or None.
    steps: the range of steps to go.
    meter: a `meters.Meter`, which is told how long steps waited.
  """
  c = job.config
  if 'experts' in c:
    feed = school.feeder(job, segment, progress, experts)
    yield lambda step, most: (feed(step, most), most)
  elif not real.streamed:
    source = real.whole(f'method {c.method.name}')._replace(
        starts=starts(experts))
    yield lambda step, most: (source, most)
  else:
    if method.looks is None:
      raise UserError(
          f'method {c.method.name!r} looks at real images by what it finds, so '
          'that they cannot be read ahead; choose another --config.method, or '
          '--config.dataset.stream=never if they fit on the device')
    rows = job.rows(segment)
    # What is looked at next is asked while the devices are at work.
    given = parallel.on_host(
        (pool, jnp.asarray(rows[parallel.own(len(rows))]), key))
    def looks(step):
      pool_, mine, key_ = given
      return method.looks(pool_, mine, len(real.labels), key_, step)
    # How many images a step looks at repeats with the networks, or falls.
    first = steps[:c.method.get('inner', 1) + c.run.chunk]
    plan_ = plan(looks, len(real.labels), first, c.run.chunk,
                 int(np.prod(job.shape)), c.run.buffer_mb * 2 ** 20)
    with _streamed(real, looks, steps, c.run.chunk, plan_, meter) as feed:
      yield feed


def starts(experts):
  """`[k, parameters]` on every device: what `experts`, a `Buffer`, became.

  None if there is none.
  """
  if experts is None:
    return None
  who = range(experts.number)
  return parallel.replicate(jnp.asarray(
      school.weights(experts, who, [experts.epochs] * len(who))))


def plan(looks, n, steps, chunk, image_bytes, budget):
  """The `Plan` of a segment whose steps look at what `looks` tells.

  Args:
    looks: `step -> [indices, …]`.
    n: images there are.
    steps: those to plan for.
    chunk: steps after whose multiples a chunk ends.
    image_bytes: of one image.
    budget: bytes that the images of one piece may take.
  """
  # Shapes tell how many; they cost nothing. A process may have fewer than
  # another, but all run one program.
  counts = np.array(hosts.highest(*(_count(looks, step) for step in steps)))
  piece = int(np.clip(budget // (counts.max() * image_bytes), 1, chunk))
  sums = np.convolve(counts, np.ones(min(piece, len(counts)), int), 'valid')
  return Plan(piece, min(n, int(sums.max())))


def _count(looks, step):
  return sum(int(np.prod(x.shape)) for x in jax.eval_shape(
      lambda: looks(step)))


@contextlib.contextmanager
def _streamed(real, looks, steps, chunk, plan_, meter):
  """Yields `(step, most) -> (data, steps)`, the next piece read meanwhile.

  Args:
    real: a `real.Streamed`.
    looks: `step -> [indices, …]`.
    steps: the range of steps to go.
    chunk: steps after whose multiples a chunk ends.
    plan_: a `Plan`.
    meter: a `meters.Meter`.
  """
  seen = {}

  def indices(step):
    seen[step] = np.unique(np.concatenate(
        [np.asarray(x).ravel() for x in looks(step)]))
    return seen[step]

  with futures.ThreadPoolExecutor(1) as pool_, (
      Ahead(real.split, indices, steps, depth=plan_.piece)) as ahead:

    def assemble(size):
      parts = [next(ahead) for _ in range(size)]
      rows = np.concatenate([seen.pop(step) for step, _ in parts])
      unique, first = np.unique(rows, return_index=True)
      images = np.concatenate([images for _, images in parts])[first]
      return real.place(unique, images, plan_.capacity)

    def size_at(step):
      return min(plan_.piece, chunk - step % chunk, steps.stop - step)

    coming, data, end = [], None, steps.start

    def feed(step, most):
      nonlocal data, end
      if step == end:
        began = time.perf_counter()
        end = step + size_at(step)
        data = coming.pop().result() if coming else assemble(end - step)
        meter.waited += time.perf_counter() - began
        if end < steps.stop:
          coming.append(pool_.submit(assemble, size_at(end)))
      return data, min(most, end - step)  # a call may use a part of a piece

    yield feed
