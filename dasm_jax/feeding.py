"""What the steps of a segment are given, read ahead if it is streamed."""

import contextlib
import time
from concurrent import futures
from typing import NamedTuple

import jax
import numpy as np

from dasm_jax import parallel, school
from dasm_jax.data.ahead import Ahead
from dasm_jax.errors import UserError


class Plan(NamedTuple):
  """How a streamed segment is fed.

  piece: steps that are given at once. capacity: images they have room for.
  """
  piece: int
  capacity: int


def plan(looks, pool, n, key, inner, chunk, image_bytes, budget):
  """The `Plan` of a segment whose steps look at what `looks` tells.

  Args:
    looks: of a `Method`; pool, n, key: what it takes.
    inner: steps after which what it looks at repeats in number.
    chunk: steps that are asked for at most.
    image_bytes: of one image.
    budget: bytes that the images of one piece may take.

  Raises:
    UserError: `looks` is None.
  """
  if looks is None:
    raise UserError('what this method looks at depends on what it finds, so '
                    'that its images cannot be read ahead; choose another '
                    '--config.method, or --config.dataset.stream=never')
  counts = [_count(looks, pool, n, key, step) for step in range(inner + chunk)]
  piece = int(np.clip(budget // (max(counts) * image_bytes), 1, chunk))
  sums = np.convolve(counts, np.ones(piece, int), 'valid')
  return Plan(piece, min(n, int(sums.max())))


def _count(looks, pool, n, key, step):
  shapes = jax.eval_shape(
      lambda pool, key: looks(pool, n, key, step), pool, key)
  return sum(int(np.prod(x.shape)) for x in shapes)


@contextlib.contextmanager
def feeder(job, segment, progress, method, pool, real, experts, key, steps,
           meter):
  """Yields `(step, most) -> (data, steps)`, what a method's steps are given.

  Args:
    job, segment, progress: of the run.
    method: a `Method`; pool: a `Pool` of all classes; key: of the segment.
    real: one of `real`; experts: a `Buffer`, or None.
    steps: the range of steps to go.
    meter: a `meters.Meter`, which is told how long steps waited.
  """
  c = job.config
  if experts is not None:
    feed = school.feeder(job, segment, progress, experts)
    yield lambda step, most: (feed(step, most), most)
  elif not real.streamed:
    source = real.whole(f'method {c.method.name}')
    yield lambda step, most: (source, most)
  else:
    mine = jax.tree.map(lambda x: x[parallel.own(job.classes)], pool)
    plan_ = plan(method.looks, mine, len(real.labels), key,
                 c.method.get('inner', 1), c.run.chunk,
                 int(np.prod(job.shape)), c.run.buffer_mb * 2 ** 20)
    with _streamed(real, method.looks, mine, key, steps, c.run.chunk, plan_,
                   meter) as feed:
      yield feed


@contextlib.contextmanager
def _streamed(real, looks, pool, key, steps, chunk, plan_, meter):
  """Yields `(step, most) -> (data, steps)`, the next piece read meanwhile.

  Args:
    real: a `real.Streamed`.
    looks: of a `Method`.
    pool: of the classes of this process. key: of the segment.
    steps: the range of steps to go.
    chunk: steps after whose multiples a chunk ends.
    plan_: a `Plan`.
    meter: a `meters.Meter`.
  """
  seen = {}

  def indices(step):
    found = looks(pool, len(real.labels), key, step)
    seen[step] = np.unique(np.concatenate(
        [np.asarray(x).ravel() for x in found]))
    return seen[step]

  with Ahead(real.split, indices, steps, depth=plan_.piece) as ahead, (
      futures.ThreadPoolExecutor(1)) as pool_:

    def assemble(size):
      parts = [next(ahead) for _ in range(size)]
      rows = np.concatenate([seen.pop(step) for step, _ in parts])
      unique, first = np.unique(rows, return_index=True)
      images = np.concatenate([images for _, images in parts])[first]
      return real.place(unique, images, plan_.capacity)

    def size_at(step):
      return min(plan_.piece, chunk - step % chunk, steps.stop - step)

    coming = []

    def feed(step, most):
      began = time.perf_counter()
      size = size_at(step)
      data = coming.pop().result() if coming else assemble(size)
      meter.waited += time.perf_counter() - began
      if step + size < steps.stop:
        coming.append(pool_.submit(assemble, size_at(step + size)))
      return data, min(size, most)

    yield feed
