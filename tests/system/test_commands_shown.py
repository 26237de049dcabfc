"""Every command of README and docs runs, one after the other, made small.

As a reader has it: what one leaves the next reads. Only settings are added that
make it short, and data are digits where the command asks for larger ones.
"""

import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import toy
from PIL import Image
from test_docs import COMMANDS

pytestmark = [pytest.mark.slow, pytest.mark.long]

ENTRIES = {'network.depth': 1, 'network.width': 4, 'method.steps': 5,
           'method.batch': 16, 'method.augment': '', 'eval.augment': '',
           'eval.epochs': 2, 'eval.networks': 1, 'segments.probe_epochs': 1,
           'coreset.epochs': 1, 'coreset.networks': 1}
TINY = {
    'main': [], 'convert': [],
    'evaluate': ['--networks=1', '--epochs=2'],
    'diagnose': ['--networks=1', '--epochs=1', '--real=20', '--ages=0,2'],
    'sweep': ['--seeds=1', '--ipc=1', '--steps=2'],
    'uses.continual': ['--networks=1', '--epochs=2', '--orders=1'],
    'uses.membership': ['--networks=1', '--epochs=2', '--full_epochs=1'],
    'uses.search': ['--networks=1', '--epochs=1', '--full_epochs=1',
                    '--architectures=4']}
# What leaves something for others comes first.
FIRST = ['main --config=configs/digits.py', 'main', 'sweep',
         'convert --set=runs/digits']
# Of a file that is to be downloaded; tests/foreign evaluate others like it.
ELSEWHERE = 'res_DSA_CIFAR10_ConvNet_10ipc.pt'


def in_order(line):
  return next((number for number, words in enumerate(FIRST)
               if f'dasm_jax.{words}' in line), len(FIRST))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder as a checkout is, with an image folder and a second set."""
  root = tmp_path_factory.mktemp('shown')
  for name in ('configs', 'docs'):
    os.symlink(toy.ROOT / name, root / name)
  rng = np.random.default_rng(0)
  for number in range(3):
    (root / 'photos' / f'class{number}').mkdir(parents=True)
    for image in range(12):
      Image.fromarray(rng.integers(0, 255, (70, 66, 3), np.uint8)).save(
          root / 'photos' / f'class{number}' / f'{image}.png')
  return root


def _name(words):
  config, = (x for x in words if x.startswith('--config='))
  return config.rpartition('/')[2].replace('.py', '').replace(':', ',')


def small(line):
  """The words of a command, and those that make it short."""
  words = shlex.split(line)
  if 'python' not in words:  # of a cluster's tool: its own command
    words = [word for word in shlex.split(words[-1])
             if not word.startswith('--workdir=gs:')]
  module = words[words.index('-m') + 1].removeprefix('dasm_jax.')
  more = list(TINY[module])
  if module in ('main', 'sweep'):
    entries = dict(ENTRIES)
    if 'photos' in line:  # they are larger than digits
      entries |= {'dataset.size': 16, 'method.batch': 4}
    else:
      entries |= {'dataset.name': 'digits', 'dataset.size': 0}
    if 'mtt' in line or module == 'sweep':
      entries.pop('method.batch')
    # Its name would tell the entries that are set here.
    if module == 'main' and '--workdir' not in line:
      more += [f'--workdir=runs/{_name(words)}']
    more += [f'--config.{name}={value}' for name, value in entries.items()]
  return [sys.executable, *words[1:], *more], module


# pytest names a long text by a number.
@pytest.mark.parametrize('line', sorted(
    (line for line in COMMANDS if ELSEWHERE not in line), key=in_order))
def test_it_runs(line, folder):
  words, module = small(line)
  done = subprocess.run(
      words, cwd=folder, text=True, capture_output=True, timeout=1200,
      env=toy.environment(XLA_FLAGS=os.environ['DASM_JAX_TEST_FLAGS'],
                          JAX_DISABLE_MOST_OPTIMIZATIONS='1'))
  # The extra `aot` is not part of the tests' own.
  if '--compile' in words and 'no compiler for this chip' in done.stderr:
    return
  assert done.returncode == 0, f'{words}\n{done.stdout}\n{done.stderr}'
  assert 'Traceback' not in done.stderr and 'warning' not in done.stderr.lower()
  if line == 'python -m dasm_jax.main --config=configs/digits.py':
    assert (folder / 'runs' / 'digits' / 'synthetic.npz').exists()
    shutil.copytree(folder / 'runs' / 'digits', folder / 'runs' / 'other')
  if '--to=safetensors' in line:
    assert list((folder / 'digits').glob('*.safetensors'))
