"""Networks trained on all real images, which tell how hard these are.

They put real images in order for windows, choose coresets, and are what the
matching networks of several segments begin as. They are trained
once: runs that have one parent folder, one data set, network, recipe and seed
share them, as they share experts.
"""

import functools
import hashlib
import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np

from dasm_jax import coresets, streams
from dasm_jax.runtime import checkpoint, processes
from dasm_jax.runtime.text import plural
from dasm_jax.streams import Stream
from dasm_jax.training import experts, resumable, scoring


class Place(NamedTuple):
  """Where networks are.

  Attributes:
    folder: of their checkpoint.
    digest: of what they are made of.
    epochs: after how many what they got right was kept; 0 without a history.
  """

  folder: pathlib.Path
  digest: str
  epochs: int


def needs_history(c):
  """Whether a configuration asks what networks got right after each epoch."""
  need, *_ = coresets.CORESETS.get(c.syn.init, (None,))
  return need == 'history' or c.segments.order == scoring.FORGETTING


def open_networks(experiment, home, data, log, keeper):
  """The networks of a run: those that are there, or trained now.

  Args:
    experiment: an `Experiment`.
    home: the folder below which they are.
    data: the real images, one of `streaming`.
    log: of the run; keeper: its `resumable.Keeper`.

  Returns:
    `(Variables [k, …], correct [k, epochs, n] bool)`, on the host; see
    `scoring.train_choosers`.

  Raises:
    preemption.Stopped: asked to stop; those in training stay.
  """
  c, recipe = experiment.config, experiment.probe
  n, number = len(experiment.dataset.train.labels), c.coreset.networks
  serving = places(experiment, home)
  # One answer for all processes: another run may end its own just now.
  folder, digest, epochs = serving[processes.on_leader(lambda: next(
      (i for i, place in enumerate(serving) if _is_there(place)), 0))]
  like = scoring.learning_shapes(
      experiment.network, recipe, epochs, n, number)
  kept = like.trained.variables, like.correct
  with resumable.folder_for_all_runs(
      folder, '--workdir', keeper, log.say), (
          checkpoint.open_checkpoints(folder, digest)) as saved:
    found = saved.latest(kept)
    if found is not None:
      return jax.tree.map(np.asarray, found[1])
    log.say(f'judges    {plural(number, "network")} to train for '
            f'{plural(c.coreset.epochs, "epoch")} on all real images, in '
            f'{folder}')
    # Beside them, as other runs may go on with them.
    learned = _train(experiment, data, log, keeper._replace(
        folder=folder / 'unfinished', of=digest, owner=''), like)
    saved.save(0, learned)
    processes.on_leader(keeper.push)
    return learned


def are_there(experiment, home):
  """Whether the networks of a run are below the folder `home` already."""
  return any(map(_is_there, places(experiment, home)))


def places(experiment, home):
  """The `Place`s whose networks serve a run; where it has its own comes first.

  Looking at a network after each epoch does not change it. So networks with a
  history serve runs that ask for none, too.
  """
  c = experiment.config
  recipe = experiment.probe._asdict()
  # One rate and any number of epochs: what changes them changes nothing here.
  for name in ('epochs', 'extra', 'drops', 'decay', 'restart', 'cosine',
               'warmup'):
    del recipe[name]
  name = pathlib.Path(experiment.dataset.name).name
  recipe = json.loads(json.dumps(recipe, default=np.ndarray.tolist))
  identity = experts.identity(experiment, {
      'recipe': recipe, 'networks': c.coreset.networks,
      'epochs': c.coreset.epochs, 'seed': c.seed})
  found = []
  for history in [True] if needs_history(c) else [False, True]:
    digest = hashlib.sha256(json.dumps(
        {**identity, 'history': history}, sort_keys=True,
        ).encode()).hexdigest()[:16]
    found.append(Place(pathlib.Path(home) / f'{name}_judges_{digest[:8]}',
                       digest, c.coreset.epochs * history))
  return found


def _is_there(place):
  return (place.folder / '0').is_dir()


def _train(experiment, data, log, keeper, like):
  """`scoring.train_choosers`, shown, kept and stopped."""
  c, network, recipe = (
      experiment.config, experiment.network, experiment.probe)
  number, epochs, n = like.correct.shape
  train = scoring.train_choosers(
      network, recipe, c.coreset.epochs, history=epochs > 0)
  keys = jax.random.split(
      streams.key(c.seed, Stream.CHOOSERS, 0), number)

  def report(done, within, loss):
    if done >= c.coreset.epochs:
      return None
    log.progress((1, 1, done, c.coreset.epochs), loss().mean(),
                 what='judges', unit='epoch')
    return lambda: f'networks on real images at epoch {done}'

  group = resumable.Group('judges', range(number), functools.partial(
      scoring.learning_shapes, network, recipe, epochs, n))
  learned = resumable.train_networks(
      lambda start, seen: train(keys, data, seen, start), keeper, group, report)
  log.wipe()
  return learned
