r"""How hard a set is: python -m dasm_jax.diagnose --set=runs/digits

Trains fresh networks on the real data of a set's card, by the card's recipe,
and shows the mean per-sample gradient norm of the set's images and of real
ones at each age of the networks, from init to trained. Several sets of the
same data and network can be compared, by the first one's recipe:
--set=runs/a,runs/b. Writes diagnose.json and diagnose.png.

Source: the diagnostic of SDC (2408.12483), which compares the gradient norms
of distilled and of real images (GraDN, after 2107.07075).
"""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import dasm_jax
from dasm_jax import difficulty, models, streams
from dasm_jax.distill import figures
from dasm_jax.errors import UserError
from dasm_jax.evaluate import comparison, saved_set, subjects
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices, environment, paths, records, text
from dasm_jax.runtime.cli import (
  Parser,
  exit_process,
  int_at_least,
  run_command,
)
from dasm_jax.streams import Stream
from dasm_jax.training import packing, train_step
from dasm_jax.types import Batch

# ---- Gradient norms over the age of networks


def norms_by_age(network, recipe, together=None):
  """Mean per-sample gradient norms by networks that grow up on real data.

  Networks take SGD steps by the recipe (rate before its drops, batch drawn
  anew from all images, augmentation, CutMix); the norms are of images as they
  are, with batch norm's running averages.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`; its epochs are not read.
    together: how many a device has at once, see `packing.spread_networks`.

  Returns:
    `(keys, data, sets, ages, say) -> [sets, ages, networks]`, NumPy: one
    network a key, trained on data, a `Source` or one of `streaming`; sets are
    `Batch`es; ages are steps, ascending, 0 for fresh networks; `say(age)` is
    called after each.
  """
  fresh, step = train_step.random_batch_trainer(network, recipe)
  loss = train_step.loss_fn(network)

  # Of a network's key one half begins it, the other is of its steps.
  def start(key):
    return fresh(jax.random.split(key)[0])

  def grow(item, since, until, data):
    key, *carry = item
    def one(age, carry):
      return step(carry, _step_key(key, age), data)
    # A traced length: every age runs the same program.
    return jax.lax.fori_loop(since, until, one, tuple(carry))

  def mean_norm(variables, batch):
    return difficulty.gradient_norms(loss, variables, batch).mean()

  begin = devices.spread(start, together=together)
  grow, mean_norm = (packing.spread_networks(x, network, recipe, together)
                     for x in (grow, mean_norm))

  def call(keys, data, sets, ages, say=lambda age: None):
    values, carry = {}, begin(keys)
    # Asked after every piece of steps, of which only some end at an age.
    def measure(age):
      if age in ages and age not in values:
        values[age] = [mean_norm(carry[0], batch) for batch in sets]
        say(age)
    measure(0)
    # Where streamed as many steps at a time as have room for their images.
    size = streaming.pieces_with_room(
        data, max(1, *ages), devices.most_local(len(keys)) * recipe.batch)
    wanted = functools.partial(_batch_indices, recipe, keys, len(data.labels),
                               size)
    with streaming.prefetched(data, _age_pieces(ages, size), wanted) as coming:
      for (since, until), source in coming:
        carry = grow((keys, *carry), *devices.replicate((
            jnp.int32(since), jnp.int32(until))), source)
        measure(until)
    return np.asarray([values[age] for age in ages]).swapaxes(0, 1)
  return call


def _age_pieces(ages, size):
  """`(since, until)`: at most `size` steps, which go from age to age."""
  for before, age in itertools.pairwise((0, *ages)):
    for since in range(before, age, size):
      yield since, min(since + size, age)


def _step_key(key, step):
  """The key of one step of the network that has this one."""
  return jax.random.fold_in(jax.random.split(key)[1], step)


def _batch_indices(recipe, keys, n, size, piece):
  """`streaming.local_rows` of the images that networks look at in some steps.

  The last is repeated up to `size`, so that all run the same program.
  """
  # Drawn on the host, ahead of the devices, by the keys that `grow` uses there.
  since, until = piece
  steps = jnp.minimum(jnp.arange(since, since + size), until - 1)
  def of(key, step):
    return train_step.random_batch_indices(recipe, n, _step_key(key, step))
  return streaming.local_rows(jax.vmap(jax.vmap(of, (None, 0)), (0, None))(
      *devices.on_host((keys, steps))))


# ---- Sets that can be compared


def origin(found):
  """Which real data a set was distilled from, for `loading.load_again`."""
  # The seed says only which images are held out.
  drawn = found.data['holdout'] or found.data.get('cut')
  return found.data if drawn else {**found.data, 'seed': 0}


def agree(sets):
  """Raises `UserError` unless all sets have the first one's data and network.

  sets: `{name: saved_set.SavedSet}`.
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
  # `real` is the line of the real images.
  found = [short(path) for path in paths]
  return [name if found.count(name) == 1 and name != 'real' else str(path)
          for name, path in zip(found, paths, strict=True)]


# ---- The command


def measure(sets, dataset, ages, networks, real, seed):
  """Norms by age, `{name: [ages, networks]}`, NumPy; the last is `real`.

  Args:
    sets: `{name: saved_set.SavedSet}` that agree. dataset: the `Dataset` they
      are of.
    ages: ascending steps.
    networks, real: how many networks, and how many real images.
    seed: of networks and of the choice of real images.
  """
  one = next(iter(sets.values()))
  classes = len(one.class_names)
  network = models.build(shape=one.shape, classes=classes, **one.network)
  data = streaming.place_dataset(dataset, one.codec)[0]
  (chosen,) = comparison.random_subsets(
      dataset.train.labels, classes, max(1, real // classes), 1,
      streams.seed(seed, Stream.MEASURED_IMAGES))
  # The labels that are stored, also where a teacher has others for each epoch.
  batches = [Batch(*x.batch[:2]) for x in sets.values()]
  batches = devices.replicate([*batches, sources.take(
      streaming.fetch(data, chosen), chosen)])
  run = norms_by_age(network, one.recipe._replace(lr=one.real_lr))
  values = run(jax.random.split(streams.key(seed, Stream.DIAGNOSED), networks),
               data, batches, ages,
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
  records.write_text(out / 'diagnose.json', json.dumps({
      'what': 'mean per-sample gradient norm', 'ages': list(ages),
      'data': origin(one), 'network': one.network, 'lines': lines,
      'version': dasm_jax.__version__}, indent=2) + '\n')
  labels = dict(zip(values, _labels(list(values)), strict=True))
  figures.line_plot(ages, {labels[name]: (x.mean(1), x.std(1))
                           for name, x in values.items()},
                    out / 'diagnose.png', 'network age, steps on real images',
                    'mean gradient norm of an image')
  rows = [(labels[name], *(f'{x:.3g}' for x in line['mean']))
          for name, line in lines.items()]
  return text.table(rows, ('age', *map(str, ages)))


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


def _labels(names):
  """Names that a legend has room for, as long as they stay different."""
  short = [name if len(name) <= 32 else f'{name[:18]}…{name[-12:]}'
           for name in names]
  return short if len(set(short)) == len(names) else names


def _brief(value):
  text = str(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


def _ages(text):
  return sorted({int_at_least(0)(part) for part in text.split(',')})


def _parser():
  parser = Parser('diagnose', __doc__)
  add = parser.add_argument
  add('--set', required=True, metavar='PATH[,PATH…]',
      help='synthetic.npz files, or workdirs of finished runs')
  add('--ages', type=_ages, default='0,10,30,100,300,1000',
      help='steps on real images at which to measure (%(default)s)')
  add('--networks', type=int_at_least(1), default=3,
      help='fresh networks to take the mean over (%(default)s)')
  add('--real', type=int_at_least(1), default=1000,
      help='real images to measure, as many of each class (%(default)s)')
  add('--seed', type=int_at_least(0, streams.LARGEST_SEED), default=0,
      help='of networks and real images')
  add('--dataset', default='', metavar='NAME', help='where the data of the '
      'sets are now, such as folder:PATH, if not where their cards say')
  add('--data_dir', default=None, metavar='PATH', help='where TFDS sets are; '
      'that of the first run if not given, else TFDS_DATA_DIR')
  add('--out', default='', help='where to write (the first set\'s directory)')
  return parser


def run(a):
  """Measures and draws what the parsed arguments ask for."""
  found = [paths.to_path(path) for path in a.set.split(',')]
  sets = {name: saved_set.load(path, a.dataset) for name, path in zip(
      names_of(found), found, strict=True)}
  # All that may be refused is refused before data are read.
  agree(sets)
  first = saved_set.find(found[0])
  out = _writable(a.out or first.parent)
  dataset = subjects.dataset_of(next(iter(sets.values())), first, a.data_dir)
  values = measure(sets, dataset, a.ages, a.networks, a.real, a.seed)
  print(write(sets, found, a.ages, values, out))
  print(f'see {out / "diagnose.png"}, diagnose.json there')


def main(argv=None):
  """The command; returns its exit status."""
  return run_command(lambda: run(_parser().parse_args(argv)),
                     'nothing was written')


if __name__ == '__main__':
  exit_process(main())
