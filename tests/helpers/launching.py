"""Runs the launchers with the fakes of tests/launch/fakes first on PATH."""

import os
import shutil
import signal
import subprocess
import sys
import time

import toy

FAKES = toy.ROOT / 'tests' / 'launch' / 'fakes'
LAUNCH = toy.ROOT / 'launch'
# Arguments that a shell would take apart.
ODD = ['--config.run.note=two words', "--config.a='$HOME \"; exit 3'", '']


def copy(tmp_path):
  """A copy of what the launchers need, in a directory with a blank."""
  root = tmp_path / 'my project'
  shutil.copytree(LAUNCH, root / 'launch')
  (root / 'configs').mkdir()
  for name in ('pyproject.toml', 'configs/digits.py'):
    shutil.copy(toy.ROOT / name, root / name)
  (tmp_path / 'fake').mkdir()
  return root


def write(project, name, *lines):
  (project.parent / 'fake' / name).write_text('\n'.join([*lines, '']))


def noted(project, name):
  """The argument lists that a fake wrote."""
  path = project.parent / 'fake' / name
  text = path.read_text() if path.exists() else ''
  return [call.split('\0') for call in text.split('\0\n')[:-1]]


def start(project, script, *arguments, **more):
  drop = {'RESTART', 'EXTRAS', 'WORKDIR', 'PYTHON', 'JAX_PLATFORMS', 'BUCKET'}
  env = {k: v for k, v in os.environ.items()
         if k not in drop and not k.startswith(('TPU_', 'SLURM_'))}
  env |= {'PATH': f'{FAKES}:{env["PATH"]}', 'REAL_PYTHON': sys.executable,
          'FAKE': str(project.parent / 'fake'), **more}
  # Ctrl-C is ignored by what nohup started, and no shell can change that.
  return subprocess.Popen(
      ['env', '--default-signal=INT', 'bash',
       str(project / 'launch' / script), *arguments], cwd=project, env=env,
      text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      start_new_session=True)


def finish(process):
  """What it prints, and its errors; a launcher that hangs is killed."""
  try:
    return process.communicate(timeout=60)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    raise


def run(project, script, *arguments, **more):
  """Exit status, and what was printed, errors last."""
  process = start(project, script, *arguments, **more)
  out, err = finish(process)
  return process.returncode, out + err


def until(condition):
  deadline = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(.02)
