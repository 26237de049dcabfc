"""Lines and progress on the terminal, or in a file of plain lines."""

import math
import os
import shutil
import sys
import time

from dasm_jax import words

_CLEAR = '\r\x1b[K'


class Screen:
  """Where one says things and shows how far they are.

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

  def progress(self, segment, segments, step, steps, loss=None,
               images_per_second=None, seconds_left=None, what='segment',
               unit='step', note=''):
    """Shows how far it is: a line redrawn, or now and then a plain line.

    Not on a terminal: one line each 10 s, the last of a segment, and the first
    of another kind. what, unit: what is counted, if not segments and their
    steps. seconds_left: to the evaluation, or to the end of what is not a
    segment. note: of more.
    """
    last, again = step >= steps, what == self._what
    now, pause = self._clock(), .1 if self.terminal else 10
    if again and not last and 0 <= now - self._shown < pause:
      return
    self._shown, self._what = now, what
    until = 'to evaluation' if what == 'segment' else 'left'
    tail = _tail(note, loss, images_per_second, seconds_left, until)
    head = f'{what} {segment}/{segments}  {unit} {step}/{steps}'
    if not self.terminal:
      self._print(f'{head}{tail}\n')
      return
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
    parts.append(f'{words.count(speed)} images/s')
  if left:  # nothing to say of a last step
    parts.append(f'{words.seconds(left)} {until}')
  return ''.join(f'  {part}' for part in parts)


def _bar(head, step, steps, tail, width):
  room = min(width - len(head) - len(tail) - 4, 24)
  if room < 6:
    return (head + tail)[:max(width, 0)]
  done = room * min(step, steps) // max(steps, 1)
  return f'{head}  [{"#" * done}{"." * (room - done)}]{tail}'
