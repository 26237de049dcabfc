"""Looks after the networks of a row of `assess`: shows and keeps them."""

import contextlib
import hashlib
import json
import shutil

from dasm_jax import pace, paths, stop, unfinished, workdir
from dasm_jax.errors import UserError

SAVE_SECONDS = 30.0  # between two times that networks in training are kept


@contextlib.contextmanager
def keeping(path, screen):
  """Yields who keeps the networks in training: beside a file of this machine.

  Else None, and a signal ends the command at once.
  """
  if path is None or paths.is_far(path):
    yield None
    return
  folder = path.with_suffix('.unfinished')
  with stop.watch() as stopping:
    yield unfinished.Keeper(
        folder, '', SAVE_SECONDS, stopping, lambda: None, screen.say)
  with contextlib.suppress(OSError):
    folder.rmdir()


def measured(measure, what, like, networks, keeper, show, done, save):
  """What `save` makes of the accuracies of a row's networks.

  They are trained from where they stood.

  measure: `(seen, start) -> accuracies`; what: tells the row from others; like:
  see `unfinished.together`; show: of `shower`; done: rows, in words.
  """
  with contextlib.ExitStack() as held:
    keeper = keeper and held.enter_context(_alone(keeper, what))
    start, keep = held.enter_context(unfinished.training(
        keeper, 'row', range(networks), like))
    def seen(epochs, stand, loss, within=0):
      if show(epochs, loss):
        keep(stand, lambda: f'{done}, and the next at epoch {epochs}')
    return save(measure(seen=seen, start=start))


@contextlib.contextmanager
def _alone(keeper, what):
  """Yields the `Keeper` of one row, which another command may be at, too.

  If that is at the same row, it alone keeps its networks: this gets None.
  """
  text = json.dumps(what, sort_keys=True)
  folder = keeper.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(workdir.lock(folder))
    except UserError:
      yield None
      return
    yield keeper._replace(folder=folder, of=text)
    shutil.rmtree(folder, ignore_errors=True)


def shower(screen, row, rows, recipe):
  """`(epochs done, loss) -> whether there are more`, which it shows."""
  epochs, speed, last = recipe.epochs + recipe.extra, pace.Pace(1), 0

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
