"""Networks in training, kept so that a stop loses little of them."""

import contextlib
import hashlib
import itertools
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dasm_jax.runtime import checkpoint, processes
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.runtime.preemption import StopFlag
from dasm_jax.runtime.text import plural

SAVE_SHARE = 0.05  # of the time, at most, that keeping them takes
WAIT = 2  # seconds between two looks whether another run has trained them


class Keeper(NamedTuple):
  """How networks in training are kept.

  folder: where. of: a text that tells what trains them: others are not taken
  up. seconds: between two times, at least. stopping: of the run. push: called
  after each. say: called with a line about networks that are gone on with.
  owner: of which run they are, in words; '' if of any.
  """
  folder: pathlib.Path
  of: str
  seconds: float
  stopping: StopFlag
  push: Callable
  say: Callable = lambda text: None
  owner: str = ''


class Group(NamedTuple):
  """Networks that are trained together.

  what: begins the name by which they are kept. numbers: theirs, of all that are
  to be trained. shapes: `int -> ensemble.TrainState`, those of so many.
  """
  what: str
  numbers: Sequence
  shapes: Callable


def next_group(keeper, what, numbers, size, shapes):
  """The `Group` of the first of `numbers` that are trained together.

  Those that are kept, on however many devices they began; else `size` of them.

  Args:
    keeper: a `Keeper`.
    what, shapes: of the group.
    numbers: of all networks that are to be trained, in this order.
    size: how many there is room for.
  """
  # A name says how many networks are kept; its digest, whether these are the
  # first of `numbers`, trained in the same way.
  def kept():
    for path in keeper.folder.glob(f'{what}_*'):
      count = path.name.split('_')[-2]
      if count.isdecimal() and path == _group_path(
          keeper, Group(what, numbers[:int(count)], shapes)):
        return int(count)
    return size
  return Group(what, list(numbers[:processes.on_leader(kept)]), shapes)


def train_networks(train, keeper, group, report, before=lambda: None):
  """Trains a group of networks: shown, kept, stopped, and gone on with.

  Args:
    train: `(start, seen) -> result`: `start` is the `ensemble.TrainState` that
      was kept, or None; `seen(done, state, loss, within=0)` is called now and
      then: epochs done, `() -> TrainState`, `() -> [k]` losses, and batches of
      the next epoch. Who wants the result saved before the networks that are
      kept go, saves it here.
    keeper: a `Keeper`; None keeps nothing.
    group: a `Group`.
    report: `(done, within, loss) -> () -> str`: shows how far they are, and
      gives what to say is saved if asked to stop; None once all is done.
    before: called before they are kept.

  Returns:
    What `train` returns.

  Raises:
    preemption.Stopped: asked to stop, after a save.
  """
  with trained_networks(train, keeper, group, report, before) as result:
    return result


@contextlib.contextmanager
def trained_networks(train, keeper, group, report, before=lambda: None):
  """Yields what `train` returns; its networks stay kept until the end.

  Arguments as for `train_networks`.
  """
  with resumable(keeper, group, before) as (start, keep):
    def seen(done, state, loss, within=0):
      saved = report(done, within, loss)
      if saved is not None:
        keep(state, saved)
    yield train(start, seen)


@contextlib.contextmanager
def resumable(keeper, group, before=lambda: None):
  """Around the training of a group of networks, see `train_networks`.

  Yields:
    `(start, keep)`: the state that was kept, or None, and `keep(state, saved)`,
    to be called now and then, which stops if asked to.
  """
  if keeper is None:
    yield None, lambda *_: None
    return
  path, count = _group_path(keeper, group), len(group.numbers)
  with contextlib.ExitStack() as held:
    # Opened when there is something to read or keep: most groups are trained
    # before it is time to keep them.
    opened = []
    def checkpoints():
      if not opened:
        opened.append(held.enter_context(checkpoint.open_checkpoints(
            path, keeper.of, _owner(keeper, group))))
      return opened[0]
    there = processes.on_leader(lambda: _keep_only(keeper.folder, path))
    found = checkpoints().latest(group.shapes(count)) if there else None
    if found:
      keeper.say(f'going on with {plural(count, "network")} in training, at '
                 f'epoch {int(found[1].done)}')
    clock, steps = _SaveClock(keeper.seconds), itertools.count(
        found[0] + 1 if found else 0)

    # Called by all processes at the same places: one of them may be asked to
    # stop, or its clock say that it is time, and then all save.
    def keep(state, saved):
      due, = keeper.stopping.hear(clock.due())
      if due or keeper.stopping.asked:
        # What the state counts on, such as experts' rows, is on the disk first.
        with clock:
          before()
          checkpoints().save(next(steps), state())
          processes.on_leader(keeper.push)
      if keeper.stopping.asked:
        keeper.stopping.leave_if_asked(saved())
    yield found and found[1], keep
  # Not reached after an exception: what was kept stays for the next start.
  processes.on_leader(lambda: shutil.rmtree(path, ignore_errors=True))


@contextlib.contextmanager
def folder_for_all_runs(folder, what, keeper, say):
  """Around the training of networks that runs share: one of them does it.

  Args:
    folder: where they are kept. what: the flag by which it may be another.
    keeper: a `Keeper`, whose flag ends the wait for another run.
    say: takes a line.

  Raises:
    UserError: the folder cannot be written.
    preemption.Stopped: asked to stop, while another run trains them.
  """
  with contextlib.ExitStack() as held:
    def take():
      try:
        held.enter_context(workdirs.lock(folder, what))
      except workdirs.InUse:
        return False
      return True
    said = False
    while not processes.on_leader(take):
      if not said:
        say(f'waiting for another run that trains the networks in {folder}')
      said = True
      stop_if_asked(keeper, 'all before them')
      time.sleep(WAIT)
    yield


def remove_empty(keeper):
  """Removes the folder of a `Keeper` whose networks are all trained.

  It stays where something is kept, such as by another command.
  """
  with contextlib.suppress(OSError):
    keeper.folder.rmdir()


def stop_if_asked(keeper, saved):
  """Leaves if asked to, where networks in training are not kept."""
  if keeper is not None:
    keeper.stopping.hear()
    keeper.stopping.leave_if_asked(saved)


class _SaveClock:
  """When it is time again; around what is done then."""

  def __init__(self, seconds):
    self._seconds = self._wait = seconds
    self._at = time.time()

  def due(self):
    return time.time() - self._at > self._wait

  def __enter__(self):
    self._at = time.time()

  def __exit__(self, *_):
    # Large states on slow disks are kept less often.
    spent = time.time() - self._at
    self._at, self._wait = time.time(), max(self._seconds, spent / SAVE_SHARE)


def _owner(keeper, group):
  """Whose checkpoints those of a group are, see `open_checkpoints`."""
  first, last = group.numbers[0], group.numbers[-1]
  return f'{keeper.owner} {group.what} networks {first} to {last}'.strip()


def _group_path(keeper, group):
  """Of a group; another one of another program or other networks."""
  count = len(group.numbers)
  told = [keeper.of, list(map(int, group.numbers)),
          checkpoint.leaf_specs(group.shapes(count))]
  digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
  return keeper.folder / f'{group.what}_{count}_{digest}'


def _keep_only(folder, path):
  """Whether `path` is there; what else is there, nobody will take up."""
  for other in folder.glob('*'):
    if other != path:
      shutil.rmtree(other, ignore_errors=True)
  return path.exists()
