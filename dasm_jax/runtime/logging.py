"""What a run tells: lines and progress on the terminal, and files of numbers.

metrics.jsonl is the truth, one JSON object a line; `trackers` have the same;
log.txt keeps what was said; results.json is the outcome; clock.json says how
long all calls were at work.

Sections: the terminal, the files of a run, what other processes have instead.
"""

import contextlib
import json
import logging
import math
import os
import pathlib
import shutil
import sys
import time

from dasm_jax.errors import UserError
from dasm_jax.runtime import processes, records, text, trackers
from dasm_jax.runtime.records import write_text

_log = logging.getLogger('dasm_jax')

# ---- The terminal

_CLEAR = '\r\x1b[K'  # back to the first column, the line erased


class Terminal:
  """The terminal: lines that are said, and a line of progress below them.

  stream: standard output unless given. clock: seconds, for the tests.
  terminal: whether a line there can be redrawn. A reader that is gone is no
  error.
  """

  def __init__(self, stream=None, clock=time.time):
    self._stream = stream or sys.stdout
    self._clock = clock
    self.terminal = (
        self._stream.isatty() and os.environ.get('TERM') != 'dumb')
    self._line = ''  # the progress line now on the terminal
    self._shown = -math.inf  # when progress was last shown
    self._what = ''  # and of what

  def say(self, text):
    """Prints a line."""
    if self._line:
      self._print(f'{_CLEAR}{text}\n{self._line}')
    else:
      self._print(f'{text}\n')

  def progress(self, counts, loss=None, images_per_second=None,
               seconds_left=None, what='segment', unit='step', note=''):
    """Shows how far it is: a line redrawn, or now and then a plain line.

    Not on a terminal: one line each 10 s, the last of a segment, and the first
    of another kind.

    Args:
      counts: (segment, segments, step, steps).
      loss, images_per_second: to be shown, or None.
      seconds_left: to the evaluation, or to the end of what is not a segment.
      what, unit: what is counted, if not segments and their steps.
      note: of more.
    """
    segment, segments, step, steps = counts
    last, again = step >= steps, what == self._what
    now, pause = self._clock(), .1 if self.terminal else 10
    # Below 0 where the clock was set back, which must not silence a run.
    if again and not last and 0 <= now - self._shown < pause:
      return
    self._shown, self._what = now, what
    until = 'to evaluation' if what == 'segment' else 'left'
    tail = _tail(note, loss, images_per_second, seconds_left, until)
    head = f'{what} {segment}/{segments}  {unit} {step}/{steps}'
    if not self.terminal:
      self._print(f'{head}{tail}\n')
      return
    # A line of full width would wrap, and could not be redrawn.
    width = shutil.get_terminal_size().columns - 1
    self._line = _bar(head, step, steps, tail, width)
    self._print(_CLEAR + self._line)
    if last:
      self.settle()

  def wipe(self):
    """Takes the progress line away."""
    if self._line:
      self._print(_CLEAR)
    self._line = ''

  def settle(self):
    """Leaves the progress line where it is and goes to the next one."""
    if self._line:
      self._print('\n')
    self._line = ''

  def _print(self, text):
    try:
      self._stream.write(text)
      self._stream.flush()
    except OSError:  # The reader is gone; the run is worth more.
      pass


def _tail(note, loss, speed, left, until):
  parts = [note] if note else []
  if loss is not None:
    parts.append(f'loss {float(loss):.4g}')
  if speed is not None:
    parts.append(f'{text.count(speed)} images/s')
  if left:  # nothing to say of a last step
    parts.append(f'{text.duration(left)} {until}')
  return ''.join(f'  {part}' for part in parts)


def _bar(head, step, steps, tail, width):
  room = min(width - len(head) - len(tail) - 4, 24)
  if room < 6:
    return (head + tail)[:max(width, 0)]
  done = room * min(step, steps) // max(steps, 1)
  return f'{head}  [{"#" * done}{"." * (room - done)}]{tail}'


# ---- The files of a run

_CLOCK = 'clock.json'
RESULTS = 'results.json'


class RunLog(Terminal):
  """The output of a run into a workdir that exists; a context manager.

  segment: counted from one, as it is shown. step: how many steps are done.
  stream: standard output unless given. clock: seconds, for the tests. Writing
  raises `UserError` when the disk is full; a closed terminal is no error.
  """

  def __init__(self, workdir, stream=None, clock=time.time):
    super().__init__(stream, clock)
    self._dir = pathlib.Path(workdir)
    self._trackers, self._wrote = None, False
    self._began, self._before, self._run = clock(), 0.0, ''
    self._rows, self._told = {}, 0  # step rows by (segment, step)
    self._at = 0  # the step of the last row
    self.command = ''  # that began this call, for the page
    # Names of `trackers.TRACKERS`, and the configuration that they are told.
    self.track, self.settings = ('tensorboard',), {}

  def own(self, run):
    """Takes up what earlier calls of a run have left; call it once.

    run: its name, which all files carry: what is of another does not count.
    """
    self._run = run
    found = records.read(self._dir / _CLOCK, _CLOCK, run, _check_clock)
    self._rows = dict(self._read_rows())
    # The later of the two: a kill may have come between a row and `mark`.
    self._before = max([found['seconds'] if found else 0.0, *(
        row['seconds'] for row in self._rows.values())])
    self._rows.pop(None, None)

  @property
  def seconds(self):
    """Seconds at work, those of earlier calls included."""
    return self._before + self._clock() - self._began

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    self.settle()
    # What ends the run is worth more than what its end cannot write.
    with contextlib.suppress(*[UserError] * (kind is not None)):
      # Each is closed, whatever the others have.
      with contextlib.ExitStack() as closing:
        for tracker in self._trackers or ():
          closing.callback(tracker.close)
        self._trackers = None
      if self._wrote:  # else the workdir may be somebody else's
        self.mark()

  def say(self, text):
    """Prints a line, and keeps it in log.txt."""
    self.show(text)
    self._append('log.txt', f'{text}\n')

  def show(self, text):
    """Prints a line."""
    super().say(text)

  def note(self, text):
    """Keeps a line in log.txt, with the time of day."""
    self._append('log.txt', f'{time.strftime("%Y-%m-%d %H:%M:%S")} {text}\n')

  def mark(self):
    """Writes how long all calls were at work until now."""
    records.write(self._dir / _CLOCK, _CLOCK, self._run,
                  {'seconds': round(self.seconds, 3)})

  def scalars(self, segment, step, values, total_step):
    """Adds a row to metrics.jsonl, and to the trackers at `total_step`.

    values: `{'match/loss': number}`. segment: None for an evaluation, whose
    rows a resumed run writes anew.
    """
    values = {name: float(value) for name, value in values.items()}
    row = {'segment': segment, 'step': int(step),
           'time': round(self._clock(), 3),
           'seconds': round(self.seconds, 3)} | _finite_or_null(values)
    self._append('metrics.jsonl', self._text_of(row))
    if segment is not None:
      self._rows[segment, int(step)] = row
    # Opened at the first row, which tells where a resumed run goes on.
    if self._trackers is None:
      self._trackers = []
      for name in self.track:
        self._trackers.append(trackers.TRACKERS[name](trackers.Opening(
            self._dir, int(total_step), self._run, self.settings,
            lambda: [row for _, row in self._read_rows()], self._clock)))
    self._at = int(total_step)
    for tracker in self._trackers:
      tracker.add(values, self._at)

  def picture(self, name, path):
    """Shows a PNG file to the trackers, at the step of the last row.

    Nothing is shown where this call has written no row: an earlier one has
    shown it.
    """
    for tracker in self._trackers or ():
      tracker.picture(name, path, self._at)

  def rows(self, segment, step):
    """How many rows there are up to a point."""
    return sum(at <= (segment, step) for at in self._rows)

  def series(self, name):
    """`{segment: ([step], [value])}` of what rows have under a name."""
    found = {}
    for (segment, step), row in sorted(self._rows.items()):
      if row.get(name) is not None:
        steps, values = found.setdefault(segment, ([], []))
        steps.append(step)
        values.append(row[name])
    return found

  def rewind(self, segment, step, stop=math.inf, rows=0):
    """Forgets what is written again, and says what is missing before it.

    That is: the rows of a segment later than a step, the evaluations, and
    lines that are damaged. Call it before the first `scalars`.

    Args:
      segment, step: the point; `(1, 0)` forgets all of segment 1 but step 0.
      stop: the last step that is written again.
      rows: how many there were up to the point, see `rows`.
    """
    path = self._dir / 'metrics.jsonl'
    before = dict(self._read_rows())
    self._rows = {at: before[at] for at in sorted(filter(None, before))
                  if not (at[0] == segment and step < at[1] <= stop)}
    lost = rows - self.rows(segment, step)
    if lost > self._told:
      _log.warning('%s lacks %d of the %d rows up to segment %d, step %d: they '
                   'are damaged or gone; the others stay', path, lost, rows,
                   segment, step)
      self._told = lost
    text = ''.join(map(self._text_of, self._rows.values()))
    if path.exists() and path.read_text(errors='replace') != text:
      write_text(path, text)

  def _text_of(self, row):
    """A line of metrics.jsonl; its `sum` tells that it is whole, and whose."""
    return json.dumps(row | {'sum': records.short_digest(row, self._run)},
                      allow_nan=False) + '\n'

  def _read_rows(self):
    """Yields `((segment, step) | None, row)` of each line that is whole.

    None: of an evaluation.
    """
    path = self._dir / 'metrics.jsonl'
    if path.is_dir():
      records.set_aside(path, 'a folder')
    try:
      # A kill may have cut the last line within a character.
      lines = path.read_bytes().decode(errors='replace').splitlines()
    except FileNotFoundError:
      return
    except OSError as error:
      raise UserError(f'cannot read {str(path)!r}: {error.strerror}; make it '
                      'readable, or move it away') from error
    for line in lines:
      try:
        row = json.loads(line)
        if row.pop('sum') == records.short_digest(row, self._run):
          at = row['segment'], row['step']
          yield None if at[0] is None else at, row
      except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        continue  # cut, or of something else

  def result(self, values):
    """Writes results.json. values: a dict that JSON can hold, nested or not.

    Numbers that are not finite become null: JSON has none.
    """
    records.write(self._dir / RESULTS, RESULTS, self._run,
                  _finite_or_null(values), indent=2)

  def _append(self, name, text):
    path = self._dir / name
    # Closed after each line: a kill loses none of them.
    with records.writing(path), path.open('a', encoding='utf-8') as file:
      file.write(text)
    self._wrote = True


def _check_clock(values):
  seconds = values['seconds']
  if not (isinstance(seconds, int | float) and 0 <= seconds < math.inf):
    raise ValueError(f'{seconds} seconds')


def _finite_or_null(tree):
  if isinstance(tree, dict):
    return {str(name): _finite_or_null(value) for name, value in tree.items()}
  if isinstance(tree, list | tuple):
    return [_finite_or_null(value) for value in tree]
  if hasattr(tree, 'tolist'):  # a number or an array of numpy or jax
    return _finite_or_null(tree.tolist())
  if isinstance(tree, float) and not math.isfinite(tree):
    return None
  return tree


# ---- What other processes have instead
# With the methods of a `RunLog`, so that nobody who says something has to ask
# whether this process leads.


class SilentLog(RunLog):
  """A `RunLog` that keeps the time and nothing else."""

  def say(self, text):
    """Says nothing."""

  def show(self, text):
    """Shows nothing."""

  def note(self, text):
    """Keeps nothing."""

  def mark(self):
    """Writes nothing."""

  def progress(self, *_, **__):
    """Shows nothing."""

  def scalars(self, *_):
    """Adds nothing."""

  def picture(self, *_):
    """Shows nothing."""

  def own(self, run):
    """Takes up nothing."""

  def rows(self, *_):
    """Counts nothing."""
    return 0

  def rewind(self, *_, **__):
    """Forgets nothing."""

  def result(self, values):
    """Writes nothing."""


def open_log(workdir):
  """The log of this process: a `RunLog` in the first one, else `SilentLog`."""
  return (RunLog if processes.is_leader() else SilentLog)(workdir)
