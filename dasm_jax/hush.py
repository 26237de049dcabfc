"""Silence around orbax, above all when it fails."""

import contextlib
import gc
import io
import logging
import sys
import time

_absl = logging.getLogger('absl')  # orbax logs through it


@contextlib.contextmanager
def hush():
  """Keeps orbax off the terminal, above all when it fails.

  Then it raises, logs pages, and lets the threads of tensorstore print 'Event
  loop is closed' through the hooks of the interpreter.
  """
  level, stderr, hook = _absl.level, sys.stderr, sys.unraisablehook
  held = io.StringIO()
  try:
    _absl.setLevel(logging.CRITICAL)
    sys.stderr, sys.unraisablehook = held, lambda _: None
    yield
  except Exception:
    time.sleep(.1)  # until the threads have had their say
    gc.collect()
    held.truncate(0)
    raise
  finally:
    _absl.setLevel(level)
    sys.stderr, sys.unraisablehook = stderr, hook
    if held.getvalue():  # of some other thread
      stderr.write(held.getvalue())
