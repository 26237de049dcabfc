"""Paths of this machine and of buckets (`gs://…`), under the same calls."""

import contextlib
import logging
import os
import pathlib

from dasm_jax.errors import UserError


def is_far(path):
  """Whether a path is of a bucket (`gs://…`), not of this machine."""
  return '://' in str(path)


def path_of(text, what=''):
  """A path of this machine, or an `epath.Path` with the same methods.

  what: the option that names it.

  Raises:
    UserError: a far place of no known kind.
  """
  if not is_far(text):
    return pathlib.Path(text).expanduser()
  from etils import epath
  quiet()
  try:
    return epath.Path(text)
  except Exception as error:  # No such kind of place, a package that lacks.
    raise refused(text, error, what) from error


def quiet():
  """Drops what gcsfs logs, here: it raises the same, or it matters little."""
  logging.getLogger('gcsfs').addFilter(_wanted)


def _wanted(record):
  del record
  return 'GCSFS_DEBUG' in os.environ


def told(path, error, what=''):
  """Any failure of a far place, in one line; what: the option that names it."""
  text = ' '.join(str(error).split())[:200] or type(error).__name__
  return f'cannot use {what}{" " if what else ""}{str(path)!r}: {text}'


def refused(path, error, what=''):
  """The `UserError` of a far place that cannot be used; what: see `told`."""
  return UserError(
      f'{told(path, error, what)}; check its name, your rights there and the '
      'extra of its kind (gs:// needs dasm-jax[gcs])')


@contextlib.contextmanager
def reaching(path, what=''):
  """Raises `refused` for whatever goes wrong with a far path within."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if not is_far(path):
      raise
    raise refused(path, error, what) from error


def identity(path):
  """What tells a file, here or far, from another that was in its place.

  Raises OSError.
  """
  if is_far(path):
    stat = path_of(path).stat()
    return f'{path} {stat.length} {stat.mtime}'
  stat = os.stat(path)
  return f'{os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}'
