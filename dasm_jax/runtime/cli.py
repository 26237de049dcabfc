"""What the commands share: how they read arguments and end."""

import argparse
import itertools
import os
import re
import shlex
import sys

from dasm_jax.errors import UserError
from dasm_jax.runtime import environment, preemption
from dasm_jax.runtime.entries import LARGEST


def as_called(text, name):
  """A text with the module's command named as it was called.

  That of an installed package is `dasm-jax-evaluate`, of a module `python -m
  dasm_jax.evaluate`.
  """
  called = os.path.basename(sys.argv[0])
  module = f'python -m dasm_jax.{name}'
  return (text.replace(module, called) if called.startswith('dasm-jax')
          else text)


def as_typed(name):
  """The line of the shell that this process was begun by.

  name: of the module that was called.
  """
  program = as_called(f'python -m dasm_jax.{name}', name)
  return f'{program} {shlex.join(sys.argv[1:])}'.strip()


class Parser(argparse.ArgumentParser):
  """An argument parser whose errors are `UserError`.

  name: of the module that is called. text: what it does.
  """

  def __init__(self, name, text):
    # `text` is the docstring of a module, whose lines stay as they are.
    super().__init__(
        prog=as_called(f'python -m dasm_jax.{name}', name),
        description=as_called(text, name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False)
    self.add_argument('--version', action='version',
                      version=environment.version_line())

  def parse_args(self, args=None, namespace=None):
    """As argparse has it, but nothing may be given an empty value.

    That is what an unset $VARIABLE leaves, and the default is another thing.
    """
    words = sys.argv[1:] if args is None else list(args)
    for word, following in zip(words, [*words, None][1:], strict=True):
      name, equals, value = word.partition('=')
      if name.startswith('--') and '' == (value if equals else following):
        raise UserError(f'{name}= is empty; give it a value, or leave it out')
    return super().parse_args(args, namespace)

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


def split_config(words):
  """`(config files, {entry: text}, the other words)` of a command line.

  Config files are given by --config=FILE, entries by --config.NAME=TEXT.
  """
  files, texts, others = [], {}, []
  words = iter(words)
  for word in words:
    match = re.fullmatch(r'--?(no)?config(?:\.([^=]*))?(?:=(.*))?', word, re.S)
    if not match or (match[1] and not match[2]):
      others.append(word)
      continue
    no, name, text = match.groups()
    if no:
      text = 'false' if text is None else text
    elif text is None:
      # As flags are: what follows, unless it is one itself, is the value.
      following = next(words, None)
      if following is not None and re.match('--?[a-z]', following):
        words = itertools.chain([following], words)
      else:
        text = following
    if name is None:
      files.append(text or '')
    else:
      # The last one counts, as of any flag.
      texts.pop(name, None)
      texts[name] = text
  return files, texts, others


def exit_process(status):
  """Ends the process with a status; at once if it was interrupted.

  An interpreter that shuts down while devices still compute would crash.
  """
  preemption.ignore_interrupts()
  # `os._exit` flushes nothing.
  sys.stdout.flush()
  sys.stderr.flush()
  if status in (130, preemption.PREEMPTED):
    os._exit(status)
  sys.exit(status)


def run_command(action, interrupted, configured=False):
  """Runs `action()`; returns the exit status, after one line if it failed.

  interrupted: what Ctrl-C says. configured: whether the command has --config,
  so that what it refuses is named by that.
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
    text = ' '.join(str(error).splitlines())  # whatever was typed
    if not configured:
      text = text.replace('--config.dataset.moved_to', '--dataset')
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
