"""Paths of this machine and of buckets (`gs://…`), under the same calls."""

import contextlib
import logging
import os
import pathlib

from dasm_jax.errors import UserError


def is_remote(path):
  """Whether a path is of a bucket (`gs://…`), not of this machine."""
  return '://' in str(path)


def to_path(text, what=''):
  """A path of this machine, or an `epath.Path` with the same methods.

  what: the option that names it.

  Raises:
    UserError: a remote place of no known kind.
  """
  if not is_remote(text):
    return pathlib.Path(text).expanduser()
  # Only who has a bucket needs these packages, which are an extra.
  from etils import epath
  quiet_gcsfs()
  try:
    return epath.Path(text)
  except Exception as error:  # an unknown scheme, a package that is missing
    raise remote_error(text, error, what) from error


def quiet_gcsfs():
  """Drops what gcsfs logs: it raises the same, or it matters little."""
  logging.getLogger('gcsfs').addFilter(_debugging)


def _debugging(record):
  del record
  # The switch of gcsfs itself still shows everything.
  return 'GCSFS_DEBUG' in os.environ


def failure_text(path, error, what=''):
  """A failure of a remote place, in one line; what: the option naming it."""
  text = ' '.join(str(error).split())[:200] or type(error).__name__
  return f'cannot use {what}{" " if what else ""}{str(path)!r}: {text}'


def remote_error(path, error, what=''):
  """The `UserError` of a place that cannot be used; see `failure_text`."""
  return UserError(
      f'{failure_text(path, error, what)}; check its name, your rights there '
      'and the extra of its kind (gs:// needs dasm-jax[gcs])')


@contextlib.contextmanager
def remote_access(path, what=''):
  """Raises `remote_error` for whatever goes wrong with a remote path within."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # clients of buckets raise anything
    if not is_remote(path):
      raise
    raise remote_error(path, error, what) from error


def identity(path):
  """What tells a file, here or remote, from another that was in its place.

  Raises OSError.
  """
  if is_remote(path):
    stat = to_path(path).stat()
    return f'{path} {stat.length} {stat.mtime}'
  stat = os.stat(path)
  return f'{os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}'
