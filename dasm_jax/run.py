"""The walk: probe, score, window, start, distil, freeze; then evaluate.

Resuming has no branch: a segment that has a checkpoint goes on from it, and a
finished one has no steps left.
"""

import contextlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import (
  beginning,
  checkpoint,
  checks,
  evaluate,
  hosts,
  mute,
  outcome,
  pace,
  parallel,
  school,
  segments,
  stop,
  synthetic,
)
from dasm_jax import job as jobs
from dasm_jax import source as sources
from dasm_jax.types import Batch

# What may change between runs of a workdir.
FREE = ('run', 'dataset.data_dir', 'experts.dir', 'experts.at_once')


def run(config, workdir):
  """Distils `config.dataset` into `workdir`; call it again after a stop.

  Returns:
    What is in results.json.

  Raises:
    UserError: whatever the user can mend.
    stop.Stopped: after a saved stop by Ctrl-C or SIGTERM.
  """
  checks.check(config)
  workdir = pathlib.Path(workdir)
  settings = json.loads(config.to_json())
  with contextlib.ExitStack() as held:
    def hold():
      held.enter_context(checkpoint.lock(workdir))
      return (workdir / 'config.json').exists()
    # A job that cannot be built must not claim a new workdir.
    known = hosts.once(hold)
    log = held.enter_context(mute.log(workdir))
    stopping = held.enter_context(stop.watch())
    job = None if known else jobs.build(config)
    hosts.once(lambda: checkpoint.claim(workdir, settings, free=FREE))
    ready = hosts.once(lambda: outcome.finished(workdir))
    if ready:
      log.say(outcome.closing(ready, workdir))
      return ready
    job = job or jobs.build(config)
    outcome.describe(job, workdir, log)
    data, test = jobs.place(job)
    experts = school.open_(job, workdir, data, log, stopping)
    key = jax.random.key(config.seed)
    done, compiled = [], {}
    for segment in job.plan:
      begin = beginning.beginner(job, segment, done, data, experts, key,
                                 log)
      with checkpoint.open(workdir / f'segment_{segment.index + 1}',
                           checkpoint.fingerprint(settings, FREE)) as saved:
        found = saved.latest(beginning.like(job, segment, key))
        step, progress = found or (0, begin())
        outcome.say_resumed(job, segment, step, _steps(job, segment), log)
        if not found:
          saved.save(0, progress)
        if segment is job.plan[-1] or step < _steps(job, segment):
          log.rewind(segment.index + 1, step)  # a later one's rows stay
        feed = school.feeder(job, segment, progress, experts, data)
        progress = distil(job, segment, done, progress, data, feed, key,
                          compiled, saved, log, stopping)
      done.append(progress)
      hosts.once(lambda: outcome.show_segment(job, segment, done, workdir))
    syn = beginning.join(done)
    log.say(f'evaluating: {config.eval.networks} fresh networks on the '
            'synthetic set, then as many on random real images')
    accuracy = measure(job, syn, data, test)
    return hosts.once(
        lambda: outcome.finish(job, syn, done, accuracy, workdir, log))


def pool(job, done, progress, data):
  """The `Pool` of a segment, sharded by class."""
  n = job.classes
  blank = jnp.zeros((n, 0, *job.shape)), jnp.zeros((n, 0, n))
  before = beginning.join(done) if done else None
  frozen = Batch(before.images, before.labels) if before else Batch(*blank)
  whole = sources.Pool(
      jnp.arange(n), jnp.ones(n), progress.window, data.everything, frozen)
  return parallel.shard(whole, 0, n)._replace(present=parallel.present(n))


def distil(job, segment, done, progress, data, feed, key, compiled, saved,
           log, stopping):
  """Runs one segment from its checkpoint to its last step."""
  c = job.config
  method = jobs.method(job, segment)
  number, count = segment.index + 1, len(job.plan)
  steps = _steps(job, segment)
  before = sum(_steps(job, earlier) for earlier in job.plan[:segment.index])
  step = int(progress.state.step)
  if step < steps:
    # One program for all segments that are alike.
    alike = (segment.width, segment.slots.start if (
        c.segments.match == 'union') else 0, steps)
    if alike not in compiled:
      compiled[alike] = parallel.chunk(method)
  around = pool(job, done, progress, data)
  state = parallel.shard(progress.state, method.axes, job.classes)
  speed = pace.Pace(jobs.images_per_step(job, segment))
  saved_at, key = time.time(), jax.random.fold_in(key, segment.index)
  while step < steps:
    size = min(c.run.chunk - step % c.run.chunk, steps - step)
    state, metrics = compiled[alike](state, feed(step, size), around, key,
                                     size)
    step += size
    speed.add(size)
    values = {name: float(value) for name, value in metrics.items()}
    outcome.check_finite(values, number, step)
    log.scalars(number, step, values, before + step)
    log.progress(number, count, step, steps, values['match/loss'], speed.speed,
                 speed.left(c.method.steps - before - step))
    since, = stopping.hear(time.time() - saved_at)
    if step == steps or since > c.run.save_seconds or stopping.asked:
      whole = parallel.unshard(state, method.axes, job.classes)
      progress = progress._replace(state=whole)
      saved.save(step, progress)
      saved_at = time.time()
    stopping.leave_if_asked(f'segment {number}, step {step}')
  return progress


def _steps(job, segment):
  return segments.steps(job.config.method.steps, len(job.plan), segment.index)


def measure(job, syn, data, test):
  """Accuracies of the synthetic set and of random real images, `{name: […]}`.

  Both under the same recipe and with the same number of networks; a rate that
  was learned for the set is its own.
  """
  c = job.config.eval
  together = checks.TOGETHER[c.together]
  keys = evaluate.keys(job.config.seed, c.networks)
  batch = parallel.replicate(Batch(*synthetic.inputs(job.codec, syn)))
  recipe = job.at_rate(job.recipe, syn)
  ours = evaluate.accuracies(job.network, recipe, together)(keys, batch, test)
  subsets = evaluate.random_subsets(
      job.dataset.train.labels, job.classes, job.config.syn.ipc, c.networks,
      [job.config.seed, 2])
  theirs = evaluate.accuracies_of_subsets(job.network, job.recipe, together)(
      (keys, jnp.asarray(subsets, jnp.int32)), data, test)
  return {'synthetic': np.asarray(ours), 'random': np.asarray(theirs)}
