r"""Trains fresh networks on a set, beside as many random real images.

  python -m dasm_jax.evaluate --set=runs/digits --models=convnet,resnet18

A set says itself what it is of and how it is trained. The same command again
computes only what its evaluation.json does not hold yet.
"""

import functools
import json

import dasm_jax
from dasm_jax import models, synthetic
from dasm_jax.evaluate import comparison, dd_ranking, flags, row_file, subjects
from dasm_jax.runtime import cli, text
from dasm_jax.runtime.logging import Terminal
from dasm_jax.training import resumable

IDENTITY = ('model', 'set', 'ipc', 'seed', 'settings', 'recipe', 'data',
            'digest')
ROWS = 'evaluation.json'
HEADER = ('model', 'set', 'ipc', 'test accuracy', 'std', 'networks')


def _parser():
  parser = cli.Parser('evaluate', __doc__)
  add = parser.add_argument
  add('--models', default='', metavar='NAMES', help='networks, joined by '
      f'commas ({", ".join(sorted(models.MODELS))}); if not given, that of '
      'the set')
  add('--full', action='store_true', help='train on all real images too, by '
      'the same recipe, and say the scores of DD-Ranking (LRS, ARS): they take '
      'up to three more rows of as many images as the set has')
  flags.add_set(parser, ROWS)
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
  path = row_file.path_of(options.out, options.set, ROWS)
  with row_file.said_if_lost(path):
    return _measure_rows(options, measure, screen, path)


def _measure_rows(options, measure, screen, path):
  subject = subjects.asked_for(
      options, lambda found: _models(options, found), screen.say)
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
        row = row_file.find(path, what, options.networks)
        if row is None:
          row_file.check_writable(path)
          done = f'{text.plural(len(rows), "row")} of {many}'
          row = measure(
              of.compared(compared(network)), of.of, what, keeper,
              comparison.row_reporter(
                  screen, len(rows) + 1, many, recipe, done),
              functools.partial(row_file.save, path, what))
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
  # Of the same networks they are the same: none is there twice.
  def keep(kept):
    others = [x for x in kept['scores'] if not (
        what.items() <= x.items() and len(x['lrs']['networks']) == len(
            mine['networks']))]
    return kept | {'scores': [*others, {
        **what, **found, 'version': dasm_jax.__version__}]}
  row_file.change(path, keep)
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
  # are those of every set of the same data, recipe and seed.
  return json.loads(json.dumps({
      'model': model, 'set': row.name,
      'ipc': None if row.of == 'full' else subject.set.ipc,
      'seed': options.seed, 'settings': settings,
      'recipe': row.recipe._asdict(), 'data': subject.data,
      'digest': subject.digest if row.of == subject.name else None}))


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
