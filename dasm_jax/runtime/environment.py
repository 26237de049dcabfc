"""What a process finds around it: streams, a home, and JAX's devices."""

import os
import sys

from dasm_jax.errors import UserError

# ---- Streams


def open_streams():
  """Opens what stands for a closed input, output or error stream.

  Else the first files that are opened would take their numbers, and whatever
  is printed would be written into them.
  """
  for number, name, mode in ((0, 'stdin', 'r'), (1, 'stdout', 'w'),
                             (2, 'stderr', 'w')):
    try:
      os.fstat(number)
    except OSError:
      opened = os.open(os.devnull, os.O_RDWR)
      if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, mode, closefd=False))


# ---- Home


def home():
  """The user's home as an absolute path, or None where there is none."""
  found = os.path.expanduser('~')
  return found if os.path.isabs(found) else None


def expand(text, what=''):
  """A path with `~` in place of the home; what: the option that names it.

  Raises:
    UserError: there is no home, or no such user.
  """
  found = os.path.expanduser(text)
  if found.startswith('~') or (
      str(text).split('/')[0] == '~' and home() is None):
    raise UserError(f'{what}{" " if what else ""}{str(text)!r}: there is no '
                    'such home here; set HOME, or give the whole path')
  return found


def cache_folder():
  """Where programs keep what they can make again; None if there is no home."""
  given = os.environ.get('XDG_CACHE_HOME') or ''
  if os.path.isabs(given):
    return given
  return home() and os.path.join(home(), '.cache')


# ---- JAX


def check_devices():
  """Makes sure that JAX finds a device.

  Raises:
    UserError: it finds none of those that it was told to use.
  """
  import jax
  try:
    jax.devices()
  except RuntimeError as error:
    asked = os.environ.get('JAX_PLATFORMS', '')
    reason = ' '.join(str(error).split())[:200]
    raise UserError(
        f'JAX finds no device{f" of JAX_PLATFORMS={asked}" if asked else ""}: '
        f'{reason}; ' + (
            'unset it, or name a platform that is here, such as cpu' if asked
            else 'JAX_PLATFORMS=cpu computes without one')) from error
