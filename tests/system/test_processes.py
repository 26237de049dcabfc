"""Several processes compute what one does, stop together, and go on."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import kill
import numpy as np
import process_steps
import pytest
import toy

from dasm_jax.errors import Unavailable, UserError
from dasm_jax.runtime import processes


def _port():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def _flags(count):
  """The flags of each of `count` processes."""
  if count == 1:
    return [{}]
  where = f'localhost:{_port()}'
  return [{'coordinator': where, 'processes': count, 'process_id': k}
          for k in range(count)]


def _states(path, count, devices):
  env = toy.environment(
      XLA_FLAGS=os.environ['XLA_FLAGS'], JAX_NUM_CPU_DEVICES=str(devices),
      JAX_DISABLE_MOST_OPTIMIZATIONS='1',
      PYTHONPATH=f'{toy.ROOT}:{toy.ROOT / "tests" / "helpers"}')
  where = f'localhost:{_port()}'
  running = [subprocess.Popen(
      [sys.executable, process_steps.__file__, path, where, str(count), str(k)],
      env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
      for k in range(count)]
  for process in running:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
  with np.load(path) as file:
    return dict(file)


@pytest.mark.long
def test_two_processes_are_one(tmp_path):
  one = _states(tmp_path / 'one.npz', 1, 4)
  two = _states(tmp_path / 'two.npz', 2, 2)
  assert one.keys() == two.keys() and len(one) > 10
  assert two['total'].tolist() == 4 * [0. + 1 + 2 + 3 + 4]
  assert two['highest'].tolist() == [1, 0]
  assert two['once'].tolist() == [0, 7]
  for name in one.keys() - {'highest'}:
    # Sums over devices are taken in another order.
    np.testing.assert_allclose(
        one[name], two[name], 1e-5, 1e-6, err_msg=name)


def _start(workdir, cache, count, devices, steps):
  """A run of several processes; of one with as many devices in all."""
  changes = kill.QUICK | dict(
      dataset__stream='always', method__steps=steps, method__pretrained=3,
      method__pretrained_epochs=1, run__buffer_mb=1, network__width=2,
      eval__networks=1, eval__epochs=1000)
  return [kill.start(workdir, cache, flags=given, devices=devices // count,
                     **changes) for given in _flags(count)]


def _wait_for_rows(workdir, more, running):
  rows = workdir / 'metrics.jsonl'
  had = rows.read_text().count('\n') if rows.exists() else 0
  _wait(running, lambda: rows.exists() and (
      rows.read_text().count('\n') > had + more))


def _wait(running, ready):
  until = time.time() + 120
  while time.time() < until and not ready():
    assert all(process.poll() is None for process in running)
    time.sleep(.05)


def _stopped(running):
  """What processes say of which one got SIGTERM: `[(out, err)]`."""
  running[1].send_signal(signal.SIGTERM)
  said = [process.communicate(timeout=120) for process in running]
  assert [process.returncode for process in running] == [75, 75], said
  return said


def test_stopped_and_killed_together_they_go_on_in_any_number(tmp_path):
  cache, steps = tmp_path / 'cache', 30
  workdir = tmp_path / 'run'
  running = _start(workdir, cache, 2, 2, steps)
  _wait_for_rows(workdir, 2, running)
  said = _stopped(running)
  for _, err in said:
    assert 'SIGTERM: saved segment 1, step ' in err
  assert 'segment 1/2' in said[0][0]
  assert 'segment' not in said[1][0]  # one of them talks
  running = _start(workdir, cache, 2, 2, steps)
  _wait_for_rows(workdir, 1, running)
  running[1].kill()
  running[1].communicate(timeout=60)
  _, err = running[0].communicate(timeout=60)  # by itself, not killed by JAX
  assert running[0].returncode == 134, err
  assert 'error: another process was lost' in err and 'Traceback' not in err
  running = _start(workdir, cache, 2, 2, steps)
  _wait(running, lambda: [*workdir.glob('unfinished/synthetic*/*')])
  for _, err in _stopped(running):
    # Where an epoch is quick, the running call is that of all the others.
    assert re.search('saved (0 of 1 network.*, and 1 at epoch [1-9]|1 of 1)',
                     err), err
  assert not (workdir / 'results.json').exists()
  kill.finish(*_start(workdir, cache, 1, 2, steps))
  kill.finish(*_start(tmp_path / 'straight', cache, 1, 2, steps))
  run, straight = kill.left(workdir), kill.left(tmp_path / 'straight')
  # The losses told are sums over devices, taken in another order.
  for one, other in zip(run.pop('metrics.jsonl'),
                        straight.pop('metrics.jsonl'), strict=True):
    assert one.pop('segment') == other.pop('segment')
    assert one == pytest.approx(other, rel=1e-5)
  # And two devices of one process compile to other programs than one of each.
  one, other = (np.frombuffer(x.pop('images')[2], np.float32)
                for x in (run, straight))
  np.testing.assert_allclose(one, other, 1e-4, 1e-4)
  assert kill.difference(run, straight) == []


@pytest.mark.parametrize('given, text', [
    (('localhost:1', 0, -1), 'missing: --processes, --process_id'),
    (('', 2, 0), 'missing: --coordinator'),
    (('localhost:1', 2, 2), 'ids from 0 to 1'),
    (('localhost', 2, 1), 'HOST:PORT'), (('localhost:web', 2, 0), 'HOST:PORT'),
    (('localhost:65536', 2, 0), 'a port from 1 to 65535')])
def test_join_refuses_what_cannot_be(given, text):
  with pytest.raises(UserError, match='process') as error:
    processes.join(*given)
  assert text in str(error.value) and error.value.code == 2


def test_a_port_in_use_may_be_free_later():
  with socket.socket() as taken:
    taken.bind(('', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(Unavailable, match=f'port {port} .* is in use'):
      processes.join(f'localhost:{port}', 2, 0)


@pytest.mark.parametrize('process_id', [0, 1])
def test_who_finds_nobody_in_time_is_to_try_again(process_id):
  """JAX itself would abort it, with 134 and a stack of its own."""
  text = ('from dasm_jax.runtime import processes\n'
          f'processes.join("localhost:{_port()}", 2, {process_id}, .5)')
  done = subprocess.run([sys.executable, '-c', text], env=toy.environment(),
                        cwd=toy.ROOT, stderr=subprocess.PIPE, text=True)
  assert done.returncode == 75
  assert 'error: no answer in 0.5 s from the other processes' in done.stderr
  assert 'Check failure stack trace' not in done.stderr


@pytest.mark.parametrize('error, code', [
    # A late coordinator; a port; a metadata server that is not ready, whose
    # error pages JAX reads as what it asked for; a network that is not there.
    (RuntimeError('DEADLINE_EXCEEDED: Barrier timed out. Id: PjRT_Client'), 75),
    (RuntimeError('UNKNOWN: Failed to start RPC server'), 75),
    (RuntimeError('Failed to recognize coordinator address dasm-0-0'), 75),
    (RuntimeError('Retry failed with all attempts exhausted'), 75),
    (RuntimeError("Getting metadata['tpu-env'] failed for 6 tries"), 75),
    (ValueError('unsupported worker-network-endpoints format: <html>403'), 75),
    (ValueError("invalid literal for int() with base 10: '<html>403'"), 75),
    (ConnectionError('Max retries exceeded'), 75), (OSError(), 75),
    (RuntimeError('Kubernetes API Error: 503 - Unavailable'), 75),
    (RuntimeError('Kubernetes API Error: 403 - Forbidden\nIt appears'), 2),
    (RuntimeError('In K8s, cluster automatic bootstrap only supports Job'), 2),
    (ValueError('Number of processes must be defined.'), 2)])
def test_what_may_pass_by_itself_is_tried_again(error, code):
  found = processes.join_failure(error)
  assert found.code == code and '\n' not in str(found)


@pytest.mark.parametrize('text, others, lost', [
    ('UNKNOWN: Gloo all-reduce failed: Connection closed by peer', True, True),
    ('INTERNAL: NCCL operation failed: remote process exited', True, True),
    ('UNAVAILABLE: failed to connect to all addresses', True, True),
    ('RESOURCE_EXHAUSTED: Out of memory', True, False),
    ('the first process failed: KeyError: 1', True, False),
    ('UNAVAILABLE: failed to connect to all addresses', False, False)])
def test_what_tells_of_a_lost_process(text, others, lost):
  said = processes.lost_text(RuntimeError(text), others)
  assert ('goes on from the last checkpoint' in said) == lost
  assert lost or said == ''


@pytest.mark.parametrize('environ, client, alone', [
    ({}, True, True), ({}, False, True),  # a pod that is of no job
    ({'JOB_COMPLETION_INDEX': '0'}, True, False),
    ({'JOB_COMPLETION_INDEX': '3'}, True, False),
    ({'JOB_COMPLETION_INDEX': '0'}, False, True),
    ({'JOB_COMPLETION_INDEX': '3', 'TPU_WORKER_HOSTNAMES': 'a,b'}, False,
     False)])
def test_which_pods_ask_kubernetes_for_others(environ, client, alone):
  assert processes.kubernetes_alone(environ, client) == alone


def test_a_plain_pod_is_alone_without_a_word():
  text = 'from dasm_jax.runtime import processes; processes.join()'
  done = subprocess.run(
      [sys.executable, '-W', 'error', '-c', text], cwd=toy.ROOT, text=True,
      env=toy.environment(KUBERNETES_SERVICE_HOST='10.0.0.1'),
      stderr=subprocess.STDOUT, stdout=subprocess.PIPE)
  assert (done.returncode, done.stdout) == (0, '')


def test_a_pod_that_cannot_find_the_others_says_what_it_needs():
  with pytest.raises(UserError, match='this is pod 3 .* extra k8s'):
    processes.kubernetes_alone({'JOB_COMPLETION_INDEX': '3'}, False)


def test_one_process_needs_nobody():
  assert processes.count() == 1 and processes.is_leader()
  assert processes.on_leader(lambda: {1}) == {1}  # as it is, not as JSON has it
  assert processes.maximum(2, 3.5) == [2, 3.5]
  with pytest.raises(KeyError):
    processes.on_leader(lambda: {}['x'])
