r"""Trains fresh networks on a set, beside as many random real images.

  python -m dasm_jax.evaluate --set=runs/digits --models=convnet,resnet18

A set says itself what it is of and how it is trained. The same command again
computes only what its evaluation.json does not hold yet.
"""

import contextlib
import fcntl
import functools
import json
import logging

import jax

import dasm_jax
from dasm_jax import foreign, models, streams, synthetic
from dasm_jax.errors import UserError, unknown
from dasm_jax.evaluate import comparison, dd_ranking, subjects
from dasm_jax.evaluate.foreign_flags import add_flags, told_by
from dasm_jax.methods import registry
from dasm_jax.runtime import cli, paths, preemption, records, text
from dasm_jax.runtime.logging import Terminal
from dasm_jax.training import recipes, resumable

IDENTITY = ('model', 'set', 'ipc', 'seed', 'settings', 'recipe', 'data',
            'digest')
ROW = 'row'  # of evaluation.json: the kind of its seal
HEADER = ('model', 'set', 'ipc', 'test accuracy', 'std', 'networks')


def _parser():
  parser = cli.Parser('evaluate', __doc__)
  add = parser.add_argument
  add('--set', required=True, metavar='PATH', help='workdir of a finished run, '
      'its synthetic.npz, a file or folder that others published (path#2: the '
      'second set in it), or real:DATASET:SELECTION:IPC, such as '
      f'real:mnist:herding:10 (selections: {", ".join(registry.selections())})')
  add('--models', default='', metavar='NAMES', help='networks, joined by '
      f'commas ({", ".join(sorted(models.MODELS))}); if not given, that of '
      'the set')
  add('--networks', type=cli.int_at_least(1), default=5, metavar='N',
      help='how many are trained of each on each set (default 5)')
  add('--epochs', type=cli.int_at_least(0, recipes.MOST_EPOCHS), default=0,
      metavar='N', help='how long; 0, as the set says (default). Rates drop '
      'accordingly')
  add('--seed', type=cli.int_at_least(0, streams.LARGEST_SEED), default=0,
      metavar='N', help='of weights, order and random subsets (default 0)')
  add('--full', action='store_true', help='train on all real images too, by '
      'the same recipe, and say the scores of DD-Ranking (LRS, ARS): they take '
      'up to three more rows of as many images as the set has')
  add('--out', default='', metavar='FILE.json', help='where rows are kept; '
      'evaluation.json beside the set if not given')
  add('--data_dir', default=None, metavar='PATH', help='where TFDS sets are; '
      'that of the run if not given, else TFDS_DATA_DIR')
  add_flags(parser)
  add('--size', type=cli.int_at_least(0), default=0, metavar='N',
      help='of a real subset: make images squares of this many pixels')
  return parser


def main(argv=None, measure=comparison.measure_row):
  """The command; returns its exit status."""
  return cli.run_command(lambda: run(_parser().parse_args(argv), measure),
                         'the same command goes on')


def run(options, measure=comparison.measure_row):
  """Evaluates as the parsed `options` say; returns the rows.

  measure: what makes a row, with the arguments of `comparison.measure_row`.

  Raises:
    UserError: whatever the user can mend.
    preemption.Stopped: by Ctrl-C or SIGTERM, after a save.
  """
  screen = Terminal()
  # In this order: a wrong --out is found out before data are read, and before
  # networks are trained that choose a coreset.
  path = _rows_file(options)
  with _nothing_kept() if path is None else contextlib.nullcontext():
    return _measure_rows(options, measure, screen, path)


@contextlib.contextmanager
def _nothing_kept():
  """Says of a Ctrl-C within what is true where no row is kept."""
  try:
    yield
  except KeyboardInterrupt:
    raise preemption.Stopped('stopped: nothing was kept; --out=FILE.json keeps '
                             'rows', 130) from None


def _measure_rows(options, measure, screen, path):
  subject = _subject(options, screen.say)
  set_ = subject.set
  networks = subjects.networks_for(_models(options, set_), set_)
  recipe = subjects.recipe_for(set_, options.epochs)
  size = synthetic.set_bytes(set_.syn, set_.logits)
  screen.say(f'{options.set}: {set_.card["method"]} on {subject.dataset.name}, '
             f'{text.plural(set_.ipc, "image")} a class, '
             f'{text.size(size["images"] + size["labels"])} with labels; '
             f'{text.plural(recipe.epochs, "epoch")} of recipe '
             f'{set_.recipe_name}, seed {options.seed}')
  kinds = subjects.rows_of(subject, recipe, options.full)
  wanted = {row.name: row for row in kinds.values()}
  if options.full:
    screen.say(_cost_of_full(subject, len(wanted)))
  compared = subjects.comparison_of(
      subject, recipe, options.networks, options.seed)
  head, line = _lines([*networks], [*wanted])
  if path is None:
    screen.say('the rows are kept nowhere: --out=FILE.json keeps them')
  screen.say(head)
  rows, many = [], len(networks) * len(wanted)
  with comparison.keeper_beside(path, screen) as keeper:
    for model, (settings, network) in networks.items():
      found = {}
      for name, of in wanted.items():
        what = _identity(subject, of, model, settings, options)
        row = _find(_read(path)['rows'], what, options.networks)
        if row is None:
          _check_writable(path)
          done = f'{text.plural(len(rows), "row")} of {many}'
          row = measure(
              of.compared(compared(network)), of.of, what, keeper,
              comparison.row_reporter(
                  screen, len(rows) + 1, many, recipe, done),
              functools.partial(_save, path, what))
        rows.append(row)
        found[name] = row
        screen.wipe()
        screen.say(line(row))
        resumable.stop_if_asked(
            keeper, f'{text.plural(len(rows), "row")} of {many}')
      if options.full:
        screen.say(_rank(path, kinds, found, subject.set.logits is not None))
  if path:
    screen.say(f'see {path}')
  return rows


def _models(options, set_):
  return [*filter(None, options.models.split(','))] or [set_.network['name']]


def _rows_file(options):
  """The evaluation.json; None where a real subset was given none."""
  if options.out:
    path = paths.to_path(options.out)
    if not (paths.is_remote(path) or path.parent.is_dir()):
      raise UserError(f'--out={path}: there is no directory {path.parent}')
    if not paths.is_remote(path) and path.is_dir():
      raise UserError(f'--out={path} is a directory; give a file in it, such '
                      f'as {path / "evaluation.json"}')
  elif options.set.startswith(subjects.REAL):
    return None
  else:
    path = subjects.home_of(options.set).with_name('evaluation.json')
  # What cannot be read or written is found out before the work.
  _read(path, warn=True)
  if not (paths.is_remote(path) or path.exists()):
    _check_writable(path)
  return path


def _check_writable(path):
  """Raises `UserError` where no row can be written to a file of rows."""
  if path and not paths.is_remote(path):
    records.check_writable(
        path.parent, '--out=FILE.json keeps the rows elsewhere')


def _subject(options, say):
  if options.set.startswith(subjects.REAL):
    return _real_subject(options, say)
  if options.size:
    raise UserError(f'--size={options.size} is for real subsets (--set=real:…)'
                    ': a saved set has the size that it has; leave it out')
  set_ = subjects.open_set(options.set, told_by(options), options.data_dir)
  for note in foreign.notes(set_):
    say(note)
  # A wrong network needs no data to be refused.
  subjects.networks_for(_models(options, set_), set_)
  return subjects.subject_of(set_, options.set, options.data_dir)


def _real_subject(options, say):
  for name, value in told_by(options)._asdict().items():
    if value != getattr(foreign.NOTHING, name) and name != 'recipe':
      raise UserError(f'--{name}={value} is for saved sets: a real subset '
                      'names its data itself; leave it out')
  if options.recipe and options.recipe not in recipes.RECIPES:
    raise unknown('--recipe of a real subset', options.recipe, recipes.RECIPES)
  return subjects.real_subject(
      options.set, seed=options.seed, recipe=options.recipe or 'idc',
      data_dir=options.data_dir, size=options.size, say=say)


def _cost_of_full(subject, rows):
  """What all real images take beside the set, in words."""
  n, set_ = len(subject.dataset.train.labels), subject.set
  return (f'--full: all {n} real images for each network, '
          f'{n / (set_.ipc * len(set_.class_names)):.3g} times those of the '
          f'set; {rows} rows, of which DD-Ranking alone asks '
          f'{rows - len({subject.name, "random", "full"})}')


def _rank(path, kinds, rows, told):
  """Keeps DD-Ranking's scores of a network's rows; returns them in words."""
  accuracies = {
      kind: rows[row.name]['networks'] for kind, row in kinds.items()}
  found = {name: comparison.summary(x)
           for name, x in dd_ranking.scores(accuracies).items()}
  mine = rows[kinds['set'].name]
  what = {name: mine[name] for name in IDENTITY}
  if path:
    with _file_lock(path):
      kept = _read(path)
      # Of the same networks they are the same: none is there twice.
      others = [x for x in kept['scores'] if not (
          what.items() <= x.items() and len(x['lrs']['networks']) == len(
              mine['networks']))]
      _write(path, kept | {'scores': [*others, {
          **what, **found, 'version': dasm_jax.__version__}]})
  shown = ', '.join(f'{name.upper()} {found[name]["mean"]:.2%} ± '
                    f'{found[name]["std"]:.2%}'
                    for name in ('lrs', 'ars', 'hlr', 'ior') if name in found)
  why = '' if 'ars' in found else '; no ARS, as ' + (
      'its labels are told for augmented views' if told else
      'its recipe has no augmentation')
  return (f'{mine["model"]}: {shown}{why} (DD-Ranking; a set that is worth '
          f'what real images are has {dd_ranking.normalised(0):.2%})')


def _identity(subject, row, model, settings, options):
  """What makes a row the same as another, as JSON gives it back."""
  # The digest is that of the set alone: rows of random images and of all images
  # are those of every set of the same data, recipe and seed; sets of others
  # may see the same data in other spaces.
  real = subject.set.card.get('source', {}).get('real', {})
  return json.loads(json.dumps({
      'model': model, 'set': row.name,
      'ipc': None if row.of == 'full' else subject.set.ipc,
      'seed': options.seed, 'settings': settings,
      'recipe': row.recipe._asdict(), 'data': subject.set.data | real,
      'digest': subject.digest if row.of == subject.name else None}))


def _find(rows, what, networks):
  """The first row of `what` with as many networks, or None."""
  # A row has more entries than these: its accuracies, and who measured them.
  for row in rows:
    if what.items() <= row.items() and len(row['networks']) == networks:
      return row
  return None


def _read(path, warn=False):
  """What an evaluation.json holds; no rows if there is no such file yet.

  warn: whether to tell of rows that are damaged, which count as none.
  """
  try:
    with paths.remote_access(path, '--out'):
      text = path.read_text() if path and path.exists() else '{"rows": []}'
    # Looked into here, so that what is no row is found out before the work.
    kept = json.loads(text)
    rows = [row for row in kept['rows'] if len(row['networks'])]
    damaged = [fault for fault in map(_fault, rows) if fault]
    if damaged and warn:
      logging.getLogger('dasm_jax').warning(
          '%s has a row that is %s: it is measured again when asked for',
          path, '; another is '.join(damaged))
    return {'rows': [row for row in rows if not _fault(row)],
            'scores': [x for x in kept.get('scores', [])
                       if len(x['lrs']['networks'])]}
  except (OSError, ValueError, KeyError, TypeError, AttributeError,
          RecursionError) as error:
    why = getattr(error, 'strerror', None) or 'it is cut, damaged or another'
    raise UserError(f'{str(path)!r} is no evaluation.json: {why}; mend or move '
                    'it, or give another --out') from error


def _fault(row):
  """Why a row is not as it was written, or None."""
  try:
    # Those of earlier versions have no seal.
    values = records.opened(row, ROW, None)
  except records.Damaged as error:
    return str(error)
  numbers = [values['mean'], values['std'], *values['networks']]
  fits = all(isinstance(x, float | int) and 0 <= x <= 1 for x in numbers)
  return None if fits else 'with accuracies that cannot be'


def _save(path, what, found):
  """The row of accuracies; it is kept beside those that are there by now."""
  row = records.sealed(ROW, '', {
      **what, **comparison.summary(found),
      'device': jax.local_devices()[0].device_kind,
      'version': dasm_jax.__version__})
  if path:
    # Read again under the lock: other commands may have added rows meanwhile,
    # perhaps this one.
    with _file_lock(path):
      kept = _read(path)
      if _find(kept['rows'], what, len(row['networks'])) is None:
        _write(path, kept | {'rows': [*kept['rows'], row]})
  return row


def _write(path, kept):
  records.write_text(path, json.dumps(kept, indent=2) + '\n')


@contextlib.contextmanager
def _file_lock(path):
  """Keeps other commands of this machine from a file meanwhile."""
  with contextlib.ExitStack() as held:
    # A file beside it is locked: that of the rows is replaced when it is
    # written, and a lock on it would be on the file that was.
    if not paths.is_remote(path):
      with contextlib.suppress(OSError):  # who cannot write is told by writing
        fcntl.flock(held.enter_context(
            path.with_name(f'.{path.name}.lock').open('w')), fcntl.LOCK_EX)
    yield


def _lines(model_names, set_names):
  """`(head, row -> line)` of a table that does not wait for its last row."""
  widths = [max(map(len, (head, *names))) for head, names in zip(
      HEADER[:2], (model_names, set_names), strict=True)]
  widths += [5, len(HEADER[3]), 8, len(HEADER[5])]

  def lines(*cells):
    padded = [f'{cell:<{width}}' for cell, width in zip(
        cells, widths, strict=True)]
    return text.table([padded], HEADER).split('\n')

  def line(row):
    return lines(
        row['model'], row['set'], row['ipc'] or 'all', f'{row["mean"]:.2%}',
        f'± {row["std"]:.2%}', len(row['networks']))[2]
  return '\n'.join(lines(*[''] * 6)[:2]), line


def command():
  """The whole program, as `dasm-jax-evaluate` calls it."""
  cli.exit_process(main())


if __name__ == '__main__':
  command()
