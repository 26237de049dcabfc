"""What `assess` evaluates: saved sets, real subsets, and how they train."""

import functools
import hashlib
import json
import os
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import (
  beginning,
  card,
  checks,
  config,
  coreset,
  epochs,
  evaluate,
  intake,
  models,
  parallel,
  recipes,
)
from dasm_jax import job as jobs
from dasm_jax import real as reals
from dasm_jax.data import Dataset
from dasm_jax.errors import UserError, unknown

REAL = 'real:'


class Subject(NamedTuple):
  """What is evaluated.

  name: as its rows are called; `random` is another subset for each network.
  set: a `card.Set`. dataset: what it is of.
  digest: of its file; None of a real subset.
  """
  name: str
  set: card.Set
  dataset: Dataset
  digest: str | None


def saved(path, data_dir=None):
  """The `Subject` of a file or workdir.

  Args:
    path: see `card.load`.
    data_dir: where TFDS sets are; None: as the run beside the file said.

  Raises:
    UserError: no usable set, or its data set is not there or another one.
  """
  path = card.find(path)
  set_ = card.load(path)
  dataset = dataset_of(set_, path, data_dir)
  method = set_.card['method']
  return Subject('selected' if method == 'random' else method, set_, dataset,
                 hashlib.sha256(path.read_bytes()).hexdigest())


def dataset_of(set_, path, data_dir=None):
  """The `Dataset` that a `card.Set` of a file is of; see `saved`."""
  cache = _of_run(path, 'cache')
  dataset = intake.load(**set_.data, zca=set_.card['storage'].get('zca') or 0.0,
                        data_dir=data_dir or _of_run(path, 'data_dir'),
                        cache=cache if cache and os.path.isdir(cache) else '')
  mine, its = set_.class_names, dataset.class_names
  if mine != its:
    raise UserError(
        f'{str(path)!r} has labels of {len(mine)} classes ('
        f'{", ".join(mine[:3])}, …), but data set {dataset.name!r} has '
        f'{len(its)} ({", ".join(its[:3])}, …); find the data it is of')
  shape = dataset.train.shape
  if set_.shape != shape:
    raise UserError(f'{str(path)!r} has images {set_.shape}, but data set '
                    f'{dataset.name!r} has {shape}; find the data it is of')
  return dataset


def _of_run(path, entry):
  """What the run that left `path` was told of its data set, or None."""
  try:
    text = path.with_name('config.json').read_text()
    return json.loads(text)['dataset'][entry] or None
  except (OSError, ValueError, KeyError, TypeError):
    return None


def real(text, *, seed=0, recipe='idc', data_dir=None, size=0,
         say=lambda _: None):
  """The `Subject` of a coreset, which is what a run of that method leaves.

  Args:
    text: real:DATASET:SELECTION:IPC, such as real:mnist:herding:10.
    seed: of the selection.
    recipe: a key of `recipes.RECIPES`.
    data_dir, size: see `data.load`.
    say: takes a line before networks are trained.

  Raises:
    UserError: a text that says nothing, or settings that do not fit the data.
  """
  name, _, ipc = text.removeprefix(REAL).rpartition(':')
  name, _, selection = name.rpartition(':')
  if not (name and selection and ipc.isdecimal()):
    raise UserError(f'--set={text} is not real:DATASET:SELECTION:IPC, such as '
                    'real:mnist:random:10')
  if selection not in coreset.CORESETS:
    raise unknown('selection', selection, coreset.CORESETS)
  c = config.defaults(selection)
  # The recipes bear the names of methods that are evaluated by them.
  c.eval = config.defaults(recipe).eval
  c.seed, c.syn.ipc = seed, int(ipc)
  c.dataset.name, c.dataset.size = name, size
  c.dataset.data_dir = data_dir or ''
  checks.check(c)
  job = jobs.build(c)
  begun = beginning.beginner(
      job, job.plan[0], [], [], jobs.place(job)[0], None, jax.random.key(seed),
      types.SimpleNamespace(say=say))()
  where = {'name': name, 'size': size, 'holdout': 0.0, 'seed': seed}
  set_ = card.Set(
      begun.state.syn, job.codec, c.network.to_dict(), job.recipe, recipe,
      where, job.dataset.class_names, {'method': selection})
  return Subject(selection, set_, job.dataset, None)


def networks(names, set_):
  """Networks by name for the images of a set.

  Args:
    names: keys of `models.MODELS`; the set's own network has the set's
      settings, the others their defaults.
    set_: a `card.Set`.

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


def recipe(set_, epochs=0):
  """The set's recipe, at another length if `epochs` is positive."""
  old = set_.recipe
  if not epochs:
    return old
  return recipes.RECIPES[set_.recipe_name](
      epochs, lr=old.lr, batch=old.batch, strategy=old.strategy,
      cutmix=old.cutmix, weight_decay=old.weight_decay,
      statistics=old.statistics)._replace(mode=old.mode)


def measures(subject, recipe_, count, seed):
  """How well networks do that are trained on a subject, or beside it.

  Args:
    subject: a `Subject`.
    recipe_: a `recipes.Recipe`.
    count: networks of each kind.
    seed: of weights, order and random subsets; with that of the run it
      measures what the run has measured.

  Returns:
    `(name, network, seen, start) -> accuracies [count]`: name `random` for as
    many random real images, `full` for all of them, else the subject; seen and
    start as in `fitting.on_set`.
  """
  dataset, set_ = subject.dataset, subject.set
  plain = recipe_._replace(lr=set_.real_lr)
  keys = evaluate.keys(seed, count)
  place = functools.cache(lambda: reals.place(dataset, set_.codec))

  def measure(name, network, seen=lambda *_: None, start=None):
    how = dict(seen=seen, start=start)
    train_, test = place()
    if name == 'random':
      subsets = evaluate.random_subsets(
          dataset.train.labels, len(dataset.class_names), set_.ipc, count,
          [seed, 2])
      return evaluate.accuracies_of_subsets(network, plain)(
          (keys, jnp.asarray(subsets, jnp.int32)),
          reals.fetch_own(train_, subsets), test, **how)
    if name == 'full':
      return evaluate.of_networks(network)(
          epochs.fit(network, plain)(keys, train_, **how), test)
    batch = parallel.replicate(set_.batch)
    return evaluate.accuracies(network, recipe_)(
        keys, batch, test, **how)
  return measure
