"""Networks in training, kept so that a stop loses little of them."""

import contextlib
import hashlib
import itertools
import json
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import NamedTuple

from dasm_jax.runtime import checkpoint, processes
from dasm_jax.runtime.preemption import StopFlag
from dasm_jax.runtime.text import plural

SAVE_SHARE = 0.05  # of the time, at most, that keeping them takes


class Keeper(NamedTuple):
  """How networks in training are kept.

  folder: where. of: a text that tells what trains them: others are not taken
  up. seconds: between two times, at least. stopping: of the run. push: called
  after each. say: is told what goes on from where it was.
  """
  folder: pathlib.Path
  of: str
  seconds: float
  stopping: StopFlag
  push: Callable
  say: Callable = lambda text: None


def resumable_group(keeper, what, numbers, size, like):
  """The first of `numbers` that are trained together, a list.

  Those that are kept, however many devices trained them; else `size`.

  Args:
    keeper: a `Keeper`.
    what: begins their name.
    numbers: of all networks that are to be trained, in this order.
    size: how many there is room for.
    like: `int -> ensemble.TrainState`, the shapes of so many networks.
  """
  def kept():
    for path in keeper.folder.glob(f'{what}_*'):
      count = path.name.split('_')[-2]
      if count.isdecimal() and path == _group_path(
          keeper, what, numbers[:int(count)], like):
        return int(count)
    return size
  return list(numbers[:processes.on_leader(kept)])


@contextlib.contextmanager
def resumable(keeper, what, numbers, like, before=lambda: None):
  """Around the training of networks that a call of `together` gave.

  before: called before they are kept.

  Yields:
    `(start, keep)`: the `ensemble.TrainState` that was kept, or None, and
    `keep(stand, saved)`, to be called now and then with `() -> Stand`, and
    `() -> text` of what to say if asked to stop, which it does. Without a
    keeper nothing is kept.
  """
  if keeper is None:
    yield None, lambda *_: None
    return
  path = _group_path(keeper, what, numbers, like)
  with contextlib.ExitStack() as held:
    opened = []
    def checkpoints():
      if not opened:
        opened.append(held.enter_context(checkpoint.open_checkpoints(path,
                                                                     keeper.of)))
      return opened[0]
    there = processes.on_leader(lambda: _keep_only(keeper.folder, path))
    found = checkpoints().latest(like(len(numbers))) if there else None
    if found:
      keeper.say(
          f'going on with {plural(len(numbers), "network")} in training, '
                 f'at epoch {int(found[1].done)}')
    clock, count = _SaveClock(keeper.seconds), itertools.count(
        found[0] + 1 if found else 0)

    def keep(stand, saved):
      due, = keeper.stopping.hear(clock.due())
      if due or keeper.stopping.asked:
        with clock:
          before()
          checkpoints().save(next(count), stand())
          processes.on_leader(keeper.push)
      if keeper.stopping.asked:
        keeper.stopping.leave_if_asked(saved())
    yield found and found[1], keep
  processes.on_leader(lambda: shutil.rmtree(path, ignore_errors=True))


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
    spent = time.time() - self._at
    self._at, self._wait = time.time(), max(self._seconds, spent / SAVE_SHARE)


def _group_path(keeper, what, numbers, like):
  """Of a group; another one of another program or other networks."""
  told = [keeper.of, list(map(int, numbers)), checkpoint.leaf_specs(
      like(len(numbers)))]
  digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
  return keeper.folder / f'{what}_{len(numbers)}_{digest}'


def _keep_only(folder, path):
  """Whether `path` is there; what else is there, nobody will take up."""
  for other in folder.glob('*'):
    if other != path:
      shutil.rmtree(other, ignore_errors=True)
  return path.exists()
