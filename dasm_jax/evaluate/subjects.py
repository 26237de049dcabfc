"""What `dasm_jax.evaluate` evaluates: saved sets and real subsets."""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import config, coresets, data, foreign, models, streams, synthetic
from dasm_jax.config import validate
from dasm_jax.data.dataset import Dataset
from dasm_jax.errors import UserError, unknown
from dasm_jax.evaluate import comparison, flags, saved_set
from dasm_jax.evaluate.exported import folders, table
from dasm_jax.foreign import NOTHING, Told
from dasm_jax.methods import registry
from dasm_jax.pipeline import loading, streaming
from dasm_jax.runtime import devices
from dasm_jax.runtime.text import plural
from dasm_jax.streams import Stream
from dasm_jax.training import recipes, scoring
from dasm_jax.types import Synthetic

REAL = 'real:'


class Subject(NamedTuple):
  """What is evaluated.

  name: as its rows are called; `random` is another subset for each network.
  set: a `saved_set.SavedSet`. dataset: what it is of.
  digest: of its file; None of a real subset.
  """
  name: str
  set: saved_set.SavedSet
  dataset: Dataset
  digest: str | None

  @property
  def data(self):
    """Which real images its networks see, as rows tell it."""
    # Sets of others may see the same data in other spaces.
    return self.set.data | self.set.card.get('source', {}).get('real', {})


def open_set(path, told=NOTHING, data_dir=None):
  """The `SavedSet` of a file or folder, of ours or as others published it.

  Args:
    path: a synthetic.npz, the workdir of a finished run, an export of
      `dasm_jax.convert` (the folder or a file of it), or what `foreign.load`
      reads. A string, where `#2` behind it takes the second of
      several sets.
    told: what the user says of a set of others; of one of ours the name by
      which its data are found now.
    data_dir: where TFDS sets are; None: TFDS_DATA_DIR.

  Returns:
    A `SavedSet`. One of others tells in `card['source']` what was found in
    which files, and in its `notes` what was guessed, a line each.

  Raises:
    UserError: no usable set.
  """
  ours, folder = where(path)
  if ours is None and folder is None:
    return foreign.load(path, told, data_dir)
  for name, value in told._replace(dataset='')._asdict().items():
    if value != getattr(NOTHING, name):
      raise UserError(f'--{name}={value} is not for a set of dasm_jax, which '
                      'is used as its card says; leave it out')
  if ours is not None:
    return saved_set.load(ours, told.dataset)
  # What its card says, nothing of which is guessed.
  found = table.open_export(folder).set
  return found._replace(data=found.data | {
      'name': data.absolute(told.dataset)}) if told.dataset else found


def where(path):
  """`(path of a set of ours, folder of an export)`, one of them None.

  Both are, where a set is of others.
  """
  if saved_set.is_ours(path):
    return path, None
  folder = folders.find(path)
  # One to `card` is a set of ours, whichever of its files is named.
  if folder is not None and saved_set.is_ours(folder):
    return folder, None
  return None, folder


def saved_subject(path, data_dir=None, memory=None, dataset='', told=None):
  """The `Subject` of a file or workdir.

  Args:
    path: see `open_set`.
    data_dir: where TFDS sets are; None: as the run beside the file said.
    memory: of a device, see `loading.streams`.
    dataset: see `saved_set.load`.
    told: see `open_set`, in the place of `dataset`.

  Raises:
    UserError: no usable set, or its data set is not there or another one.
  """
  return subject_of(open_set(path, told or Told(dataset), data_dir), path,
                    data_dir, memory)


def subject_of(set_, path, data_dir=None, memory=None):
  """The `Subject` of what `open_set` returned; see `saved_subject`."""
  found = dataset_of(set_, path, data_dir, memory)
  method = set_.card['method']
  ours, folder = where(path)
  if ours is not None:
    digest = hashlib.sha256(saved_set.find(ours).read_bytes()).hexdigest()
  elif folder is not None:
    digest = folders.read_card(folder)[folders.EXPORT]['digest']
  else:
    digest = set_.card['source']['digest']
  # `random` is the name of the rows that a set is compared with.
  return Subject('selected' if method == 'random' else method, set_, found,
                 digest)


def dataset_of(set_, path, data_dir=None, memory=None):
  """The `Dataset` that a `SavedSet` is of; see `saved_subject`."""
  path = home_of(path)
  # A set may have come from another machine: no cache is made here on the word
  # of a run that had one.
  cache = _of_run(path, 'cache')
  dataset = loading.load_again(
      set_.data, zca=set_.card['storage'].get('zca') or 0.0,
      data_dir=data_dir or _of_run(path, 'data_dir'),
      cache=cache if cache and os.path.isdir(cache) else '', memory=memory)
  mine, its = set_.class_names, dataset.class_names
  # A set of others that was opened before its data were here has numbers.
  if mine not in (its, tuple(map(str, range(len(its))))):
    raise UserError(
        f'{str(path)!r} has labels of {len(mine)} classes ('
        f'{", ".join(mine[:3])}, …), but data set {dataset.name!r} has '
        f'{len(its)} ({", ".join(its[:3])}, …); find the data it is of')
  shape = dataset.train.shape
  if set_.shape != shape:
    raise UserError(f'{str(path)!r} has images {set_.shape}, but data set '
                    f'{dataset.name!r} has {shape}; find the data it is of')
  return dataset


def home_of(path):
  """The file that a set is in, beside which its results lie.

  Of a folder of others it is a name in it.
  """
  ours, folder = where(path)
  if ours is not None:
    return saved_set.find(ours)
  if folder is not None:
    return folder / folders.CARD
  path = foreign.home(path)
  return path / 'set' if path.is_dir() else path


def _of_run(path, entry):
  """An entry of the data set in the config.json beside `path`, or None."""
  try:
    text = path.with_name('config.json').read_text()
    found = json.loads(text)['dataset'][entry]
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None
  return found if found and isinstance(found, str) else None


def real_subject(text, *, seed=0, recipe='idc', data_dir=None, size=0,
                 say=lambda _: None):
  """The `Subject` of a coreset, which is what a run of that method leaves.

  Args:
    text: real:DATASET:SELECTION:IPC, such as real:mnist:herding:10.
    seed: of the selection.
    recipe: a key of `recipes.RECIPES`.
    data_dir, size: see `data.load`.
    say: takes a line before networks are trained.

  Raises:
    UserError: a text of another form, or settings that do not fit the data.
  """
  # From the right: the name of a data set may have colons, as folder:PATH has.
  name, _, ipc = text.removeprefix(REAL).rpartition(':')
  name, _, selection = name.rpartition(':')
  if not (name and selection and ipc.isdecimal()):
    raise UserError(f'--set={text} is not real:DATASET:SELECTION:IPC, such as '
                    'real:mnist:random:10')
  if selection not in registry.selections():
    raise unknown('selection', selection, registry.selections())
  c = config.defaults(selection)
  c.eval = config.evaluation_of(recipe)
  c.seed, c.syn.ipc = seed, int(ipc)
  c.dataset.name, c.dataset.size = name, size
  c.dataset.data_dir = data_dir or ''
  validate.check(c)
  dataset = loading.load_configured(c)
  validate.check_class_sizes(c, dataset)
  codec = synthetic.codec(dataset.mean, dataset.std, space=c.syn.space,
                          shape=dataset.train.shape)
  set_ = saved_set.SavedSet(
      _select(c, dataset, codec, say), codec, c.network.to_dict(),
      config.evaluation_recipe(c, c.eval.epochs, dataset.mean, dataset.std),
      recipe, {'name': name, 'size': size, 'holdout': 0.0, 'seed': seed},
      dataset.class_names, {'method': selection})
  return Subject(selection, set_, dataset, None)


def asked_for(options, models_of=lambda set_: [], say=lambda _: None):
  """The `Subject` that the flags of a command name.

  Args:
    options: parsed arguments: those of `flags.add_set`.
    models_of: `SavedSet -> names` of networks that are to fit its images.
    say: takes a line: what was guessed, what takes time.

  Raises:
    UserError: no usable set, or flags that are not for this one.
  """
  if options.set.startswith(REAL):
    return _real_asked_for(options, say)
  if options.size:
    raise UserError(f'--size={options.size} is for real subsets (--set=real:…)'
                    ': a saved set has the size that it has; leave it out')
  set_ = open_set(options.set, flags.told_by(options), options.data_dir)
  for note in foreign.notes(set_):
    say(note)
  # A wrong network needs no data to be refused.
  networks_for(models_of(set_), set_)
  return subject_of(set_, options.set, options.data_dir)


def _real_asked_for(options, say):
  for name, value in flags.told_by(options)._asdict().items():
    if value != getattr(foreign.NOTHING, name) and name != 'recipe':
      raise UserError(f'--{name}={value} is for saved sets: a real subset '
                      'names its data itself; leave it out')
  if options.recipe and options.recipe not in recipes.RECIPES:
    raise unknown('--recipe of a real subset', options.recipe, recipes.RECIPES)
  return real_subject(
      options.set, seed=options.seed, recipe=options.recipe or 'idc',
      data_dir=options.data_dir, size=options.size, say=say)


def _select(c, dataset, codec, say):
  """The `Synthetic` of a coreset, as a run of its method begins with it."""
  labels, classes = dataset.train.labels, len(dataset.class_names)
  if coresets.CORESETS[c.syn.init].needs:
    say(f'choosing by {coresets.describe(c.syn.init, c.coreset.skip)}; '
        f'{plural(c.coreset.networks, "network")} to train for '
        f'{plural(c.coreset.epochs, "epoch")} on all real images')
  network = models.build(
      shape=dataset.train.shape, classes=classes, **c.network)
  probe = config.evaluation_recipe(
      c, c.segments.probe_epochs, dataset.mean, dataset.std)
  # Keys and seeds are those of the first segment of a run.
  need, *_ = coresets.CORESETS[c.syn.init]
  train = scoring.train_choosers(
      network, probe, c.coreset.epochs, need == 'history')
  values = scoring.selection_values(c.syn.init, network, c.segments.score)
  keys = jax.random.split(
      streams.key(c.seed, Stream.CHOOSERS, 0), c.coreset.networks)
  data, _ = streaming.place_dataset(dataset, codec, c.run.buffer_mb)
  learned = train(keys, data) if need else None
  chosen = coresets.choose(
      c.syn.init, values(learned, data), labels, c.syn.ipc, classes,
      streams.seed(c.seed, Stream.FIRST_IMAGES, 0), c.coreset.skip)
  images = jnp.asarray(dataset.train.read(chosen), jnp.float32) / 255
  one_hot = jnp.broadcast_to(
      jnp.eye(classes)[:, None], (*chosen.shape, classes))
  return Synthetic(images, one_hot, jnp.float32(probe.lr))


def networks_for(names, set_):
  """Networks by name for the images of a set.

  Args:
    names: keys of `models.MODELS`; the set's own network has the set's
      settings, the others their defaults.
    set_: a `saved_set.SavedSet`.

  Returns:
    `{name: (settings, Network)}`.

  Raises:
    UserError: an unknown name, or one that does not fit the images.
  """
  out = {}
  for name in names:
    settings = set_.network if name == set_.network['name'] else {
        'name': name, **models.settings_of(name)}
    out[name] = settings, models.build(
        shape=set_.shape, classes=len(set_.class_names), **settings)
  return out


def recipe_for(set_, epochs=0):
  """The set's recipe, at another length if `epochs` is positive."""
  # Made anew by name: the drops of the rate go with the number of epochs.
  old = set_.recipe
  if not epochs:
    return old
  return recipes.RECIPES[set_.recipe_name](
      epochs, lr=old.lr, batch=old.batch, strategy=old.strategy,
      cutmix=old.cutmix, weight_decay=old.weight_decay,
      statistics=old.statistics)._replace(mode=old.mode)


def comparison_of(subject, recipe, count, seed):
  """`network -> comparison.Comparison` of a subject with real images.

  Args:
    subject: a `Subject`.
    recipe: a `recipes.Recipe`.
    count: networks of each kind.
    seed: of weights, order and random subsets; with that of the run it
      measures what the run has measured.
  """
  dataset, set_ = subject.dataset, subject.set
  # Nothing is put on a device before there is something to measure.
  place = functools.cache(lambda: streaming.place_dataset(dataset, set_.codec))
  batch = functools.cache(lambda: devices.replicate(set_.batch))

  def compared(network):
    data, test = place()
    return comparison.Comparison(
        network=network, networks=count, seed=seed, batch=batch,
        recipe=recipe, real_recipe=recipe._replace(lr=set_.real_lr),
        ipc=set_.ipc, data=data, test=test)
  return compared


# ---- Rows


class Row(NamedTuple):
  """What networks of a row are trained on, and by which recipe.

  name: as the row is called.
  of: that of `comparison.Comparison.accuracies`.
  recipe: a `recipes.Recipe`.
  batch: `() -> Batch` in the place of the set's own, or None.
  """
  name: str
  of: str
  recipe: recipes.Recipe
  batch: Callable | None = None

  def compared(self, whole):
    """A `comparison.Comparison` of the set as this row asks."""
    return whole._replace(
        recipe=self.recipe, batch=self.batch or whole.batch,
        real_recipe=self.recipe._replace(lr=whole.real_recipe.lr))


def rows_of(subject, recipe, full=False):
  """The rows of a subject by kind, those of `dd_ranking.scores`.

  Args:
    subject: a `Subject`; recipe: a `recipes.Recipe`.
    full: whether all real images are asked for, and with them what the scores
      of DD-Ranking need: of a kind that is another row already, that row.

  Returns:
    `{kind: Row}`, in the order in which they are measured.
  """
  # A subject may be `random` itself: its rows are those of random images.
  kinds = {'set': Row(subject.name, subject.name, recipe),
           'random': Row('random', 'random', recipe)}
  if not full:
    return kinds
  set_, syn = subject.set, subject.set.syn
  kinds |= {'full': Row('full', 'full', recipe), 'hard': kinds['set']}
  if synthetic.label_kind(syn.labels, set_.logits) != 'hard':
    classes = len(set_.class_names)
    one_hot = jnp.broadcast_to(jnp.eye(classes)[:, None], syn.labels.shape)
    hard = set_._replace(syn=syn._replace(labels=one_hot), logits=None)
    kinds['hard'] = kinds['set']._replace(
        name=f'{subject.name}, hard labels',
        batch=functools.cache(lambda: devices.replicate(hard.batch)))
  # Labels told for each epoch are of its views: they fit no others.
  if (recipe.strategy or recipe.cutmix or recipe.mixup) and (
      set_.logits is None):
    bare = recipe._replace(strategy='', cutmix=0.0, mixup=0.0, statistics=())
    kinds |= {f'{kind}_plain': kinds[kind]._replace(
        name=f'{kinds[kind].name}, plain', recipe=bare)
        for kind in ('set', 'random')}
  return kinds
