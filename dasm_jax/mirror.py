"""Workdirs that are no directories here: `gs://…` and the like.

The run works in a directory of this machine; whatever changes there is copied
to the far place at every checkpoint, and back when a run starts. Checkpoints
carry digests, so one that was copied in part is set aside when it is read.
"""

import hashlib
import os
import pathlib
import shutil
import time

from dasm_jax import paths
from dasm_jax.errors import Unavailable

LAST = 'results.json'  # says that all else is there
WAITS = 1, 5, 25  # seconds before a push is tried again


class Place:
  """A workdir.

  path: where the run works. home: what it locks. experts: where its experts
  are, unless told: beside it, so that runs share them. pull: call it once home
  is locked. push: call it after a change.
  """

  def __init__(self, path):
    self.path = self.home = pathlib.Path(path)
    self.experts = self.path.parent / 'experts'

  def pull(self):
    """Nothing: the run works where its workdir is."""

  def push(self):
    """Nothing, as `pull`."""


class Mirror(Place):
  """A workdir whose files are copied to and from a far place."""

  def __init__(self, far, near):
    """far: an `epath.Path`, or any path. near: a directory of this machine."""
    super().__init__(near)
    self.home = self.path.with_name(f'{self.path.name}.home')
    self.experts = self.path / 'experts'  # or they would not be copied
    self._far, self._sent = far, {}

  def pull(self):
    """Makes `path` what the far place is.

    Raises:
      UserError: it cannot be read or written to.
    """
    try:
      probe = self._far / '.probe'
      self._far.mkdir(parents=True, exist_ok=True)
      probe.write_text('')
      probe.unlink()
      shutil.rmtree(self.path, ignore_errors=True)
      self.path.mkdir(parents=True)
      for name, file in _files(self._far):
        near = self.path / name
        near.parent.mkdir(parents=True, exist_ok=True)
        near.write_bytes(file.read_bytes())
        self._sent[name] = _state(near)
    except Exception as error:  # Whatever a far place raises.
      raise paths.refused(self._far, error, '--workdir') from error

  def push(self):
    """Copies what is new, then removes what is gone; tries some times.

    Raises:
      Unavailable: the far place has not answered in half a minute.
    """
    for wait in (*WAITS, None):
      try:
        return self._push()
      except Exception as error:  # Whatever a far place raises.
        if wait is None:
          raise Unavailable(
              f'{paths.told(self._far, error, "--workdir")}; the same command '
              'goes on from what is there') from error
        time.sleep(wait)

  def _push(self):
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
    UserError: a far place of no known kind.
  """
  name = str(workdir)
  if not paths.is_far(name):
    return Place(name)
  digest = hashlib.sha256(name.encode()).hexdigest()[:16]
  cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  near = pathlib.Path(cache) / 'dasm_jax' / 'workdirs' / digest
  return Mirror(paths.path_of(name, '--workdir'), near)


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
