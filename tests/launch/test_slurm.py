"""The SLURM launcher, with local tasks in place of a cluster's."""

import os
import signal
import socket

import pytest
from launching import ODD, copy, finish, noted, start, until, write


@pytest.fixture(name='project')
def _project(tmp_path):
  return copy(tmp_path)


def slurm(project, *arguments, tasks=2, **more):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  return start(project, 'slurm.sbatch', *arguments, **{
      'SLURM_SUBMIT_DIR': str(project), 'SLURM_JOB_ID': '7',
      'SLURM_JOB_NAME': 'dasm', 'TASKS': str(tasks),
      'JAX_COORDINATOR_PORT': port, 'XLA_FLAGS': '', **more})


def test_slurm_makes_one_jax_of_its_tasks(project):
  write(project, 'program', 'import jax', 'jax.distributed.initialize()',
        'from jax.experimental import multihost_utils as m',
        'import sys', 'n = m.process_allgather(jax.numpy.ones(()))',
        # Both tasks write to one pipe: the line and its end in one write.
        'print(f"{jax.process_index()} of {jax.process_count()}: {n.sum()}, "',
        '      f"{sys.argv[-1]}\\n", end="", flush=True)')
  process = slurm(project, 'configs/digits.py', ODD[0], JAX_PLATFORMS='cpu')
  out, err = finish(process)
  assert process.returncode == 0, err
  said = [line for line in out.splitlines() if ' of 2: ' in line]
  assert sorted(said) == [f'{i} of 2: 2.0, {ODD[0]}' for i in range(2)]
  assert len(noted(project, 'calls')) == 1  # not queued again


@pytest.mark.parametrize('code, restarts, again', [
    ('75', '99', True), ('1', '0', False), ('2', '0', False),
    # Ended by a signal: as JAX ends a task whose neighbour is lost.
    ('134', '0', True), ('137', '19', True), ('143', '20', False)])
def test_slurm_queues_again_what_was_stopped(project, code, restarts, again):
  write(project, 'code', code)
  process = slurm(project, 'configs/digits.py', *ODD, WORKDIR='/a b',
                  SLURM_RESTART_COUNT=restarts)
  finish(process)
  assert process.returncode == int(code)
  assert noted(project, 'started') == 2 * [
      ['cuda,cpu', '--config=configs/digits.py', '--workdir=/a b', *ODD]]
  calls = noted(project, 'calls')
  assert (['scontrol', 'requeue', '7'] in calls) == again
  assert calls[0][:2] == ['--kill-on-bad-exit=0', '--wait=600']


@pytest.mark.parametrize('cancelled', [True, False])
def test_slurm_does_not_queue_again_what_was_cancelled(project, cancelled):
  write(project, 'program', 'import signal, sys, pathlib, os',
        'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))',
        'pathlib.Path(os.environ["FAKE"], "ready").touch()',
        'while True: signal.pause()')
  process = slurm(project, 'configs/digits.py', tasks=1)
  until((project.parent / 'fake' / 'ready').exists)
  if cancelled:  # the script is told as well
    process.send_signal(signal.SIGTERM)
  tasks = (project.parent / 'fake' / 'tasks').read_text().split()
  os.kill(int(tasks[0]), signal.SIGTERM)
  finish(process)
  assert process.returncode == 75
  assert (['scontrol', 'requeue', '7'] in noted(project, 'calls')
          ) == (not cancelled)


def test_slurm_says_what_is_missing(project, tmp_path):
  assert finish(slurm(project))[1].startswith('error: CONFIG is missing')
  process = slurm(project, 'configs/digits.py', SLURM_SUBMIT_DIR=str(tmp_path))
  assert 'call sbatch in the project' in finish(process)[1]
