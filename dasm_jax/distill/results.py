"""What a run leaves behind besides checkpoints and metrics.

Sections: the set as it is evaluated, what is left behind.
"""

import hashlib
import itertools
import json
import math
import shlex

import jax
import numpy as np

import dasm_jax
from dasm_jax import config, data, segments, streams, synthetic
from dasm_jax.distill import figures, page, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import comparison, diagnostics, saved_set
from dasm_jax.methods import registry
from dasm_jax.pipeline import loading
from dasm_jax.runtime import (
  environment,
  logging,
  processes,
  records,
  text,
)
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.runtime.text import plural
from dasm_jax.streams import Stream
from dasm_jax.training import soft_labels, weights_file
from dasm_jax.types import Batch

SET = 'synthetic.npz'
PAGE = 'report.html'
DIAGNOSED = 'diagnose'  # slot of the page for what dasm_jax.diagnose measures

# ---- The set as it is evaluated


def evaluation_set(experiment, syn, done):
  """What networks are trained on for a finished set.

  Args:
    experiment: an `Experiment`; syn: its `Synthetic`.
    done: `Progress` of every segment, each with its teacher if it has one.

  Returns:
    The set as networks see it: a `Batch`, or `SoftLabelled` by the mean of the
    teachers.
  """
  # As whoever reads the saved set will have it: soft labels in half precision.
  stored = syn._replace(labels=synthetic.stored_labels(syn.labels))
  batch = Batch(*synthetic.training_inputs(experiment.codec, stored))
  teachers = [progress.state.teacher for progress in done]
  if teachers[0] is None:
    return batch
  teachers = jax.tree.map(lambda *x: np.stack(list(map(np.asarray, x))),
                          *teachers)
  return soft_labels.teacher_labels(
      experiment.network, experiment.recipe, teachers, batch,
      experiment.config.seed, experiment.config.method.temperature)


def finished_results(home):
  """results.json of a finished run with the set that it is of, or None.

  home: a `Workdir`. What is damaged, or of another run, is set aside with a
  word: it is made again from its checkpoints.
  """
  # results.json is written last. Without a run it is of an earlier version,
  # which sealed nothing.
  found = records.read(home.path / logging.RESULTS, logging.RESULTS, home.run,
                       check_results)
  if found is None:
    return None
  path = home.path / SET
  try:
    saved_set.load(path)
    if found.get('set', _digest_of(path)) == _digest_of(path):
      return found
    why = 'not the one that results.json is of'
  except UserError as error:
    if not path.exists():
      return None
    why = f'damaged ({error})'
  records.set_aside(path, why)
  return None


def check_results(found):
  """Raises ValueError, KeyError or TypeError for what no run has left."""
  check_accuracies({name: row['networks']
                    for name, row in found['accuracy'].items()},
                   dict.fromkeys(setup.WHOLE, math.inf))
  # All that the closing table shows.
  numbers = [found['seconds'], found['ipc'], found['devices'], *(
      row[key] for row in found['accuracy'].values()
      for key in ('mean', 'std'))]
  if not all(isinstance(x, int | float) and 0 <= x < math.inf
             for x in numbers):
    raise ValueError('numbers that cannot be')
  closing_table(found, '')


def check_accuracies(found, most):
  """The same for `{name: [accuracy of each network]}`.

  most: networks that there may be, by the name of the set.
  """
  for name, values in found.items():
    if len(values) > most.get(name, -1):
      raise ValueError(f'{len(values)} networks of {name}')
    if not all(isinstance(x, float | int) and 0 <= x <= 1 for x in values):
      raise ValueError(f'accuracies of {name} that cannot be')


def _digest_of(path):
  """sha256 of a file, as hexadecimal digits."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


# ---- What is left behind


def show_segment(experiment, segment, done, workdir, show=lambda *_: None):
  """Saves a segment's images and its window; show: of a name and a file."""
  number, progress = segment.index + 1, done[-1]
  images = synthetic.pixels(experiment.codec, progress.state.syn.images)
  path = workdir / f'images_{number}.png'
  figures.image_grid(np.asarray(images), path, experiment.dataset.class_names)
  show(f'images of segment {number}', path)
  # Written as soon as the segment is done, to be looked at meanwhile.
  scores, inside = _scores_and_window(progress)
  figures.window_plot(scores, inside, workdir / f'window_{number}.png', number,
                      len(experiment.plan), _score_name(
                          experiment, segment.index))


def _score_name(experiment, index):
  """What put the real images in order for a segment; '' if nothing did."""
  c = experiment.config.segments
  by = segments.asked_networks(experiment.choice, index).order
  return {'real': c.order, 'previous': c.score, None: ''}[by]


def _scores_and_window(progress):
  inside = np.zeros(len(progress.scores), bool)
  rows, counts = map(np.asarray, progress.window)
  for row, count in zip(rows, counts, strict=True):
    inside[row[:count]] = True
  return np.asarray(progress.scores), inside


def segment_rows(experiment, done, accuracy):
  """What each segment was, a list of dicts.

  Args:
    experiment: an `Experiment`.
    done: `Progress` of every segment.
    accuracy: `{name: [networks]}` of `setup.measured_sets`.

  Returns:
    Of each: `images` a class, `moved` (rms of the pixels on [0, 1], from their
    first to their last; 0 of coresets), `window` (real images in it), `known`
    (share of the real images that networks trained on all segments before get
    right; None where they were not asked), `overlap` with the window of each
    segment, see `diagnostics.overlaps`; `accuracy` of fresh networks trained on
    all segments up to it, a `comparison.summary`, or None.
  """
  so_far = [accuracy.get(f'first_{k}') for k in range(1, len(done))]
  inside = [_scores_and_window(progress)[1] for progress in done]
  shared = diagnostics.overlaps(inside, experiment.dataset.train.labels)
  return [{'images': segment.width,
           'moved': round(_moved(experiment.codec, progress), 6),
           'known': _known(experiment, segment, progress),
           'window': int(one.sum()), 'overlap': np.round(row, 4).tolist(),
           'accuracy': after and comparison.summary(after)}
          for segment, progress, one, row, after in zip(
              experiment.plan, done, inside, shared,
              [*so_far, accuracy.get('synthetic')], strict=True)]


def _known(experiment, segment, progress):
  asked = segments.asked_networks(experiment.choice, segment.index)
  if not segment.index or 'previous' not in asked:
    return None
  labels = experiment.dataset.train.labels
  counts = np.bincount(labels, minlength=experiment.classes)
  return round(float(np.average(progress.accuracy, weights=counts)), 4)


def _moved(codec, progress):
  # Class by class: as floats all images need not fit.
  first = (np.float32(x) / 255 for x in progress.first)
  last = (np.asarray(synthetic.pixels(codec, x))
          for x in progress.state.syn.images)
  return diagnostics.moved(first, last)


SEGMENT_HEAD = 'segment', 'images', 'known', 'moved', 'window'
SEGMENTS_NOTE = (
    'known: share of the real images that networks trained on the segments '
    'before get right; moved: rms of pixels on [0, 1]; window: real images')


def own_cells(number, row):
  """What a table shows below `SEGMENT_HEAD` of a row of `segment_rows`.

  number: of the segment, from 1.
  """
  known = row.get('known')  # not in older results.json
  return (number, row['images'], '' if known is None else f'{known:.1%}',
          f'{row["moved"]:.4f}', f'{row["window"]:,}')


def segment_cells(rows):
  """`(head, [cells])` of `segment_rows`; the overlaps are columns."""
  return (*SEGMENT_HEAD, *(
      f'in {number}' for number in range(1, len(rows) + 1))), [
          (*own_cells(number, row), *(f'{x:.2f}' for x in row['overlap']))
          for number, row in enumerate(rows, 1)]


def write_results(made, syn, batch, done, accuracy):
  """Writes the set, the pictures, the page and, last, results.json.

  Args:
    made: a `setup.Run`.
    syn: its `Synthetic`; batch: the set as networks were trained on it.
    done: `Progress` of every segment.
    accuracy: `{name: [networks]}` of `setup.measured_sets`.
  """
  experiment, c, folder = made.experiment, made.experiment.config, (
      made.home.path)
  # By the set itself, not by the method: what is stored decides its size.
  logits = getattr(batch, 'logits', None)
  rows = segment_rows(experiment, done, accuracy)
  summary = {name: comparison.summary(accuracy[name])
             for name in setup.WHOLE if name in accuracy}
  results = {
      'dataset': experiment.dataset.name, 'classes': c.dataset.classes,
      'method': c.method.name, 'ipc': c.syn.ipc,
      'segments': rows, 'window': c.segments.window,
      'seed': c.seed, 'accuracy': summary,
      'seconds': round(made.log.seconds, 1),
      'devices': jax.device_count(), 'processes': processes.count(),
      'device': jax.local_devices()[0].device_kind,
      'costs': made.meter.summary(),
      'label_kind': synthetic.label_kind(syn.labels, logits),
      'bytes': synthetic.set_bytes(syn, logits),
      'version': dasm_jax.__version__, **environment.versions()}
  saved_set.save(
      folder / SET, syn, experiment.codec,
      experiment.dataset.class_names, card(experiment, syn, summary), batch)
  for number, progress in enumerate(done, 1):
    # Another run may take it: --config.method.teacher.
    if progress.state.teacher is not None:
      weights_file.save(folder / f'teacher_{number}.npz',
                        progress.state.teacher)
  results['set'] = _digest_of(folder / SET)
  _write_pictures(experiment, syn, done, folder)
  _write_page(made, results, folder)
  steps = setup.total_steps(experiment)
  made.log.scalars(None, steps, {
      f'eval/{name}/top1_{key}': summary[name][key]
      for name in summary for key in ('mean', 'std')}, steps)
  # Last of the files: with it a run counts as finished.
  made.log.result(results)
  made.log.say(closing_table(results, made.home.name))
  return results


def card(experiment, syn, accuracy):
  """What the card of a set says of the experiment that made it, a dict."""
  c, codec = experiment.config, experiment.codec
  # All that trains a network as the run did, without its configuration.
  settings = json.loads(c.to_json())
  return {
      'dataset': experiment.dataset.name,
      'data': loading.written_request(c, experiment.dataset),
      'method': c.method.name, 'ipc': c.syn.ipc,
      'segments': len(experiment.plan), 'seed': c.seed,
      'segment_images': [segment.width for segment in experiment.plan],
      'network': settings['network'],
      'recipe': experiment.at_rate(experiment.recipe, syn)._asdict(),
      'recipe_name': c.eval.recipe, 'real_lr': experiment.recipe.lr,
      'accuracy': accuracy,
      'config_hash': workdirs.fingerprint(settings, ('run',)),
      'storage': {'space': codec.space, 'factor': codec.factor,
                  'formation': codec.kind, 'zca': c.dataset.zca},
      'split': split_text(experiment),
      # Other versions may sum in another order: the set is theirs, too.
      **environment.versions()}


def split_text(experiment):
  """Which images accuracies are measured on, in words."""
  c, dataset = experiment.config, experiment.dataset
  count = f'{len(dataset.test.labels)} test images'
  held = c.dataset.holdout or dataset.cut
  if held:
    return (f'{count}, {held:g} of the train images of each class, drawn by '
            f'seed {c.seed}')
  row = data.DATASETS.get(dataset.name)
  crop = c.dataset.test_crop
  return (f'{count}, all of the {row.test if row else "test"} split'
          + ' of these classes' * bool(c.dataset.classes)
          + f', of which the middle {crop:g} of each side' * (crop < 1))


def _write_pictures(experiment, syn, done, folder):
  """The pictures of the whole run but that of its loss."""
  shown = np.asarray(synthetic.pixels(experiment.codec, syn.images))
  names = experiment.dataset.class_names
  height, width = figures.image_grid(shown, folder / 'images.png', names)
  # As many as are seen of the set, so that both pictures have one scale.
  train = experiment.dataset.train
  (rows,) = comparison.random_subsets(
      train.labels, experiment.classes, width, 1,
      streams.seed(experiment.config.seed, Stream.SHOWN_IMAGES))
  rows = rows.reshape(experiment.classes, -1)[:height]
  real = train.read(rows.reshape(-1)).reshape(*rows.shape, *train.shape)
  figures.image_grid(np.float32(real) / 255, folder / 'real.png',
                     names[:height])
  figures.window_plots([_scores_and_window(p) for p in done],
                       folder / 'windows.png', _score_name(
                           experiment, len(experiment.plan) - 1))


def _write_page(made, results, folder):
  """report.html, of the pictures that are there."""
  experiment, c = made.experiment, made.experiment.config
  kind, several = kind_of_set(results['method']), len(experiment.plan) > 1
  title = (f'{experiment.dataset.name}: '
           f'{plural(results["ipc"], "image")} a class, {results["method"]}')
  room = text.size(sum(results['bytes'][x] for x in ('images', 'labels')))
  parts = [page.paragraph(
      f'{c.syn.ipc * experiment.classes} images ({room} with labels), '
      f'{kind} from {len(experiment.dataset.train.labels)} in '
      f'{text.duration(results["seconds"])} on {results["devices"]} '
      f'{results["device"]}.')]
  parts += _accuracy_parts(made, results, kind)
  parts += _growth_parts(made, results['segments'])
  parts += [page.heading('Images'), page.pictures([
      (f'{kind}, one row a class', folder / 'images.png'),
      ('real ones, by chance', folder / 'real.png')])]
  lines = made.log.series('match/loss')
  if lines:
    start, moved = 0, {}
    for segment, (steps, losses) in lines.items():
      moved[segment] = [step + start for step in steps], losses
      start += max(steps)
    figures.loss_plot(moved, folder / 'loss.png')
    parts += [page.heading('Matching loss'), page.paragraph(
        'It begins high again with each new network, so that it does not fall '
        'all the way.', note=True), page.pictures([
            ('mean since the point before', folder / 'loss.png')])]
  if several:
    parts += [
        page.heading('Segments'), page.table(*segment_cells(
            results['segments'])), page.paragraph(
                f'{SEGMENTS_NOTE}; in n: of the smaller of two windows, what '
                'is in both', note=True)]
  if several or setup.has_windows(experiment):
    parts.append(page.pictures([
        ('difficulty of the real images, and each segment’s window',
         folder / 'windows.png')]))
  if several:
    parts.append(page.folded('Images of each segment', page.pictures([
        (f'segment {segment.index + 1}',
         folder / f'images_{segment.index + 1}.png')
        for segment in experiment.plan])))
  parts += [page.slot(DIAGNOSED), *_command_parts(made)]
  shown = {name: value for name, value in results.items()
           if name not in ('segments', 'accuracy', 'bytes', 'seconds', 'set')}
  parts += [page.heading('More'), page.folded('Numbers of the run', page.facts(
      _flat(shown))), page.folded('All entries of the configuration',
                                  page.facts(config.entries(c)))]
  page.write(folder / PAGE, title, parts)


def _accuracy_parts(made, results, kind):
  """What fresh networks reach, beside random images."""
  c, accuracy = made.experiment.config, results['accuracy']
  if not accuracy:
    return [page.paragraph('It was not evaluated.')]
  names = dict(zip(setup.WHOLE, (kind, 'random real', 'all real'),
                   strict=True))
  rows = [(names[key], one['mean'], one['std'])
          for key, one in accuracy.items()]
  return [
      page.heading('Accuracy'), page.bars(rows), page.paragraph(
          f'Test accuracy of {plural(c.eval.networks, "fresh network")} '
          f'({c.network.name}, {plural(c.eval.epochs, "epoch")}, recipe '
          f'{c.eval.recipe}) trained on each; ± standard deviation over '
          f'networks. Measured on {split_text(made.experiment)}. Random real '
          'images are others for each network. Chosen ones, such as those of '
          ':method=herding or :method=frontier, are a stronger rival.'
          + ('' if 'full' in accuracy else ' All real images are measured by '
             'dasm_jax.evaluate --full, or by a run with eval.full.'),
          note=True)]


def _growth_parts(made, rows):
  """What fresh networks reach after each segment."""
  *first, whole = [row['accuracy'] for row in rows]
  if not any(first):
    return []
  images = itertools.accumulate(row['images'] for row in rows)
  bars = [(f'{plural(count, "image")} a class', one['mean'],
           one['std'] if len(one['networks']) > 1 else None)
          for count, one in zip(images, (*first, whole), strict=True)]
  c = made.experiment.config.eval
  return [
      page.heading('Accuracy after each segment'), page.bars(bars, len(first)),
      page.paragraph(
          f'Of {plural(c.prefixes, "fresh network")} trained on the first '
          'segments alone, for as many epochs; the last is the whole set.',
          note=True)]


def _command_parts(made):
  name = shlex.quote(str(made.home.name))
  lines = [made.log.command] if made.log.command else []
  lines += [f'python -m dasm_jax.evaluate --set={name} --full',
            f'python -m dasm_jax.diagnose --set={name}',
            f'python -m dasm_jax.convert --set={name} --to=folder --out=images']
  return [page.heading('Commands'), page.fixed('\n'.join(lines))]


def _flat(tree, prefix=''):
  """`[(dotted name, text)]` of a tree, for people."""
  if not isinstance(tree, dict):
    return [(prefix, f'{tree:.5g}' if isinstance(tree, float) else str(tree))]
  return [entry for name, value in tree.items()
          for entry in _flat(value, f'{prefix}.{name}' if prefix else name)]


def kind_of_set(method):
  """What a set of the method called `method` is: distilled, or selected."""
  match = registry.MATCHES[registry.spec(method).settings['match']]
  return 'distilled' if match.family.synthesises else 'selected'


def closing_table(results, workdir):
  """The closing table: the set against random, and where things are."""
  rows = []
  ours = kind_of_set(results['method'])
  took = (f'{text.duration(results["seconds"])} on {results["devices"]} '
          f'{results["device"]}\nsee {workdir}/{PAGE}, '
          'images.png, synthetic.npz, results.json there')
  if not results['accuracy']:
    return (f'{ours} {plural(results["ipc"], "image")} a class, not evaluated '
            f'(python -m dasm_jax.evaluate --set={workdir} does); {took}')
  for name, what in zip(setup.WHOLE, (ours, 'random real', 'all real'),
                        strict=True):
    if one := results['accuracy'].get(name):
      rows.append((what, '' if name == 'full' else results['ipc'],
                   f'{one["mean"]:.2%}', f'± {one["std"]:.2%}',
                   len(one['networks'])))
  mean, other = (results['accuracy'][n]['mean'] for n in (
      'synthetic', 'random'))
  table = text.table(rows, ('set', 'ipc', 'test accuracy', 'std', 'networks'))
  # Older results.json do not tell.
  after = [row.get('accuracy') for row in results['segments']]
  growth = (f'after each segment: '
            f'{", ".join(format(one["mean"], ".2%") for one in after)}\n'
            if len(after) > 1 and all(after) else '')
  return (f'{table}\n{growth}{ours} - random: {100 * (mean - other):+.2f} '
          f'points; {took}')
