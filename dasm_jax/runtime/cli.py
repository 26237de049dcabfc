"""What `evaluate` and `diagnose` share: how they read arguments and end."""

import argparse
import os
import re
import sys

from dasm_jax.errors import UserError
from dasm_jax.runtime import environment, preemption
from dasm_jax.runtime.entries import LARGEST


class Parser(argparse.ArgumentParser):
  """An argument parser whose errors are `UserError`.

  name: of the module that is called. text: what it does.
  """

  def __init__(self, name, text):
    # `text` is the docstring of a module, whose lines stay as they are.
    super().__init__(
        prog=f'python -m dasm_jax.{name}', description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False)

  def error(self, message):
    """Raises `UserError`."""
    raise UserError(f'{message}; --help lists the arguments')


def int_at_least(low, most=LARGEST):
  """Reads a whole number from `low` to `most`."""
  def number(text):
    # Python refuses to read very many digits.
    if not text.strip().isdecimal() or len(text) > 30 or int(text) < low:
      raise argparse.ArgumentTypeError(
          f'{text!r} is no whole number of at least {low}')
    if int(text) > most:
      raise argparse.ArgumentTypeError(f'{text} must be at most {most}')
    return int(text)
  return number


def exit_process(status):
  """Ends the process with a status; at once if it was interrupted.

  An interpreter that shuts down while devices still compute would crash.
  """
  # `os._exit` flushes nothing.
  sys.stdout.flush()
  sys.stderr.flush()
  if status in (130, preemption.PREEMPTED):
    os._exit(status)
  sys.exit(status)


def run_command(action, interrupted):
  """Runs `action()`; returns the exit status, after one line if it failed.

  interrupted: what Ctrl-C says.
  """
  environment.open_streams()
  try:
    environment.use_single_precision()
    try:
      action()
    except (RuntimeError, AssertionError):
      # Only now, as --help and mistakes need no device.
      environment.check_devices()
      raise
  except UserError as error:
    # What a run calls --config.dataset.size is called size here.
    text = str(error).replace('--config.dataset.moved_to', '--dataset')
    text = re.sub(r'--config\.(\w+\.)*', '', text)
    print(f'error: {text}', file=sys.stderr)
    return error.code
  except preemption.Stopped as stopped:
    print(f'\n{stopped}', file=sys.stderr)
    return stopped.code
  except KeyboardInterrupt:
    print(f'\nstopped; {interrupted}', file=sys.stderr)
    return 130
  return 0
