"""The table, the figure and the page of a sweep, from its measurements."""

import csv
import io
import math
from typing import NamedTuple

import numpy as np

from dasm_jax import config as configs
from dasm_jax.distill import figures, page
from dasm_jax.runtime import records, text
from dasm_jax.sweep import diagnosed, plan

TABLE, PAGE, FIGURE, LENGTHS = (
    'table', 'report.html', 'figure.png', 'lengths.png')


class Row(NamedTuple):
  """An arm at some images a class and a length of training, over all seeds.

  arm: its name. ipc: None of all real images. of: of the set that it is a
  prefix of, None if of none. length: a `plan.Length`.
  epochs, steps, recipe: in fact, of one network.
  values: `{seed: [accuracy of each network]}`, fractions.
  segments: of the run; None of images that no run has made.
  """
  arm: str
  ipc: int | None
  of: int | None
  length: plan.Length
  epochs: int
  steps: int
  recipe: str
  values: dict
  segments: int | None = None

  @property
  def mean(self):
    """Over all networks of all seeds, each seed with the same weight."""
    return float(np.mean([np.mean(v) for v in self.values.values()]))

  @property
  def over_networks(self):
    """Standard deviation (of n - 1) of networks of one seed, pooled; or NaN."""
    found = [np.var(v, ddof=1) for v in self.values.values() if len(v) > 1]
    return float(np.sqrt(np.mean(found))) if found else math.nan

  @property
  def over_seeds(self):
    """Standard deviation (of n - 1) of the seeds' means; NaN of one seed."""
    if len(self.values) < 2:
      return math.nan
    return float(np.std([np.mean(v) for v in self.values.values()], ddof=1))

  @property
  def error(self):
    """That of the error bars: over seeds where there are several."""
    return self.over_seeds if len(self.values) > 1 else self.over_networks

  @property
  def networks(self):
    """How many of each seed, the fewest."""
    return min(map(len, self.values.values()))

  @property
  def line(self):
    """The name of its curve."""
    return self.arm if self.of is None else (
        f'{self.arm}, prefixes of {self.of}')


def rows_of(found):
  """The `Row`s of `[(plan.Measurement, values or None)]`, in that order."""
  rows = {}
  for one, values in found:
    if values is None:
      continue
    of = None if one.ipc == one.cell.ipc else one.cell.ipc
    key = one.cell.arm.name, one.ipc, of, one.length
    row = rows.setdefault(key, Row(
        *key, values['epochs'], values['steps'], values['recipe'], {},
        None if one.cell.config is None else configs.segment_count(
            one.cell.config)))
    row.values[one.cell.seed] = values['networks']
  return list(rows.values())


def difference(row, other):
  """`(difference of the means, its standard error)` of two `Row`s.

  Where both have several seeds in common it is that of the pairs, whose
  networks begin alike; else of the networks of the seeds that are there, which
  tells nothing of another selection or distillation. NaN where it is unknown.
  """
  common = sorted(set(row.values) & set(other.values))
  if len(common) > 1:
    pairs = [np.mean(row.values[seed]) - np.mean(other.values[seed])
             for seed in common]
    return float(np.mean(pairs)), float(
        np.std(pairs, ddof=1) / math.sqrt(len(pairs)))
  parts = [x.over_networks ** 2 / sum(map(len, x.values.values()))
           for x in (row, other)]
  return row.mean - other.mean, math.sqrt(sum(parts))


class Marks(NamedTuple):
  """The names of the arms that others are compared with, or None.

  random: other random images for each network. first: the first that is run.
  """
  random: str | None
  first: str | None


def marks_of(arms):
  """The `Marks` of a list of `plan.Arm`, in the order of the command line."""
  return Marks(
      next((arm.name for arm in arms
            if arm.baseline and arm.method == plan.RANDOM), None),
      next((arm.name for arm in arms if not arm.baseline), None))


def compared(rows, marks):
  """`[(row, to random, to the first arm)]`, each a `difference` or None."""
  known = {}
  for row in rows:
    # A whole set before a prefix of the same size.
    key = row.arm, row.ipc, row.length
    if key not in known or row.of is None:
      known[key] = row
  def to(name, row):
    other = known.get((name, row.ipc, row.length))
    if other is None or row.arm in (name, marks.random):
      return None
    return difference(row, other)
  return [(row, *(to(name, row) for name in marks)) for row in rows]


def order(rows, arms):
  """Rows by length, images a class, and the order of the arms.

  arms: their names in the order of the command line.
  """
  return sorted(rows, key=lambda row: (
      row.length.kind, row.length.number if row.length.kind == 'steps' else 0,
      row.ipc or math.inf, arms.index(row.arm), row.of or 0))


HEAD = ('arm', 'ipc', 'prefix of', 'segments', 'length', 'epochs', 'steps',
        'recipe', 'accuracy', 'std of networks', 'networks', 'std of seeds',
        'seeds')


def as_csv(rows, marks):
  """The table as CSV, in percent and points; '' where nothing is known."""
  names = [name for name in marks if name]
  file = io.StringIO()
  out = csv.writer(file, lineterminator='\n')
  out.writerow([*HEAD, *(head for name in names for head in (
      f'- {name}', f'error of - {name}'))])
  def points(value):
    return '' if math.isnan(value) else f'{100 * value:.3f}'
  for row, *gaps in compared(rows, marks):
    out.writerow([
        row.arm, row.ipc or 'all', row.of or '', row.segments or '', row.length,
        row.epochs, row.steps, row.recipe, points(row.mean),
        points(row.over_networks), row.networks, points(row.over_seeds),
        len(row.values),
        *(points(value) for name, gap in zip(marks, gaps, strict=True) if name
          for value in gap or (math.nan, math.nan))])
  return file.getvalue()


def short_cells(rows, marks):
  """`(head, [cells])` of the table that is shown: what belongs together."""
  names = [name for name in marks if name]
  head = ['arm', 'ipc', 'segments', 'trained for', 'epochs', 'steps',
          'accuracy', '± networks', '± seeds', 'n',
          *(f'- {name}' for name in names)]
  def number(value, form='{:.2f}'):
    return '' if math.isnan(value) else form.format(100 * value)
  def shown(gap):
    if gap is None:
      return ''
    error = number(gap[1])
    return number(gap[0], '{:+.2f}') + f' ± {error}' * bool(error)
  out = []
  for row, *gaps in compared(rows, marks):
    ipc = str(row.ipc or 'all') + (f' of {row.of}' if row.of else '')
    kind = 'recipe' if row.length.kind == 'epochs' else str(row.length)
    cells = [row.arm, ipc, row.segments or '', kind, row.epochs, row.steps,
             number(row.mean),
             number(row.over_networks), number(row.over_seeds),
             f'{len(row.values)} x {row.networks}',
             *(shown(gap) for name, gap in zip(marks, gaps, strict=True)
               if name)]
    out.append([*map(str, cells)])
  return head, out


def as_markdown(rows, marks):
  """The table that is shown, as Markdown."""
  head, lines = short_cells(rows, marks)
  return '\n'.join(
      '| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + ' |'
      for cells in (head, ['---'] * len(head), *lines)) + '\n'


NOTE = '''segments: 1 is the plain method
accuracy in percent; ± standard deviation (of n - 1): of networks of \
one seed, and of the seeds' means; n: seeds x networks each
differences in points ± standard error: of pairs of seeds where there are \
several, else of networks alone
"recipe": as many epochs for all; "N steps": the recipe with as many epochs as \
come nearest (one at least), its drops moved with them'''


def text_table(rows, marks):
  """The table as it is said, with what its columns mean."""
  head, lines = short_cells(rows, marks)
  return f'{text.table(lines, head)}\n{NOTE}{_missing_length(rows)}'


def _missing_length(rows):
  """What is said where sets of several sizes have equal epochs alone."""
  steps = {row.steps for row in rows}
  if {row.length.kind for row in rows} != {'epochs'} or len(steps) < 2:
    return ''
  return (f'\nat equal epochs small sets train for few steps; --steps='
          f'{max(steps)} measures all at equal steps, too')


# ---- Figures and the page


def figure_panels(rows):
  """Accuracy against images a class, a panel a length; see `curve_panels`."""
  panels = {}
  for row in rows:
    kind, number = row.length
    title = 'equal epochs' if kind == 'epochs' else f'about {number} steps'
    panels.setdefault(title, []).append(row)
  found = []
  for title, some in panels.items():
    sized = [row for row in some if row.ipc is not None]
    # The end of a run's prefixes is the whole set.
    sized += [row._replace(of=row.ipc) for row in sized if row.of is None and (
        row.arm, row.ipc) in {(part.arm, part.of) for part in sized}]
    found.append((title, _curves(sized, lambda row: row.ipc), {
        row.line: 100 * row.mean for row in some if row.ipc is None}))
  return found


def length_panels(rows):
  """Accuracy against steps in fact, a panel for each number of images."""
  whole = [row for row in rows if row.of is None]
  return [(f'{text.plural(ipc, "image")} a class', _curves(
      [row for row in whole if row.ipc in (ipc, None)],
      lambda row: row.steps), {})
      for ipc in sorted({row.ipc for row in whole} - {None})]


def _curves(rows, by):
  """`{line: (x, y, error)}` of rows, each line ascending by x, in percent."""
  lines = {}
  for row in sorted(rows, key=by):
    lines.setdefault(row.line, []).append(row)
  order = list(dict.fromkeys(row.line for row in rows))
  return {name: ([by(row) for row in lines[name]],
                 [100 * row.mean for row in lines[name]],
                 [100 * row.error for row in lines[name]]) for name in order}


def write(sweep, found, problems=()):
  """Writes table.csv, table.md, the figures and the page; returns the table.

  Args:
    sweep: a `work.Sweep`; found: see `rows_of`.
    problems: lines about cells that are not whole.
  """
  rows = order(rows_of(found), [arm.name for arm in sweep.arms])
  marks = marks_of(sweep.arms)
  if not rows:
    return 'nothing is measured yet'
  folder = sweep.folder
  records.write_text(folder / f'{TABLE}.csv', as_csv(rows, marks))
  records.write_text(folder / f'{TABLE}.md', as_markdown(rows, marks))
  pictures = [('test accuracy in percent against images a class; error bars: '
               'standard deviation over seeds, of one seed over networks',
               FIGURE, figure_panels(rows), 'images a class')]
  if len({row.length for row in rows}) > 1:
    pictures.append(('the same against steps of training, at each size',
                     LENGTHS, length_panels(rows), 'steps of training'))
  shown = []
  for caption, name, panels, x_name in pictures:
    if panels:
      figures.curve_panels(panels, folder / name, x_name, 'test accuracy, %')
      shown.append((caption, folder / name))
  table, base = text_table(rows, marks), sweep.cells[0].base
  parts = [
      page.heading('Table'), page.table(*short_cells(rows, marks)),
      page.paragraph(NOTE.replace('\n', '; '), note=True),
      page.heading('Figures'), page.pictures(shown)]
  parts += diagnosed.parts(sweep)
  parts += [
      page.heading('What was run'), page.facts([
          ('measurements', f'{sum(x is not None for _, x in found)} of '
                           f'{len(found)}'),
          ('measured by', f'{base.network.name}, recipe {base.eval.recipe}; '
                          f'{text.plural(base.eval.networks, "network")}'),
          *((f'arm {arm.name}', arm.text) for arm in sweep.arms),
          *((f'missing {number}', line)
            for number, line in enumerate(problems, 1))]),
      page.fixed(sweep.command),
      page.folded('All entries of the configuration',
                  page.facts(configs.entries(base)))]
  page.write(folder / PAGE,
             f'{base.dataset.name}: accuracy against images a class', parts)
  return table
