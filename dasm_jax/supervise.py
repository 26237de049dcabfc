"""Looks after the networks of a row of `assess`: shows and keeps them."""

import contextlib
import json

from dasm_jax import pace, paths, stop, unfinished

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


def measured(measure, what, like, networks, keeper, show, done):
  """Accuracies of the networks of a row, trained from where they stood.

  measure: `(seen, start) -> accuracies`; what: tells the row from others; like:
  see `unfinished.together`; show: of `shower`; done: rows, in words.
  """
  keeper = keeper and keeper._replace(of=json.dumps(what, sort_keys=True))
  with unfinished.training(
      keeper, 'row', range(networks), like) as (start, keep):
    def seen(epochs, stand, loss, within=0):
      if show(epochs, loss):
        keep(stand, lambda: f'{done}, and the next at epoch {epochs}')
    return measure(seen=seen, start=start)


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
