"""What a run tells: lines and progress on the terminal, and files of numbers.

metrics.jsonl is the truth, one JSON object a line; events/ is the same for
TensorBoard; log.txt keeps what was said; results.json is the outcome;
clock.json says how long all calls were at work.

Sections: the terminal, the files of a run, what other processes have instead.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
import sys
import time

from dasm_jax.errors import UserError
from dasm_jax.runtime import processes, text
from dasm_jax.runtime.workdir import last_seconds, write_text

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


class RunLog(Terminal):
  """The output of a run into a workdir that exists; a context manager.

  segment: counted from one, as it is shown. step: how many steps are done.
  stream: standard output unless given. clock: seconds, for the tests. Writing
  raises `UserError` when the disk is full; a closed terminal is no error.
  """

  def __init__(self, workdir, stream=None, clock=time.time):
    super().__init__(stream, clock)
    self._dir = pathlib.Path(workdir)
    self._events, self._wrote = None, False
    self._began = clock()
    # The later of the two: a kill may have come between a row and `mark`.
    self._before = max(last_seconds(self._dir / 'metrics.jsonl'),
                       last_seconds(self._dir / _CLOCK))

  @property
  def seconds(self):
    """Seconds at work, those of earlier calls included."""
    return self._before + self._clock() - self._began

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.settle()
    if self._events is not None:
      self._events.close()
      self._events = None
    if self._wrote:  # else the workdir may be somebody else's
      with contextlib.suppress(OSError):
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
    write_text(self._dir / _CLOCK,
               json.dumps({'seconds': round(self.seconds, 3)}))

  def scalars(self, segment, step, values, total_step):
    """Adds a row to metrics.jsonl, and to TensorBoard at `total_step`.

    values: `{'match/loss': number}`. segment: None for an evaluation, whose
    rows a resumed run writes anew.
    """
    values = {name: float(value) for name, value in values.items()}
    row = {'segment': segment, 'step': int(step),
           'time': round(self._clock(), 3),
           'seconds': round(self.seconds, 3)} | _finite_or_null(values)
    self._append('metrics.jsonl', json.dumps(row, allow_nan=False) + '\n')
    # Opened at the first row, which tells where a resumed run goes on: what a
    # killed run wrote beyond that step is hidden by `purge_step`.
    if self._events is None:
      from tensorboardX import SummaryWriter
      self._events = SummaryWriter(
          str(self._dir / 'events'), purge_step=int(total_step), flush_secs=10)
    for name, value in values.items():
      self._events.add_scalar(name, value, int(total_step))

  def rewind(self, segment, step):
    """Forgets the rows later than this point, the evaluations, a cut line.

    Call it before the first `scalars`; `(1, 0)` forgets all but step 0.
    """
    path = self._dir / 'metrics.jsonl'
    try:
      # A kill may have cut the last line within a character.
      text = path.read_bytes().decode(errors='replace')
    except FileNotFoundError:
      return
    kept = []
    for line in text.splitlines():
      try:
        row = json.loads(line)
        early = (row['segment'], row['step']) <= (segment, step)
      except (ValueError, KeyError, TypeError):  # cut, or of no segment
        continue
      if early:
        kept.append(line + '\n')
    write_text(path, ''.join(kept))

  def result(self, values):
    """Writes results.json. values: a dict that JSON can hold, nested or not.

    Numbers that are not finite become null: JSON has none.
    """
    text = json.dumps(_finite_or_null(values), indent=2, allow_nan=False)
    write_text(self._dir / 'results.json', text + '\n')

  def _append(self, name, text):
    path = self._dir / name
    # Closed after each line: a kill loses none of them.
    try:
      with path.open('a', encoding='utf-8') as file:
        file.write(text)
      self._wrote = True
    except OSError as error:
      raise UserError(
          f'cannot write {str(path)!r}: {error.strerror}; make room and start '
          'again, it goes on from the last checkpoint') from error


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

  def rewind(self, *_):
    """Forgets nothing."""

  def result(self, values):
    """Writes nothing."""


def open_log(workdir):
  """The log of this process: a `RunLog` in the first one, else `SilentLog`."""
  return (RunLog if processes.is_leader() else SilentLog)(workdir)
