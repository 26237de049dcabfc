"""Workdirs that are no directories here: `gs://…` and the like.

The run works in a directory of this machine; whatever changes there is copied
to the far place at every checkpoint, and back when a run starts. Checkpoints
carry digests, so one that was copied in part is set aside when it is read.
"""

import hashlib
import os
import pathlib
import shutil

from dasm_jax.errors import UserError

LAST = 'results.json'  # says that all else is there


class Place:
  """A workdir.

  path: where the run works. experts: where its experts are, unless told: beside
  it, so that runs share them. push: call it after a change.
  """

  def __init__(self, path):
    self.path = pathlib.Path(path)
    self.experts = self.path.parent / 'experts'

  def push(self):
    """Nothing: the run works where its workdir is."""


class Mirror(Place):
  """A workdir whose files are copied to and from a far place."""

  def __init__(self, far, near):
    """far: an `epath.Path`, or any path. near: a directory of this machine."""
    super().__init__(near)
    self.experts = self.path / 'experts'  # or they would not be copied
    self._far, self._sent = far, {}
    with _telling(far):
      self._pull()

  def _pull(self):
    far = dict(_files(self._far))
    for name in set(dict(_files(self.path))) - set(far):
      (self.path / name).unlink()
    for name, file in far.items():
      near = self.path / name
      near.parent.mkdir(parents=True, exist_ok=True)
      near.write_bytes(file.read_bytes())
      self._sent[name] = _state(near)

  def push(self):
    """Copies what is new, then removes what is gone."""
    with _telling(self._far):
      near = dict(_files(self.path))
      for name in sorted(near, key=lambda name: (name == LAST, name)):
        state = _state(near[name])
        if self._sent.get(name) != state and name != '.lock':
          there = self._far / name
          there.parent.mkdir(parents=True, exist_ok=True)
          there.write_bytes(near[name].read_bytes())
          self._sent[name] = state
      for name in set(self._sent) - set(near):
        (self._far / name).unlink(missing_ok=True)
        del self._sent[name]


def place(workdir):
  """The `Place` of a workdir: its own directory, or that of its mirror.

  Raises:
    UserError: a far place that cannot be reached or written to.
  """
  name = str(workdir)
  if '://' not in name:
    return Place(name)
  from etils import epath
  digest = hashlib.sha256(name.encode()).hexdigest()[:16]
  cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  near = pathlib.Path(cache) / 'dasm_jax' / 'workdirs' / digest
  shutil.rmtree(near, ignore_errors=True)
  with _telling(name):
    far = epath.Path(name)
    probe = far / '.probe'
    far.mkdir(parents=True, exist_ok=True)
    probe.write_text('')
    probe.unlink()
  near.mkdir(parents=True)
  return Mirror(far, near)


class _telling:
  """Any failure of a far place, in one line."""

  def __init__(self, far):
    self._far = far

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if isinstance(error, Exception) and not isinstance(error, UserError):
      text = ' '.join(str(error).split())[:200] or kind.__name__
      raise UserError(f'cannot use --workdir {str(self._far)!r}: {text}; check '
                      'its name, your rights there and the extra of its kind '
                      '(gs:// needs dasm-jax[gcs])') from error


def _files(root, prefix=''):
  """`(name below root, path)` of all files."""
  if not root.is_dir():
    return
  for entry in root.iterdir():
    name = f'{prefix}{entry.name}'
    if entry.is_dir():
      yield from _files(entry, f'{name}/')
    else:
      yield name, entry


def _state(path):
  found = path.stat()
  return found.st_size, found.st_mtime_ns
