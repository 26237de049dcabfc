"""Set against random against full: fresh networks, trained by one recipe."""

import contextlib
import functools
import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax.errors import UserError
from dasm_jax.pipeline.streaming import fetch_local
from dasm_jax.runtime import devices, paths, preemption, processes, timing
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.runtime.text import plural
from dasm_jax.runtime.workdir import write_text
from dasm_jax.training import ensemble, packing, resumable, scoring
from dasm_jax.types import Batch


def accuracies(network, recipe, together=None):
  """How well fresh networks do that are trained on a given set.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`.
    together: how many a device trains at once, see `devices.map_items`; None is
      as many as it has room for.

  Returns:
    `(keys, batch, test) -> [networks]` accuracies after the last epoch, as
    fractions: one network a key, all trained on the same `Batch`, tested on
    test, a `Source` or one of `real`. What else is given (`start`, `seen`), as
    to `ensemble.train_on_set`.
  """
  return _tested(network, ensemble.train_on_set(network, recipe, together))


def trained_accuracies(network):
  """As `accuracies`, of trained ones: `(variables, test) -> [networks]`."""
  right = scoring.correct_predictions(network)
  return lambda variables, test: right(variables, test).mean(0, np.float64)


def accuracies_of_subsets(network, recipe, together=None):
  """As `accuracies`, with a subset of real images for each network.

  Returns:
    `((keys, indices), data, test) -> [networks]`, `indices` `[networks, n]`
    into the `Source` data.
  """
  return _tested(network, ensemble.train_on_subsets(network, recipe, together))


def _tested(network, fit):
  tested = trained_accuracies(network)
  return lambda items, data, test, **how: tested(
      fit(items, data, **how), test)


def network_keys(seed, networks):
  """Keys of the networks that a set is measured by."""
  key = jax.random.fold_in(jax.random.key(seed), 2 ** 20)
  return jax.random.split(key, networks)


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


def as_batch(images, labels):
  """`Batch` from arrays of any kind."""
  return Batch(jnp.asarray(images), jnp.asarray(labels))


ACCURACIES = 'accuracies.json'  # of the networks trained so far


def measure_run(experiment, syn, batch, real, test, place, log, keeper):
  """Accuracies of the synthetic set and of random real images, `{name: […]}`.

  Both under the same recipe and with the same number of networks; a rate that
  was learned for the set is its own. What was measured, and networks that are
  half trained, are kept in the workdir, from which the same call goes on.

  Args:
    experiment: an `Experiment`; syn: its `Synthetic`; batch: as networks see
    it.
    real: one of `real`; test: a `Source` on every device.
    place: a `workdirs.Workdir`; log: of the run; keeper: a `resumable.Keeper`.

  Raises:
    preemption.Stopped: asked to stop.
  """
  c = experiment.config.eval
  at_once = _networks_together(experiment)
  kept = place.path / ACCURACIES
  def keep():
    write_text(kept, json.dumps(found))
    place.push()
  found = processes.on_leader(lambda: _read_kept(kept))
  log.say(f'evaluating: {plural(c.networks, "fresh network")} on the synthetic '
          'set, then as many on random real images')
  size = min(c.networks, devices.count() * at_once)
  speed = timing.Throughput(1)
  for name, run in _trainers(
      experiment, syn, batch, real, test, at_once, size).items():
    have = found.setdefault(name, [])
    while len(have) < c.networks:
      def save(values, have=have):
        have.extend(values)
        processes.on_leader(keep)
      _train_some(experiment, name, run, len(have), size, log, keeper, speed,
                  save)
      log.progress(1 + (name == 'random'), 2, len(have), c.networks,
                   what='evaluation', unit='network')
      resumable.stop_if_asked(keeper, f'{len(have)} of {c.networks} networks '
                              f'trained on the {name} set')
  return {name: np.array(values) for name, values in found.items()}


def _train_some(experiment, name, run, have, size, log, keeper, speed, save):
  """Trains some networks more than `have`, by one of `_runs`.

  speed: a `timing.Throughput` of epochs. save: is given their accuracies, a
  list.
  """
  networks, recipe = experiment.config.eval.networks, experiment.recipe
  like = functools.partial(ensemble.state_shapes, experiment.network, recipe)
  numbers = resumable.resumable_group(
      keeper, name, range(have, networks), size, like)
  with resumable.resumable(keeper, name, numbers, like) as (start, keep):
    epochs = recipe.epochs + recipe.extra
    # Groups of networks that are not begun, of this set and of the next.
    rest = -(-(networks - have - len(numbers)) // size) + (
        -(-networks // size) if name == 'synthetic' else 0)
    before = int(start.done) if start else 0
    def seen(done, stand, loss):
      nonlocal before
      speed.add(done - before)
      before = done
      if done < epochs:
        note = f'epoch {done}/{recipe.epochs}'  # some recipes add one
        log.progress(1 + (name == 'random'), 2, have, networks, loss().mean(),
                     None, speed.left(epochs - done + rest * epochs),
                     what='evaluation', unit='network', note=note)
        keep(stand, lambda: (
            f'{have} of {networks} networks trained on the {name} set, and '
            f'{len(numbers)} at {note}'))
    part = slice(have, have + len(numbers))
    save([float(x) for x in run(part, start=start, seen=seen)])


def _networks_together(experiment):
  """How many networks a device trains at once."""
  c = experiment.config.eval
  return packing.resolve_together(c.together, c.networks,
                                  lambda: packing.networks_together_here(
      experiment.network, experiment.recipe, experiment.shape))


def _trainers(experiment, syn, batch, real, test, together, size):
  """`{name: (slice of networks, …) -> accuracies}`, of `size` at most.

  What else is given goes to `fitting`.
  """
  c = experiment.config.eval
  keys = network_keys(experiment.config.seed, c.networks)
  subsets = random_subsets(
      experiment.dataset.train.labels, experiment.classes,
      experiment.config.syn.ipc, c.networks,
      [experiment.config.seed, 2])
  ours = accuracies(experiment.network, experiment.at_rate(experiment.recipe,
                                                           syn),
                    together)
  theirs = accuracies_of_subsets(experiment.network, experiment.recipe,
                                 together)
  batch = devices.replicate(batch)

  def synthetic(part, **how):
    return ours(keys[part], batch, test, **how)

  def random(part, **how):
    chosen = subsets[part]
    images = fetch_local(real, chosen, max(size, len(chosen)))
    return theirs((keys[part], jnp.asarray(chosen, jnp.int32)), images, test,
                  **how)
  return {'synthetic': synthetic, 'random': random}


def _read_kept(path):
  """What was kept; nothing where that cannot be read."""
  try:
    return dict(json.loads(path.read_text()))
  except (OSError, ValueError, TypeError):
    return {}

SAVE_SECONDS = 30.0  # between two times that networks in training are kept


@contextlib.contextmanager
def keeper_beside(path, screen):
  """Yields who keeps the networks in training: beside a file of this machine.

  Else None, and a signal ends the command at once.
  """
  if path is None or paths.is_remote(path):
    yield None
    return
  folder = path.with_suffix('.unfinished')
  with preemption.catch_signals() as stopping:
    yield resumable.Keeper(
        folder, '', SAVE_SECONDS, stopping, lambda: None, screen.say)
  with contextlib.suppress(OSError):
    folder.rmdir()


def measure_row(measure, what, like, networks, keeper, show, done, save):
  """What `save` makes of the accuracies of a row's networks.

  They are trained from where they stood.

  measure: `(seen, start) -> accuracies`; what: tells the row from others; like:
  see `resumable.resumable_group`; show: of `shower`; done: rows, in words.
  """
  with contextlib.ExitStack() as held:
    keeper = keeper and held.enter_context(_row_keeper(keeper, what))
    start, keep = held.enter_context(resumable.resumable(
        keeper, 'row', range(networks), like))
    def seen(epochs, stand, loss, within=0):
      if show(epochs, loss):
        keep(stand, lambda: f'{done}, and the next at epoch {epochs}')
    return save(measure(seen=seen, start=start))


@contextlib.contextmanager
def _row_keeper(keeper, what):
  """Yields the `Keeper` of one row, which another command may be at, too.

  If that is at the same row, it alone keeps its networks: this gets None.
  """
  text = json.dumps(what, sort_keys=True)
  folder = keeper.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(workdirs.lock(folder))
    except UserError:
      yield None
      return
    yield keeper._replace(folder=folder, of=text)
    shutil.rmtree(folder, ignore_errors=True)


def progress_reporter(screen, row, rows, recipe):
  """`(epochs done, loss) -> whether there are more`, which it shows."""
  epochs, speed, last = recipe.epochs + recipe.extra, timing.Throughput(1), 0

  def show(done, loss):
    nonlocal last
    speed.add(done - last)
    last = done
    if screen.terminal and done < epochs:
      screen.progress(
          row, rows, done, recipe.epochs, loss().mean(), None,
          speed.left(epochs - done), what='row', unit='epoch')
    return done < epochs
  return show
