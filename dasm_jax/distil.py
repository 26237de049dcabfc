"""The sweeps of one segment, from its checkpoint to its last step."""

import contextlib
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import (
  beginning,
  course,
  feeding,
  hosts,
  meters,
  mirror,
  outcome,
  pace,
  parallel,
  report,
  stop,
)
from dasm_jax import job as jobs
from dasm_jax import source as sources
from dasm_jax.types import Batch

MEANS = 'means.json'  # of a row of metrics.jsonl that is begun


class Tools(NamedTuple):
  """What a segment is run with, besides the job.

  log, stopping, meter: of the run. compiled: programs by what they are for.
  place: the workdir. traced: the folder of a trace, or None.
  """
  log: report.Log
  stopping: stop.Watch
  meter: meters.Meter
  compiled: dict
  place: mirror.Place
  traced: pathlib.Path | None


def pool(job, segment, done, every):
  """The `Pool` of the classes of a segment's phase; every: that of all."""
  rows, n = job.rows(segment), job.classes
  blank = (jnp.zeros((len(rows), 0, *job.shape)),
           jnp.zeros((len(rows), 0, n)))
  before = beginning.join(done, rows) if done else None
  return jax.tree.map(lambda x: x[rows], every)._replace(
      frozen=Batch(before.images, before.labels) if before else Batch(*blank))


def whole(job, progress, real):
  """The `Pool` of all classes, nothing frozen: what `Method.looks` is given."""
  n = job.classes
  return sources.Pool(jnp.arange(n), jnp.ones(n), progress.window,
                      real.everything, None)


def distil(job, segment, done, progress, real, experts, key, saved,
           tools):
  """Runs one phase of a segment from its checkpoint to its last step.

  Args:
    job: a `Job`; segment: a `Segment` of its phase.
    done: the `Progress` of each earlier segment.
    progress: a `Progress`: where it stands.
    real: one of `real`; experts: a `Buffer`, or None.
    key: of the run.
    saved: the `Checkpoints` of the phase.
    tools: `Tools` of the run.

  Returns:
    The `Progress` after its last step.

  Raises:
    UserError: the loss is no number; nothing can be saved.
    stop.Stopped: asked to stop, after a save.
  """
  c, (log, stopping, meter, compiled, place, traced) = job.config, tools
  method = jobs.method(job, segment)
  order = course.of(method, jobs.steps(job, segment), c.run.chunk)
  at = course.at(method, progress.state)
  if at.step >= order.stop:
    return progress
  programs = _programs(job, segment, method, compiled, lambda: _tell_compiling(
      job, segment, at, log))
  count = len(job.rows(segment))
  state = parallel.shard(progress.state, method.axes, count)
  key = jax.random.fold_in(key, segment.index)
  images, speed = jobs.images_per_step(job, segment), _pace(job, segment)
  means = meters.Means(
      place.path / MEANS, (segment.index, segment.phase), order.number(at))
  saved_at, most = time.time(), [c.run.chunk, c.run.chunk]
  every = whole(job, progress, real)
  with feeding.feeder(job, segment, progress, method, every, real, experts,
                      key, order, at, meter) as feed:
    around = _placed(pool(job, segment, done, every), count)
    while at.step < order.stop:
      began, warms = time.time(), order.warms(at)
      given, size = feed(at, min(order.left(at), most[warms]))
      with meter.calls(0 if warms else size, images), (
          _trace(None if warms else traced, speed)):
        state, metrics = programs[warms](state, given, around, key, size)
      at = order.after(at, size)
      so_far = _tell_warmup(job, segment, at, order, log) if warms else _tell(
          job, segment, at.step, metrics, size, means, speed, log)
      since, each = stopping.hear(
          time.time() - saved_at, (time.time() - began) / size)
      most[warms] = meters.most(each)
      if (at.step == order.stop or since > c.run.save_seconds
          or stopping.asked):
        progress = progress._replace(
            state=parallel.unshard(state, method.axes, count))
        _save(saved, order.number(at), progress, means, place, log)
        saved_at = time.time()
      stopping.leave_if_asked(f'segment {segment.index + 1}, {so_far}')
  return progress


def _pace(job, segment):
  """A `Pace` of sweeps; a network that is warmed up costs as much as many."""
  m = job.config.method
  return pace.Pace(jobs.images_per_step(job, segment),
                   cycle=m.inner if m.get('warmup') else 1)


def _save(saved, number, progress, means, place, log):
  """Saves a checkpoint, and before it what a row of metrics has so far."""
  hosts.once(lambda: means.keep(number))
  log.mark()
  saved.save(number, progress)
  hosts.once(place.push)


def _trace(folder, speed):
  """Traces the second call of a segment, when it is compiled, into a folder."""
  if folder is None or speed.calls != 1:
    return contextlib.nullcontext()
  return jax.profiler.trace(str(folder))


def _placed(pool_, count):
  """A `Pool` of `count` classes on the devices."""
  return parallel.shard(pool_, 0, count)._replace(
      present=parallel.present(count))


def _programs(job, segment, method, compiled, new=lambda: None):
  """The compiled chunks of a segment's sweeps and of their warm-ups.

  The same for all segments that are alike; `new` is called for others.
  """
  union = job.config.segments.match == 'union'
  alike = (segment.width, segment.slots.start if union else 0,
           jobs.steps(job, segment), jobs.correction(job.config, job, segment))
  if alike not in compiled:
    new()
    compiled[alike] = (
        (parallel.chunk(method.warm.rest), parallel.warming(method))
        if method.warm else (parallel.chunk(method),))
  return compiled[alike]


def _tell(job, segment, step, metrics, size, means, speed, log):
  """Says how far it is, and at the end of a chunk adds a row.

  Returns:
    The sweeps of the segment that are done, see `job.counted`, in words.
  """
  values = {name: float(value) for name, value in metrics.items()}
  speed.add(size)
  means.add(values, size)
  number, last = segment.index + 1, step == jobs.steps(job, segment)
  before, done, steps = jobs.counted(job, segment, step)
  outcome.check_finite(values, number, done)
  if step % job.config.run.chunk == 0 or last:
    log.scalars(number, done, means.take(), before + done)
  left = jobs.total_steps(job) - before - done
  log.progress(number, len(job.plan), done, steps, values['match/loss'],
               speed.speed, speed.left(left))
  return f'step {done}'


def _tell_compiling(job, segment, at, log):
  """Says what the first call waits for."""
  _, done, steps = jobs.counted(job, segment, at.step)
  log.progress(segment.index + 1, len(job.plan), done, steps, note='compiling')


def _tell_warmup(job, segment, at, order, log):
  """The same of batches of a warm-up."""
  _, done, steps = jobs.counted(job, segment, at.step)
  whole = order.batches(at.step)
  if at.batch < whole:  # the next sweep says that it is over
    log.progress(segment.index + 1, len(job.plan), done, steps,
                 note=f'warm-up {at.batch}/{whole}')
  return f'step {done}, batch {at.batch} of {whole} of a warm-up'
