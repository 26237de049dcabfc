"""The file in which a command keeps its rows: what was measured, and of what.

A JSON object with `rows`, each a dict of what tells it from the others, of
`comparison.summary` of its networks, and of a seal. Commands may share a file:
what one has measured, the next one finds.
"""

import contextlib
import fcntl
import json
import logging

import jax

import dasm_jax
from dasm_jax.errors import UserError
from dasm_jax.evaluate import comparison, subjects
from dasm_jax.runtime import paths, preemption, records

ROW = 'row'  # the kind of its seal


def path_of(out, given, name):
  """Where the rows of a set are kept; None where a real subset was given none.

  Args:
    out: what --out says; '' is `name` beside the set.
    given: what --set says.
    name: of the file, such as evaluation.json.

  Raises:
    UserError: it cannot be written, or what is there cannot be read.
  """
  if out:
    path = paths.to_path(out)
    if not (paths.is_remote(path) or path.parent.is_dir()):
      raise UserError(f'--out={path}: there is no directory {path.parent}')
    if not paths.is_remote(path) and path.is_dir():
      raise UserError(f'--out={path} is a directory; give a file in it, such '
                      f'as {path / name}')
  elif given.startswith(subjects.REAL):
    return None
  else:
    path = subjects.home_of(given).with_name(name)
  # What cannot be read or written is found out before the work.
  read(path, warn=True)
  if not (paths.is_remote(path) or path.exists()):
    check_writable(path)
  return path


def check_writable(path):
  """Raises `UserError` where no row can be written to a file of rows."""
  if path and not paths.is_remote(path):
    records.check_writable(
        path.parent, '--out=FILE.json keeps the rows elsewhere')


@contextlib.contextmanager
def said_if_lost(path):
  """Around what measures rows: if nothing keeps them, Ctrl-C says so."""
  try:
    yield
  except KeyboardInterrupt:
    if path is not None:
      raise
    raise preemption.Stopped('stopped: nothing was kept; --out=FILE.json keeps '
                             'rows', 130) from None


def find(path, what, networks):
  """The first row of `what` with as many networks that is kept, or None."""
  return _first(read(path)['rows'], what, networks)


def _first(rows, what, networks):
  # A row has more entries than these: its accuracies, and who measured them.
  for row in rows:
    if what.items() <= row.items() and len(row['networks']) == networks:
      return row
  return None


def read(path, warn=False):
  """What a file of rows holds; nothing if there is no such file yet.

  warn: whether to tell of rows that are damaged, which count as none.
  """
  try:
    with paths.remote_access(path, '--out'):
      text = path.read_text() if path and path.exists() else '{"rows": []}'
    # Looked into here, so that what is no row is found out before the work.
    kept = json.loads(text)
    rows = [row for row in kept['rows'] if len(row['networks'])]
    damaged = [fault for fault in map(_fault, rows) if fault]
    if damaged and warn:
      logging.getLogger('dasm_jax').warning(
          '%s has a row that is %s: it is measured again when asked for',
          path, '; another is '.join(damaged))
    return {'rows': [row for row in rows if not _fault(row)],
            'scores': [x for x in kept.get('scores', [])
                       if len(x['lrs']['networks'])]}
  except (OSError, ValueError, KeyError, TypeError, AttributeError,
          RecursionError) as error:
    why = getattr(error, 'strerror', None) or 'it is cut, damaged or another'
    raise UserError(f'{str(path)!r} is no file of rows: {why}; mend or '
                    'move it, or give another --out') from error


def _fault(row):
  """Why a row is not as it was written, or None."""
  try:
    # Those of earlier versions have no seal.
    values = records.opened(row, ROW, None)
  except records.Damaged as error:
    return str(error)
  numbers = [values['mean'], values['std'], *values['networks']]
  fits = all(isinstance(x, float | int) and 0 <= x <= 1 for x in numbers)
  return None if fits else 'with accuracies that cannot be'


def save(path, what, found):
  """The row of accuracies; it is kept beside those that are there by now."""
  row = records.sealed(ROW, '', {
      **what, **comparison.summary(found),
      'device': jax.local_devices()[0].device_kind,
      'version': dasm_jax.__version__})
  # Other commands may have added rows meanwhile, perhaps this one.
  change(path, lambda kept: kept if _first(
      kept['rows'], what, len(row['networks'])) else kept | {
          'rows': [*kept['rows'], row]})
  return row


def change(path, function):
  """Keeps what `function` makes of what a file holds, under a lock.

  path: None keeps nothing.
  """
  if path:
    with _file_lock(path):
      kept = read(path)
      new = function(kept)
      if new is not kept:
        records.write_text(path, json.dumps(new, indent=2) + '\n')


@contextlib.contextmanager
def _file_lock(path):
  """Keeps other commands of this machine from a file meanwhile."""
  with contextlib.ExitStack() as held:
    # A file beside it is locked: that of the rows is replaced when it is
    # written, and a lock on it would be on the file that was.
    if not paths.is_remote(path):
      with contextlib.suppress(OSError):  # who cannot write is told by writing
        fcntl.flock(held.enter_context(
            path.with_name(f'.{path.name}.lock').open('w')), fcntl.LOCK_EX)
    yield
