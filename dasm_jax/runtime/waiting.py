"""Waits for what is elsewhere: said if they are long, ended if too long."""

import contextlib
import os
import sys
import threading

from dasm_jax.errors import Unavailable

SOON = 5  # seconds that nobody asks what the program does


@contextlib.contextmanager
def say_if_long(what, after=SOON):
  """Says once what is waited for, if it takes longer than `after` seconds."""
  # Not by a logger: TFDS and gcsfs are told to be quiet meanwhile.
  with _timer(after, lambda: _say(f'waiting for {what}')):
    yield


@contextlib.contextmanager
def end_if_longer(seconds, text):
  """Ends the process, as `Unavailable(text)` would, after so many seconds.

  For calls that cannot be interrupted, such as those of JAX's own runtime.
  """
  def end():
    _say(f'error: {text}')
    os._exit(Unavailable.code)
  with _timer(seconds, end):
    yield


@contextlib.contextmanager
def _timer(seconds, action):
  timer = threading.Timer(seconds, action)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _say(text):
  with contextlib.suppress(OSError, ValueError):  # nobody reads any more
    print(text, file=sys.stderr, flush=True)
