"""What a run tells: lines and progress on the terminal, and files of numbers.

metrics.jsonl is the truth, one JSON object a line; events/ is the same for
TensorBoard; log.txt keeps what was said; results.json is the outcome;
clock.json says how long all calls were at work.
"""

import contextlib
import json
import math
import pathlib
import time

from dasm_jax.errors import UserError
from dasm_jax.screen import Screen
from dasm_jax.workdir import last_seconds, write

_CLOCK = 'clock.json'


class Log(Screen):
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
    write(self._dir / _CLOCK, json.dumps({'seconds': round(self.seconds, 3)}))

  def scalars(self, segment, step, values, total_step):
    """Adds a row to metrics.jsonl, and to TensorBoard at `total_step`.

    values: `{'match/loss': number}`. segment: None for an evaluation, whose
    rows a resumed run writes anew.
    """
    values = {name: float(value) for name, value in values.items()}
    row = {'segment': segment, 'step': int(step),
           'time': round(self._clock(), 3),
           'seconds': round(self.seconds, 3)} | _finite(values)
    self._append('metrics.jsonl', json.dumps(row, allow_nan=False) + '\n')
    if self._events is None:
      from tensorboardX import SummaryWriter
      # What a killed run wrote beyond this step is hidden by `purge_step`.
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
    write(path, ''.join(kept))

  def result(self, values):
    """Writes results.json. values: a dict that JSON can hold, nested or not.

    Numbers that are not finite become null: JSON has none.
    """
    text = json.dumps(_finite(values), indent=2, allow_nan=False)
    write(self._dir / 'results.json', text + '\n')

  def _append(self, name, text):
    path = self._dir / name
    try:
      with path.open('a', encoding='utf-8') as file:
        file.write(text)
      self._wrote = True
    except OSError as error:
      raise UserError(
          f'cannot write {str(path)!r}: {error.strerror}; make room and start '
          'again, it goes on from the last checkpoint') from error


def _finite(tree):
  if isinstance(tree, dict):
    return {str(name): _finite(value) for name, value in tree.items()}
  if isinstance(tree, list | tuple):
    return [_finite(value) for value in tree]
  if hasattr(tree, 'tolist'):  # a number or an array of numpy or jax
    return _finite(tree.tolist())
  if isinstance(tree, float) and not math.isfinite(tree):
    return None
  return tree
