"""Checkpoints under real faults: flipped bits, lost files, kill -9."""

import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import typing
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dasm_jax.errors import UserError
from dasm_jax.runtime import checkpoint

pytestmark = pytest.mark.filterwarnings('error')
_META = '3/meta/metadata'
_ROOT = pathlib.Path(__file__).resolve().parents[2]


class _State(typing.NamedTuple):
  params: dict
  opt: typing.Any
  key: jax.Array
  keys: jax.Array
  step: jax.Array
  empty: jax.Array
  nothing: None


def _state(seed=0):
  key = jax.random.key(seed)
  params = {'w/a': jax.random.normal(key, (3, 4)),
            'half': jnp.full((5,), seed + .5, jnp.bfloat16),
            'flag': jnp.array(True), 'pixels': jnp.zeros((2, 2), jnp.uint8)}
  return _State(params, optax.adam(1e-3).init(params), key,
                jax.random.split(jax.random.key(seed, impl='rbg'), (2, 3)),
                jnp.array(seed, jnp.int32), jnp.zeros((0, 3)), None)


def _same(one, two):
  assert jax.tree.structure(one) == jax.tree.structure(two)
  assert checkpoint.leaf_specs(one) == checkpoint.leaf_specs(two)
  assert checkpoint.leaf_digest(checkpoint.host_leaves(
      one)) == checkpoint.leaf_digest(checkpoint.host_leaves(two))


def _big(step):
  # Incompressible, so that a flipped bit lands in the numbers.
  rng = np.random.default_rng(step)
  return {'x': jnp.asarray(rng.random(100_000, np.float32)),
          'key': jax.random.key(step)}


def _saved(directory, steps=(1, 2, 3)):
  with checkpoint.open_checkpoints(directory, 'f') as checkpoints:
    for step in steps:
      checkpoints.save(step, _big(step))


def _read(directory, like=None, fingerprint='f'):
  with checkpoint.open_checkpoints(directory, fingerprint) as checkpoints:
    return checkpoints.latest(_big(0) if like is None else like)


def _data(directory, step):
  return max((path for path in (directory / str(step)).rglob('*')
              if path.is_file()), key=lambda path: path.stat().st_size)


def test_round_trip(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  state = _state(7)
  with checkpoint.open_checkpoints('runs/c', 'f') as checkpoints:
    assert checkpoints.latest(state) is None
    checkpoints.save(10, state)
    step, back = checkpoints.latest(state)
  assert step == 10
  _same(state, back)
  like = jax.eval_shape(partial(_state, 0))
  step, back = _read('runs/c', like)
  _same(state, back)
  assert jax.random.key_impl(back.keys) == 'rbg'
  # As a fresh state would be: jit neither recompiles nor complains.
  assert not back.params['half'].committed
  assert back.opt[0].count.devices() == {jax.local_devices()[0]}


def test_trees_of_nothing_but_zero_size(tmp_path):
  state = (jnp.zeros((0,)), None)
  with checkpoint.open_checkpoints(tmp_path / 'c', 'f') as checkpoints:
    checkpoints.save(0, state)
    _same(state, checkpoints.latest(state)[1])


def test_keeps_the_newest_and_refuses_older(tmp_path):
  _saved(tmp_path / 'c')
  assert sorted(p.name for p in (tmp_path / 'c').iterdir()) == ['2', '3']
  with pytest.raises(RuntimeError, match='step 2 is not newer'):
    _saved(tmp_path / 'c', steps=(2,))


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


@pytest.mark.parametrize('fault', [
    lambda d: _flip(_data(d, 3)),
    lambda d: os.truncate(_data(d, 3), 100),
    lambda d: _data(d, 3).unlink(),
    lambda d: _flip(d / '3' / 'state' / 'manifest.ocdbt'),
    lambda d: (d / '3' / 'state' / '_METADATA').write_bytes(b''),
    lambda d: (d / _META).unlink(),
    lambda d: (d / _META).write_text(
        (d / _META).read_text().replace('"f"', '"g"')),
], ids=['flip', 'truncate', 'unlink', 'manifest', 'metadata', 'no_meta',
        'flip_meta'])
def test_damage_falls_back(tmp_path, fault, caplog, capfd):
  directory = tmp_path / 'c'
  _saved(directory)
  fault(directory)
  with checkpoint.open_checkpoints(directory, 'f') as checkpoints:
    step, state = checkpoints.latest(_big(0))
    assert step == 2
    _same(state, _big(2))
    [(name, level, message)] = caplog.record_tuples
    assert (name, level) == ('dasm_jax', logging.WARNING)
    assert re.fullmatch(f'.*step 3 in {directory} .*from step 2', message)
    # It is never trusted again, and its step may be saved again.
    assert (directory / 'damaged' / '3').is_dir()
    checkpoints.save(3, _big(33))
    _same(checkpoints.latest(_big(0))[1], _big(33))
  assert capfd.readouterr() == ('', '')
  assert logging.getLogger('absl').level < logging.CRITICAL


def test_all_damaged_starts_again(tmp_path, caplog):
  directory = tmp_path / 'c'
  _saved(directory)
  for step in (2, 3):
    _flip(_data(directory, step))
  with checkpoint.open_checkpoints(directory, 'f') as checkpoints:
    assert checkpoints.latest(_big(0)) is None
    assert len(caplog.records) == 2
    assert 'starting again' in caplog.text
    checkpoints.save(1, _big(1))
  assert _read(directory)[0] == 1


def test_notes_come_back_with_what_they_are_of(tmp_path):
  state = {'x': jnp.zeros(3)}
  with checkpoint.open_checkpoints(tmp_path / 'c', 'f') as checkpoints:
    assert checkpoints.latest(state) is None and checkpoints.notes() == {}
    checkpoints.save(1, state, {'means': {'loss': .1}})
    checkpoints.save(2, state)
    assert checkpoints.latest(state)[0] == 2 and checkpoints.notes() == {}
  (tmp_path / 'c' / '2' / 'meta' / 'metadata').write_text('[]')
  with checkpoint.open_checkpoints(tmp_path / 'c', 'f') as checkpoints:
    assert checkpoints.latest(state)[0] == 1
    assert checkpoints.notes() == {'means': {'loss': .1}}


def test_those_of_another_owner_are_set_aside(tmp_path, caplog):
  """Alike in all else, and one of ours before it."""
  for owner, step in (('run a, segment 1', 1), ('run a, segment 2', 2)):
    with checkpoint.open_checkpoints(tmp_path, 'f', owner) as checkpoints:
      checkpoints.save(step, _big(step))
  with checkpoint.open_checkpoints(tmp_path, 'f', 'run a, segment 1') as mine:
    assert mine.latest(_big(0))[0] == 1
    [line] = caplog.messages
    assert 'it is of run a, segment 2' in line and 'from step 1' in line
    mine.save(2, _big(2))
  assert (tmp_path / 'damaged' / '2').is_dir()


def test_no_class_that_a_checkpoint_names_is_imported(tmp_path, monkeypatch):
  (tmp_path / 'harmful.py').write_text(
      f'open({str(tmp_path / "harm")!r}, "w").close()')
  monkeypatch.syspath_prepend(str(tmp_path))
  _saved(tmp_path / 'c', steps=(3,))
  names = [tmp_path / 'c' / '3' / '_CHECKPOINT_METADATA',
           *(tmp_path / 'c' / '3').glob('*/_METADATA')]
  named = 0
  for path in names:
    text, count = re.subn(r'"orbax\.[^"]*"|"np\.ndarray"|"jax\.Array"',
                          '"harmful.Handler"', path.read_text())
    path.write_text(text)
    named += count
  assert named
  _read(tmp_path / 'c')
  assert not (tmp_path / 'harm').exists()


@pytest.mark.parametrize('text', ['[1]', '{"item_handlers": 7}', '{', '7'])
def test_notes_of_orbax_that_mean_nothing(text, tmp_path):
  _saved(tmp_path / 'c', steps=(2, 3))
  for step in 2, 3:
    (tmp_path / 'c' / str(step) / '_CHECKPOINT_METADATA').write_text(text)
  step, state = _read(tmp_path / 'c')
  assert step == 3
  _same(state, _big(3))


def test_a_file_where_the_damaged_ones_go(tmp_path):
  _saved(tmp_path / 'c', steps=(2, 3))
  _flip(_data(tmp_path / 'c', 3))
  (tmp_path / 'c' / 'damaged').write_text('')
  with pytest.raises(UserError, match='damaged/3.*move away what is there'):
    _read(tmp_path / 'c')


def test_another_configuration(tmp_path):
  _saved(tmp_path / 'c')
  with pytest.raises(UserError, match=r'step 3 .*another config.*\(f there'):
    _read(tmp_path / 'c', fingerprint='g')


@pytest.mark.parametrize(('like', 'message'), [
    (lambda s: s | {'x': s['x'].astype(jnp.bfloat16)},
     r"\['x'\] is float32\[100000\] there, bfloat16\[100000\] here"),
    (lambda s: s | {'x': s['x'][:5]}, r'float32\[5\] here'),
    (lambda s: s | {'y': s['x']}, r"\['y'\] is missing there"),
    (lambda s: {'x': s['x']}, r"\['key'\] is key<fry>\[\] there, missing here"),
    (lambda s: s | {'key': jax.random.key(0, impl='rbg')}, r'key<rbg>\[\] he'),
])
def test_another_state(tmp_path, like, message):
  _saved(tmp_path / 'c', steps=(3,))
  with pytest.raises(UserError, match=message) as error:
    _read(tmp_path / 'c', like(_big(0)))
  assert '\n' not in str(error.value)


def _script(text, *args):
  return subprocess.Popen(
      [sys.executable, '-W', 'error', '-c', text, *map(str, args)],
      env=os.environ | {'PYTHONPATH': str(_ROOT), 'JAX_PLATFORMS': 'cpu'},
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


_LOOP = '''
import sys, logging
logging.basicConfig(level=logging.INFO)
import jax, numpy as np
from dasm_jax.runtime import checkpoint
with checkpoint.open_checkpoints(sys.argv[1], 'f') as checkpoints:
  for step in range(1, 1000):
    rng = np.random.default_rng(step)
    state = {'x': rng.random(100_000, np.float32), 'key': jax.random.key(step)}
    checkpoints.save(step, state)
    print(step, flush=True)
'''


@pytest.mark.slow
def test_kill_in_a_save_loop(tmp_path):
  directory = tmp_path / 'c'
  process = _script(_LOOP, directory)
  while int(process.stdout.readline()) < 5:
    pass
  process.send_signal(signal.SIGKILL)
  out, err = process.communicate()
  last = max([5, *map(int, out.split())])
  (directory / '999.orbax-checkpoint-tmp').mkdir()
  step, state = _read(directory)
  # Durable on return: what was printed is there, or the one in the making.
  assert last <= step <= last + 1
  _same(state, _big(step))
  assert not list(directory.glob('*tmp*'))
  assert not [line for line in err.splitlines() if 'orbax' in line.lower()]


_FULL = '''
import resource, signal, sys, numpy as np
from dasm_jax.errors import UserError
from dasm_jax.runtime import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with checkpoint.open_checkpoints(sys.argv[1], 'f') as checkpoints:
  state = {'x': np.random.default_rng(0).random(100_000, np.float32)}
  checkpoints.save(1, state)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 10**9))
  try:
    checkpoints.save(2, state)
  except UserError as error:
    print(error)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))
  print(checkpoints.latest(state)[0])
  checkpoints.save(2, state)
  print(checkpoints.latest(state)[0])
'''


@pytest.mark.slow
def test_no_room(tmp_path):
  out, err = _script(_FULL, tmp_path / 'c').communicate(timeout=60)
  message, before, after = out.splitlines()
  assert 'cannot save the checkpoint of step 2' in message
  assert 'make room' in message
  assert (before, after) == ('1', '2')
  assert err == ''


def test_where_nothing_can_be_made(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot write to'):
    with checkpoint.open_checkpoints(tmp_path / 'file' / 'run', 'f'):
      pass


def test_what_fails_late_says_nothing_more(caplog):
  log = logging.getLogger('asyncio')
  with pytest.raises(ValueError), checkpoint.quiet_orbax():
    raise ValueError
  log.error('Future exception was never retrieved\nfuture: …')
  log.error('something else')
  assert caplog.messages == ['something else']
