"""Checkpoints that are checked when they are read.

A checkpoint is an orbax step of two items. `state` holds the leaves of the
tree, numbered, as plain arrays; `meta` says what they are and whose, and seals
them: orbax restores a flipped bit without a word, so we keep digests of our
own.

Sections: orbax kept quiet, a tree as host arrays and back, a directory of
checkpoints, writing one, reading the newest that is whole.
"""

import contextlib
import gc
import hashlib
import io
import json
import logging
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax.errors import UserError
from dasm_jax.runtime import processes, records

# ---- Orbax kept quiet

_absl = logging.getLogger('absl')  # orbax logs through it
_asyncio = logging.getLogger('asyncio')


def _not_late(record):
  return 'exception was never retrieved' not in record.getMessage()


@contextlib.contextmanager
def quiet_orbax():
  """Keeps orbax off the terminal, above all when it fails.

  Then it raises, logs pages, and lets the threads of tensorstore print 'Event
  loop is closed' through the hooks of the interpreter.
  """
  level, stderr, hook = _absl.level, sys.stderr, sys.unraisablehook
  held = io.StringIO()
  try:
    _absl.setLevel(logging.CRITICAL)
    sys.stderr, sys.unraisablehook = held, lambda _: None
    yield
  except Exception:
    # Reads of other arrays, which nobody waits for any more, may fail minutes
    # later: of what has been said in a line they log a page.
    _asyncio.addFilter(_not_late)
    # Threads and collected objects print late: here it still goes to `held`.
    time.sleep(.1)
    gc.collect()
    held.truncate(0)
    raise
  finally:
    _absl.setLevel(level)
    sys.stderr, sys.unraisablehook = stderr, hook
    if held.getvalue():  # of some other thread
      stderr.write(held.getvalue())


# ---- A tree as host arrays, and back


def host_leaves(tree):
  """The leaves of a tree as NumPy arrays."""
  # The types that JAX gives them: NumPy would make a Python number 64 bits.
  dtypes = [x.dtype for x in jax.tree.leaves(jax.eval_shape(_plain_keys, tree))]
  return [np.asarray(leaf, dtype) for leaf, dtype in zip(
      jax.tree.leaves(_plain_keys(tree)), dtypes, strict=True)]


def blank_leaves(like):
  """Zeros of the shapes of `host_leaves(like)`, which take no memory."""
  return [np.broadcast_to(np.zeros((), x.dtype), x.shape)
          for x in jax.tree.leaves(jax.eval_shape(_plain_keys, like))]


def from_leaves(like, arrays):
  """Host arrays as a tree like `like` of JAX arrays, see `host_leaves`."""
  likes, treedef = jax.tree.flatten(like)
  return jax.tree.unflatten(treedef, [
      jax.random.wrap_key_data(jnp.array(array), impl=_key_impl(x))
      if _is_key(x) else jnp.array(array)
      for x, array in zip(likes, arrays, strict=True)])


def leaf_specs(tree):
  """`[[path, dtype, shape], ...]` of a tree, as JSON returns it."""
  tree = jax.eval_shape(lambda x: x, tree)
  return [[jax.tree_util.keystr(path), str(x.dtype), list(x.shape)]
          for path, x in jax.tree_util.tree_leaves_with_path(tree)]


def leaf_digest(arrays):
  """sha256 of dtypes, shapes and contents, as hexadecimal digits."""
  sha = hashlib.sha256()
  for array in arrays:
    sha.update(f'{array.dtype}{array.shape}'.encode())
    sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return sha.hexdigest()


def _plain_keys(tree):
  return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x,
                      tree)


def _is_key(x):
  return hasattr(x, 'dtype') and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_impl(x):
  # Asked within a trace: JAX does not tell it of a `ShapeDtypeStruct`.
  seen = []
  jax.eval_shape(lambda key: seen.append(jax.random.key_impl(key)), x)
  return seen[0]


# ---- A directory of checkpoints

_log = logging.getLogger('dasm_jax')
KEEP = 2  # of the newest steps: one is whole if the last is damaged
_DAMAGED = 'damaged'  # orbax only looks at directories named by a number
_NOTES = '_CHECKPOINT_METADATA'  # of orbax, when a step was written
# In a ValueError of tensorstore: the disk is full, or may not be written to.
_FULL = ('RESOURCE_EXHAUSTED', 'PERMISSION_DENIED', 'Error writing')


class Checkpoints(NamedTuple):
  """An open directory of checkpoints.

  latest: `like -> (step, state) | None`, the newest undamaged checkpoint as a
    tree like `like` (of arrays or `jax.ShapeDtypeStruct`), uncommitted on the
    default device. One that is damaged, or of another owner, is logged and set
    aside under `damaged/`. Raises `UserError` for a checkpoint of another
    configuration.
  save: `(step, state, notes={}) -> None`, durable on return; notes: a dict that
    JSON can hold. Steps must grow. Raises `UserError` when it cannot be
    written; the earlier ones stay.
  notes: `() -> dict`, those of what `latest` has found.
  """
  latest: Callable
  save: Callable
  notes: Callable


@contextlib.contextmanager
def open_checkpoints(directory, fingerprint, owner=''):
  """Opens a directory of checkpoints and yields `Checkpoints`.

  fingerprint: names the configuration whose checkpoints may be restored.
  owner: a text that tells whose they are: of which run, and of which part.
  The newest `KEEP` steps stay. One run only: hold `workdir.lock`.
  Of its processes the first reads and writes, and the others hear of it: only
  that one needs the directory. Raises `UserError` if it cannot be written.
  """
  directory = pathlib.Path(directory).resolve()
  with contextlib.ExitStack() as held:
    managers, read, noted = [], [], {}
    processes.on_leader(lambda: managers.append(
        held.enter_context(_manager(directory))))

    def latest(like):
      # The leader says which step it found; the arrays, which are no JSON,
      # follow by a broadcast, where the others give arrays of equal shapes.
      def look():
        found = _latest(managers[0], directory, (fingerprint, owner), like)
        read.append(found and found[1])
        return found and (found[0], found[2])
      noted.clear()
      found = processes.on_leader(look)
      if found is None:
        return None
      step, notes = found
      noted.update(notes)
      arrays = processes.broadcast(read.pop() if processes.is_leader() else [
          np.zeros(x.shape, x.dtype) for x in blank_leaves(like)])
      return step, from_leaves(like, arrays)

    def save(step, state, notes=None):
      processes.on_leader(lambda: _save(
          managers[0], directory, (fingerprint, owner), int(step), state,
          notes or {}))

    yield Checkpoints(latest, save, lambda: dict(noted))


@contextlib.contextmanager
def _manager(directory):
  """The orbax manager of a directory that is made if need be."""
  import orbax.checkpoint as ocp  # 0.5 s
  # Else orbax waits for the other processes, which have no manager.
  alone = ocp.options.MultiprocessingOptions(
      active_processes={0} if processes.count() > 1 else None)
  # Not asynchronous: a save has to be durable when it returns.
  options = ocp.CheckpointManagerOptions(
      max_to_keep=KEEP, enable_async_checkpointing=False, create=False,
      multiprocessing_options=alone)
  try:
    directory.mkdir(parents=True, exist_ok=True)
    _remove_partial(directory)
    try:
      with quiet_orbax():
        manager = ocp.CheckpointManager(directory, options=options)
    except (ValueError, TypeError, KeyError, AttributeError):
      # Orbax's own notes of a step do not mean anything. It does without them,
      # and what we read has a digest.
      for path in directory.glob(f'*/{_NOTES}'):
        path.unlink()
      with quiet_orbax():
        manager = ocp.CheckpointManager(directory, options=options)
  except OSError as error:
    raise UserError(
        f'cannot write to {str(directory)!r}: {error.strerror or error}; '
        'choose another --workdir') from error
  try:
    yield manager
  finally:
    with quiet_orbax():
      manager.close()


# ---- Writing one


def _save(manager, directory, whose, step, state, notes):
  from orbax.checkpoint import args
  arrays = host_leaves(state)
  fingerprint, owner = whose
  # As JSON gives it back: the seal is of that.
  meta = json.loads(json.dumps({
      'step': step, 'fingerprint': fingerprint, 'owner': owner, 'notes': notes,
      'leaves': leaf_specs(state), 'digest': leaf_digest(arrays)}))
  meta['seal'] = _seal(meta)
  stored = _numbered(step, arrays)
  try:
    with quiet_orbax():
      done = manager.save(step, args=args.Composite(
          state=args.StandardSave(stored), meta=args.JsonSave(meta)))
  except (OSError, ValueError) as error:
    if isinstance(error, ValueError) and not any(
        name in str(error) for name in _FULL):
      raise
    # The half-written step would keep the disk full, and the manager is not
    # to count it.
    _remove_partial(directory)
    manager.reload()
    reason = getattr(error, 'strerror', None) or str(error).split('\n')[0]
    raise UserError(
        f'cannot save the checkpoint of step {step} in {str(directory)!r}: '
        f'{reason[:200]}; make room and start again, the earlier checkpoints '
        'are intact') from error
  if not done:
    raise RuntimeError(f'step {step} is not newer than {manager.all_steps()}')


# ---- Reading the newest that is whole


def _latest(manager, directory, whose, like):
  """`(step, arrays, notes)` of the newest that is whole, or None.

  whose: fingerprint and owner.
  """
  fingerprint, owner = whose
  damaged, found = [], None
  for step in sorted(manager.all_steps(), reverse=True):
    try:
      meta = _read_meta(manager, step)
    except MemoryError:  # says nothing of the checkpoint
      raise
    except Exception as error:  # orbax raises anything, bare Exception too
      damaged.append((step, error))
      continue
    # Outside of the `try`: a checkpoint of another configuration is whole, and
    # is refused, not set aside.
    _check_match(meta, directory, step, fingerprint, like)
    try:
      if meta.get('owner') != owner:
        raise ValueError(f'it is of {meta.get("owner") or "somebody else"}')
      found = step, _read_state(manager, step, meta, like), meta['notes']
      break
    except MemoryError:
      raise
    except Exception as error:
      damaged.append((step, error))
  # Set aside only now: the warning says from which step the run goes on.
  for step, error in damaged:
    reason = ' '.join(str(error).split())[:80] or type(error).__name__
    aside = directory / _DAMAGED / str(step)
    _log.warning(
        'the checkpoint of step %d in %s cannot be used (%s): set aside as %s; '
        '%s', step, directory, reason, aside,
        f'going on from step {found[0]}' if found else 'starting again')
    with records.writing(aside):
      shutil.rmtree(aside, ignore_errors=True)
      aside.parent.mkdir(exist_ok=True)
      (directory / str(step)).rename(aside)
  if damaged:
    with quiet_orbax():
      manager.reload()
  return found


def _check_match(meta, directory, step, fingerprint, like):
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
  here = {name: rest for name, *rest in leaf_specs(like)}
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
  with quiet_orbax():
    meta = manager.restore(
        step, args=args.Composite(meta=args.JsonRestore())).meta
  if meta.pop('seal') != _seal(meta) or meta['step'] != step:
    raise ValueError('its description does not match its digest')
  return meta


def _read_state(manager, step, meta, like):
  from orbax.checkpoint import args
  blank = blank_leaves(like)
  target = _numbered(step, blank)
  with quiet_orbax():
    stored = manager.restore(step, args=args.Composite(
        state=args.StandardRestore(target))).state
  # Arrays of size zero were not stored, see `_numbered`: the blank ones are
  # what they were.
  arrays = [stored.get(f'{i:04d}', array) for i, array in enumerate(blank)]
  if leaf_digest(arrays) != meta['digest']:
    raise ValueError('its arrays do not match their digest')
  return arrays


def _numbered(step, arrays):
  """What is stored: orbax refuses arrays of size zero, and trees of none."""
  return {'step': np.asarray(step)} | {
      f'{i:04d}': array for i, array in enumerate(arrays) if array.size}


def _seal(meta):
  return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _remove_partial(directory):
  """Removes what a kill or a full disk left of an unfinished save."""
  for path in directory.glob('*.orbax-checkpoint-tmp*'):
    shutil.rmtree(path, ignore_errors=True)
