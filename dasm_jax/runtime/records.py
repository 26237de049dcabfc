"""Small files: written at once, sealed, and checked when they are read.

A record is a JSON object of which one field, `record`, says what it is, whose
it is, and the digest of all the rest. What is damaged, or of somebody else, is
set aside with a word, and its owner makes it again.

Sections: what the disk refuses, files written at once, a seal, records.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil

from dasm_jax.errors import UserError
from dasm_jax.runtime import paths

_log = logging.getLogger('dasm_jax')

# ---- What the disk refuses

_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)


@contextlib.contextmanager
def writing(path):
  """Around what writes a file: a full disk is one line, `UserError`."""
  try:
    yield
  except OSError as error:
    way = ('move away what is there, and start again'
           if error.errno in _IN_THE_WAY else 'make room and start again, it '
           'goes on from the last checkpoint')
    raise UserError(f'cannot write {str(path)!r}: {error.strerror or error}; '
                    f'{way}') from error


def check_writable(folder, option):
  """Raises `UserError` for a folder of this machine that takes no files.

  option: how a user gives another one.
  """
  probe = pathlib.Path(folder) / f'.probe-{os.getpid()}'
  try:
    # Root may write there all the same, against the will of who set it so.
    if not probe.parent.stat().st_mode & 0o222:
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    try:
      # A full disk takes the name of a file, but no bytes of it.
      with probe.open('wb') as file:
        file.write(b'-')
        file.flush()
    finally:
      probe.unlink(missing_ok=True)
  except OSError as error:
    raise UserError(f'cannot write to {str(folder)!r}: '
                    f'{error.strerror or error}; {option}') from error


# ---- Files written at once


@contextlib.contextmanager
def replacing(path):
  """Yields a binary file that takes the name `path` once it is whole.

  A reader sees the old one or the new one. Raises `UserError` if the disk is
  full or may not be written to; the old one stays then.
  """
  path = pathlib.Path(path)
  aside = path.with_name(f'.{path.name}.tmp')
  with writing(path):
    try:
      with aside.open('wb') as file:
        yield file
        # On the disk before it is renamed: a crash of the machine could leave
        # an empty file under the name otherwise.
        file.flush()
        os.fsync(file.fileno())
      os.replace(aside, path)
    except BaseException:
      with contextlib.suppress(OSError):
        aside.unlink()
      raise


def write_text(path, text):
  """Writes a file all at once, see `replacing`.

  path: of this machine, or of a bucket, whose objects change at once anyway.
  """
  if paths.is_remote(path):
    with paths.remote_access(path):
      paths.to_path(path).write_text(text)
    return
  with replacing(path) as file:
    file.write(text.encode())


# ---- A seal

FIELD = 'record'


class Damaged(ValueError):
  """A file is not what it should be; the text says why."""


def short_digest(tree, owner=''):
  """A few digits that tell a JSON value of an owner from any other."""
  return _digest([owner, tree])[:8]


def sealed(kind, owner, values):
  """`values`, a dict that JSON can hold, with the seal of a record.

  kind: what it is. owner: whose it is, '' if nobody's.
  """
  seal = {'kind': kind, 'owner': owner}
  return {**values, FIELD: {
      **seal, 'digest': _digest([seal, json.loads(json.dumps(values))])}}


def opened(tree, kind, owner):
  """The values of what `sealed` returned, or JSON has made of it.

  owner: None takes those of everybody, and what has no seal: earlier versions
  set none.

  Raises:
    Damaged: something else.
  """
  if not isinstance(tree, dict):
    raise Damaged('no JSON object')
  if owner is None and FIELD not in tree:
    return tree
  values = {name: value for name, value in tree.items() if name != FIELD}
  seal = tree.get(FIELD)
  if not isinstance(seal, dict):
    raise Damaged('without a seal')
  seal = dict(seal)
  if seal.pop('digest', None) != _digest([seal, values]):
    raise Damaged('not what its digest says')
  if seal.get('kind') != kind:
    raise Damaged(f'of another kind, {seal.get("kind")!r}')
  if owner not in (None, seal.get('owner')):
    raise Damaged('of another run')
  return values


def owner_of(tree):
  """Whose a sealed dict is, None if it has no seal."""
  seal = tree.get(FIELD)
  return seal.get('owner') if isinstance(seal, dict) else None


def _digest(tree):
  text = json.dumps(tree, sort_keys=True, ensure_ascii=True)
  return hashlib.sha256(text.encode()).hexdigest()


# ---- Records


def parse(data):
  """A JSON value of bytes; `Damaged` if it is none."""
  try:
    return json.loads(data.decode())
  except (ValueError, RecursionError) as error:
    raise Damaged('no JSON') from error


def write(path, kind, owner, values, indent=None):
  """Writes a record, see `sealed`. Raises `UserError` where it cannot be."""
  text = json.dumps(sealed(kind, owner, values), indent=indent)
  write_text(path, text + '\n')


def load(path, kind, owner, check=None):
  """The values of a record, None if there is no such file.

  Args:
    path: a `pathlib.Path`.
    kind, owner: of `opened`.
    check: called with the values; raises what tells that they are none.

  Raises:
    Damaged: it is another one, or nothing of the kind.
    UserError: it cannot be read.
  """
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    return None
  except (IsADirectoryError, NotADirectoryError) as error:
    raise Damaged('a folder') from error
  except OSError as error:
    raise UserError(f'cannot read {str(path)!r}: {error.strerror}; make it '
                    'readable, or move it away') from error
  values = opened(parse(data), kind, owner)
  try:
    if check is not None:
      check(values)
  except (ValueError, KeyError, TypeError, AttributeError, IndexError,
          OverflowError) as error:
    raise Damaged(f'without sense ({type(error).__name__}: {error})') from error
  return values


def read(path, kind, owner, check=None):
  """`load`, but what is damaged is set aside with a word, and None."""
  try:
    return load(path, kind, owner, check)
  except Damaged as error:
    set_aside(path, error)
    return None


def set_aside(path, why):
  """Gives a file or folder another name, and says so: it is made again."""
  aside = path.with_name(f'{path.name}.damaged')
  with writing(aside):
    # Only the last one is kept.
    if aside.is_dir() and not aside.is_symlink():
      shutil.rmtree(aside)
    aside.unlink(missing_ok=True)
    path.replace(aside)
  _log.warning('%s is %s: set aside as %s, and made again', path, why,
               aside.name)
