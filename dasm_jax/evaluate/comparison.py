"""Set against random against full: fresh networks, trained by one recipe.

A run's evaluation and `dasm_jax.evaluate` both measure by `Comparison`: with
the network and the seed of its run a set gets exactly the run's accuracies.
"""

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import streams
from dasm_jax.errors import UserError
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import paths, preemption, timing
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.streams import Stream
from dasm_jax.training import ensemble, recipes, resumable, scoring
from dasm_jax.types import Network

SAVE_SECONDS = 30.0  # between two times that networks in training are kept


class Comparison(NamedTuple):
  """What networks are trained on, each kind as many and alike.

  network: a `Network`; networks: how many of each; seed: of weights, order and
    random subsets.
  batch: `() -> Batch` or `SoftLabelled`, the set as networks see it, on every
    device; recipe: how it trains.
  real_recipe: the same for real images, of which random subsets have `ipc` a
    class.
  data: the real images, a `Source` or one of `streaming`; test: likewise.
  together: how many a device trains at once; None: as there is room for.
  """
  network: Network
  networks: int
  seed: int
  batch: Callable
  recipe: recipes.Recipe
  real_recipe: recipes.Recipe
  ipc: int
  data: Any
  test: Any
  together: int | None = None

  def accuracies(self, name, part=slice(None), room=0, **how):
    """Accuracies `[k]` of some networks after the last epoch, as fractions.

    Arguments as for `trained`.
    """
    return tested(self.network)(
        self.trained(name, part, room, **how), self.test)

  def trained(self, name, part=slice(None), room=0, **how):
    """`Variables` `[k, …]` of some networks after the last epoch.

    Args:
      name: `random` for subsets of real images, another for each network,
        `full` for all of them, else the set.
      part: which of the networks, a slice.
      room: networks that there is to be room for, if more than these.
      **how: start and seen, as for `ensemble.train_on_set`.
    """
    train = {'random': self._on_random, 'full': self._on_full}.get(
        name, self._on_set)
    return train(network_keys(self.seed, self.networks)[part], part, room,
                 **how)

  def subsets(self):
    """Of each network which random images, `[networks, classes*ipc]`."""
    return random_subsets(
        np.asarray(self.data.labels), sources.class_count(self.data), self.ipc,
        self.networks, streams.seed(self.seed, Stream.RANDOM_SUBSETS))

  def shapes(self, networks):
    """The shapes of the `ensemble.TrainState` of so many."""
    return ensemble.state_shapes(self.network, self.recipe, networks)

  def _on_set(self, keys, part, room, **how):
    del part, room
    train = _trainer('train_on_set', self.network, self.recipe, self.together)
    return train(keys, self.batch(), **how)

  def _on_random(self, keys, part, room, **how):
    # Drawn for all networks, then cut: whose subset is whose does not depend on
    # the groups in which they are trained.
    chosen = self.subsets()[part]
    images = streaming.fetch_local(self.data, chosen, max(room, len(chosen)))
    train = _trainer('train_on_subsets', self.network, self.real_recipe,
                     self.together)
    return train((keys, jnp.asarray(chosen, jnp.int32)), images, **how)

  def _on_full(self, keys, part, room, **how):
    del part, room
    train = _trainer('train_on_all', self.network, self.real_recipe, None)
    return train(keys, self.data, **how)


# Groups of networks that are measured one after the other share programs.
@functools.lru_cache(8)
def _trainer(name, network, recipe, together):
  """That function of `ensemble` for a network."""
  return getattr(ensemble, name)(network, recipe, together)


@functools.lru_cache(8)
def tested(network):
  """`(variables [k, …], test) -> [k]`: accuracies of trained networks."""
  right = scoring.correct_predictions(network)
  # Of zeros and ones: a mean in float32 would round the accuracy.
  return lambda variables, test: right(variables, test).mean(0, np.float64)


def network_keys(seed, networks):
  """Keys of the networks that a set is measured by."""
  return jax.random.split(streams.key(seed, Stream.EVALUATION), networks)


def random_subsets(labels, classes, ipc, networks, seed):
  """A class-balanced random subset for each network, `[networks, classes*ipc]`.

  A class with fewer than `ipc` images repeats them.
  """
  rng = np.random.default_rng(seed)
  members = [np.flatnonzero(labels == c) for c in range(classes)]
  return np.array([
      np.concatenate([np.resize(rng.permutation(m), ipc) for m in members])
      for _ in range(networks)])


def summary(values):
  """`{"mean", "std", "networks"}` of accuracies, population std."""
  values = np.asarray(values, np.float64)
  return {'mean': float(values.mean()), 'std': float(values.std()),
          'networks': [float(v) for v in values]}


# ---- Networks of `dasm_jax.evaluate`, kept while they train


@contextlib.contextmanager
def keeper_beside(path, terminal):
  """Yields the `Keeper` of networks in training, beside a file of this machine.

  Beside a remote one, or none, it is None, and a signal ends the command at
  once.
  """
  # Locks and checkpoints need a directory of this machine.
  if path is None or paths.is_remote(path):
    yield None
    return
  with preemption.catch_signals() as stopping:
    keeper = resumable.Keeper(
        path.with_suffix('.unfinished'), '', SAVE_SECONDS, stopping,
        lambda: None, terminal.say)
    yield keeper
  resumable.remove_empty(keeper)


def measure_row(compared, name, identity, keeper, report, save):
  """What `save` makes of the accuracies of a row's networks.

  Networks that were kept are trained on from where they were.

  Args:
    compared: a `Comparison`; name: of `Comparison.accuracies`.
    identity: what tells the row from others, a dict.
    keeper: of `keeper_beside`; report: see `resumable.train_networks`.
    save: `accuracies -> row`.
  """
  # Saved while the networks still are kept: a full disk then costs nothing.
  group = resumable.Group('row', range(compared.networks), compared.shapes)
  with kept_row(functools.partial(compared.accuracies, name), identity, keeper,
                group, report) as accuracies:
    return save(accuracies)


@contextlib.contextmanager
def kept_row(train, identity, keeper, group, report):
  """Yields what `train` returns; its networks stay kept until the end.

  What several rows are needed for is done within all of them: whatever it is
  that stops it, the same rows go on.

  Args:
    train: of keywords `start` and `seen`, see `resumable.train_networks`.
    identity, keeper: see `measure_row`.
    group: a `resumable.Group`; report: see `resumable.train_networks`.
  """
  with contextlib.ExitStack() as held:
    keeper = keeper and held.enter_context(_row_keeper(keeper, identity))
    yield held.enter_context(resumable.trained_networks(
        lambda start, seen: train(start=start, seen=seen), keeper, group,
        report))


@contextlib.contextmanager
def _row_keeper(keeper, identity):
  """Yields the `Keeper` of one row, which another command may be at, too.

  If that is at the same row, it alone keeps its networks: this gets None.
  """
  text = json.dumps(identity, sort_keys=True)
  folder = keeper.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(workdirs.lock(folder))
    except UserError:
      yield None
      return
    yield keeper._replace(folder=folder, of=text)
    shutil.rmtree(folder, ignore_errors=True)


def row_reporter(terminal, row, rows, recipe, done):
  """The `report` of a row's networks; done: what is saved besides, in words."""
  epochs = recipe.epochs + recipe.extra
  speed, last = timing.Throughput(1), [0]
  # What the first call waits for may take longer than a row.
  terminal.progress((row, rows, 0, recipe.epochs), what='row', unit='epoch',
                    note='compiling')

  def report(epoch, within, loss):
    speed.add(epoch - last[0])
    last[0] = epoch
    if epoch >= epochs:
      return None
    terminal.progress(
        (row, rows, epoch, recipe.epochs), loss().mean(), None,
        speed.left(epochs - epoch), what='row', unit='epoch')
    return lambda: f'{done}, and the next at epoch {epoch}'
  return report
