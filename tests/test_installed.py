"""The wheel in an environment of its own, with no checkout beside it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
import toy

import dasm_jax

pytestmark = pytest.mark.slow

COMMANDS = {'dasm-jax': 'Distils a data set', 'dasm-jax-convert': '--space',
            'dasm-jax-diagnose': '--measures', 'dasm-jax-evaluate': '--full',
            'dasm-jax-sweep': '--seeds', 'dasm-jax-continual': '--protocol',
            'dasm-jax-search': '--architectures',
            'dasm-jax-membership': '--full_epochs'}
TINY = [f'--config.{name}={value}' for name, value in {
    'network.depth': 1, 'network.width': 4, 'method.steps': 2,
    'method.batch': 16, 'method.augment': '', 'eval.augment': '',
    'eval.epochs': 2, 'eval.networks': 1}.items()]
# A checkout on the path would be what is called. Nothing here waits for more
# than the compiler.
ALONE = {name: value for name, value in toy.environment(
    XLA_FLAGS=os.environ['DASM_JAX_TEST_FLAGS'],
    JAX_DISABLE_MOST_OPTIMIZATIONS='1').items() if name != 'PYTHONPATH'}


def pip(root, *words):
  done = subprocess.run(
      [sys.executable, '-m', 'pip', '--disable-pip-version-check', *words],
      text=True, cwd=root, env=ALONE, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT)
  assert done.returncode == 0, f"{done.stdout}\nis the extra 'dev' installed?"


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
  """The wheel, of the source without what git ignores."""
  root = tmp_path_factory.mktemp('wheel')
  for name in ('dasm_jax', 'configs'):
    shutil.copytree(toy.ROOT / name, root / 'source' / name,
                    ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('pyproject.toml', 'setup.py', 'README.md', 'LICENSE'):
    shutil.copy(toy.ROOT / name, root / 'source')
  pip(root, 'wheel', root / 'source', '--no-deps', '--no-build-isolation',
      '--wheel-dir', root)
  (found,) = root.glob('*.whl')
  return found


@pytest.fixture(scope='session')
def installed(wheel, tmp_path_factory):
  """The folder of the commands; what they need is that of the tests."""
  root = tmp_path_factory.mktemp('installed') / 'env'
  subprocess.run([sys.executable, '-m', 'venv', '--without-pip', root],
                 check=True)
  (site,) = root.glob('lib/python*/site-packages')
  pip(root, '--python', root / 'bin' / 'python', 'install', '--no-deps',
      '--no-index', wheel)
  # Not what those folders name in turn, such as an editable install.
  outer = [path for path in sys.path if path.endswith('-packages')]
  (site / 'outer.pth').write_text('\n'.join([*outer, '']))
  return root / 'bin'


def call(installed, command, *words, cwd):
  return subprocess.run([installed / command, *words], text=True, cwd=cwd,
                        env=ALONE, capture_output=True)


def test_the_wheel_has_the_configs_and_nothing_else_beside(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  inside = {name.removeprefix('dasm_jax/configs/') for name in names
            if name.startswith('dasm_jax/configs/')}
  assert inside == {
      path.name for path in (toy.ROOT / 'configs').glob('*.py')}
  source = {str(path.relative_to(toy.ROOT))
            for path in (toy.ROOT / 'dasm_jax').rglob('*.py')}
  assert source <= {*names} and 'dasm_jax/py.typed' in names
  assert {name.split('/')[0] for name in names} == {
      'dasm_jax', f'dasm_jax-{dasm_jax.__version__}.dist-info'}


@pytest.mark.parametrize('command, words', COMMANDS.items())
def test_every_command_helps(installed, tmp_path, command, words):
  done = call(installed, command, '--help', cwd=tmp_path)
  assert done.returncode == 0 and not done.stderr
  assert words in done.stdout and f'{command} --' in done.stdout
  assert 'python -m' not in done.stdout


def test_the_commands_are_those_that_are_tried(installed, tmp_path):
  assert {path.name for path in installed.glob('dasm*')} == {*COMMANDS}
  done = call(installed, 'dasm-jax', '--version', cwd=tmp_path)
  assert done.stdout.startswith(f'dasm_jax {dasm_jax.__version__} (jax ')


def test_the_package_is_that_of_the_wheel(installed, tmp_path):
  done = call(installed, 'python', '-c', 'import dasm_jax; '
              'print(dasm_jax.__file__)', cwd=tmp_path)
  assert pathlib.Path(done.stdout).is_relative_to(installed.parent)


def test_a_set_is_distilled_and_evaluated(installed, tmp_path):
  done = call(installed, 'dasm-jax', '--config=digits:ipc=1,method=dm', *TINY,
              '--workdir=run', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert found['ipc'] == 1 and set(found) > {'jax', 'jaxlib', 'numpy'}
  done = call(installed, 'dasm-jax-evaluate', '--set=run', '--networks=1',
              cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  (row,) = [row for row in json.loads(
      (tmp_path / 'run' / 'evaluation.json').read_text())['rows']
      if row['set'] != 'random']
  # With the network and seed of the run: its own accuracy.
  assert row['mean'] == found['accuracy']['synthetic']['mean']


def test_configs_build_on_each_other(installed, tmp_path):
  done = call(installed, 'dasm-jax', '--config=svhn:method=mtt,ipc=10',
              '--help', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert '\n  --config.dataset.name=svhn ' in done.stdout


def test_an_unknown_config_lists_what_there_is(installed, tmp_path):
  done = call(installed, 'dasm-jax', '--config=configs/digist.py', cwd=tmp_path)
  assert done.returncode == 2 and done.stderr.count('\n') == 1
  assert 'did you mean digits?' in done.stderr
  assert ', '.join(sorted(path.stem for path in (
      toy.ROOT / 'configs').glob('*.py'))) in done.stderr
