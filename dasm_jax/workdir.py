"""The directory of a run: one run at a time, one configuration for good."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib

from dasm_jax import paths
from dasm_jax.errors import UserError


@contextlib.contextmanager
def lock(workdir, what='--workdir', name=None):
  """Creates `workdir` and keeps every other run out of it.

  what: how a user gives another; name: what he calls this one. The kernel lets
  go when the process ends, however it ends. Raises `UserError` if another run
  holds it, or if the directory cannot be written.
  """
  path, workdir = pathlib.Path(workdir) / '.lock', name or workdir
  made = not path.parent.exists()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    raise UserError(
        f'cannot write to {what} {str(workdir)!r} as a directory: '
        f'{error.strerror}; choose one that you may write to') from error
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      owner = os.pread(file, 32, 0).decode(errors='replace').strip() or '?'
      raise UserError(
          f'{what} {str(workdir)!r} is in use by process {owner}; wait for '
          f'it, stop it, or choose another {what}') from None
    except OSError as error:
      raise UserError(
          f'{what} {str(workdir)!r} cannot be locked: {error.strerror}; '
          'choose one on a local disk') from error
    os.ftruncate(file, 0)
    os.pwrite(file, f'{os.getpid()}\n'.encode(), 0)
    try:
      yield
    finally:
      with contextlib.suppress(OSError):  # Nothing came of it: leave no trace.
        if made and os.listdir(path.parent) == [path.name]:
          path.unlink()
          path.parent.rmdir()
      # A forked worker may hold the file open longer than we do.
      fcntl.flock(file, fcntl.LOCK_UN)
  finally:
    os.close(file)


def claim(workdir, config, free=()):
  """Writes `config.json`, or makes sure that `workdir` is of this `config`.

  config: a nested dict that JSON can hold. free: dotted names of entries (with
  all below them) that may change between the runs of one workdir. Raises
  `UserError` naming the entries that differ.
  """
  agree(workdir, config, free)
  write(pathlib.Path(workdir) / 'config.json',
        json.dumps(config, indent=2) + '\n')


def agree(workdir, config, free=()):
  """Raises `UserError` if `workdir` is of another `config`, see `claim`."""
  path = pathlib.Path(workdir) / 'config.json'
  if path.exists():
    try:
      there = _flat(json.loads(path.read_text()))
    except (ValueError, OSError) as error:
      raise UserError(
          f'{path} is not readable as JSON; mend or delete it, or choose '
          'another --workdir') from error
    here = _flat(json.loads(json.dumps(config)))
    names = [
        name for name in sorted(there | here)
        if there.get(name) != here.get(name)
        and not any(f'{name}.'.startswith(f'{entry}.') for entry in free)]
    if names:
      listed = ', '.join(
          f'{name} ({_short(there, name)} there, {_short(here, name)} here)'
          for name in names[:5])
      more = f' and {len(names) - 5} more' if len(names) > 5 else ''
      # Nothing has to be distilled again for another evaluation.
      hint = f', or measure its set by dasm_jax.evaluate --set={workdir}' * (
          all(name.startswith('eval.') for name in names))
      raise UserError(
          f'--workdir {str(workdir)!r} holds a run of another configuration: '
          f'{listed}{more}; choose another --workdir or delete this one{hint}')


def write(path, text):
  """Writes a file all at once: a reader sees the old text or the new one.

  path: of this machine, or of a bucket, whose objects are that by themselves.

  Raises `UserError` if the disk is full or may not be written to.
  """
  if paths.is_far(path):
    with paths.reaching(path):
      paths.path_of(path).write_text(text)
    return
  path = pathlib.Path(path)
  aside = path.with_name(f'.{path.name}.tmp')
  try:
    with aside.open('w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(aside, path)
  except OSError as error:
    aside.unlink(missing_ok=True)
    raise UserError(
        f'cannot write {str(path)!r}: {error.strerror}; make room or choose '
        'another --workdir') from error


def last_seconds(path):
  """What the last whole row of a metrics.jsonl says of `seconds`, or 0."""
  try:
    lines = pathlib.Path(path).read_bytes().splitlines()
  except OSError:
    return 0.0
  for line in reversed(lines):
    try:
      return float(json.loads(line)['seconds'])
    except (ValueError, KeyError, TypeError):
      continue
  return 0.0


def _flat(tree, prefix=''):
  """`{dotted name: value as JSON}`; as text, for a NaN is not itself."""
  if not (tree and isinstance(tree, dict)):
    return {prefix: json.dumps(tree)}
  flat = {}
  for key, value in tree.items():
    flat |= _flat(value, f'{prefix}.{key}' if prefix else key)
  return flat


def _short(flat, name):
  text = flat.get(name, 'missing')
  return text if len(text) <= 40 else text[:37] + '...'


def fingerprint(settings, free):
  """Short hash of a configuration, without the entries that may change."""
  kept = json.loads(json.dumps(settings))
  for path in free:
    *groups, name = path.split('.')
    node = kept
    for group in groups:
      node = node.get(group, {})
    node.pop(name, None)
  text = json.dumps(kept, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
