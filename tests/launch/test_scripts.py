"""The launchers: shell, Cloud TPU and GPU, without either."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import launching
import pytest
import toy
from launching import ODD, copy, finish, noted, run, start, until, write

SCRIPTS = sorted([*launching.LAUNCH.glob('*.s[hb]*'),
                  *launching.FAKES.iterdir()])


@pytest.fixture(name='project')
def _project(tmp_path):
  return copy(tmp_path)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
  subprocess.run(['bash', '-n', script], check=True)


def test_shellcheck_finds_nothing():
  beside = pathlib.Path(sys.executable).parent  # where pip installs it
  checker = shutil.which('shellcheck', path=f'{beside}:{os.environ["PATH"]}')
  assert checker, "install the extra 'dev'"
  done = subprocess.run([checker, *SCRIPTS], cwd=toy.ROOT, text=True,
                        stdout=subprocess.PIPE)
  assert done.returncode == 0, done.stdout


def tpu(project, *arguments, states, codes=(), more=('configs/digits.py',)):
  write(project, 'states', *states)
  write(project, 'codes', *codes)
  return run(project, 'tpu_vm.sh', '--bucket=gs://b/', '--zone=z',
             '--poll=0.05', '--retries=0', *arguments, *more)


def verbs(project):
  return [call[3] for call in noted(project, 'calls')]


def test_a_preempted_tpu_is_created_again(project):
  code, text = tpu(
      project, '--name=first', codes=['stay', '0'],
      states=['NONE', 'WAITING_FOR_RESOURCES', 'ACTIVE', 'ACTIVE', 'SUSPENDED',
              'NONE', 'ACTIVE'], more=['configs/digits.py:ipc=2', *ODD])
  assert code == 0, text
  assert 'one line of the log' in text
  calls = noted(project, 'calls')
  changes = [call[2:] for call in calls if call[3] in ('create', 'delete')]
  create = ['queued-resources', 'create', 'first', '--node-id=first',
            '--accelerator-type=v6e-4', '--runtime-version=v2-alpha-tpuv6e',
            '--spot', '--zone=z', '--quiet']
  delete = ['queued-resources', 'delete', 'first', '--force', '--zone=z',
            '--quiet']
  assert changes == [create, delete, create, delete]
  # Two lives of two workers, each with the very same line.
  want = ['tpu,cpu', '--config=configs/digits.py:ipc=2',
          '--workdir=gs://b/runs/first', *ODD]
  assert noted(project, 'started') == 4 * [want]
  installed = (project.parent / 'fake' / 'installed').read_text().splitlines()
  assert len(installed) == 4 and all('.[tpu]' in line for line in installed)


def test_options_reach_the_tpu_and_its_workers(project):
  write(project, 'program', 'import json, os, sys, pathlib',
        'print(json.dumps([os.environ["A"], os.environ["B"], sorted(p.name for '
        'p in pathlib.Path.home().iterdir())]))')
  code, text = tpu(project, '--on-demand', '--type=v5litepod-8', '--env=A=1 2',
                   "--env=B='$HOME", '--data=gs://b/tfds', codes=['0'],
                   states=['NONE', 'ACTIVE'])
  assert code == 0, text
  assert json.dumps(['1 2', "'$HOME", [
      'dasm_jax', 'dasm_jax.tar.gz', 'tensorflow_datasets']]) in text
  calls = noted(project, 'calls')
  (create,) = [call for call in calls if call[3] == 'create']
  assert '--spot' not in create
  assert '--runtime-version=v2-alpha-tpuv5-lite' in create
  (copy_data, _) = [call for call in calls if call[0] == 'storage']
  assert copy_data[3] == 'gs://b/tfds'


def test_what_gcloud_creates_a_tpu_with(project):
  more = ['--network=n', '--subnetwork=s', '--service-account=a@b', '--tags=t',
          '--labels=team=a b']
  code, text = tpu(project, '--reserved', *more, codes=['0'],
                   states=['NONE', 'ACTIVE'])
  assert code == 0 and ', reserved' in text
  (create,) = [call for call in noted(project, 'calls') if call[3] == 'create']
  assert create[-8:] == ['--reserved', *more, '--zone=z', '--quiet']


def test_several_workers_need_a_key_in_the_agent(project, monkeypatch):
  home = project.parent
  monkeypatch.setenv('HOME', str(home))
  def ask(*states):
    return tpu(project, '--type=v6e-16', codes=['0'], states=states)
  code, text = ask('NONE')
  assert code == 2 and 'ssh-add ' in text and 'ssh-keygen -t rsa' in text
  (home / '.ssh').mkdir()
  (home / '.ssh' / 'google_compute_engine').touch()
  write(project, 'agent', '256 SHA256:other')
  code, text = ask('NONE')
  assert code == 2 and 'ssh-add ' in text and 'ssh-keygen' not in text
  assert not noted(project, 'calls')  # no TPU was asked for
  write(project, 'agent', '256 SHA256:other', '3072 SHA256:mine')
  assert ask('NONE', 'ACTIVE')[0] == 0


def test_a_key_that_left_the_agent_costs_no_tpu(project, monkeypatch):
  home = project.parent
  monkeypatch.setenv('HOME', str(home))
  (home / '.ssh').mkdir()
  (home / '.ssh' / 'google_compute_engine').touch()
  write(project, 'agent', '3072 SHA256:mine')
  write(project, 'states', *15 * ['WAITING_FOR_RESOURCES'], 'ACTIVE')
  process = start(project, 'tpu_vm.sh', '--bucket=gs://b', '--zone=z',
                  '--poll=0.05', '--type=v6e-16', 'configs/digits.py')
  until(lambda: noted(project, 'calls'))
  (home / 'fake' / 'agent').unlink()
  out, err = finish(process)
  assert process.returncode == 2 and 'then call this again' in err
  assert 'delete dasm --zone=z' in out and 'delete' not in verbs(project)


@pytest.mark.parametrize('codes, want, creates', [
    pytest.param(['75', '75', '1', '0'], 0, 4, marks=pytest.mark.long),
    (['1', '1'], 1, 2), (['2'], 2, 1),
    # By a signal, as JAX ends a worker whose neighbour is lost: no failure.
    pytest.param(['134', '1', '143', '0'], 0, 4, marks=pytest.mark.long),
    (['134', '137', '134'], 134, 3),
    (['130'], 130, 1)])
def test_the_status_of_the_job_decides(project, codes, want, creates):
  code, text = tpu(project, '--failures=2', '--aborts=3', codes=codes,
                   states=len(codes) * ['NONE', 'ACTIVE'])
  assert code == want, text
  assert verbs(project).count('create') == creates
  assert verbs(project)[-1] == 'delete'


@pytest.mark.parametrize('ends, want', [
    # One is preempted, its neighbour aborted by JAX; or one has failed.
    (('134', '75'), 'preempted'), (('1', '134'), 'status 1 (failure 1'),
    (('134', '2'), 'the command was wrong'), (('0', '134'), 'abort 1 of')])
def test_the_worker_that_failed_first_decides(project, ends, want):
  # One that has ended well does not speak for the other.
  write(project, 'program', 'import pathlib, sys, time',
        'second = pathlib.Path.home().name == "w1"',
        f'time.sleep(.3 * (second and {ends[0] == "0"}))',
        f'sys.exit(int({ends}[second]))')
  _, text = tpu(project, '--failures=1', '--aborts=1', codes=['0', '0'],
                states=['NONE', 'ACTIVE', 'NONE', 'FAILED'])
  assert want in text


@pytest.mark.parametrize('codes, retries, code, creates, starts', [
    (['75', '2'], 2, 2, 1, 4),
    pytest.param(['75', '75', '75', '0'], 2, 0, 2, 8, marks=pytest.mark.long)])
def test_what_may_work_again_is_tried_on_the_same_tpu(
    project, codes, retries, code, creates, starts):
  # Each worker has the codes for itself, one after the other.
  write(project, 'program', 'import pathlib, sys',
        'count = pathlib.Path.home().parent / (pathlib.Path.home().name + "n")',
        'n = len(count.read_text()) if count.exists() else 0',
        'count.write_text("x" * (n + 1))', f'sys.exit(int({codes}[n]))')
  status, text = tpu(project, f'--retries={retries}', codes=['0', '0'],
                     states=2 * ['NONE', 'ACTIVE'])
  assert status == code, text
  assert verbs(project).count('create') == creates
  assert len(noted(project, 'started')) == starts
  assert 'trying again on the same TPU (1 of at most 2)' in text
  assert ('preempted' in text) == (creates == 2)


def test_a_lost_connection_deletes_nothing(project):
  code, text = tpu(project, codes=['0'], states=[
      'NONE', 'PROVISIONING', 'OFFLINE', 'OFFLINE', 'ACTIVE'])
  assert code == 0, text
  assert [verbs(project).count(v) for v in ('create', 'delete')] == [1, 1]


def test_an_install_that_failed_is_tried_again(project):
  write(project, 'offline')
  code, text = tpu(project, codes=['0'], states=['NONE', 'ACTIVE'])
  assert code == 0 and 'not installed (failure 1 of at most 3)' in text
  assert verbs(project).count('create') == 1
  assert len(noted(project, 'started')) == 2


def test_a_tpu_that_cannot_be_had_is_no_endless_loop(project):
  write(project, 'full')
  code, text = tpu(project, states=['NONE'])
  assert code == 1 and 'quota exceeded' in text
  (project.parent / 'fake' / 'full').unlink()
  code, text = tpu(project, '--failures=2', codes=['0', '0'],
                   states=2 * ['NONE', 'FAILED'])
  assert code == 1 and 'giving up' in text
  assert verbs(project)[-1] == 'delete'


def test_ctrl_c_leaves_the_job_alone_and_the_next_call_watches_it(project):
  write(project, 'states', 'NONE', 'ACTIVE')
  write(project, 'codes', 'stay')
  flags = ('--bucket=gs://b', '--zone=z', '--poll=0.05', 'configs/digits.py')
  process = start(project, 'tpu_vm.sh', *flags)
  until(lambda: len(noted(project, 'started')) == 2)
  until(lambda: verbs(project)[-1] == 'describe')  # it watches
  os.killpg(process.pid, signal.SIGINT)
  out, _ = finish(process)
  assert process.returncode == 130 and 'delete dasm --zone=z' in out
  assert 'delete' not in verbs(project)
  for worker in ('w0', 'w1'):  # it ends while nobody watches
    home = project.parent / 'fake' / worker / 'dasm_jax'
    (home / 'run.status').write_text('0\n')
  code, text = run(project, 'tpu_vm.sh', *flags)
  assert code == 0 and 'it runs already' in text
  assert verbs(project).count('create') == 1
  assert len(noted(project, 'started')) == 2


@pytest.mark.parametrize('arguments, says', [
    ([], 'CONFIG is missing'), (['--nosuch', 'configs/digits.py'], '--nosuch'),
    (['configs/none.py'], "no config 'configs/none.py'"),
    (['none'], "no config 'none'"),
    (['--bucket=b', 'configs/digits.py'], "--bucket='b'"),
    (['--zone=', 'configs/digits.py'], "--zone=''"),
    (['--env=A', 'configs/digits.py'], '--env=A'),
    (['--data=tfds', 'configs/digits.py'], "--data='tfds'"),
    (['--name=A b', 'configs/digits.py'], "--name='A b'"),
    (['--poll=soon', 'configs/digits.py'], "--poll='soon'"),
    (['--type=tpu7x-8', 'configs/digits.py'], '--type=tpu7x-8: the Cloud TPU')])
def test_wrong_arguments_show_the_way_out(project, arguments, says):
  code, text = run(project, 'tpu_vm.sh', '--bucket=gs://b', '--zone=z',
                   *arguments)
  assert code == 2 and says in text and text.count('\n') == 1
  assert '--help lists the options' in text
  assert not noted(project, 'calls')


@pytest.mark.parametrize('more, codes, want, starts', [
    ({}, ['75', '0'], 75, 1), ({'RESTART': '1'}, ['75', '75', '0'], 0, 3),
    ({'RESTART': '1'}, ['2', '0'], 2, 1)])
def test_gpu(project, more, codes, want, starts):
  write(project, 'code', *codes)
  code, text = run(project, 'gpu.sh', 'configs/digits.py', *ODD, **more)
  assert code == want, text
  assert noted(project, 'started') == starts * [
      ['cuda,cpu', '--config=configs/digits.py', *ODD]]
  assert '.[cuda13]' in (project.parent / 'fake' / 'installed').read_text()


@pytest.mark.parametrize('driver, extras, warns', [
    ('550.54.15', '', True), ('580.65.06', '', False),
    ('550.54.15', 'cuda12', False), ('', '', False)])
def test_a_driver_that_is_too_old_is_told(project, driver, extras, warns):
  write(project, 'code', '0')
  if driver:
    write(project, 'driver', driver)
  code, text = run(project, 'gpu.sh', EXTRAS=extras)
  assert code == 0
  assert ('EXTRAS=cuda12 takes those from 525' in text) == warns


def test_an_environment_of_another_python_is_told(project):
  write(project, 'code', '0')
  assert run(project, 'local.sh', JAX_PLATFORMS='cpu')[0] == 0
  code, text = run(project, 'local.sh', PYTHON=sys.executable)
  assert code == 2 and 'remove .venv' in text


def test_of_two_jobs_at_once_one_installs(project):
  write(project, 'code', '0')
  jobs = [start(project, 'local.sh', JAX_PLATFORMS='cpu') for _ in range(2)]
  said = [finish(job) for job in jobs]
  assert [job.returncode for job in jobs] == [0, 0], said
  assert sum('installing' in out for out, _ in said) == 1
  installed = (project.parent / 'fake' / 'installed').read_text().splitlines()
  assert len(installed) == 1


def test_gpu_passes_a_signal_on_and_then_stops(project):
  write(project, 'code', 'stay')
  process = start(project, 'gpu.sh', RESTART='1', EXTRAS='cuda12')
  (project / 'run.pid').touch()
  until(lambda: noted(project, 'started'))
  process.send_signal(signal.SIGTERM)  # to the script, not to its group
  finish(process)
  assert process.returncode == 128 + signal.SIGTERM
  assert '.[cuda12]' in (project.parent / 'fake' / 'installed').read_text()


@pytest.mark.parametrize('script', ['local.sh', 'gpu.sh', 'test.sh',
                                    'tpu_vm.sh', 'versions.sh'])
def test_help_installs_nothing(project, script):
  code, text = run(project, script, '--help')
  assert code == 0 and f'launch/{script}' in text and '#' not in text
  assert 'installing' not in text and not (
      project.parent / 'fake' / 'installed').exists()
