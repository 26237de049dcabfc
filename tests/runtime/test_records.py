"""Small files: sealed, and set aside when they are something else."""

import json
import subprocess
import sys

import pytest
import toy

from dasm_jax.errors import UserError
from dasm_jax.runtime import records

VALUES = {'a': [1, .1, 1e-300], 'b': {'c': None, 'd': 'é'}}


@pytest.fixture
def path(tmp_path):
  """Of a record of the run `mine`."""
  records.write(tmp_path / 'x.json', 'kind', 'mine', VALUES)
  return tmp_path / 'x.json'


def test_what_is_written_comes_back(path):
  assert records.read(path, 'kind', 'mine') == VALUES
  assert records.read(path, 'kind', None) == VALUES
  assert records.read(path.with_name('y.json'), 'kind', 'mine') is None
  # Fields stay where they are for whoever reads the file.
  assert json.loads(path.read_text())['a'] == VALUES['a']
  assert [x.name for x in path.parent.iterdir()] == ['x.json']


def flipped(body):
  at = body.index(b'0.1')
  return body[:at] + bytes([body[at] ^ 1]) + body[at + 1:]


DAMAGE = {
    'empty': lambda body: b'', 'cut': lambda body: body[:-5],
    'flipped': flipped, 'list': lambda body: b'[]', 'null': lambda body: b'0',
    'unsealed': lambda body: json.dumps(VALUES).encode(),
    'bytes': lambda body: b'\xff\xfe', 'deep': lambda body: b'{"a":' * 10 ** 5,
    'huge': lambda body: body.replace(b'0.1', b'1e400'),
    'seal': lambda body: body.replace(b'"kind": "kind"', b'"kind": []'),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_damage_is_set_aside_with_a_word(name, path, caplog):
  path.write_bytes(DAMAGE[name](path.read_bytes()))
  with pytest.raises(records.Damaged):
    records.load(path, 'kind', 'mine')
  assert path.exists()
  assert records.read(path, 'kind', 'mine') is None
  assert [x.name for x in path.parent.iterdir()] == ['x.json.damaged']
  [line] = caplog.messages
  assert str(path) in line and 'x.json.damaged' in line and '\n' not in line
  assert records.read(path, 'kind', 'mine') is None  # and no more words
  assert len(caplog.messages) == 1


@pytest.mark.parametrize('kind, owner, word', [
    ('other', 'mine', 'of another kind'), ('kind', 'yours', 'of another run')])
def test_what_is_of_somebody_else_is_set_aside(kind, owner, word, path, caplog):
  records.write(path.with_name('x.json.damaged'), 'kind', 'mine', {})
  assert records.read(path, kind, owner) is None
  assert word in caplog.text and not path.exists()


def test_folders_and_values_without_sense(path, caplog):
  def check(values):
    if values['a'][0] > 0:
      raise ValueError('too much')
  assert records.read(path, 'kind', 'mine', check) is None
  assert 'too much' in caplog.text
  for _ in range(2):  # one of before gives way
    (path / 'below').mkdir(parents=True)
    assert records.read(path, 'kind', 'mine') is None
    assert not path.exists()


def test_a_folder_in_the_way_is_one_line(path):
  path.unlink()
  path.mkdir()
  with pytest.raises(UserError, match='x.json.*move away what is there'):
    records.write(path, 'kind', 'mine', VALUES)
  with pytest.raises(UserError, match='cannot write'):
    records.write_text(path.parent / 'no' / 'where', '')
  assert [x.name for x in path.parent.iterdir()] == ['x.json']


def test_read_only_folders_are_found_out(tmp_path):
  records.check_writable(tmp_path, 'choose another')
  tmp_path.chmod(0o555)
  with pytest.raises(UserError, match='cannot write to .*; choose another'):
    records.check_writable(tmp_path, 'choose another')
  tmp_path.chmod(0o755)
  assert not [*tmp_path.iterdir()]


# ---- A full disk, of a process that may write short files only

FULL = '''
import io, json, pathlib, resource, signal, sys
import numpy as np
from dasm_jax import synthetic
from dasm_jax.distill import figures, page
from dasm_jax.errors import UserError
from dasm_jax.evaluate import saved_set
from dasm_jax.runtime import logging, records
from dasm_jax.types import Synthetic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
root = pathlib.Path(sys.argv[1])
images = np.random.default_rng(0).random((2, 2, 8, 8, 3), np.float32)
syn = Synthetic(images, np.eye(2)[:, None].repeat(2, 1), np.float32(1))
codec = synthetic.codec((.5,), (.5,), shape=(8, 8, 3))
log = logging.RunLog(root, io.StringIO()).__enter__()
log.scalars(1, 1, {'x': 1.}, 1)
def closing(kind):
  again = logging.RunLog(root / 'again', io.StringIO())
  again.scalars(1, 1, {'x': 1.}, 1)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, 10**9))
  again.__exit__(kind, None, None)
(root / 'again').mkdir()
writes = {
    'images.png': lambda: figures.image_grid(images, root / 'images.png'),
    'window.png': lambda: figures.window_plot(
        np.arange(4.), np.ones(4, bool), root / 'window.png', 1, 1, 'x'),
    'windows.png': lambda: figures.window_plots(
        [(np.arange(4.), np.ones(4, bool))], root / 'windows.png'),
    'lines.png': lambda: figures.line_plot(
        [0, 1], {'a': ([0, 1], [0, 1])}, root / 'lines.png', 'x', 'y'),
    'report.html': lambda: page.write(root / 'report.html', 'x', []),
    'loss.png': lambda: figures.loss_plot(
        {1: ([1, 2], [1., 2.])}, root / 'loss.png'),
    'synthetic.npz': lambda: saved_set.save(
        root / 'synthetic.npz', syn, codec, 'ab', {}),
    'x.json': lambda: records.write(root / 'x.json', 'x', '', {}),
    'log.txt': lambda: log.say('x'), 'clock.json': log.mark,
    'metrics.jsonl': lambda: log.scalars(1, 2, {'x': 1.}, 2),
    'results.json': lambda: log.result({}),
    'events': lambda: [log._trackers[0].add({'x': 1.}, k)
                       for k in range(9999)],
    'closing': lambda: closing(None), 'failing': lambda: closing(UserError)}
found = {}
for name, write in writes.items():
  if name not in ('closing', 'failing'):
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 10**9))
  try:
    found[name] = write() or 'nothing'
  except UserError as error:
    found[name] = str(error)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))
print(json.dumps(found))
'''


@pytest.mark.slow
def test_a_full_disk_is_one_line_wherever_it_is_met(tmp_path):
  done = subprocess.run(
      [sys.executable, '-W', 'error', '-c', FULL, str(tmp_path)], text=True,
      capture_output=True, env=toy.environment(), check=True)
  found = json.loads(done.stdout)
  assert found.pop('failing') == 'nothing'  # the failure itself is said
  assert len(found) == 14
  for name, line in found.items():
    assert line.startswith('cannot write ') and '\n' not in line, (name, line)
    assert 'make room and start again' in line
  assert not done.stderr  # nothing of what is collected in the end
  assert not [x for x in tmp_path.rglob('*') if x.name.endswith('.tmp')]
