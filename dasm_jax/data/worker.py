"""A process that decodes images, and this side of it.

It imports NumPy, Pillow and what reads the records: not JAX, not the user's
main module. Requests and replies go through its standard input and output,
pixels through memory without a name, which no crash can leave behind. It ends
when its input does, so also when the process that started it is killed.
"""

import contextlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import weakref

import numpy as np

from dasm_jax import paths
from dasm_jax.errors import UserError


class Worker:
  """A process; `sound` is whether it can be asked again."""

  def __init__(self, decodes, shape, block):
    """decodes: of some `Store`s; shape: of an image; block: items at most."""
    size = max(1, block * int(np.prod(shape)))
    with _nameless() as file:
      file.truncate(size)
      self._memory = mmap.mmap(file.fileno(), size)
      self._images = np.ndarray((block, *shape), np.uint8, self._memory)
      self._process = subprocess.Popen(
          [sys.executable, '-c', f'import sys; sys.path[:] = {sys.path!r}; '
           'from dasm_jax.data import worker; worker.main'
           f'({file.fileno()}, {size}, {tuple(map(int, shape))})'],
          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
          pass_fds=[file.fileno()])
    self.sound = True
    # Also when the interpreter ends and nobody has closed it.
    self._end = weakref.finalize(self, _end, self._process)
    self._send(decodes)

  def decode(self, which, items):
    """`(images, broken)` of items of a store; a view, until the next call.

    Raises what decoding raised, and `RuntimeError` if the process is gone.
    """
    whole, self.sound = self.sound, False  # Until the reply has been read.
    if not whole:
      raise RuntimeError('a reading process was asked while it was at work')
    self._send((which, items))
    try:
      reply = pickle.load(self._process.stdout)
    except (EOFError, OSError, pickle.UnpicklingError):
      raise self._gone() from None
    self.sound = True
    if isinstance(reply, BaseException):
      raise reply
    return self._images[:len(items)], reply

  def close(self):
    """Ends the process."""
    self.sound = False
    self._end()

  def _send(self, what):
    try:
      pickle.dump(what, self._process.stdin)
      self._process.stdin.flush()
    except OSError:
      raise self._gone() from None

  def _gone(self):
    self.close()
    status = self._process.returncode
    cause = (f'was killed by {signal.Signals(-status).name} (of SIGKILL the '
             'cause is mostly too little memory)' if status < 0
             else f'ended with status {status}')
    return RuntimeError(f'a process that decodes images {cause}')


def _nameless():
  if hasattr(os, 'memfd_create'):
    return os.fdopen(os.memfd_create('dasm_jax'), 'r+b')
  return tempfile.TemporaryFile()


def _end(process):
  with contextlib.suppress(OSError):  # It may be gone already.
    process.stdin.close()
  try:
    process.wait(5)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()
  # Only now: before, a thread that waits for a reply would hold it.
  process.stdout.close()


def main(file, size, shape):
  """What the process does until its input ends."""
  from dasm_jax.data.stores import quiet_pillow
  # Ctrl-C and preemption are for the process that asks, which then closes.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  requests = sys.stdin.buffer
  replies = os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # Whatever a library prints must not be taken for a reply.
  memory = mmap.mmap(file, size)
  os.close(file)
  images = np.ndarray((size // int(np.prod(shape)), *shape), np.uint8, memory)
  quiet_pillow()
  paths.quiet()
  try:
    decodes = pickle.load(requests)
    while True:
      which, items = pickle.load(requests)
      try:
        reply = decodes[which](items, images[:len(items)], range(len(items)))
      except (UserError, MemoryError) as error:
        reply = error
      except Exception as error:  # Of any class: it may not be picklable.
        reply = RuntimeError(f'{type(error).__name__}: {error}')
      pickle.dump(reply, replies)
      replies.flush()
  except (EOFError, BrokenPipeError):
    return  # There is nobody who asks.
