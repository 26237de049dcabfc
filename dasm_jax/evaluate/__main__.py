r"""Trains fresh networks on a set, beside as many random real images.

  python -m dasm_jax.evaluate --set=runs/digits --models=convnet,resnet18

A set says itself what it is of and how it is trained. The same command again
computes only what its evaluation.json does not hold yet.
"""

import contextlib
import fcntl
import functools
import json

import jax

import dasm_jax
from dasm_jax import coresets, models, synthetic
from dasm_jax.errors import UserError
from dasm_jax.evaluate import comparison, saved_set, subjects
from dasm_jax.runtime import cli, paths, text
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.runtime.logging import Terminal
from dasm_jax.training import recipes, resumable

HEADER = ('model', 'set', 'ipc', 'test accuracy', 'std', 'networks')


def _parser():
  parser = cli.Parser('evaluate', __doc__)
  add = parser.add_argument
  add('--set', required=True, metavar='PATH', help='workdir of a finished run, '
      'its synthetic.npz, or real:DATASET:SELECTION:IPC, such as '
      f'real:mnist:herding:10 (selections: {", ".join(coresets.CORESETS)})')
  add('--models', default='', metavar='NAMES', help='networks, joined by '
      f'commas ({", ".join(sorted(models.MODELS))}); if not given, that of '
      'the set')
  add('--networks', type=int, default=5, metavar='N',
      help='how many are trained of each on each set (default 5)')
  add('--epochs', type=int, default=0, metavar='N',
      help='how long; 0, as the set says (default). Rates drop accordingly')
  add('--seed', type=int, default=0, metavar='N',
      help='of weights, order and random subsets (default 0)')
  add('--full', action='store_true',
      help='train on all real images too, by the same recipe')
  add('--out', default='', metavar='FILE.json', help='where rows are kept; '
      'evaluation.json beside the set if not given')
  add('--data_dir', default=None, metavar='PATH', help='where TFDS sets are; '
      'that of the run if not given, else TFDS_DATA_DIR')
  add('--recipe', default='', choices=sorted(recipes.RECIPES),
      help='of a real subset (idc if not given); a saved set has its own')
  add('--size', type=int, default=0, metavar='N', help='of a real subset: make '
      'images squares of this many pixels')
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
  for name, least in (
      ('networks', 1), ('epochs', 0), ('seed', 0), ('size', 0)):
    if getattr(options, name) < least:
      raise UserError(
          f'--{name}={getattr(options, name)} must be at least {least}')
  screen = Terminal()
  # In this order: a wrong --out is found out before data are read, and before
  # networks are trained that choose a coreset.
  path, subject = _rows_file(options), _subject(options, screen.say)
  set_ = subject.set
  networks = subjects.networks_for(_models(options, set_), set_)
  recipe = subjects.recipe_for(set_, options.epochs)
  size = synthetic.set_bytes(set_.syn, set_.logits)
  screen.say(f'{options.set}: {set_.card["method"]} on {subject.dataset.name}, '
             f'{text.plural(set_.ipc, "image")} a class, '
             f'{text.size(size["images"] + size["labels"])} with labels; '
             f'{text.plural(recipe.epochs, "epoch")} of recipe '
             f'{set_.recipe_name}, seed {options.seed}')
  # A subject may be `random` itself: each name once.
  names = [*dict.fromkeys([subject.name, 'random', *['full'] * options.full])]
  compared = subjects.comparison_of(
      subject, recipe, options.networks, options.seed)
  head, line = _lines([*networks], names)
  if path is None:
    screen.say('the rows are kept nowhere: --out=FILE.json keeps them')
  screen.say(head)
  rows, many = [], len(networks) * len(names)
  with comparison.keeper_beside(path, screen) as keeper:
    for model, (settings, network) in networks.items():
      for name in names:
        what = _identity(subject, name, model, settings, recipe, options)
        row = _find(_read(path), what, options.networks)
        if row is None:
          done = f'{text.plural(len(rows), "row")} of {many}'
          row = measure(
              compared(network), name, what, keeper, comparison.row_reporter(
                  screen, len(rows) + 1, many, recipe, done),
              functools.partial(_save, path, what))
        rows.append(row)
        screen.wipe()
        screen.say(line(row))
        resumable.stop_if_asked(
            keeper, f'{text.plural(len(rows), "row")} of {many}')
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
  elif options.set.startswith(subjects.REAL):
    return None
  else:
    path = saved_set.find(options.set).with_name('evaluation.json')
  _read(path)  # a broken one is found out before the work
  return path


def _subject(options, say):
  if options.set.startswith(subjects.REAL):
    return subjects.real_subject(
        options.set, seed=options.seed, recipe=options.recipe or 'idc',
        data_dir=options.data_dir, size=options.size, say=say)
  for name in ('recipe', 'size'):
    if getattr(options, name):
      raise UserError(f'--{name}={getattr(options, name)} is for real subsets '
                      '(--set=real:…): a saved set is trained as its card '
                      'says; leave it out')
  # A wrong network needs no data to be refused.
  set_ = saved_set.load(options.set)
  subjects.networks_for(_models(options, set_), set_)
  return subjects.saved_subject(options.set, options.data_dir)


def _identity(subject, name, model, settings, recipe, options):
  """What makes a row the same as another, as JSON gives it back."""
  # The digest is that of the set alone: rows of random images and of all images
  # are those of every set of the same data, recipe and seed.
  return json.loads(json.dumps({
      'model': model, 'set': name,
      'ipc': None if name == 'full' else subject.set.ipc,
      'seed': options.seed, 'settings': settings, 'recipe': recipe._asdict(),
      'data': subject.set.data,
      'digest': subject.digest if name == subject.name else None}))


def _find(rows, what, networks):
  """The first row of `what` with as many networks, or None."""
  # A row has more entries than these: its accuracies, and who measured them.
  for row in rows:
    if what.items() <= row.items() and len(row['networks']) == networks:
      return row
  return None


def _read(path):
  """The rows of an evaluation.json; none if there is no such file yet."""
  try:
    with paths.remote_access(path, '--out'):
      text = path.read_text() if path and path.exists() else '{"rows": []}'
    rows = json.loads(text)['rows']
    return [row for row in rows if len(row['networks'])]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f'{str(path)!r} is no evaluation.json: '
                    f'{type(error).__name__}; mend or move it, or give another '
                    '--out') from error


def _save(path, what, found):
  """The row of accuracies; it is kept beside those that are there by now."""
  row = {**what, **comparison.summary(found),
         'device': jax.local_devices()[0].device_kind,
         'version': dasm_jax.__version__}
  if path:
    # Read again under the lock: other commands may have added rows meanwhile,
    # perhaps this one.
    with _file_lock(path):
      rows = _read(path)
      if _find(rows, what, len(row['networks'])) is None:
        text = json.dumps({'rows': [*rows, row]}, indent=2)
        workdirs.write_text(path, text + '\n')
  return row


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


if __name__ == '__main__':
  cli.exit_process(main())
