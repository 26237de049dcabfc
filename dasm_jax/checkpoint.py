"""Checkpoints that are checked when they are read.

A checkpoint is an orbax step of two items. `state` holds the leaves of the
tree, numbered, as plain arrays; `meta` says what they are and seals them:
orbax restores a flipped bit without a word, so we keep digests of our own.
"""

import contextlib
import hashlib
import json
import logging
import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dasm_jax import hosts, leaves
from dasm_jax.errors import UserError
from dasm_jax.hush import hush
from dasm_jax.workdir import claim as claim
from dasm_jax.workdir import fingerprint as fingerprint
from dasm_jax.workdir import lock as lock

_log = logging.getLogger('dasm_jax')
_ASIDE = 'damaged'  # orbax only looks at directories named by a number
_FULL = ('RESOURCE_EXHAUSTED', 'PERMISSION_DENIED', 'Error writing')


class Checkpoints(NamedTuple):
  """An open directory of checkpoints.

  latest: `like -> (step, state) | None`, the newest undamaged checkpoint as a
    tree like `like` (of arrays or `jax.ShapeDtypeStruct`), uncommitted on the
    default device. A damaged one is logged and set aside under `damaged/`.
    Raises `UserError` for a checkpoint of another configuration.
  save: `(step, state) -> None`, durable on return. Steps must grow. Raises
    `UserError` when it cannot be written; the earlier ones stay.
  """
  latest: Callable
  save: Callable


@contextlib.contextmanager
def open(directory, fingerprint, keep=2):
  """Opens a directory of checkpoints and yields `Checkpoints`.

  fingerprint: names the configuration whose checkpoints may be restored.
  keep: how many of the newest steps stay. One job only: hold the `lock`. Of
  its processes the first reads and writes, and the others hear of it: only
  that one needs the directory. Raises `UserError` if it cannot be written.
  """
  directory = pathlib.Path(directory).resolve()
  with contextlib.ExitStack() as held:
    managers, read = [], []
    hosts.once(lambda: managers.append(
        held.enter_context(_manager(directory, keep))))

    def latest(like):
      def look():
        found = _latest(managers[0], directory, fingerprint, like)
        read.append(found and found[1])
        return found and found[0]
      step = hosts.once(look)
      if step is None:
        return None
      arrays = hosts.agree(read.pop() if hosts.leads() else [
          np.zeros(x.shape, x.dtype) for x in leaves.blank(like)])
      return step, leaves.wrap(like, arrays)

    def save(step, state):
      hosts.once(lambda: _save(
          managers[0], directory, fingerprint, int(step), state))

    yield Checkpoints(latest, save)


@contextlib.contextmanager
def _manager(directory, keep):
  """The orbax manager of a directory that is made if need be."""
  import orbax.checkpoint as ocp  # 0.5 s
  alone = ocp.options.MultiprocessingOptions(
      active_processes={0} if hosts.count() > 1 else None)
  options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, enable_async_checkpointing=False, create=False,
      multiprocessing_options=alone)
  try:
    directory.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    with hush():
      manager = ocp.CheckpointManager(directory, options=options)
  except OSError as error:
    raise UserError(
        f'cannot write to {str(directory)!r}: {error.strerror or error}; '
        'choose another --workdir') from error
  try:
    yield manager
  finally:
    with hush():
      manager.close()


def _save(manager, directory, fingerprint, step, state):
  from orbax.checkpoint import args
  arrays = leaves.host(state)
  meta = {'step': step, 'fingerprint': fingerprint,
          'leaves': leaves.specs(state), 'digest': leaves.digest(arrays)}
  meta['seal'] = _seal(meta)
  stored = _numbered(step, arrays)
  try:
    with hush():
      done = manager.save(step, args=args.Composite(
          state=args.StandardSave(stored), meta=args.JsonSave(meta)))
  except (OSError, ValueError) as error:
    if isinstance(error, ValueError) and not any(
        name in str(error) for name in _FULL):
      raise
    _sweep(directory)  # The half-written step would keep the disk full.
    manager.reload()
    reason = getattr(error, 'strerror', None) or str(error).split('\n')[0]
    raise UserError(
        f'cannot save the checkpoint of step {step} in {str(directory)!r}: '
        f'{reason[:200]}; make room and start again, the earlier checkpoints '
        'are intact') from error
  if not done:
    raise RuntimeError(f'step {step} is not newer than {manager.all_steps()}')


def _latest(manager, directory, fingerprint, like):
  """`(step, arrays)` of the newest that is whole, or None."""
  damaged, found = [], None
  for step in sorted(manager.all_steps(), reverse=True):
    try:
      meta = _read_meta(manager, step)
    except MemoryError:
      raise
    except Exception as error:  # orbax raises anything, bare Exception too
      damaged.append((step, error))
      continue
    _match(meta, directory, step, fingerprint, like)
    try:
      found = step, _read_state(manager, step, meta, like)
      break
    except MemoryError:
      raise
    except Exception as error:
      damaged.append((step, error))
  for step, error in damaged:
    reason = ' '.join(str(error).split())[:80] or type(error).__name__
    aside = directory / _ASIDE / str(step)
    _log.warning(
        'the checkpoint of step %d in %s is damaged (%s): set aside as %s; %s',
        step, directory, reason, aside,
        f'going on from step {found[0]}' if found else 'starting again')
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    (directory / str(step)).rename(aside)
  if damaged:
    with hush():
      manager.reload()
  return found


def _match(meta, directory, step, fingerprint, like):
  """Raises `UserError` unless the checkpoint is one of this configuration.

  Before restoring: orbax would cast dtypes in silence.
  """
  where = f'the checkpoint of step {step} in {str(directory)!r}'
  wayout = 'choose another --workdir or delete this one'
  if meta['fingerprint'] != fingerprint:
    raise UserError(
        f'{where} is of another configuration ({meta["fingerprint"]} there, '
        f'{fingerprint} here); {wayout}')
  there = {name: rest for name, *rest in meta['leaves']}
  here = {name: rest for name, *rest in leaves.specs(like)}
  for name in sorted(there | here):
    if there.get(name) != here.get(name):
      one, two = (
          '{}{}'.format(*tree[name]) if name in tree else 'missing'
          for tree in (there, here))
      raise UserError(
          f'{where} has another state: {name} is {one} there, {two} here; '
          f'{wayout}')


def _read_meta(manager, step):
  from orbax.checkpoint import args
  with hush():
    meta = manager.restore(
        step, args=args.Composite(meta=args.JsonRestore())).meta
  if meta.pop('seal') != _seal(meta) or meta['step'] != step:
    raise ValueError('its description does not match its digest')
  return meta


def _read_state(manager, step, meta, like):
  from orbax.checkpoint import args
  blank = leaves.blank(like)
  target = _numbered(step, blank)
  with hush():
    stored = manager.restore(step, args=args.Composite(
        state=args.StandardRestore(target))).state
  arrays = [stored.get(f'{i:04d}', array) for i, array in enumerate(blank)]
  if leaves.digest(arrays) != meta['digest']:
    raise ValueError('its arrays do not match their digest')
  return arrays


def _numbered(step, arrays):
  """What is stored: orbax refuses arrays of size zero, and trees of none."""
  return {'step': np.asarray(step)} | {
      f'{i:04d}': array for i, array in enumerate(arrays) if array.size}


def _seal(meta):
  return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _sweep(directory):
  """Removes what a kill or a full disk left of an unfinished save."""
  for path in directory.glob('*.orbax-checkpoint-tmp*'):
    shutil.rmtree(path, ignore_errors=True)
