"""Paths of this machine and of buckets (`gs://…`), under the same calls."""

import contextlib
import logging
import os
import pathlib
import socket

from dasm_jax.errors import Unavailable, UserError
from dasm_jax.runtime import environment, waiting

# Names of what clients of buckets and networks raise where a try may help.
PASSING = {
    'ClientConnectionError', 'ClientPayloadError', 'TransportError',
    'ServerTimeoutError', 'RetryError', 'UnavailableError',
    'DeadlineExceededError', 'AbortedError', 'ResourceExhaustedError',
    'ServiceUnavailable', 'TooManyRequests', 'InternalServerError',
    'DeadlineExceeded', 'GatewayTimeout', 'Timeout', 'ConnectionError'}
PASSING_CODES = {408, 425, 429, *range(500, 600)}


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
    return pathlib.Path(environment.expand(text, what))
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
  """The `UserError` of a place that cannot be used; see `failure_text`.

  `Unavailable` where the same command may find it again.
  """
  failed = failure_text(path, error, what)
  if may_pass(error):
    return Unavailable(f'{failed}; it does not answer: try again')
  return UserError(
      f'{failed}; check its name, your rights there and the extra of its kind '
      '(gs:// needs dasm-jax[gcs])')


def may_pass(error):
  """Whether an error, or one that it came of, is of a network or a server.

  No rights, a bucket that is not there, a package that is missing are not.
  """
  seen = []
  while error is not None and error not in seen:
    names = {kind.__name__ for kind in type(error).__mro__}
    code = getattr(error, 'code', None)
    text = str(error)
    if (isinstance(error, ConnectionError | TimeoutError | socket.gaierror)
        or names & PASSING or str(code) in map(str, PASSING_CODES)
        # A machine that has just begun, whose account is not ready.
        or ('RefreshError' in names and 'metadata' in text)):
      return True
    seen.append(error)
    error = error.__cause__ or error.__context__
  return False


@contextlib.contextmanager
def remote_access(path, what=''):
  """Raises `remote_error` for whatever goes wrong with a remote path within."""
  remote = is_remote(path)
  # Clients try again for a minute and more, and say nothing.
  with waiting.say_if_long(path) if remote else contextlib.nullcontext():
    try:
      yield
    except UserError:
      raise
    except Exception as error:  # clients of buckets raise anything
      if not remote:
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
