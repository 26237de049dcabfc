"""The work of a sweep: what is missing, one cell after the other.

All in this process: JAX holds a device for one process alone, and programs that
arms share are compiled once. A cell is claimed by a lock that the kernel lets
go of with the process, so that others, of this machine or of one that shares
the folder, take other cells meanwhile.
"""

import contextlib
import pathlib
import time
import traceback
from typing import NamedTuple

import jax

from dasm_jax.distill import run
from dasm_jax.errors import Unavailable, UserError
from dasm_jax.evaluate import comparison
from dasm_jax.runtime import preemption, records, text
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.sweep import measure, plan
from dasm_jax.training import resumable

SAVE_SECONDS = 30.0  # between two times that networks in training are kept


class Sweep(NamedTuple):
  """A sweep in its folder.

  folder: a `pathlib.Path`. arms: as they were given. cells: of `plan.cells`.
  lengths: a list of `plan.Length`. prefixes: whether those of a run's segments
  are measured, too. command: the line of the shell that this is.
  """
  folder: pathlib.Path
  arms: list
  cells: list
  lengths: list
  prefixes: bool = False
  command: str = ''

  def measurements(self, cell):
    """All `plan.Measurement`s of a cell."""
    return plan.measurements(cell, self.lengths, self.prefixes)

  def result(self, one):
    """The file of a measurement."""
    return self.folder / 'results' / one.path

  def run_folder(self, cell):
    """The workdir of a cell's run."""
    return self.folder / 'runs' / cell.name

  def read(self, cell):
    """`[(measurement, what is there)]` of a cell; None for what is missing."""
    return [(one, measure.read(self.result(one), one))
            for one in self.measurements(cell)]

  def check(self):
    """Raises `UserError` where something is of another configuration."""
    for cell in self.cells:
      self.read(cell)
      if cell.config is not None:
        run.check_workdir(cell.config, self.run_folder(cell))


def open_folder(sweep):
  """Makes the folder of a sweep.

  Raises:
    UserError: it cannot be written.
  """
  try:
    sweep.folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
        f'cannot write to --workdir {str(sweep.folder)!r} as a directory: '
        f'{error.strerror}; choose one that you may write to') from error
  records.check_writable(sweep.folder, 'choose another --workdir')


class Outcome(NamedTuple):
  """What became of the cells that are not whole.

  failed: `{name: why}`. elsewhere: names of cells that others are at.
  """
  failed: dict
  elsewhere: list


def do_cell(sweep, cell, places, screen, stopping):
  """Runs and measures a cell as far as it is not done.

  Args:
    sweep, screen, stopping: of `do`.
    cell: a `plan.Cell`; places: a `measure.Places`.

  Raises:
    UserError: what a run or a measurement refuses.
    preemption.Stopped: asked to stop, after a save.
  """
  found = sweep.read(cell)
  missing = [one for one, values in found if values is None]
  if not missing:
    return
  number = [one.name for one in sweep.cells].index(cell.name) + 1
  screen.say(f'cell      {number}/{len(sweep.cells)}: {cell.name}, '
             f'{text.plural(len(missing), "measurement")}')
  if cell.config is not None:
    places.make_room()
    run.run(cell.config, sweep.run_folder(cell), stopping=stopping)
    # Its programs are of its shapes alone.
    jax.clear_caches()
  keeper = resumable.Keeper(
      sweep.folder / 'unfinished' / cell.name, '', SAVE_SECONDS, stopping,
      lambda: None, screen.say)
  done = {(one.ipc, values['epochs']): values for one, values in found
          if values is not None}
  for row, one in enumerate(missing, 1):
    prepared = measure.prepare(
        one, None if cell.config is None else sweep.run_folder(cell), places)
    # Several lengths may be the same number of epochs.
    key = one.ipc, prepared.facts['epochs']
    if key in done:
      screen.say(_line(one, measure.write(
          sweep.result(one), one, prepared.facts, done[key]['networks'],
          done[key]['seconds'])))
      continue
    began = time.time()
    values = comparison.measure_row(
        prepared.compared, prepared.name,
        {'measurement': one.path, 'settings': cell.settings}, keeper,
        comparison.row_reporter(
            screen, row, len(missing), prepared.compared.recipe,
            f'{row - 1} of {len(missing)} measurements of {cell.name}'),
        lambda accuracies, one=one, prepared=prepared, began=began: (
            measure.write(sweep.result(one), one, prepared.facts, accuracies,
                          time.time() - began)))
    done[key] = values
    screen.wipe()
    screen.say(_line(one, values))
    resumable.stop_if_asked(
        keeper, f'{row} of {len(missing)} measurements of {cell.name}')
  resumable.remove_empty(keeper)
  # That of all cells, too, where no other process is at one.
  with contextlib.suppress(OSError):
    keeper.folder.parent.rmdir()


def _line(one, values):
  what = ('all real images' if one.ipc is None
          else f'{text.plural(one.ipc, "image")} a class')
  return (f'measured  {one.cell.arm.name}, {what}, seed {one.cell.seed}, '
          f'{values["epochs"]} epochs ({values["steps"]} steps): '
          f'{values["mean"]:.2%} ± {values["std"]:.2%}')


def _log_failure(sweep, cell, error):
  """One line of an error that nobody foresaw; the rest is in a file."""
  path = sweep.folder / 'failures' / f'{cell.name}.txt'
  with contextlib.suppress(OSError, UserError):
    path.parent.mkdir(exist_ok=True)
    records.write_text(path, ''.join(traceback.format_exception(error)))
  line = ' '.join(str(error).split())[:200]
  return f'{type(error).__name__}: {line} (see {path})'


def do(sweep, screen, stopping, action=do_cell):
  """Does all that nobody else is at; returns an `Outcome`.

  Args:
    sweep: a `Sweep`; screen: a `logging.Terminal`.
    stopping: a `preemption.StopFlag`.
    action: what is done of a cell, with the arguments of `do_cell`.

  Raises:
    preemption.Stopped: asked to stop, after a save.
  """
  failed, places, left = {}, measure.Places(), list(sweep.cells)
  with contextlib.closing(places):
    while left:
      taken = []
      for cell in left:
        try:
          with claimed(sweep, cell.name):
            action(sweep, cell, places, screen, stopping)
        except workdirs.InUse:
          taken.append(cell)
        except UserError as error:
          failed[cell.name] = str(error)
        except preemption.Stopped:
          raise
        except Exception as error:  # whatever a run meets: others go on
          failed[cell.name] = _log_failure(sweep, cell, error)
        if cell.name in failed:
          screen.say(f'failed: {cell.name}: {failed[cell.name]}')
      # What others had may be free by now; who finds nothing so goes.
      if len(taken) == len(left):
        break
      left = taken
  return Outcome(failed, [cell.name for cell in left])


@contextlib.contextmanager
def claimed(sweep, name):
  """Keeps others from a cell; raises `workdir.InUse` if one is at it."""
  folder = sweep.folder / 'claims' / name
  # Made before it is locked: a lock takes away a folder that it has made.
  with records.writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
  with workdirs.lock(folder, 'cell', name):
    yield


# ---- The end


class Failed(UserError):
  """Cells of a sweep that failed, of which each was told."""
  code = 1


def write_results(sweep, outcome, write):
  """What `write(sweep, found, problems)` makes of all that is there by now.

  outcome: an `Outcome`. Returns that and `found`, of `Sweep.read` of all cells.
  """
  problems = [f'{name} failed: {why}' for name, why in outcome.failed.items()]
  problems += [f'{name} is under way elsewhere' for name in outcome.elsewhere]
  # One after the other, each of what is there then: the last has all.
  while True:
    try:
      with claimed(sweep, 'table'):
        found = [pair for cell in sweep.cells for pair in sweep.read(cell)]
        return write(sweep, found, problems), found
    except workdirs.InUse:
      time.sleep(.2)


def check_whole(outcome):
  """Raises what a sweep ends with that is not whole.

  Raises:
    Failed: some cells have.
    Unavailable: others are at some cells.
  """
  if outcome.failed:
    name, why = next(iter(outcome.failed.items()))
    raise Failed(f'{text.plural(len(outcome.failed), "cell")} failed, the '
                 f'first {name}: {why}; the same command tries again')
  if outcome.elsewhere:
    names = ', '.join(outcome.elsewhere[:3])
    raise Unavailable(
        f'{text.plural(len(outcome.elsewhere), "cell")} still under way '
        f'elsewhere ({names}{", …" * (len(outcome.elsewhere) > 3)}); the same '
        'command shows all once they are done')
