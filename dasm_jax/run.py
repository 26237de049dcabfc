"""The walk: probe, score, window, start, distil, freeze; then evaluate.

Resuming has no branch: a segment that has a checkpoint goes on from it, and a
finished one has no steps left.
"""

import contextlib
import functools
import json
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import (
  beginning,
  checkpoint,
  checks,
  feeding,
  hosts,
  measuring,
  meters,
  mirror,
  mute,
  outcome,
  pace,
  parallel,
  report,
  school,
  segments,
  stop,
)
from dasm_jax import job as jobs
from dasm_jax import source as sources
from dasm_jax.types import Batch

# What may change between runs of a workdir.
FREE = ('run', 'dataset.data_dir', 'dataset.stream', 'dataset.workers',
        'experts.dir', 'experts.at_once')


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


def run(config, workdir, profile=False):
  """Distils `config.dataset` into `workdir`; call it again after a stop.

  profile: whether to leave a trace of the second chunk in `profile` there.

  Returns:
    What is in results.json.

  Raises:
    UserError: whatever the user can mend.
    stop.Stopped: after a saved stop by Ctrl-C or SIGTERM.
  """
  checks.check(config)
  settings, place = json.loads(config.to_json()), mirror.Place(workdir)
  with contextlib.ExitStack() as held:
    def hold():
      nonlocal place
      place = mirror.place(workdir)
      held.enter_context(checkpoint.lock(place.path))
      held.callback(place.push)
      return (place.path / 'config.json').exists()
    # A job that cannot be built must not claim a new workdir.
    known = hosts.once(hold)
    name, workdir = workdir, place.path
    log = held.enter_context(mute.log(workdir))
    stopping = held.enter_context(stop.watch())
    job = None if known else jobs.build(config)
    hosts.once(lambda: checkpoint.claim(workdir, settings, free=FREE))
    ready = hosts.once(lambda: outcome.finished(workdir))
    if ready:
      log.say(outcome.closing(ready, name))
      return ready
    job = job or jobs.build(config)
    held.callback(job.close)
    outcome.describe(job, name, log)
    meter = held.enter_context(meters.meter())
    tools = Tools(log, stopping, meter, {}, place,
                  workdir / 'profile' if profile else None)
    return _walk(job, checkpoint.fingerprint(settings, FREE), name, tools)


def _walk(job, fingerprint, name, tools):
  """The walk itself; returns what is in results.json.

  fingerprint: of the configuration. name: what the user calls the workdir.
  """
  log, stopping, meter, _, place, _ = tools
  real, test = jobs.place(job)
  experts = school.open_(job, place, real, log, stopping)
  key, done = jax.random.key(job.config.seed), []
  for segment in job.plan:
    begin = beginning.beginner(job, segment, done, real, experts, key, log)
    with checkpoint.open(place.path / f'segment_{segment.index + 1}',
                         fingerprint) as saved:
      found = saved.latest(beginning.like(job, segment, key))
      step, progress = found or (0, begin())
      outcome.say_resumed(job, segment, step, _steps(job, segment), log)
      if not found:
        saved.save(0, progress)
      if segment is job.plan[-1] or step < _steps(job, segment):
        log.rewind(segment.index + 1, step)  # a later one's rows stay
      progress = distil(job, segment, done, progress, real, experts, key,
                        saved, tools)
    done.append(progress)
    hosts.once(functools.partial(
        outcome.show_segment, job, segment, done, place.path))
  if meter.line():
    log.say(f'distilled {meter.line()}')
  syn = beginning.join(done)
  accuracy = measuring.measure(job, syn, real, test, place.path, log, stopping)
  return hosts.once(lambda: outcome.finish(
      job, syn, done, accuracy, meter.summary(), place.path, name, log))


def pool(job, done, progress, real):
  """The `Pool` of a segment, of all classes."""
  n = job.classes
  blank = jnp.zeros((n, 0, *job.shape)), jnp.zeros((n, 0, n))
  before = beginning.join(done) if done else None
  frozen = Batch(before.images, before.labels) if before else Batch(*blank)
  return sources.Pool(
      jnp.arange(n), jnp.ones(n), progress.window, real.everything, frozen)


def distil(job, segment, done, progress, real, experts, key, saved,
           tools):
  """Runs one segment from its checkpoint to its last step.

  saved: the `Checkpoints` of the segment. tools: `Tools` of the run.
  """
  c, (log, stopping, meter, compiled, place, traced) = job.config, tools
  steps, step = _steps(job, segment), int(progress.state.step)
  if step >= steps:
    return progress
  method = jobs.method(job, segment)
  program = _program(job, segment, method, compiled)
  around = pool(job, done, progress, real)
  state = parallel.shard(progress.state, method.axes, job.classes)
  key = jax.random.fold_in(key, segment.index)
  images = jobs.images_per_step(job, segment)
  speed, means = pace.Pace(images), meters.Means()
  saved_at, most = time.time(), c.run.chunk
  with feeding.feeder(job, segment, progress, method, around, real, experts,
                      key, range(step, steps), meter) as feed:
    around = parallel.shard(around, 0, job.classes)._replace(
        present=parallel.present(job.classes))
    while step < steps:
      began = time.time()
      given, size = feed(step, min(
          c.run.chunk - step % c.run.chunk, steps - step, most))
      with meter.calls(size, images), _trace(traced, speed):
        state, metrics = program(state, given, around, key, size)
      step += size
      speed.add(size)
      values = {name: float(value) for name, value in metrics.items()}
      means.add(values, size)
      _tell(job, segment, step, values, means, speed, log)
      since, each = stopping.hear(
          time.time() - saved_at, (time.time() - began) / size)
      most = meters.most(each)
      if step == steps or since > c.run.save_seconds or stopping.asked:
        progress = progress._replace(
            state=parallel.unshard(state, method.axes, job.classes))
        saved.save(step, progress)
        hosts.once(place.push)
        saved_at = time.time()
      stopping.leave_if_asked(f'segment {segment.index + 1}, step {step}')
  return progress


def _trace(folder, speed):
  """Traces the second call of a segment, when it is compiled, into a folder."""
  if folder is None or speed.calls != 1:
    return contextlib.nullcontext()
  return jax.profiler.trace(str(folder))


def _program(job, segment, method, compiled):
  """The compiled chunk of a segment: one for all segments that are alike."""
  union = job.config.segments.match == 'union'
  alike = (segment.width, segment.slots.start if union else 0,
           _steps(job, segment))
  if alike not in compiled:
    compiled[alike] = parallel.chunk(method)
  return compiled[alike]


def _tell(job, segment, step, values, means, speed, log):
  """Says how far it is, and at the end of a chunk adds a row."""
  c, number, steps = job.config, segment.index + 1, _steps(job, segment)
  before = sum(_steps(job, earlier) for earlier in job.plan[:segment.index])
  outcome.check_finite(values, number, step)
  if step % c.run.chunk == 0 or step == steps:
    log.scalars(number, step, means.take(), before + step)
  log.progress(number, len(job.plan), step, steps, values['match/loss'],
               speed.speed, speed.left(c.method.steps - before - step))


def _steps(job, segment):
  return segments.steps(job.config.method.steps, len(job.plan), segment.index)
