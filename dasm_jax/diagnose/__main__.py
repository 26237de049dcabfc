r"""How hard and how diverse a set is: python -m dasm_jax.diagnose --set=runs/x

Three measures by networks of the set's card; --measures takes some of them:

  ages       the mean per-sample gradient norm and loss of the set's images, of
             each of its segments and of real images, by networks that grow up
             on real data, at each age from init to trained
  diversity  the mean distance of an image to its nearest neighbour of the same
             class, in the embeddings (of length 1) of networks trained on all
             real images for --epochs; beside as many random real images
  thirds     the accuracy of networks trained on the set, and on random images,
             on the easy, middle and hard third of the test images, by the mean
             loss of the networks trained on all real images

Several sets of the same data and network can be compared: --set=runs/a,runs/b.
Real images are trained on by the first one's recipe, each set by its own.
Writes diagnose.json, diagnose.png and diagnose_loss.png, and a section of the
run's report.html. After a stop the same command goes on; `ages` begins anew.

Source: the diagnostic of SDC (2408.12483), which compares the gradient norms
of distilled and of real images (GraDN, after 2107.07075).
"""

import argparse
import contextlib
import pathlib

from dasm_jax import foreign, streams
from dasm_jax.diagnose import measures, tables
from dasm_jax.distill import page, results
from dasm_jax.errors import UserError
from dasm_jax.evaluate import comparison, subjects
from dasm_jax.evaluate.flags import add_flags, told_by
from dasm_jax.runtime import environment, paths, records
from dasm_jax.runtime.cli import (
  Parser,
  exit_process,
  int_at_least,
  run_command,
)
from dasm_jax.runtime.logging import Terminal
from dasm_jax.training import recipes, resumable

MEASURES = ('ages', 'diversity', 'thirds')

# ---- Sets that can be compared


def agree(sets):
  """Raises `UserError` unless all sets have the first one's data and network.

  sets: `{name: saved_set.SavedSet}`.
  """
  (first, one), *others = sets.items()
  for name, other in others:
    for what, get in (
        ('data', measures.origin), ('classes', lambda x: x.class_names),
        ('statistics', lambda x: (
            x.codec.mean, x.codec.std, x.card['storage'].get('zca'))),
        ('network', lambda x: x.network)):
      if get(one) != get(other):
        raise UserError(
            f'{first!r} and {name!r} differ in their {what}: {_brief(get(one))}'
            f' and {_brief(get(other))}; compare sets of one kind at a time')


def names_of(paths):
  """A short name for each path: its run's, or the path where two are alike."""
  def short(path):
    path = pathlib.Path(path)
    alone = path.suffix == '.npz' and path.name != 'synthetic.npz'
    return path.stem if alone else (
        path.parent if path.suffix == '.npz' else path).resolve().name
  if len(set(map(str, paths))) < len(paths):
    raise UserError(f'--set={",".join(map(str, paths))} names one twice')
  # `real` is the line of the real images.
  found = [short(path) for path in paths]
  full = [f'./{path}' if str(path) == 'real' else str(path) for path in paths]
  return [name if found.count(name) == 1 and name != 'real' else path
          for name, path in zip(found, full, strict=True)]


def _brief(value):
  text = str(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


# ---- The command


def _writable(out):
  """Makes a directory before anything is measured for it."""
  if paths.is_remote(out):
    raise UserError(f'--out={out}: pictures are written to directories of this '
                    'machine; set another --out=')
  out = pathlib.Path(environment.expand(out, '--out'))
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'cannot write to --out {str(out)!r} as a directory: '
                    f'{error.strerror}; choose another') from error
  records.check_writable(out, 'choose another --out')
  return out


def _ages(text):
  return sorted({int_at_least(0)(part) for part in text.split(',')})


def _measures(text):
  asked = text.split(',')
  for name in asked:
    if name not in MEASURES:
      raise argparse.ArgumentTypeError(
          f'{name!r} is none of {", ".join(MEASURES)}')
  return asked


def _parser():
  parser = Parser('diagnose', __doc__)
  add = parser.add_argument
  add('--set', required=True, metavar='PATH[,PATH…]',
      help='synthetic.npz files, workdirs of finished runs, or what others '
      'published')
  add('--measures', type=_measures, default=','.join(MEASURES),
      metavar='NAMES', help='what to measure (%(default)s)')
  add('--ages', type=_ages, default='0,10,30,100,300,1000',
      help='steps on real images at which to measure (%(default)s)')
  add('--networks', type=int_at_least(1), default=3,
      help='fresh networks to take the mean over (%(default)s)')
  add('--epochs', type=int_at_least(1, recipes.MOST_EPOCHS), default=20,
      help='on all real images, of the networks that judge test images and '
      'diversity (%(default)s)')
  add('--real', type=int_at_least(1), default=1000,
      help='real images to measure, as many of each class (%(default)s)')
  add('--seed', type=int_at_least(0, streams.LARGEST_SEED), default=0,
      help='of networks and real images')
  add('--data_dir', default=None, metavar='PATH', help='where TFDS sets are; '
      'that of the first run if not given, else TFDS_DATA_DIR')
  add('--out', default='', help='where to write (the first set\'s directory)')
  add_flags(parser)
  return parser


def run(a):
  """Measures and draws what the parsed arguments ask for."""
  measure(a.set.split(','), a.out, a, Terminal())


def measure(given, out, a, screen, change=lambda found: found):
  """Measures sets and draws them; returns the tables as text.

  Args:
    given: paths of sets. out: a directory; '' is that of the first set.
    a: parsed arguments, all but these; see `options`.
    screen: a `logging.Terminal`.
    change: what is made of each `saved_set.SavedSet`, such as another recipe.

  Raises:
    UserError: no set is there, they differ in kind, `out` cannot be written.
    preemption.Stopped: asked to stop, after a save.
  """
  found = [paths.to_path(path) for path in given]
  sets = {name: change(subjects.open_set(path, told_by(a), a.data_dir))
          for name, path in zip(names_of(found), found, strict=True)}
  for name, set_ in sets.items():
    for note in foreign.notes(set_):
      screen.say(f'{name}: {note}' if len(sets) > 1 else note)
  # All that may be refused is refused before data are read.
  agree(sets)
  first = subjects.home_of(found[0])
  out = _writable(out or first.parent)
  dataset = subjects.dataset_of(next(iter(sets.values())), found[0], a.data_dir)
  bench = measures.prepare(sets, dataset, a.networks, a.seed)
  done = {'epochs': a.epochs, 'ages': a.ages}
  with comparison.keeper_beside(
      out / 'diagnose.json', screen) as keeper, contextlib.ExitStack() as held:
    training = measures.Training(bench, held, keeper, screen)
    if {'diversity', 'thirds'} & {*a.measures}:
      judges = training.judges(a.epochs)
    if 'diversity' in a.measures:
      done['diversity'] = measures.diversities(bench, judges)
    if 'thirds' in a.measures:
      done['thirds'] = measures.accuracies(bench, judges, training.on_set)
    # Last, as it begins anew after a stop.
    if 'ages' in a.measures:
      def say(age):
        screen.say(f'age {age} measured')
        resumable.stop_if_asked(keeper, 'all but the ages')
      done['lines'] = measures.by_age(bench, a.ages, a.real, say)
    table = tables.write(bench, found, done, out)
    screen.say(table)
  pictures = tables.PICTURES if 'ages' in a.measures else ()
  # The page of the run that the (first) set is of.
  if page.fill(out / results.PAGE, results.DIAGNOSED, tables.page_parts(
      'How hard and how diverse it is', table, out, pictures)):
    pictures = results.PAGE, *pictures
  screen.say(f'see {out / "diagnose.json"}'
             + f', {", ".join(pictures)} there' * bool(pictures))
  return table


def options(words=()):
  """The arguments that `measure` takes, of such words of a command line."""
  return _parser().parse_args(['--set=.', *words])


def main(argv=None):
  """The command; returns its exit status."""
  return run_command(lambda: run(_parser().parse_args(argv)),
                     'the same command goes on')


def command():
  """The whole program, as `dasm-jax-diagnose` calls it."""
  exit_process(main())


if __name__ == '__main__':
  command()
