"""Experts of a job: train those that are missing, draw starts."""

import contextlib
import functools
import hashlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import (
  buffers,
  config,
  epochs,
  experts,
  fitting,
  hosts,
  pace,
  parallel,
  photo,
  recipes,
  segments,
  sharpness,
  unfinished,
  words,
  workdir,
)
from dasm_jax.methods import trajectory

SAMPLE = 1000  # images, at most, by which a data set is known again
DRAWS = 7  # tells the draws of expert starts from others of the same seed


def open_(job, place, data, log, keeper):
  """The `Buffer` of a job, with all its experts; None if it needs none.

  Args:
    job: a `Job`.
    place: a `mirror.Place`, the run's workdir.
    data: the real images, one of `real`.
    log: of the run; keeper: its `unfinished.Keeper`.

  Raises:
    UserError: what `buffers.claim` refuses.
    stop.Stopped: asked to stop; experts stay, those in training too.
  """
  c = config.experts(job.config)
  if c is None:
    return None
  last = 'last' in c
  about = _about(job)
  digest = hashlib.sha256(json.dumps(
      about | {'epochs': c.epochs}, sort_keys=True).encode())
  name = f'{pathlib.Path(job.dataset.name).name}_{digest.hexdigest()[:8]}'
  folder = pathlib.Path(c.dir or place.experts / name)
  with contextlib.ExitStack() as held:
    hosts.once(lambda: held.enter_context(workdir.lock(
        folder, '--workdir' if last else '--config.experts.dir')))
    ravel, _ = experts.flat(job.network)
    size = jax.eval_shape(
        lambda key: ravel(job.network.init(key)), jax.random.key(0)).size
    stored = hosts.once(lambda: buffers.claim(
        folder, about, c.number, c.epochs, size, c.dtype, last).epochs)
    buffer = buffers.Buffer(folder, c.number, stored, size, c.dtype, last)
    missing = hosts.once(buffer.missing)
    if missing:
      log.say(f'experts   {len(missing)} of {c.number} to train, '
              f'{buffer.epochs} epochs each, '
              f'{words.size(len(missing) * buffer.bytes)} in {buffer.folder}')
    # Beside them, as other runs may go on with them.
    _train(job, buffer, missing, data, log, keeper._replace(
        folder=folder / 'unfinished', of=digest.hexdigest()))
  return buffer


def _about(job):
  """What experts are made of; a buffer of anything else is refused."""
  c = config.experts(job.config)
  split = job.dataset.train
  # Alike whether the images are in memory or not.
  n = len(split.labels)
  some = np.linspace(0, n - 1, min(n, SAMPLE)).astype(int)
  digest = hashlib.sha256(np.ascontiguousarray(split.read(some)))
  digest.update(np.ascontiguousarray(split.labels))
  network = {f'network.{name}': value
             for name, value in job.config.network.items()}
  training = {f'experts.{name}': c[name] for name in (
      'lr', 'momentum', 'weight_decay', 'batch', 'augment', 'rho', 'alpha',
      'seed', 'mode', 'cutmix', 'last') if name in c}
  return {'dataset': job.dataset.name, 'images': digest.hexdigest()[:16],
          'shape': list(job.shape), 'classes': job.classes,
          'zca': job.config.dataset.zca, **network, **training}


def recipe(c, codec):
  """The `recipes.Recipe` of experts, from what `config.experts` gives."""
  return recipes.recipe(
      1, lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay,
      batch=c.batch, strategy=c.augment, mode=c.mode,
      cutmix=c.get('cutmix', 0.0), statistics=photo.statistics(
          c.augment, codec.mean, codec.std, codec.zca))


def _train(job, buffer, numbers, data, log, keeper):
  """Trains experts, as many together as there is room for.

  keeper: an `unfinished.Keeper`: those in training go on from what it keeps.
  """
  c = config.experts(job.config)
  recipe_ = recipe(c, job.codec)
  # All groups run the same programs.
  step = functools.partial(sharpness.step, rho=c.rho, alpha=c.alpha)
  begin = jax.jit(jax.vmap(job.network.init))
  train = epochs.training(job.network, recipe_, step)
  ravel = jax.jit(jax.vmap(experts.flat(job.network)[0]))
  size = parallel.count() * c.at_once
  like = functools.partial(fitting.like, job.network, recipe_)
  speed = pace.Pace(1)
  while numbers:
    group = unfinished.together(keeper, 'experts', numbers, size, like)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(c.seed), jnp.asarray(group))
    plan = [epochs.Epoch(jax.vmap(jax.random.fold_in, (0, None))(keys, done),
                         recipe_.lr) for done in range(1, buffer.epochs + 1)]
    def run(start, seen, keys=keys, plan=plan):
      if start is None:
        start = epochs.begun(recipe_, begin(keys))
        seen(0, lambda: start, None)
      train(start, plan, data, seen)
    numbers, began = numbers[len(group):], time.time()
    rest = -(-len(numbers) // size) * buffer.epochs
    _train_group(buffer, group, run, ravel, keeper, like, functools.partial(
        _tell, buffer, group, log, speed, rest))
    log.say(f'experts   {group[-1] + 1}/{buffer.number} trained, '
            f'{words.seconds(time.time() - began)}')
    hosts.once(keeper.push)
    unfinished.leave_if_asked(keeper, _finished(buffer))


def _tell(buffer, numbers, log, speed, rest, done, within, loss):
  """Says how far experts are; rest: epochs of those that are not begun."""
  if not within:
    speed.add(1)
  log.progress(numbers[0] + 1, buffer.number, done, buffer.epochs,
               loss().mean(), None, speed.left(buffer.epochs - done + rest),
               what='expert', unit='epoch')


def _train_group(buffer, numbers, run, ravel, keeper, like, tell):
  """Writes what `run(start, seen)` makes of experts, see `epochs.training`.

  tell: called with epochs done, batches of the next, and `() -> losses`.
  """
  writers = []

  def flush():
    hosts.once(lambda: [writer.flush() for writer in writers] and None)

  with unfinished.training(
      keeper, 'experts', numbers, like, flush) as (start, keep):
    rows = 0 if start is None else int(start.done) + 1
    if rows > hosts.once(lambda: min(map(buffer.begun, numbers))):
      rows, start = 0, None

    def seen(done, stand, loss, within=0):
      if not within:
        row = stand().variables
        hosts.once(lambda: _add(writers, ravel(row)))
      if done or within:
        tell(done, within, loss)
      if (done or within) and done < buffer.epochs:
        keep(stand, lambda: (
            f'{_finished(buffer)}, and {len(numbers)} in training at epoch '
            f'{done} of {buffer.epochs}'))

    try:
      hosts.once(lambda: writers.extend(
          buffers.Writer(buffer, k, rows) for k in numbers))
      run(start, seen)
      hosts.once(lambda: [writer.finish() for writer in writers] and None)
    finally:
      for writer in writers:
        writer.close()


def _finished(buffer):
  """How many experts there are, in words."""
  there = buffer.number - hosts.once(lambda: len(buffer.missing()))
  return f'{words.many(there, "expert")} of {buffer.number}'


def _add(writers, rows):
  for writer, row in zip(writers, np.asarray(rows), strict=True):
    writer.add(row)


def weights(buffer, who, when):
  """`buffers.rows`, read by the first process for all."""
  read = []
  hosts.once(lambda: read.append(buffers.rows(buffer, who, when)))
  return hosts.agree(read.pop() if read else np.zeros(
      (len(who), buffer.size), np.float32))


def feeder(job, segment, progress, buffer):
  """`(step, steps) -> data` of a trajectory method: where experts stood."""
  c, chunk = job.config.method, job.config.run.chunk
  window = segments.epochs(
      job.choice, segment.index, len(job.plan), c.first_epoch, c.last_epoch,
      float(np.mean(progress.accuracy)))

  def feed(step, steps):
    drawn = [draw(job, segment, window, buffer, k)
             for k in range(step, step + steps)]
    who, when = np.concatenate(drawn, axis=1)
    rows = [np.resize(weights(buffer, who, epochs),
                      (chunk * c.starts, buffer.size))
            for epochs in (when, when + c.expert_epochs)]
    return parallel.replicate(trajectory.Pairs(
        *map(jnp.asarray, rows), jnp.int32(step)))
  return feed


def draw(job, segment, window, buffer, step):
  """Experts and epochs that one step starts from, `[2, starts]` int."""
  c, low, high = job.config.method, *window
  rng = np.random.default_rng([job.config.seed, DRAWS, segment.index, step])
  last = c.last_epoch
  if c.expand and c.start_last_epoch >= 0:
    grown = (last - c.start_last_epoch) * step // c.expand
    last = min(last, c.start_last_epoch + grown)
  replay = job.config.segments.replay if segment.index else 0.0
  out = []
  for _ in range(c.starts):
    first = c.first_epoch if rng.random() < replay else low
    out.append((rng.integers(buffer.number),
                rng.integers(first, max(first, min(high, last)) + 1)))
  return np.array(out).T
