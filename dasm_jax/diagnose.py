r"""How hard a set is: python -m dasm_jax.diagnose --set=runs/digits

Trains fresh networks on the real data of a set's card, by the card's recipe,
and shows the mean per-sample gradient norm of the set's images and of real
ones at each age of the networks, from init to trained. Several sets of the
same data and network can be compared, by the first one's recipe:
--set=runs/a,runs/b. Writes diagnose.json and diagnose.png.
"""

import json
import pathlib

import jax

import dasm_jax
from dasm_jax import (
  ageing,
  card,
  evaluate,
  models,
  parallel,
  paths,
  pictures,
  subject,
  words,
  workdir,
)
from dasm_jax import real as reals
from dasm_jax import source as sources
from dasm_jax.commands import Parser, at_least, end, leave
from dasm_jax.errors import UserError
from dasm_jax.types import Batch


def origin(found):
  """Which real data a set was distilled from, as `data.load` takes it."""
  # The seed says only which images are held out.
  return found.data if found.data['holdout'] else {**found.data, 'seed': 0}


def agree(sets):
  """Raises `UserError` unless all sets have the first one's data and network.

  sets: `{name: Set}`.
  """
  (first, one), *others = sets.items()
  for name, other in others:
    for what, get in (
        ('data', origin), ('classes', lambda x: x.class_names),
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
  found = [short(path) for path in paths]
  return [name if found.count(name) == 1 and name != 'real' else str(path)
          for name, path in zip(found, paths, strict=True)]


def measure(sets, dataset, ages, networks, real, seed):
  """Norms by age, `{name: [ages, networks]}`, NumPy; the last is `real`.

  Args:
    sets: `{name: Set}` that agree. dataset: the `Dataset` they are of.
    ages: ascending steps.
    networks, real: how many networks, and how many real images.
    seed: of networks and of the choice of real images.
  """
  one = next(iter(sets.values()))
  classes = len(one.class_names)
  network = models.build(shape=one.shape, classes=classes, **one.network)
  data = reals.place(dataset, one.codec)[0]
  (chosen,) = evaluate.random_subsets(
      dataset.train.labels, classes, max(1, real // classes), 1, [seed, 3])
  batches = [Batch(*x.batch[:2]) for x in sets.values()]
  batches = parallel.replicate([*batches, sources.take(
      reals.fetch(data, chosen), chosen)])
  run = ageing.gradient_norms(network, one.recipe._replace(lr=one.real_lr))
  values = run(jax.random.split(jax.random.key(seed), networks), data,
               batches, ages,
               lambda age: print(f'age {age} measured', flush=True))
  return dict(zip([*sets, 'real'], values, strict=True))


def write(sets, paths, ages, values, out):
  """Writes diagnose.json and diagnose.png, and returns the table's text."""
  lines = {name: {'mean': rows.mean(1).tolist(), 'std': rows.std(1).tolist(),
                  'networks': rows.tolist()} for name, rows in values.items()}
  for (name, found), path in zip(sets.items(), paths, strict=True):
    lines[name] |= {'path': str(path), **{
        key: found.card.get(key) for key in ('method', 'ipc', 'segments')}}
  one = next(iter(sets.values()))
  workdir.write(out / 'diagnose.json', json.dumps({
      'what': 'mean per-sample gradient norm', 'ages': list(ages),
      'data': origin(one), 'network': one.network, 'lines': lines,
      'version': dasm_jax.__version__}, indent=2) + '\n')
  labels = dict(zip(values, _labels(list(values)), strict=True))
  pictures.curves(ages, {labels[name]: (x.mean(1), x.std(1))
                         for name, x in values.items()},
                  out / 'diagnose.png', 'network age, steps on real images',
                  'mean gradient norm of an image')
  rows = [(labels[name], *(f'{x:.3g}' for x in line['mean']))
          for name, line in lines.items()]
  return words.table(rows, ('age', *map(str, ages)))


def _writable(out):
  """Makes a directory before anything is measured for it."""
  if paths.is_far(out):
    raise UserError(f'--out={out}: pictures are written to directories of this '
                    'machine; set another --out=')
  out = pathlib.Path(out)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'cannot write to --out {str(out)!r} as a directory: '
                    f'{error.strerror}; choose another') from error
  return out


def _labels(names):
  """Names that a legend has room for, as long as they stay different."""
  short = [name if len(name) <= 32 else f'{name[:18]}…{name[-12:]}'
           for name in names]
  return short if len(set(short)) == len(names) else names


def _brief(value):
  text = str(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


def _ages(text):
  return sorted({at_least(0)(part) for part in text.split(',')})


def _parser():
  parser = Parser('diagnose', __doc__)
  add = parser.add_argument
  add('--set', required=True, metavar='PATH[,PATH…]',
      help='synthetic.npz files, or workdirs of finished runs')
  add('--ages', type=_ages, default='0,10,30,100,300,1000',
      help='steps on real images at which to measure (%(default)s)')
  add('--networks', type=at_least(1), default=3,
      help='fresh networks to take the mean over (%(default)s)')
  add('--real', type=at_least(1), default=1000,
      help='real images to measure, as many of each class (%(default)s)')
  add('--seed', type=at_least(0), default=0,
      help='of networks and real images')
  add('--data_dir', default=None, metavar='PATH', help='where TFDS sets are; '
      'that of the first run if not given, else TFDS_DATA_DIR')
  add('--out', default='', help='where to write (the first set\'s directory)')
  return parser


def run(a):
  """Measures and draws what the parsed arguments ask for."""
  found = [paths.path_of(path) for path in a.set.split(',')]
  sets = dict(zip(names_of(found), map(card.load, found), strict=True))
  agree(sets)
  first = card.find(found[0])
  out = _writable(a.out or first.parent)
  dataset = subject.dataset_of(next(iter(sets.values())), first, a.data_dir)
  values = measure(sets, dataset, a.ages, a.networks, a.real, a.seed)
  print(write(sets, found, a.ages, values, out))
  print(f'see {out / "diagnose.png"}, diagnose.json there')


def main(argv=None):
  """The command; returns its exit status."""
  return end(lambda: run(_parser().parse_args(argv)), 'nothing was written')


if __name__ == '__main__':
  leave(main())
