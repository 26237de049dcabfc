"""The walk: probe, score, window, start, distil, freeze; then evaluate.

Resuming has no branch: a segment that has a checkpoint goes on from it, and a
finished one has no steps left.
"""

import contextlib
import functools
import json

import jax

from dasm_jax import (
  beginning,
  checkpoint,
  checks,
  distil,
  hosts,
  intake,
  lessons,
  measuring,
  meters,
  mirror,
  mute,
  outcome,
  school,
  stop,
  unfinished,
)
from dasm_jax import job as jobs

# What may change between runs of a workdir.
FREE = ('run', 'dataset.data_dir', 'dataset.stream', 'dataset.workers',
        'dataset.cache', 'experts.dir', 'experts.at_once')


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
      held.enter_context(checkpoint.lock(place.home, name=workdir))
      place.pull()
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
      log.show('this run has ended before; its results:\n'
               + outcome.closing(ready, name))
      return ready
    job = job or jobs.build(config)
    held.callback(job.close)
    outcome.describe(job, name, log)
    hosts.once(lambda: intake.remember(
        workdir / 'data.json', job.dataset, log.say))
    meter = held.enter_context(meters.meter())
    tools = distil.Tools(log, stopping, meter, {}, place,
                  workdir / 'profile' if profile else None)
    try:
      return _walk(job, checkpoint.fingerprint(settings, FREE), name, tools)
    except stop.Stopped as stopped:
      log.note(stopped)
      raise


def _walk(job, fingerprint, name, tools):
  """The walk itself; returns what is in results.json.

  fingerprint: of the configuration. name: what the user calls the workdir.
  """
  log, stopping, meter, _, place, _ = tools
  keeper = unfinished.Keeper(
      place.path / 'unfinished', fingerprint, job.config.run.save_seconds,
      stopping, _pusher(log, place), log.say)
  real, test = jobs.place(job)
  experts = school.open_(job, place, real, log, keeper)
  key, done = jax.random.key(job.config.seed), []
  for segment in job.plan:
    phases = []
    for phase in job.phases(segment):
      begin = beginning.beginner(
          job, phase, done, phases, real, experts, key, log, keeper)
      with checkpoint.open(place.path / _folder(job, phase),
                           fingerprint) as saved:
        found = saved.latest(beginning.like(job, phase, key))
        progress = found[1] if found else begin()
        step = int(progress.state.step)
        outcome.say_resumed(job, phase, step, log)
        if not found:
          saved.save(0, progress)
          hosts.once(place.push)
          stopping.hear()
          stopping.leave_if_asked(f'segment {phase.index + 1}, step 0')
        _rewind(job, phase, step, log)
        phases.append(distil.distil(job, phase, done, progress, real, experts,
                                    key, saved, tools))
    done.append(beginning.freeze(job, phases))
    hosts.once(functools.partial(
        outcome.show_segment, job, segment, done, place.path))
  if meter.line():
    log.say(f'distilled {meter.line()}')
  syn = beginning.join(done)
  batch = lessons.of(job, syn, done)
  accuracy = measuring.measure(
      job, syn, batch, real, test, place, log, keeper)
  return hosts.once(lambda: outcome.finish(
      job, syn, batch, done, accuracy, meter.summary(), place.path, name, log))


def _pusher(log, place):
  """`() -> None` in the first process, after something was saved."""
  def push():
    log.mark()
    place.push()
  return push


def _folder(job, phase):
  """Where the checkpoints of a segment's phase are."""
  parts = [f'segment_{phase.index + 1}']
  if job.config.syn.phases > 1:
    parts.append(f'phase_{phase.phase + 1}')
  return '_'.join(parts)


def _rewind(job, phase, step, log):
  """Forgets rows of the log that will be written again."""
  last = phase.index + 1 == len(job.plan) and (
      phase.phase + 1 == job.config.syn.phases)
  if last or step < jobs.steps(job, phase):  # else a later one's rows stay
    log.rewind(phase.index + 1, jobs.counted(job, phase, step)[1])
