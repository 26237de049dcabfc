"""The walk: probe, score, window, start, distil, freeze; then evaluate.

Resuming has no branch: a segment that has a checkpoint goes on from it, and a
finished one has no steps left.
"""

import json
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import (
  checkpoint,
  evaluate,
  outcome,
  parallel,
  report,
  segments,
  stop,
  synthetic,
)
from dasm_jax import job as jobs
from dasm_jax import source as sources
from dasm_jax.types import Array, Batch, Synthetic, Window

FREE = ('run', 'dataset.data_dir')  # may change between runs of a workdir


class Progress(NamedTuple):
  """A segment as it is checkpointed.

  state: the method's. window: of real images. scores: `[n]` difficulty, and
  accuracy: `[classes]`, of the real images under the probes (0 where nobody
  scored). used: `[n]` bool, real images that any segment began with.
  """
  state: object
  window: Window
  scores: Array
  accuracy: Array
  used: Array


def run(config, workdir):
  """Distils `config.dataset` into `workdir`; call it again after a stop.

  Returns:
    What is in results.json.

  Raises:
    UserError: whatever the user can mend.
    stop.Stopped: after a saved stop by Ctrl-C or SIGTERM.
  """
  began = time.time()
  jobs.check(config)
  workdir = pathlib.Path(workdir)
  settings = json.loads(config.to_json())
  with checkpoint.lock(workdir), report.Log(workdir) as log, (
      stop.watch()) as stopping:
    # A job that cannot be built must not claim a new workdir.
    known = (workdir / 'config.json').exists()
    job = None if known else jobs.build(config)
    checkpoint.claim(workdir, settings, free=FREE)
    ready = outcome.finished(workdir)
    if ready:
      log.say(outcome.closing(ready, workdir))
      return ready
    job = job or jobs.build(config)
    outcome.describe(job, workdir, log)
    data, test = jobs.place(job)
    key = jax.random.key(config.seed)
    done, compiled = [], {}
    for segment in job.plan:
      begin = _beginner(job, segment, done, data, key, log)
      with checkpoint.open(workdir / f'segment_{segment.index + 1}',
                           outcome.fingerprint(settings, FREE)) as saved:
        found = saved.latest(_like(job, segment, key))
        step, progress = found or (0, begin())
        if not found:
          saved.save(0, progress)
        if segment is job.plan[-1] or step < _steps(job, segment):
          log.rewind(segment.index + 1, step)  # a later one's rows stay
        progress = distil(job, segment, done, progress, data, key, compiled,
                          saved, log, stopping)
      done.append(progress)
      outcome.show_segment(job, segment, done, workdir)
    syn = join(done)
    log.say('evaluating: fresh networks on the synthetic set, then on random '
            'real images')
    accuracy = measure(job, syn, data, test, jax.random.fold_in(key, 2 ** 20))
    return outcome.finish(job, syn, done, accuracy, workdir, log,
                          time.time() - began)


def join(done):
  """All finished segments as one `Synthetic`."""
  parts = [progress.state.syn for progress in done]
  return Synthetic(jnp.concatenate([p.images for p in parts], axis=1),
                   jnp.concatenate([p.labels for p in parts], axis=1),
                   parts[-1].lr)


def _like(job, segment, key):
  """The shapes of a segment's `Progress`."""
  return jax.eval_shape(lambda: _blank(job, segment, key))


def _blank(job, segment, key):
  n, classes = len(job.dataset.train.labels), job.classes
  size = np.bincount(job.dataset.train.labels).max()
  images = jnp.zeros((classes, segment.width, *job.shape))
  window = Window(jnp.zeros((classes, size), jnp.int32),
                  jnp.zeros(classes, jnp.int32))
  return Progress(
      _init(job, segment, images, key), window, jnp.zeros(n),
      jnp.zeros(classes), jnp.zeros(n, bool))


def _init(job, segment, images, key):
  labels = jnp.broadcast_to(
      jnp.eye(job.classes)[:, None],
      (job.classes, images.shape[1], job.classes))
  syn = Synthetic(images, labels, jnp.float32(job.config.eval.lr))
  return jax.jit(jobs.method(job, segment).init)(key, syn)


def _beginner(job, segment, done, data, key, log):
  """`() -> Progress`: probe, score, window, start of a new segment."""
  def begin():
    key_ = jax.random.fold_in(key, segment.index)
    labels = job.dataset.train.labels
    scores, accuracy = score(job, segment, done, data, key_, log)
    rows = segments.windows(
        job.choice, segment.index, len(job.plan), labels, job.classes, scores,
        accuracy, jobs.floor(job, segment), job.config.seed)
    used = (np.asarray(done[-1].used) if done
            else np.zeros(len(labels), bool))
    images, used = start(job, segment, rows, labels, used, key_)
    capacity = np.bincount(labels).max()
    window = sources.window(rows)
    wide = np.zeros((job.classes, capacity), np.int32)
    wide[:, :window.indices.shape[1]] = window.indices
    zeros = np.zeros(len(labels), np.float32)
    return Progress(
        _init(job, segment, images, key_),
        Window(jnp.asarray(wide), jnp.asarray(window.counts)),
        jnp.asarray(zeros if scores is None else scores, jnp.float32),
        jnp.asarray(np.zeros(job.classes) if accuracy is None else accuracy,
                    jnp.float32), jnp.asarray(used))
  return begin


def score(job, segment, done, data, key, log):
  """Difficulty of every real image for a segment: `(scores, accuracy)`.

  None, None where the windows ask nobody. Networks trained on real data score
  once, those trained on the earlier segments anew for each segment.
  """
  c = job.config.segments
  who = segments.scorer(job.choice, segment.index)
  if who is None:
    return None, None
  if who == 'real' and done:
    return np.asarray(done[0].scores), np.asarray(done[0].accuracy)
  keys = jax.random.split(jax.random.fold_in(key, 1), c.probes)
  if who == 'real':
    source_ = 'real images'
    train = evaluate.probes_on_real(job.network, job.probe, c.probe_real_steps)
    variables = train(keys, data)
  else:
    source_ = 'the segments before'
    train = evaluate.probes(job.network, job.probe)
    batch = Batch(*synthetic.inputs(job.codec, join(done)))
    variables = train(keys, parallel.replicate(batch))
  scores, accuracy = evaluate.scores(job.network, c.score)(
      parallel.replicate(variables), data)
  log.say(f'segment {segment.index + 1}: {c.probes} probes trained on {source_}'
          f' know {accuracy.mean():.1%} of the real images; score {c.score}: '
          f'{np.quantile(scores, .1):.3g} (easy tenth) to '
          f'{np.quantile(scores, .9):.3g} (hard tenth)')
  return scores, accuracy


def start(job, segment, rows, labels, used, key):
  """First images `[classes, width, …]` of a segment, and who is used now."""
  c, codec = job.config, job.codec
  if c.syn.init == 'noise':
    shape = (job.classes, segment.width, *job.shape)
    return synthetic.noise(key, codec, shape), used
  chosen = segments.start(rows, labels, used, jobs.decoded(job, segment),
                          [c.seed, 1, segment.index])
  real = jnp.asarray(job.dataset.train.images[chosen], jnp.float32) / 255
  if codec.space == 'normalised':
    real = (real - jnp.asarray(codec.mean)) / jnp.asarray(codec.std)
  used = used.copy()
  used[chosen] = True
  return jax.vmap(lambda x: synthetic.mix(x, codec.factor))(real), used


def pool(job, done, progress, data):
  """The `Pool` of a segment, sharded by class."""
  n = job.classes
  blank = jnp.zeros((n, 0, *job.shape)), jnp.zeros((n, 0, n))
  before = join(done) if done else None
  frozen = Batch(before.images, before.labels) if before else Batch(*blank)
  whole = sources.Pool(
      jnp.arange(n), jnp.ones(n), progress.window, data.everything, frozen)
  return parallel.shard(whole, 0, n)._replace(present=parallel.present(n))


def distil(job, segment, done, progress, data, key, compiled, saved, log,
           stopping):
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
  pace = report.Pace(jobs.images_per_step(job, segment))
  saved_at, key = time.time(), jax.random.fold_in(key, segment.index)
  while step < steps:
    size = min(c.run.chunk - step % c.run.chunk, steps - step)
    state, metrics = compiled[alike](state, data, around, key, size)
    step += size
    pace.add(size)
    values = {name: float(value) for name, value in metrics.items()}
    outcome.check_finite(values, number, step)
    log.scalars(number, step, values, before + step)
    log.progress(number, count, step, steps, values['match/loss'], pace.speed,
                 pace.left(c.method.steps - before - step))
    late = time.time() - saved_at > c.run.save_seconds
    if step == steps or late or stopping.asked:
      whole = parallel.unshard(state, method.axes, job.classes)
      progress = progress._replace(state=whole)
      saved.save(step, progress)
      saved_at = time.time()
    stopping.leave_if_asked(number, step)
  return progress


def _steps(job, segment):
  return segments.steps(job.config.method.steps, len(job.plan), segment.index)


def measure(job, syn, data, test, key):
  """Accuracies of the synthetic set and of random real images, `{name: […]}`.

  Both under the same recipe and with the same number of networks.
  """
  c = job.config.eval
  together = jobs.TOGETHER[c.together]
  keys = jax.random.split(key, c.networks)
  batch = parallel.replicate(Batch(*synthetic.inputs(job.codec, syn)))
  ours = evaluate.accuracies(job.network, job.recipe, together)(
      keys, batch, test)
  subsets = evaluate.random_subsets(
      job.dataset.train.labels, job.classes, job.config.syn.ipc, c.networks,
      [job.config.seed, 2])
  theirs = evaluate.accuracies_of_subsets(job.network, job.recipe, together)(
      (keys, jnp.asarray(subsets, jnp.int32)), data, test)
  return {'synthetic': np.asarray(ours), 'random': np.asarray(theirs)}
