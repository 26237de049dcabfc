"""The run: probe, score, window, first images, distil, freeze; then evaluate.

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

from dasm_jax import config as configs
from dasm_jax.config import validate
from dasm_jax.distill import feeding, initialise, results, setup
from dasm_jax.evaluate import comparison
from dasm_jax.pipeline import loading
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import (
  checkpoint,
  devices,
  logging,
  preemption,
  processes,
  timing,
)
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.training import experts as expert_training
from dasm_jax.training import resumable
from dasm_jax.types import Batch

MEANS_FILE = 'means.json'  # of a row of metrics.jsonl that is begun


class RunTools(NamedTuple):
  """What a segment is run with, besides the job.

  log, stopping, meter: of the run. compiled: programs by what they are for.
  place: the workdir. traced: the folder of a trace, or None.
  """
  log: logging.RunLog
  stopping: preemption.StopFlag
  meter: timing.CostMeter
  compiled: dict
  place: workdirs.Workdir
  traced: pathlib.Path | None


def segment_windows(experiment, segment, done, every):
  """The `ClassWindows` of the classes of a phase; every: that of all."""
  rows, n = experiment.rows(segment), experiment.classes
  blank = (jnp.zeros((len(rows), 0, *experiment.shape)),
           jnp.zeros((len(rows), 0, n)))
  before = initialise.join_segments(done, rows) if done else None
  return jax.tree.map(lambda x: x[rows], every)._replace(
      frozen=Batch(before.images, before.labels) if before else Batch(*blank))


def all_windows(experiment, progress, real):
  """The `ClassWindows` of all classes, nothing frozen, for `Method.looks`."""
  n = experiment.classes
  return sources.ClassWindows(jnp.arange(n), jnp.ones(n), progress.window,
                              real.everything, None)


def distill_segment(experiment, segment, done, progress, real, experts, key,
                    saved,
                    tools):
  """Runs one phase of a segment from its checkpoint to its last step.

  Args:
    experiment: an `Experiment`; segment: a `Segment` of its phase.
    done: the `Progress` of each earlier segment.
    progress: a `Progress`: where it stands.
    real: one of `real`; experts: a `ExpertStore`, or None.
    key: of the run.
    saved: the `Checkpoints` of the phase.
    tools: `RunTools` of the run.

  Returns:
    The `Progress` after its last step.

  Raises:
    UserError: the loss is no number; nothing can be saved.
    preemption.Stopped: asked to stop, after a save.
  """
  c, (log, stopping, meter, compiled, place, traced) = experiment.config, tools
  method = setup.build_method(experiment, segment)
  order = feeding.schedule_of(method, setup.segment_steps(experiment, segment),
                              c.run.chunk)
  at = feeding.position_of(method, progress.state)
  if at.step >= order.stop:
    return progress
  programs = _compiled_chunks(experiment, segment, method, compiled,
                              lambda: _report_compiling(
      experiment, segment, at, log))
  count = len(experiment.rows(segment))
  state = devices.shard(progress.state, method.axes, count)
  key = jax.random.fold_in(key, segment.index)
  images, speed = setup.images_per_step(experiment, segment), _throughput(
      experiment, segment)
  means = timing.MetricMeans(
      place.path / MEANS_FILE, (segment.index, segment.phase), order.number(at))
  saved_at, most = time.time(), [c.run.chunk, c.run.chunk]
  every = all_windows(experiment, progress, real)
  with feeding.open_feed(experiment, segment, progress, method, every, real,
                         experts,
                         key, order, at, meter) as feed:
    around = _on_devices(segment_windows(experiment, segment, done, every),
                         count)
    while at.step < order.stop:
      began, warms = time.time(), order.warms(at)
      given, size = feed(at, min(order.left(at), most[warms]))
      with meter.calls(0 if warms else size, images), (
          _profiler(None if warms else traced, speed)):
        state, metrics = programs[warms](state, given, around, key, size)
      at = order.after(at, size)
      so_far = _report_warmup(experiment, segment, at, order,
                              log) if warms else _report_steps(
          experiment, segment, at.step, metrics, size, means, speed, log)
      since, each = stopping.hear(
          time.time() - saved_at, (time.time() - began) / size)
      most[warms] = timing.steps_per_call(each)
      if (at.step == order.stop or since > c.run.save_seconds
          or stopping.asked):
        progress = progress._replace(
            state=devices.unshard(state, method.axes, count))
        _save(saved, order.number(at), progress, means, place, log)
        saved_at = time.time()
      stopping.leave_if_asked(f'segment {segment.index + 1}, {so_far}')
  return progress


def _throughput(experiment, segment):
  """A `Throughput` of sweeps; a warm-up costs as much as many of them."""
  m = experiment.config.method
  return timing.Throughput(setup.images_per_step(experiment, segment),
                           cycle=m.inner if m.get('warmup') else 1)


def _save(saved, number, progress, means, place, log):
  """Saves a checkpoint, and before it what a row of metrics has so far."""
  processes.on_leader(lambda: means.keep(number))
  log.mark()
  saved.save(number, progress)
  processes.on_leader(place.push)


def _profiler(folder, speed):
  """Traces the second call of a segment, when it is compiled, into a folder."""
  if folder is None or speed.calls != 1:
    return contextlib.nullcontext()
  return jax.profiler.trace(str(folder))


def _on_devices(pool_, count):
  """A `ClassWindows` of `count` classes on the devices."""
  return devices.shard(pool_, 0, count)._replace(
      present=devices.present(count))


def _compiled_chunks(experiment, segment, method, compiled, new=lambda: None):
  """The compiled chunks of a segment's sweeps and of their warm-ups.

  The same for all segments that are alike; `new` is called for others.
  """
  union = experiment.config.segments.match == 'union'
  alike = (segment.width, segment.slots.start if union else 0,
           setup.segment_steps(experiment, segment),
           setup.correction_of(experiment.config, experiment, segment))
  if alike not in compiled:
    new()
    compiled[alike] = (
        (devices.chunk(method), devices.warmup_chunk(method))
        if method.warmup else (devices.chunk(method),))
  return compiled[alike]


def _report_steps(experiment, segment, step, metrics, size, means, speed, log):
  """Says how far it is, and at the end of a chunk adds a row.

  Returns:
    The sweeps of the segment that are done, see `setup.progress_of`, in words.
  """
  values = {name: float(value) for name, value in metrics.items()}
  speed.add(size)
  means.add(values, size)
  number, last = segment.index + 1, step == setup.segment_steps(experiment,
                                                                segment)
  before, done, steps = setup.progress_of(experiment, segment, step)
  results.check_finite(values, number, done)
  if step % experiment.config.run.chunk == 0 or last:
    log.scalars(number, done, means.take(), before + done)
  left = setup.total_steps(experiment) - before - done
  log.progress(number, len(experiment.plan), done, steps, values['match/loss'],
               speed.speed, speed.left(left))
  return f'step {done}'


def _report_compiling(experiment, segment, at, log):
  """Says what the first call waits for."""
  _, done, steps = setup.progress_of(experiment, segment, at.step)
  log.progress(segment.index + 1, len(experiment.plan), done, steps,
               note='compiling')


def _report_warmup(experiment, segment, at, order, log):
  """The same of batches of a warm-up."""
  _, done, steps = setup.progress_of(experiment, segment, at.step)
  whole = order.batches(at.step)
  if at.batch < whole:  # the next sweep says that it is over
    log.progress(segment.index + 1, len(experiment.plan), done, steps,
                 note=f'warm-up {at.batch}/{whole}')
  return f'step {done}, batch {at.batch} of {whole} of a warm-up'

# What may change between runs of a workdir.
FREE_ENTRIES = ('run', 'dataset.data_dir', 'dataset.stream', 'dataset.workers',
                'dataset.cache', 'experts.dir', 'experts.at_once')


def run(config, workdir, profile=False):
  """Distils `config.dataset` into `workdir`; call it again after a stop.

  profile: whether to leave a trace of the second chunk in `profile` there.

  Returns:
    What is in results.json.

  Raises:
    UserError: whatever the user can mend.
    preemption.Stopped: after a saved stop by Ctrl-C or SIGTERM.
  """
  validate.check(config)
  settings, place = json.loads(config.to_json()), workdirs.Workdir(workdir)
  with contextlib.ExitStack() as held:
    def hold():
      nonlocal place
      place = workdirs.open_workdir(workdir)
      held.enter_context(workdirs.lock(place.home, name=workdir))
      place.pull()
      held.callback(place.push)
      return (place.path / 'config.json').exists()
    # A job that cannot be built must not claim a new workdir.
    known = processes.on_leader(hold)
    name, workdir = workdir, place.path
    log = held.enter_context(logging.open_log(workdir))
    stopping = held.enter_context(preemption.catch_signals())
    experiment = None if known else setup.build(config)
    processes.on_leader(lambda: workdirs.claim(workdir, settings,
                                               free=FREE_ENTRIES))
    ready = processes.on_leader(lambda: results.finished_results(workdir))
    if ready:
      log.show('this run has ended before; its results:\n'
               + results.closing_table(ready, name))
      return ready
    experiment = experiment or setup.build(config)
    held.callback(experiment.close)
    results.describe(experiment, name, log)
    processes.on_leader(lambda: loading.check_same_data(
        workdir / 'data.json', experiment.dataset, log.say))
    meter = held.enter_context(timing.measure_costs())
    tools = RunTools(log, stopping, meter, {}, place,
                  workdir / 'profile' if profile else None)
    try:
      return _distill_all(experiment, workdirs.fingerprint(settings,
                                                           FREE_ENTRIES),
                          name, tools)
    except preemption.Stopped as stopped:
      log.note(stopped)
      raise


def _distill_all(experiment, fingerprint, name, tools):
  """The walk itself; returns what is in results.json.

  fingerprint: of the configuration. name: what the user calls the workdir.
  """
  log, stopping, meter, _, place, _ = tools
  keeper = resumable.Keeper(
      place.path / 'unfinished', fingerprint,
      experiment.config.run.save_seconds,
      stopping, _pusher(log, place), log.say)
  real, test = setup.place_data(experiment)
  experts = expert_training.open_experts(
      experiment, configs.expert_settings(experiment.config), place, real, log,
      keeper)
  key, done = jax.random.key(experiment.config.seed), []
  for segment in experiment.plan:
    phases = []
    for phase in experiment.phases(segment):
      begin = initialise.segment_starter(
          experiment, phase, done, phases, real, experts, key, log, keeper)
      with checkpoint.open_checkpoints(place.path / _folder(experiment, phase),
                                       fingerprint) as saved:
        found = saved.latest(initialise.progress_shapes(experiment, phase, key))
        progress = found[1] if found else begin()
        step = int(progress.state.step)
        results.report_resumed(experiment, phase, step, log)
        if not found:
          saved.save(0, progress)
          processes.on_leader(place.push)
          stopping.hear()
          stopping.leave_if_asked(f'segment {phase.index + 1}, step 0')
        _rewind(experiment, phase, step, log)
        phases.append(distill_segment(experiment, phase, done, progress, real,
                                      experts,
                                      key, saved, tools))
    done.append(initialise.freeze_segment(experiment, phases))
    processes.on_leader(functools.partial(
        results.show_segment, experiment, segment, done, place.path))
  if meter.line():
    log.say(f'distilled {meter.line()}')
  syn = initialise.join_segments(done)
  batch = results.evaluation_set(experiment, syn, done)
  accuracy = comparison.measure_run(
      experiment, syn, batch, real, test, place, log, keeper)
  return processes.on_leader(lambda: results.write_results(
      experiment, syn, batch, done, accuracy, meter.summary(), place.path, name,
      log))


def _pusher(log, place):
  """`() -> None` in the first process, after something was saved."""
  def push():
    log.mark()
    place.push()
  return push


def _folder(experiment, phase):
  """Where the checkpoints of a segment's phase are."""
  parts = [f'segment_{phase.index + 1}']
  if experiment.config.syn.phases > 1:
    parts.append(f'phase_{phase.phase + 1}')
  return '_'.join(parts)


def _rewind(experiment, phase, step, log):
  """Forgets rows of the log that will be written again."""
  last = phase.index + 1 == len(experiment.plan) and (
      phase.phase + 1 == experiment.config.syn.phases)
  if last or step < setup.segment_steps(experiment,
                                        phase):  # else a later one's rows stay
    log.rewind(phase.index + 1, setup.progress_of(experiment, phase, step)[1])
