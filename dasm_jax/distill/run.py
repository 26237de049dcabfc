"""The run: probe, score, window, first images, distil, freeze; then evaluate.

`run` reads from top to bottom; what a segment begins with is in `initialise`,
what its calls are given in `feeding`, what is left behind in `results`. It has
no branch for resuming: a segment that has a checkpoint goes on from it, and a
finished one has no steps left.

All processes run it alike. Whatever may differ between them (a clock, a signal,
a file) is asked of the first, or of all (`runtime.processes`), before it
decides anything.
"""

import contextlib
import functools
import json
import time

import jax

from dasm_jax import config as configs
from dasm_jax.config import validate
from dasm_jax.distill import feeding, initialise, reports, results, setup
from dasm_jax.evaluate import comparison
from dasm_jax.pipeline import loading
from dasm_jax.runtime import (
  checkpoint,
  devices,
  logging,
  preemption,
  processes,
  timing,
  trackers,
)
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.runtime.text import plural
from dasm_jax.training import packing, resumable

# What may change between runs of a workdir.
FREE_ENTRIES = ('run', 'dataset.moved_to', 'dataset.data_dir', 'dataset.stream',
                'dataset.workers', 'dataset.cache', 'experts.dir',
                'experts.at_once')
FIRST_CALL = 10  # sweeps, before anybody knows how long one takes
ACCURACIES = 'accuracies.json'  # of the networks evaluated so far


def check_workdir(config, folder):
  """Raises `UserError` if a folder of this machine is of another run.

  config: as of `run`; folder: a path. Finished runs of earlier versions are
  taken where what they did not know has its default, or what a default means
  now is what they said.
  """
  workdirs.check_config(folder, json.loads(config.to_json()), FREE_ENTRIES,
                        configs.in_one_form)


def run(config, workdir, profile=False, stopping=None, estimate=None,
        command='', dataset=None):
  """Distils `config.dataset` into `workdir`; call it again after a stop.

  Args:
    config: of `config.defaults`, or of a file in `configs`.
    workdir: a path, or what else `workdir.find_workdir` takes.
    profile: whether to leave a trace of the second chunk in `profile` there.
    stopping: the `preemption.StopFlag` that says when to stop; None: one that
      Ctrl-C and SIGTERM set.
    estimate: of an `Experiment`, its `Workdir`, and whether the run is new, to
      what is said of the time that it takes; may refuse; None: nothing is.
    command: the line of the shell that this is, for the page of results.
    dataset: the `data.Dataset` that `config.dataset.name` names, such as
      `data.from_arrays` makes; None: it is read.

  Returns:
    What is in results.json.

  Raises:
    UserError: whatever the user can mend.
    preemption.Stopped: after a saved stop.
  """
  if dataset is None:
    validate.check(config)
  else:
    validate.check_given(config, dataset)
  settings = json.loads(config.to_json())
  with contextlib.ExitStack() as held:
    home = held.enter_context(workdirs.open_workdir(workdir))
    log = held.enter_context(logging.open_log(home.path))
    stopping = stopping or held.enter_context(preemption.catch_signals())
    # Before data are read, which may take minutes.
    home.check(settings, FREE_ENTRIES, configs.in_one_form)
    ready = processes.on_leader(lambda: results.finished_results(home))
    if ready:
      log.show('this run has ended before; its results:\n'
               + results.closing_table(ready, home.name))
      return ready
    # An experiment that cannot be built must not claim a new workdir.
    experiment = setup.build(config, dataset)
    held.callback(experiment.close)
    took = None
    if estimate:
      new = processes.on_leader(
          lambda: not (home.path / 'config.json').exists())
      took = estimate(experiment, home, new)
    home.claim(settings, FREE_ENTRIES)
    log.own(home.run)
    log.command, log.settings = command, settings
    log.track = trackers.names_of(config.run.track)
    reports.describe(experiment, home.name, log)
    if took:
      log.say(took)
    processes.on_leader(lambda: loading.check_same_data(
        home.path / 'data.json', experiment.dataset, log.say, home.run))
    meter = held.enter_context(timing.measure_costs())
    fingerprint = workdirs.fingerprint(settings, FREE_ENTRIES)
    try:
      made = setup.start(experiment, home, log, stopping, meter, fingerprint)
      return distill(made, home.path / 'profile' if profile else None)
    except preemption.Stopped as stopped:
      log.note(stopped)
      raise


def distill(made, trace=None):
  """Distils segment after segment, evaluates, and writes the results.

  Args:
    made: a `setup.Run`.
    trace: a folder for a trace of the second chunk of each segment, or None.

  Returns:
    What is in results.json.
  """
  experiment, done, programs = made.experiment, [], {}
  for segment in experiment.plan:
    phases = []
    for phase in experiment.phases(segment):
      folder = made.home.path / setup.folder_of(experiment, phase)
      # Also of a finished segment: its last checkpoint is its result.
      with checkpoint.open_checkpoints(
          folder, made.fingerprint, made.owner(phase)) as saved:
        progress = begin_or_resume(made, phase, done, phases, saved)
        phases.append(distill_phase(
            made, phase, done, progress, saved, programs, trace))
    done.append(initialise.freeze_segment(experiment, phases))
    processes.on_leader(lambda segment=segment: results.show_segment(
        experiment, segment, done, made.home.path, made.log.picture))
  if made.meter.line():
    made.log.say(f'distilled {made.meter.line()}')
  syn = initialise.join_segments(done)
  batch = results.evaluation_set(experiment, syn, done)
  accuracy = evaluate(made, syn, batch, done)
  found = processes.on_leader(lambda: results.write_results(
      made, syn, batch, done, accuracy))
  processes.on_leader(lambda: resumable.remove_empty(made.keeper))
  made.home.sync()
  made.stopping.finish()
  return found


def begin_or_resume(made, phase, done, phases, saved):
  """The `Progress` of a segment's phase: its newest checkpoint, or a new one.

  Args:
    made: a `setup.Run`.
    phase: a `Segment` of some classes; done: finished segments; phases: of this
      one, those that are finished.
    saved: the `Checkpoints` of the phase.
  """
  found = saved.latest(initialise.progress_shapes(made, phase))
  # What a segment begins with is kept before its first sweep: choosing it may
  # have taken longer than any sweep.
  if found is None:
    progress = initialise.begin_phase(made, phase, done, phases)
    saved.save(0, progress, reports.notes_of(made, phase, 0))
    made.home.sync()
    made.stopping.hear()
    made.stopping.leave_if_asked(f'segment {phase.index + 1}, step 0')
  else:
    progress = found[1]
    reports.tell_resumed(made, phase, int(progress.state.step))
  reports.rewind_metrics(made, phase, int(progress.state.step), saved.notes())
  return progress


def distill_phase(made, phase, done, progress, saved, programs, trace=None):
  """Sweeps over the classes of a phase, from a checkpoint to its last step.

  Args:
    made: a `setup.Run`.
    phase: a `Segment` of some classes; done: finished segments.
    progress: where it stands; saved: its `Checkpoints`.
    programs: compiled chunks, which segments that are alike share.
    trace: see `distill`.

  Returns:
    The `Progress` after the last step.

  Raises:
    UserError: the loss is no number; nothing can be saved.
    preemption.Stopped: asked to stop, after a save.
  """
  experiment, c = made.experiment, made.experiment.config
  method = setup.build_method(experiment, phase)
  schedule = feeding.schedule_of(
      method, setup.segment_steps(experiment, phase), c.run.chunk)
  at = feeding.position_of(method, progress.state)
  if at.step >= schedule.stop:
    return progress
  # The state is split by class over the devices, and stays there until it is
  # saved.
  chunks = compiled_chunks(made, phase, method, programs, at)
  count = len(experiment.rows(phase))
  state = devices.shard(progress.state, method.axes, count)
  key = setup.sweeps_key(made.key, phase)
  report = reports.StepReport(
      made, phase, timing.MetricMeans(saved.notes().get('means')))
  saved_at, most = time.time(), [min(c.run.chunk, FIRST_CALL)] * 2
  with feeding.open_feed(made, phase, progress, schedule, at) as feed:
    windows = initialise.class_windows(made, phase, done, progress)
    while at.step < schedule.stop:
      began, warms = time.time(), schedule.warms(at)
      # Warm-ups and sweeps are calls of their own, each as long as one may
      # wait for a signal to be heard (`timing.CALL_SECONDS`).
      data, size = feed(at, min(schedule.left(at), most[warms]))
      with made.meter.calls(0 if warms else size, report.images), (
          _profiler(None if warms else trace, report.speed)):
        state, metrics = chunks[warms](state, data, windows, key, size)
      at = schedule.after(at, size)
      so_far = (report.warmup(at, schedule) if warms
                else report.steps(at.step, metrics, size))
      # The slowest process decides for all of them: else they would save at
      # different steps, or make calls of different lengths.
      since, each = made.stopping.hear(
          time.time() - saved_at, (time.time() - began) / size)
      most[warms] = timing.steps_per_call(each)
      if (at.step == schedule.stop or since > c.run.save_seconds
          or made.stopping.asked):
        progress = progress._replace(
            state=devices.unshard(state, method.axes, count))
        made.log.mark()
        saved.save(schedule.number(at), progress, report.notes(at.step))
        made.home.sync()
        saved_at = time.time()
      made.stopping.leave_if_asked(f'segment {phase.index + 1}, {so_far}')
  return progress


def compiled_chunks(made, phase, method, programs, at):
  """The compiled chunks of a phase's sweeps and of their warm-ups."""
  experiment = made.experiment
  # All that the program of a segment depends on: shapes, and numbers that are
  # constants in it.
  options = setup.method_options(experiment, phase)
  alike = (phase.width, phase.slots.start if options.union else 0,
           options._replace(codec=None))  # the run's, and may hold arrays
  if alike not in programs:
    reports.tell_compiling(made, phase, at.step)
    programs[alike] = (
        (devices.chunk(method), devices.warmup_chunk(method))
        if method.warmup else (devices.chunk(method),))
  return programs[alike]


def _profiler(folder, speed):
  """Traces the second call of a segment, when it is compiled, into a folder."""
  if folder is None or speed.calls != 1:
    return contextlib.nullcontext()
  return jax.profiler.trace(str(folder))


def evaluate(made, syn, batch, done):
  """Accuracies of the set, of random images and of the first segments alone.

  All under the same recipe; a rate that was learned for a set is its own. What
  was measured, and networks that are half trained, are kept in the workdir,
  from which the same call goes on.

  Args:
    made: a `setup.Run`; syn: its `Synthetic`; batch: as networks see it.
    done: `Progress` of every segment.

  Returns:
    `{name: [accuracy of each network]}` of `setup.measured_sets`.

  Raises:
    preemption.Stopped: asked to stop.
  """
  experiment, wanted = made.experiment, setup.measured_sets(made.experiment)
  if not wanted:
    return {}
  c = experiment.config.eval
  together = packing.resolve_together(
      c.together, c.networks, lambda: packing.networks_together_here(
          experiment.network, experiment.recipe, experiment.shape))
  made.log.say(
      f'evaluating: {plural(c.networks, "fresh network")} on the synthetic '
      'set, then as many on random real images'
      + f', then {c.prefixes} after each segment' * ('first_1' in wanted)
      + f', then {c.full} on all real images' * ('full' in wanted))
  found = made.home.read_json(ACCURACIES, functools.partial(
      results.check_accuracies, most=wanted))
  speed, later = timing.Throughput(1), sum(wanted.values())
  for number, (name, count) in enumerate(wanted.items(), 1):
    have, later = found.setdefault(name, []), later - count
    size = min(count, devices.count() * together)
    if len(have) < count:
      compared = _comparison(made, name, together, (syn, batch), done)
    # In groups of as many as fit, each kept when it is done.
    while len(have) < count:
      group = resumable.next_group(
          made.keeper, name, range(len(have), count), size, compared.shapes)
      have += _train_group(made, compared, group, (
          (number, len(wanted), later), size, speed))
      made.home.write_json(ACCURACIES, found)
      made.log.progress((number, len(wanted), len(have), count),
                        what='evaluation', unit='network')
      resumable.stop_if_asked(
          made.keeper, f'{len(have)} of {count} networks trained on '
          + reports.set_text(name))
  return found


def _comparison(made, name, together, whole, done):
  """The `Comparison` of one of `setup.measured_sets`.

  together: networks that a device trains at once. whole: the `Synthetic`, and
  what networks see of it. done: `Progress` of every segment.
  """
  experiment, c = made.experiment, made.experiment.config
  first = setup.first_segments(name)
  if first:
    syn = initialise.join_segments(done[:first])
    whole = syn, results.evaluation_set(experiment, syn, done[:first])
  syn, batch = whole[0], devices.replicate(whole[1])
  return comparison.Comparison(
      network=experiment.network,
      networks=setup.measured_sets(experiment)[name], seed=c.seed,
      batch=lambda: batch, recipe=experiment.at_rate(experiment.recipe, syn),
      real_recipe=experiment.recipe, ipc=c.syn.ipc, data=made.data,
      test=made.test, together=together)


def _train_group(made, compared, group, shown):
  """Accuracies of a group of networks, a list; shown: see `group_reporter`."""
  first = group.numbers[0]
  part = slice(first, first + len(group.numbers))
  report = reports.group_reporter(made.log, compared, group, *shown)
  return [float(x) for x in resumable.train_networks(
      lambda start, seen: compared.accuracies(
          group.what, part, shown[1], start=start, seen=seen),
      made.keeper, group, report)]
