"""Ctrl-C and SIGTERM: save at the next chunk, then leave."""

import contextlib
import os
import signal
import threading

from dasm_jax.runtime import processes

PREEMPTED = 75  # exit status after SIGTERM: the same command should go on


class Stopped(Exception):
  """The run was asked to stop and has saved; `code` is its exit status."""

  def __init__(self, text, code):
    super().__init__(text)
    self.code = code


class StopFlag:
  """Whether somebody asked to stop; the second Ctrl-C stops at once.

  Python handles signals between its own instructions, which a compilation may
  keep it from for minutes. The bytes that it writes to a pipe on every signal
  are read by a thread, which answers meanwhile.
  """

  def __init__(self):
    # What came here, and what all processes have heard of: only that stops a
    # run, or the others would wait in a collective for the one that left.
    self._came = self._heard = None
    self.finished = False

  @property
  def asked(self):
    """Whether a signal had come to any process when all called `hear`."""
    return self._heard is not None

  def leave_if_asked(self, saved):
    """Raises `Stopped` if asked; call it after saving, and say what."""
    if self.asked:
      name = signal.Signals(self._heard).name
      raise Stopped(
          f'{name}: saved {saved}; the same command goes on from there',
          PREEMPTED if self._heard == signal.SIGTERM else 128 + self._heard)

  def finish(self):
    """From here on a signal says and stops nothing: all is written."""
    self.finished = True

  def hear(self, *values):
    """Tells the other processes, and hears of them, whether to stop.

    Returns:
      Of each of `values` the highest that any process gives. All processes
      must call it at the same places.
    """
    asked, *values = processes.maximum(self._came or 0, *values)
    # A signal that comes after this waits: the others have not heard of it.
    self._heard = int(asked) or None
    return values

  def note(self, number, frame=None):
    """Keeps a signal until all hear of it; a signal handler."""
    del frame
    self._came = number


def _answer_signals(pipe, caught, seen):
  """Answers the bytes that signals write to a pipe until it is closed."""
  first = True
  while byte := os.read(pipe, 1):
    if byte[0] not in caught or seen.finished:
      continue
    name = signal.Signals(byte[0]).name
    if first:
      again = ' again' if byte[0] == signal.SIGINT else ''
      os.write(2, f'\n{name}: saving at the end of the running call; Ctrl-C'
               f'{again} stops at once\n'.encode())
    elif byte[0] == signal.SIGINT:
      # Not SIGTERM: a scheduler that repeats it must not cost the last minutes.
      # As hard as kill -9, which checkpoints survive.
      os.write(2, b'\nstopped at once; the same command goes on from the last '
               b'checkpoint\n')
      os._exit(128 + byte[0])
    first = False
  os.close(pipe)


def ignore_interrupts():
  """Ctrl-C does nothing any more: for a process that is about to end.

  What is left are the callbacks of its libraries, whose tracebacks would follow
  what it has said.
  """
  if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def catch_signals():
  """Catches SIGINT and SIGTERM while a run lasts; yields a `StopFlag`."""
  seen = StopFlag()
  if threading.current_thread() is not threading.main_thread():
    yield seen  # signals are somebody else's business
    return
  caught = (signal.SIGINT, signal.SIGTERM)
  before = {number: signal.signal(number, seen.note) for number in caught}
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  answering = threading.Thread(
      target=_answer_signals, args=(reader, caught, seen), daemon=True)
  answering.start()
  try:
    yield seen
  finally:
    # First of all, so that no signal writes to a pipe that is closed.
    signal.set_wakeup_fd(woken)
    os.close(writer)
    # What it has to say of a late signal comes before what follows the run. It
    # ends with the pipe; the limit is for an error stream that nobody reads.
    answering.join(timeout=1)
    for number, handler in before.items():
      signal.signal(number, handler)
