"""Ctrl-C and SIGTERM: save at the next chunk, then leave."""

import contextlib
import signal


class Stopped(Exception):
  """The run was asked to stop and has saved; `code` is its exit status."""

  def __init__(self, text, code):
    super().__init__(text)
    self.code = code


class Watch:
  """Whether somebody asked to stop; the second Ctrl-C stops at once."""

  def __init__(self):
    self.signal = None

  @property
  def asked(self):
    """True once a signal came."""
    return self.signal is not None

  def leave_if_asked(self, segment, step):
    """Raises `Stopped` if asked; call it after saving."""
    if self.asked:
      name = signal.Signals(self.signal).name
      raise Stopped(f'{name}: saved segment {segment}, step {step}; the same '
                    'command goes on from there', 128 + self.signal)

  def _note(self, number, frame):
    del frame
    if self.asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = number


@contextlib.contextmanager
def watch():
  """Catches SIGINT and SIGTERM while a run lasts; yields a `Watch`."""
  seen = Watch()
  before = {}
  try:
    for number in (signal.SIGINT, signal.SIGTERM):
      before[number] = signal.signal(number, seen._note)
  except ValueError:
    pass  # not the main thread: signals are somebody else's business
  try:
    yield seen
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
