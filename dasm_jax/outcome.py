"""What a run says and leaves behind besides checkpoints and metrics."""

import json
import math
import pathlib

import jax
import numpy as np

import dasm_jax
from dasm_jax import (
  card,
  config,
  evaluate,
  hosts,
  intake,
  methods,
  models,
  parallel,
  pictures,
  storage,
  synthetic,
  words,
)
from dasm_jax import job as jobs
from dasm_jax.errors import UserError
from dasm_jax.words import many


def finished(workdir):
  """results.json of a finished run whose set can be read, or None."""
  path = pathlib.Path(workdir) / 'results.json'
  try:
    results = json.loads(path.read_text())
    card.load(workdir)
    return results
  except (OSError, ValueError, UserError):
    return None


def describe(job, workdir, log, devices=''):
  """Says the shape of the job before it starts.

  devices: what they are called, if not those that are here.
  """
  c, count = job.config, len(job.dataset.train.labels)
  variables = jax.eval_shape(job.network.init, jax.random.key(0))
  size = 'x'.join(map(str, job.shape))
  log.say(f'data      {job.dataset.name}: {count} train, '
          f'{len(job.dataset.test.labels)} test images {size}, '
          f'{job.classes} classes' + _where(job))
  log.say(f'set       {many(c.syn.ipc, "image")} a class '
          f'({c.syn.ipc * job.classes} in all), factor {c.syn.factor}, '
          f'{many(len(job.plan), "segment")} of '
          f'{", ".join(str(s.width) for s in job.plan)}' + (
              f', {c.syn.phases} parts of the classes in turn'
              if c.syn.phases > 1 else ''))
  log.say(f'method    {c.method.name}, begun with {c.syn.init} images, window '
          f'{c.segments.window}, {methods.describe(c.method)}')
  parameters = words.count(models.count(variables))
  log.say(f'network   {c.network.name}, {parameters} parameters; evaluation '
          f'{c.eval.recipe}, {many(c.eval.epochs, "epoch")}, '
          f'{many(c.eval.networks, "network")}')
  log.say(f'devices   {devices or _devices()}')
  log.say(f'workdir   {workdir}')


def _devices():
  devices = jax.devices()
  shared = f', of {hosts.count()} processes' if hosts.count() > 1 else ''
  return (f'{len(devices)} {devices[0].device_kind} ({devices[0].platform})'
          f'{shared}')


def _where(job):
  """Where the images are, if they are not in memory."""
  if not job.streamed:
    return ''
  return (f', read as they are used: {words.size(intake.size(job.dataset))} '
          f'of images; a device has {words.size(parallel.memory())} of memory')


def say_resumed(job, segment, step, log):
  """Says where a run goes on; nothing where a phase begins or is done."""
  if 0 < step < jobs.steps(job, segment):
    _, done, whole = jobs.counted(job, segment, step)
    log.say(f'going on from segment {segment.index + 1}/{len(job.plan)}, step '
            f'{done}/{whole}')


def check_finite(values, segment, step):
  """Raises `UserError` once the loss is no number any more."""
  loss = values['match/loss']
  if not math.isfinite(loss):
    raise UserError(
        f'the matching loss is {loss} at segment {segment}, step {step}; try a '
        'smaller --config.method.lr (of the images) or .net_lr in another '
        '--workdir')


def show_segment(job, segment, done, workdir):
  """Saves a segment's images and its window."""
  number, progress = segment.index + 1, done[-1]
  images = synthetic.pixels(job.codec, progress.state.syn.images)
  pictures.grid(np.asarray(images), workdir / f'images_{number}.png',
                job.dataset.class_names)
  scores, inside = _window(progress)
  pictures.windows(scores, inside, workdir / f'window_{number}.png', number,
                   len(job.plan), job.config.segments.score)


def _window(progress):
  inside = np.zeros(len(progress.scores), bool)
  rows, counts = map(np.asarray, progress.window)
  for row, count in zip(rows, counts, strict=True):
    inside[row[:count]] = True
  return np.asarray(progress.scores), inside


def finish(job, syn, batch, done, accuracy, costs, workdir, name, log):
  """Writes the set, the pictures, the page and, last, results.json.

  batch: the set as networks were trained on it.
  workdir: where to. name: what the user calls it.
  """
  c, told = job.config, getattr(batch, 'told', None)
  summary = {name: evaluate.summary(v) for name, v in accuracy.items()}
  results = {
      'dataset': job.dataset.name, 'classes': c.dataset.classes,
      'method': c.method.name, 'ipc': c.syn.ipc,
      'segments': len(job.plan), 'window': c.segments.window, 'seed': c.seed,
      'accuracy': summary, 'seconds': round(log.seconds, 1),
      'devices': jax.device_count(), 'processes': hosts.count(),
      'device': jax.local_devices()[0].device_kind,
      'costs': costs,
      'label_kind': storage.label_kind(syn.labels, told),
      'bytes': storage.size(syn, told),
      'version': dasm_jax.__version__,
      'jax': jax.__version__}
  card.save(job, syn, results, workdir / 'synthetic.npz', batch)
  shown = np.asarray(synthetic.pixels(job.codec, syn.images))
  pictures.grid(shown, workdir / 'images.png', job.dataset.class_names)
  pictures.all_windows([_window(p) for p in done], workdir / 'windows.png',
                       c.segments.score)
  text = closing(results, name)
  title = (f'{job.dataset.name}, {c.method.name}, '
           f'{many(c.syn.ipc, "image")} a class')
  names = [(f'{made(c.method.name)} images, one row a class', 'images.png'),
           ('difficulty of the real images, and each segment’s window',
            'windows.png')]
  if len(job.plan) > 1:
    names += [(f'images of segment {segment.index + 1}',
               f'images_{segment.index + 1}.png') for segment in job.plan]
  pictures.report_html(
      workdir / 'report.html', title, results, text,
      [(caption, workdir / name) for caption, name in names],
      list(config.entries(c)))
  steps = jobs.total_steps(job)
  log.scalars(None, steps, {
      f'eval/{name}/top1_{key}': summary[name][key]
      for name in summary for key in ('mean', 'std')}, steps)
  log.result(results)
  log.say(text)
  return results


def made(method):
  """What a set of the method called `method` is: distilled, or selected."""
  still = methods.METHODS[method]['match'] == 'none'
  return 'selected' if still else 'distilled'


def closing(results, workdir):
  """The closing table: the set against random, and where things are."""
  rows = []
  ours = made(results['method'])
  for name, what in (('synthetic', ours), ('random', 'random real')):
    one = results['accuracy'][name]
    rows.append((what, results['ipc'], f'{one["mean"]:.2%}',
                 f'± {one["std"]:.2%}', len(one['networks'])))
  mean, other = (results['accuracy'][n]['mean'] for n in (
      'synthetic', 'random'))
  table = words.table(rows, ('set', 'ipc', 'test accuracy', 'std', 'networks'))
  return (f'{table}\n{ours} - random: {100 * (mean - other):+.2f} points; '
          f'{words.seconds(results["seconds"])} on {results["devices"]} '
          f'{results["device"]}\nsee {workdir}/report.html, '
          'images.png, synthetic.npz, results.json there')


