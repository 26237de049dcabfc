"""What the sets of a sweep are: their segments, how hard, how diverse.

The first is told by their runs; the others are those of dasm_jax.diagnose, of
the sets of one size and the first seed together.
"""

import contextlib
import json

from dasm_jax.diagnose import __main__ as diagnose
from dasm_jax.diagnose import tables
from dasm_jax.distill import page
from dasm_jax.distill import results as run_results
from dasm_jax.errors import UserError
from dasm_jax.runtime import records, text
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.sweep import measure as measures
from dasm_jax.sweep import work

FOLDER, TEXT, ABOUT = 'diagnose', 'tables.txt', 'about.json'


def measure(sweep, screen, options=None):
  """Measures the sets that are there, those of each size together.

  Args:
    sweep: a `work.Sweep`; screen: a `logging.Terminal`.
    options: of dasm_jax.diagnose; None are those that it has by itself.

  Raises:
    preemption.Stopped: asked to stop, after a save.
  """
  for folder, cells in _groups(sweep).items():
    runs = [sweep.run_folder(cell) for cell in cells]
    # Another process may be at it, and writes it then.
    with contextlib.suppress(workdirs.InUse), work.claimed(
        sweep, f'{FOLDER}-{folder.name}'):
      if not _is_measured(sweep, folder, cells):
        screen.say(f'diagnose  {", ".join(run.name for run in runs)}')
        try:
          found = diagnose.measure(
              runs, folder, options or diagnose.options(), screen,
              _change(cells))
        except UserError as error:  # the table of accuracies stands without
          screen.say(f'note      {folder.name} is not diagnosed: {error}')
        else:
          records.write_text(folder / TEXT, f'{found}\n')
          records.write_text(
              folder / ABOUT, f'{json.dumps(_about(sweep, cells))}\n')


def _change(cells):
  """Gives the sets of cells, in their order, the recipe of the sweep."""
  left = iter(cells)
  def change(set_):
    cell = next(left)
    return measures.as_measured(set_, cell.base, cell.config)
  return change


def _groups(sweep):
  """`{folder of the measures: [cell]}` of sets that are finished."""
  groups = {}
  for cell in sweep.cells:
    if cell.config is not None and cell.seed == sweep.cells[0].seed and (
        sweep.run_folder(cell) / 'results.json').exists():
      groups.setdefault(
          sweep.folder / FOLDER / f'ipc{cell.ipc}', []).append(cell)
  return groups


def _about(sweep, cells):
  """What measures of the sets of cells go by: `{name: [set, recipe]}`."""
  found = {}
  for cell in cells:
    result = json.loads((sweep.run_folder(cell) / 'results.json').read_text())
    recipe = json.loads(cell.base.to_json())['eval']
    # Runs of earlier versions do not tell their sets.
    found[cell.name] = [
        result.get('set'), workdirs.fingerprint(recipe, ())]
  return found


def _is_measured(sweep, folder, cells):
  """Whether a folder has the measures of these sets, and of this recipe."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    return (folder / TEXT).exists() and json.loads(
        (folder / ABOUT).read_text()) == _about(sweep, cells)
  return False


def parts(sweep):
  """What a page shows of the sets: parts of `distill.page`."""
  found, rows = [], _segments(sweep)
  if rows:
    found += [
        page.heading('Segments'), page.table(
            ('run', *run_results.SEGMENT_HEAD, 'shared'), rows),
        page.paragraph(
            f'{run_results.SEGMENTS_NOTE}; shared: with the earlier window '
            'that it has most of, of the smaller of the two', note=True)]
  groups = _groups(sweep)
  for folder in sorted(groups, key=lambda path: int(path.name[3:])):
    if _is_measured(sweep, folder, groups[folder]):
      size = text.plural(int(folder.name[3:]), 'image')
      found += tables.page_parts(
          f'How hard and how diverse sets of {size} a class are',
          (folder / TEXT).read_text(), folder)
  return found


def _segments(sweep):
  """A row of cells of each segment of the runs that have several."""
  rows = []
  for cell in sweep.cells:
    path = sweep.run_folder(cell) / 'results.json'
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      of_run = json.loads(path.read_text())['segments']
      for number, row in enumerate(of_run if len(of_run) > 1 else ()):
        before = max(row['overlap'][:number], default=None)
        rows.append((cell.name, *run_results.own_cells(number + 1, row),
                     '' if before is None else f'{before:.2f}'))
  return rows
