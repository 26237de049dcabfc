"""The directory of a run: one run at a time, one configuration for good.

A workdir may be no directory here (`gs://…` and the like). The run then works
in a directory of this machine; whatever changes there is copied to the remote
place at every checkpoint, and back when a run starts. Checkpoints carry
digests, so one that was copied in part is set aside when it is read.

Sections: the lock, whose a workdir is, the `Workdir` and its mirror, opening
one.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import secrets
import shutil
import tempfile
import time

import dasm_jax
from dasm_jax.errors import Unavailable, UserError
from dasm_jax.runtime import environment, paths, processes, records, waiting
from dasm_jax.runtime import logging as logs

FORMAT_FILE = 'format.json'
STATE_FORMAT = 5  # of checkpoints, and of what random keys mean in them
_log = logging.getLogger('dasm_jax')


# ---- The lock


class InUse(UserError):
  """Another run is at work there."""


@contextlib.contextmanager
def lock(workdir, what='--workdir', name=None):
  """Creates `workdir` and keeps every other run out of it.

  what: how a user gives another; name: what they call this one. The kernel lets
  go when the process ends, however it ends. Raises `InUse` if another run
  holds it, `UserError` if the directory cannot be written.
  """
  path, workdir = pathlib.Path(workdir) / '.lock', name or workdir
  made = not path.parent.exists()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not cut on opening: it names the process that may hold it.
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    _refuse_file(path.parent, what, workdir)
    raise UserError(
        f'cannot write to {what} {str(workdir)!r} as a directory: '
        f'{error.strerror}; choose one that you may write to') from error
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      owner = os.pread(file, 32, 0).decode(errors='replace').strip() or '?'
      raise InUse(
          f'{what} {str(workdir)!r} is in use by process {owner}; wait for '
          f'it, stop it, or choose another {what}') from None
    except OSError as error:
      raise UserError(
          f'{what} {str(workdir)!r} cannot be locked: {error.strerror}; '
          'choose one on a local disk') from error
    with records.writing(path):
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


def _refuse_file(path, what, name):
  """Raises `UserError` where a file is, or is above, what is no directory."""
  file = next((str(one) for one in (path, *path.parents)
               if os.path.isfile(one)), None)
  if file is not None:
    lies = 'is' if file == str(path) else f'is below {file!r},'
    raise UserError(f'{what} {str(name)!r} {lies} a file, no directory; choose '
                    f'another {what}')


# ---- Whose a workdir is
# config.json and format.json both tell: of either, what is lost or damaged is
# written anew by what the other one says.

CONFIG_FILE = 'config.json'
# By these a directory is that of a run, whatever else is missing.
RUN_FILES = (logs.RESULTS, 'accuracies.json', 'synthetic.npz', 'data.json',
             'metrics.jsonl', 'clock.json', 'segment_*', 'unfinished')


def claim(workdir, config, free=()):
  """Makes `workdir` that of a run of this `config`, or makes sure that it is.

  Args:
    workdir: a path.
    config: a nested dict that JSON can hold.
    free: dotted names of entries (with all below them) that may change between
      the runs of one workdir.

  Returns:
    The name of the run, which all its files carry: a new one where `workdir`
    is new.

  Raises:
    UserError: it is of another configuration, whose entries are named, or of
      a version whose checkpoints are others.
  """
  workdir = pathlib.Path(workdir)
  run = check_config(workdir, config, free)
  told, _ = _read_format(workdir)
  _, problem = _read_config(workdir)
  there = (workdir / CONFIG_FILE).exists()
  if told is None and there and run is None:
    told = {'format': 1, 'version': '0.1'}  # which left no such file
  if told is not None and told.get('format') != STATE_FORMAT:
    raise UserError(
        f'--workdir {str(workdir)!r} holds a run of dasm_jax '
        f'{told.get("version")}, whose checkpoints dasm_jax '
        f'{dasm_jax.__version__} does not go on from; end it with that '
        'version, or choose another --workdir')
  # Set aside only here: nothing is changed by who only asks.
  if problem and there:
    records.set_aside(workdir / CONFIG_FILE, problem)
  elif problem and told and told.get('config'):
    _log.warning('%s was missing: written again, as %s tells of the same '
                 'configuration', workdir / CONFIG_FILE, FORMAT_FILE)
  if told is None and (workdir / FORMAT_FILE).exists():
    records.set_aside(workdir / FORMAT_FILE, 'damaged')
  run = run or secrets.token_hex(8)
  records.write(workdir / CONFIG_FILE, 'config', run, config, indent=2)
  records.write(workdir / FORMAT_FILE, 'format', run, {
      'format': STATE_FORMAT, 'version': dasm_jax.__version__,
      'config': fingerprint(config, free)})
  return run


def check_config(workdir, config, free=(), compared=None):
  """Raises `UserError` if `workdir` is of another `config`, see `claim`.

  Args:
    workdir, config, free: see `claim`.
    compared: `(there, here) -> (there, here)`, settings of a file and `config`
      in one form, where an older version wrote the file. Asked of finished
      runs alone: nothing is computed for them.

  Returns:
    The name of its run; None if it has none yet, or one of an earlier version.
  """
  workdir = pathlib.Path(workdir)
  _refuse_file(workdir, '--workdir', workdir)
  there, problem = _read_config(workdir)
  if problem:
    return _run_without_config(workdir, problem, config, free)
  ended = compared is not None and (workdir / logs.RESULTS).is_file()
  _check_same(workdir, *(compared if ended else _as_written)(there, config),
              free)
  mine, (_, owner) = records.owner_of(there), _read_format(workdir)
  if None not in (mine, owner) and mine != owner:
    raise UserError(
        f'{CONFIG_FILE} and {FORMAT_FILE} in --workdir {str(workdir)!r} are of '
        'two runs; delete the one that is not of the rest, or choose another '
        '--workdir')
  return owner or mine


def _run_without_config(workdir, problem, config, free):
  """The name of a run whose config.json is missing or damaged, or None."""
  told, owner = _read_format(workdir)
  if owner is None:
    files = sorted(path.name for name in RUN_FILES
                   for path in workdir.glob(name))
    if problem == MISSING and not files and told is None:
      return None
    raise UserError(
        f'--workdir {str(workdir)!r} holds {", ".join(files[:3]) or "a run"}, '
        f'but its {CONFIG_FILE} is {problem} and no {FORMAT_FILE} tells of '
        f'which run that is{_kept_aside(workdir)}; put one of them back, or '
        'choose another --workdir')
  if told.get('config') not in (None, fingerprint(config, free)):
    raise UserError(
        f'--workdir {str(workdir)!r} holds a run of another configuration, '
        f'whose {CONFIG_FILE} is {problem}{_kept_aside(workdir)}; give the '
        'command that began it, which goes on, or choose another --workdir')
  return owner


def _kept_aside(workdir):
  """Where a configuration that was damaged may still be read, in words."""
  aside = workdir / f'{CONFIG_FILE}.damaged'
  return f' ({aside.name} there may tell which)' * aside.is_file()


MISSING = 'missing'
# What tells runs apart, before the entries that follow from it.
TELLING = 'dataset.name', 'method.name', 'network.name', 'syn.ipc', 'seed'


def _read_config(workdir):
  """`(what config.json holds, why it says nothing)`; one of them is None."""
  path = workdir / CONFIG_FILE
  try:
    there = records.load(path, 'config', None)
  except records.Damaged as error:
    return None, str(error)
  if there is None:
    return None, MISSING
  # With its seal, which tells whose it is.
  return records.parse(path.read_bytes()), None


def _read_format(workdir):
  """`(what format.json holds, the name of the run)`; None for each unknown."""
  path = workdir / FORMAT_FILE
  try:
    told = records.load(path, 'format', None, lambda told: (
        told['format'], told['version']))
    owner = told and records.owner_of(records.parse(path.read_bytes()))
  except records.Damaged:
    return None, None
  return told, owner


def differences(there, here, free=()):
  """The entries in which two configurations differ, sorted, and in words.

  Args:
    there, here: nested dicts that JSON can hold.
    free: see `claim`.

  Returns:
    `(names, text)`; the text names five of them with both values.
  """
  # Through JSON, like the file: tuples become lists. The dots below keep a
  # free `run` from freeing `runner` as well.
  there, here = (_flat(json.loads(json.dumps(tree))) for tree in (there, here))
  names = [
      name for name in sorted(there | here, key=lambda name: (
          TELLING.index(name) if name in TELLING else len(TELLING), name))
      if there.get(name) != here.get(name)
      and not any(f'{name}.'.startswith(f'{entry}.') for entry in free)]
  listed = ', '.join(
      f'{name} ({_shorten(there, name)} there, {_shorten(here, name)} here)'
      for name in names[:5])
  return names, listed + f' and {len(names) - 5} more' * (len(names) > 5)


def _as_written(there, here):
  return there, here


def _check_same(workdir, there, config, free):
  """Raises `UserError` naming the entries that differ."""
  names, listed = differences({name: value for name, value in there.items()
                               if name != records.FIELD}, config, free)
  if names:
    # Nothing has to be distilled again for another evaluation.
    hint = f', or measure its set by dasm_jax.evaluate --set={workdir}' * (
        all(name.startswith('eval.') for name in names))
    raise UserError(
        f'--workdir {str(workdir)!r} holds a run of another configuration: '
        f'{listed}; choose another --workdir or delete this one{hint}')


def _flat(tree, prefix=''):
  """`{dotted name: value as JSON}`; as text, for a NaN is not itself."""
  # An empty dict is a value too, or it could be added without notice.
  if not (tree and isinstance(tree, dict)):
    return {prefix: json.dumps(tree)}
  flat = {}
  for key, value in tree.items():
    flat |= _flat(value, f'{prefix}.{key}' if prefix else key)
  return flat


def _shorten(flat, name):
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


# ---- The `Workdir`, and its mirror

PUSHED_LAST = 'results.json'  # says that all else is there
PUSH_WAITS = 1, 5, 25  # seconds before a push is tried again


class Workdir:
  """A workdir, of which only the first process reads and writes anything.

  name: what the user calls it. path: where the run works. home: what it locks.
  experts: where its experts are, unless the settings say where: beside it, so
  that runs share them. run: the name of the run, which its files carry; None
  before `check`, and of earlier versions.
  pull: the first process calls it once home is locked. push: it calls it after
  a change; `sync` is for all to call at the same place.
  """

  def __init__(self, path, name=None):
    self.name = str(name or path)
    self.path = self.home = pathlib.Path(path)
    self.experts = self.path.parent / 'experts'
    self.run = None

  def __str__(self):
    return self.name

  def pull(self):
    """Nothing: the run works where its workdir is."""

  def push(self):
    """Nothing, as `pull`."""

  def sync(self):
    """`push` by the first process; all call it."""
    processes.on_leader(self.push)

  def read_json(self, name, check=None):
    """What `write_json` has left there, a dict; {} if nothing; all call it.

    check: see `records.load`.
    """
    def read():
      return records.read(self.path / name, name, self.run, check)
    return processes.on_leader(read) or {}

  def write_json(self, name, value):
    """Writes a dict to a file there; all call it."""
    def write():
      records.write(self.path / name, name, self.run, value)
      self.push()
    processes.on_leader(write)

  def check(self, settings, free=(), compared=None):
    """Raises `UserError` if it is of others (`check_config`); all call it."""
    self.run = processes.on_leader(
        lambda: check_config(self.path, settings, free, compared))

  def claim(self, settings, free=()):
    """Makes it that of these settings, see `claim`; all call it."""
    self.run = processes.on_leader(lambda: claim(self.path, settings, free))


class MirroredWorkdir(Workdir):
  """A workdir whose files are copied to and from a remote place."""

  def __init__(self, remote, near, waits=PUSH_WAITS):
    """remote: an `epath.Path`, or any path. near: a directory here. waits:
    seconds before each time that a push is tried again.
    """
    super().__init__(near, remote)
    # The lock is outside of `path`, which `pull` removes.
    self.home = self.path.with_name(f'{self.path.name}.home')
    self.experts = self.path / 'experts'  # or they would not be copied
    self._remote, self._sent, self._waits = remote, {}, waits

  def pull(self):
    """Makes `path` a copy of the remote place; tries some times.

    Raises:
      UserError: it cannot be read or written to.
      Unavailable: it has not answered.
    """
    try:
      with waiting.say_if_long(self._remote):
        self._again(self._pull, paths.may_pass)
    except Exception as error:  # Whatever a remote place raises.
      raise paths.remote_error(self._remote, error, '--workdir') from error

  def push(self):
    """Copies what is new, then removes what is gone; tries some times.

    Raises:
      Unavailable: the remote place has not answered in half a minute.
    """
    try:
      self._again(self._push)
    except Exception as error:  # Whatever a remote place raises.
      raise Unavailable(
          f'{paths.failure_text(self._remote, error, "--workdir")}; the '
          'same command goes on from what is there') from error

  def _again(self, action, hopeful=lambda error: True):
    """Does `action`, some times if it fails with a `hopeful` error."""
    for wait in (*self._waits, None):
      try:
        return action()
      except Exception as error:  # Whatever a remote place raises.
        if wait is None or not hopeful(error):
          raise
        time.sleep(wait)

  def _pull(self):
    # Whether one may write there is found out now, not at the first push.
    probe = self._remote / '.probe'
    self._remote.mkdir(parents=True, exist_ok=True)
    probe.write_text('')
    probe.unlink()
    # What is here may be of a run that another machine has taken further.
    shutil.rmtree(self.path, ignore_errors=True)
    self.path.mkdir(parents=True)
    for name, file in _files_below(self._remote):
      near = self.path / name
      near.parent.mkdir(parents=True, exist_ok=True)
      near.write_bytes(file.read_bytes())
      self._sent[name] = _file_state(near)

  def _push(self):
    near = dict(_files_below(self.path))
    # In an order that may end anywhere: new files come before old ones go, and
    # results.json, which says that the run is finished, comes last of them.
    for name in sorted(near, key=lambda name: (name == PUSHED_LAST, name)):
      state = _file_state(near[name])
      if self._sent.get(name) != state and near[name].name != '.lock':
        there = self._remote / name
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(near[name].read_bytes())
        self._sent[name] = state
    for name in set(self._sent) - set(near):
      (self._remote / name).unlink(missing_ok=True)
      del self._sent[name]


# ---- Opening one


@contextlib.contextmanager
def open_workdir(name):
  """Yields the `Workdir` called `name`, kept from other runs meanwhile.

  A remote one is copied to this machine at first, and back in the end.

  name: see `find_workdir`.

  Raises:
    UserError: it is in use, cannot be written to, or is of no known kind.
  """
  with contextlib.ExitStack() as held:
    opened = []
    # Pulled once it is locked, and pushed before it is free again: an ExitStack
    # leaves in the opposite order.
    def hold():
      found = find_workdir(name)
      held.enter_context(lock(found.home, name=found.name))
      found.pull()
      held.callback(found.push)
      opened.append(found)
    processes.on_leader(hold)
    # The other processes never touch theirs.
    yield opened[0] if opened else Workdir(str(name))


def find_workdir(name):
  """The `Workdir` called `name`: its own directory, or that of its mirror.

  name: a path, a remote place (`gs://…`), or a `Workdir` itself.

  Raises:
    UserError: a remote place of no known kind.
  """
  if isinstance(name, Workdir):
    return name
  name = str(name)
  if not paths.is_remote(name):
    return Workdir(environment.expand(name, '--workdir'))
  digest = hashlib.sha256(name.encode()).hexdigest()[:16]
  cache = environment.cache_folder() or tempfile.gettempdir()
  near = pathlib.Path(cache) / 'dasm_jax' / 'workdirs' / digest
  return MirroredWorkdir(paths.to_path(name, '--workdir'), near)


def _files_below(root, prefix=''):
  """`(name below root, path)` of all files."""
  if not root.is_dir():
    return
  for entry in root.iterdir():
    name = f'{prefix}{entry.name}'
    if entry.is_dir():
      yield from _files_below(entry, f'{name}/')
    else:
      yield name, entry


def _file_state(path):
  found = path.stat()
  return found.st_size, found.st_mtime_ns
