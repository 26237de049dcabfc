"""What a run says and leaves behind besides checkpoints and metrics."""

import json
import math
import pathlib

import jax
import numpy as np

import dasm_jax
from dasm_jax import config, models, synthetic
from dasm_jax.distill import figures, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import comparison, saved_set
from dasm_jax.methods import registry
from dasm_jax.pipeline import loading
from dasm_jax.runtime import devices, processes, text
from dasm_jax.runtime.text import plural
from dasm_jax.training import soft_labels
from dasm_jax.types import Batch


def evaluation_set(experiment, syn, done):
  """What networks are trained on for a finished set.

  Args:
    experiment: an `Experiment`; syn: its `Synthetic`.
    done: `Progress` of every segment, each with its teacher if it has one.

  Returns:
    The set as networks see it: a `Batch`, or `SoftLabelled` by the mean of the
    teachers.
  """
  stored = syn._replace(labels=synthetic.stored_labels(syn.labels))
  batch = Batch(*synthetic.training_inputs(experiment.codec, stored))
  teachers = [progress.state.teacher for progress in done]
  if teachers[0] is None:
    return batch
  teachers = jax.tree.map(lambda *x: np.stack(list(map(np.asarray, x))),
                          *teachers)
  return soft_labels.teacher_labels(experiment.network, experiment.recipe,
                                    teachers, batch,
                                    experiment.config.seed,
                                    experiment.config.method.temperature)


def finished_results(workdir):
  """results.json of a finished run whose set can be read, or None."""
  path = pathlib.Path(workdir) / 'results.json'
  try:
    results = json.loads(path.read_text())
    saved_set.load(workdir)
    return results
  except (OSError, ValueError, UserError):
    return None


def describe(experiment, workdir, log, devices=''):
  """Says the shape of the job before it starts.

  devices: what they are called, if not those that are here.
  """
  c, count = experiment.config, len(experiment.dataset.train.labels)
  variables = jax.eval_shape(experiment.network.init, jax.random.key(0))
  size = 'x'.join(map(str, experiment.shape))
  log.say(f'data      {experiment.dataset.name}: {count} train, '
          f'{len(experiment.dataset.test.labels)} test images {size}, '
          f'{experiment.classes} classes' + _where(experiment))
  log.say(f'set       {plural(c.syn.ipc, "image")} a class '
          f'({c.syn.ipc * experiment.classes} in all), factor {c.syn.factor}, '
          f'{plural(len(experiment.plan), "segment")} of '
          f'{", ".join(str(s.width) for s in experiment.plan)}' + (
              f', {c.syn.phases} parts of the classes in turn'
              if c.syn.phases > 1 else ''))
  log.say(f'method    {c.method.name}, begun with {c.syn.init} images, window '
          f'{c.segments.window}, {registry.describe(c.method)}')
  parameters = text.count(models.count(variables))
  log.say(f'network   {c.network.name}, {parameters} parameters; evaluation '
          f'{c.eval.recipe}, {plural(c.eval.epochs, "epoch")}, '
          f'{plural(c.eval.networks, "network")}')
  log.say(f'devices   {devices or _devices()}')
  log.say(f'workdir   {workdir}')


def _devices():
  devices = jax.devices()
  shared = f', of {processes.count()} processes' if processes.count(
      ) > 1 else ''
  return (f'{len(devices)} {devices[0].device_kind} ({devices[0].platform})'
          f'{shared}')


def _where(experiment):
  """Where the images are, if they are not in memory."""
  if not experiment.streamed:
    return ''
  size = text.size(loading.image_bytes(experiment.dataset))
  return (f', read as they are used: {size} of images; a device has '
          f'{text.size(devices.memory())} of memory')


def report_resumed(experiment, segment, step, log):
  """Says where a run goes on; nothing where a phase begins or is done."""
  if 0 < step < setup.segment_steps(experiment, segment):
    _, done, whole = setup.progress_of(experiment, segment, step)
    log.say(f'going on from segment {segment.index + 1}/'
            f'{len(experiment.plan)}, step {done}/{whole}')


def check_finite(values, segment, step):
  """Raises `UserError` once the loss is no number any more."""
  loss = values['match/loss']
  if not math.isfinite(loss):
    raise UserError(
        f'the matching loss is {loss} at segment {segment}, step {step}; try a '
        'smaller --config.method.lr (of the images) or .net_lr in another '
        '--workdir')


def show_segment(experiment, segment, done, workdir):
  """Saves a segment's images and its window."""
  number, progress = segment.index + 1, done[-1]
  images = synthetic.pixels(experiment.codec, progress.state.syn.images)
  figures.image_grid(np.asarray(images), workdir / f'images_{number}.png',
                     experiment.dataset.class_names)
  scores, inside = _scores_and_window(progress)
  figures.window_plot(scores, inside, workdir / f'window_{number}.png', number,
                      len(experiment.plan), experiment.config.segments.score)


def _scores_and_window(progress):
  inside = np.zeros(len(progress.scores), bool)
  rows, counts = map(np.asarray, progress.window)
  for row, count in zip(rows, counts, strict=True):
    inside[row[:count]] = True
  return np.asarray(progress.scores), inside


def write_results(experiment, syn, batch, done, accuracy, costs, workdir, name,
                  log):
  """Writes the set, the pictures, the page and, last, results.json.

  batch: the set as networks were trained on it.
  workdir: where to. name: what the user calls it.
  """
  c, told = experiment.config, getattr(batch, 'told', None)
  summary = {name: comparison.summary(v) for name, v in accuracy.items()}
  results = {
      'dataset': experiment.dataset.name, 'classes': c.dataset.classes,
      'method': c.method.name, 'ipc': c.syn.ipc,
      'segments': len(experiment.plan), 'window': c.segments.window,
      'seed': c.seed,
      'accuracy': summary, 'seconds': round(log.seconds, 1),
      'devices': jax.device_count(), 'processes': processes.count(),
      'device': jax.local_devices()[0].device_kind,
      'costs': costs,
      'label_kind': synthetic.label_kind(syn.labels, told),
      'bytes': synthetic.set_bytes(syn, told),
      'version': dasm_jax.__version__,
      'jax': jax.__version__}
  saved_set.save(experiment, syn, results, workdir / 'synthetic.npz', batch)
  shown = np.asarray(synthetic.pixels(experiment.codec, syn.images))
  figures.image_grid(shown, workdir / 'images.png',
                     experiment.dataset.class_names)
  figures.window_plots([_scores_and_window(p) for p in done], workdir
                       / 'windows.png',
                       c.segments.score)
  text = closing_table(results, name)
  title = (f'{experiment.dataset.name}, {c.method.name}, '
           f'{plural(c.syn.ipc, "image")} a class')
  names = [(f'{kind_of_set(c.method.name)} images, one row a class',
            'images.png'),
           ('difficulty of the real images, and each segment’s window',
            'windows.png')]
  if len(experiment.plan) > 1:
    names += [(f'images of segment {segment.index + 1}',
               f'images_{segment.index + 1}.png')
               for segment in experiment.plan]
  figures.report_page(
      workdir / 'report.html', title, results, text,
      [(caption, workdir / name) for caption, name in names],
      list(config.entries(c)))
  steps = setup.total_steps(experiment)
  log.scalars(None, steps, {
      f'eval/{name}/top1_{key}': summary[name][key]
      for name in summary for key in ('mean', 'std')}, steps)
  log.result(results)
  log.say(text)
  return results


def kind_of_set(method):
  """What a set of the method called `method` is: distilled, or selected."""
  match = registry.MATCHES[registry.spec(method).settings['match']]
  return 'distilled' if match.family.synthesises else 'selected'


def closing_table(results, workdir):
  """The closing table: the set against random, and where things are."""
  rows = []
  ours = kind_of_set(results['method'])
  for name, what in (('synthetic', ours), ('random', 'random real')):
    one = results['accuracy'][name]
    rows.append((what, results['ipc'], f'{one["mean"]:.2%}',
                 f'± {one["std"]:.2%}', len(one['networks'])))
  mean, other = (results['accuracy'][n]['mean'] for n in (
      'synthetic', 'random'))
  table = text.table(rows, ('set', 'ipc', 'test accuracy', 'std', 'networks'))
  return (f'{table}\n{ours} - random: {100 * (mean - other):+.2f} points; '
          f'{text.duration(results["seconds"])} on {results["devices"]} '
          f'{results["device"]}\nsee {workdir}/report.html, '
          'images.png, synthetic.npz, results.json there')
