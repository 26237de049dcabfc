"""The command line: help, and mistakes on one line with a way out."""

import concurrent.futures
import json
import os
import pathlib
import runpy
import subprocess
import sys

import pytest
import toy
from absl.testing import flagsaver

from dasm_jax import config, main
from dasm_jax.distill import run
from dasm_jax.errors import UserError

DIGITS = '--config=configs/digits.py'
MISTAKES = {
    # What is typed -> what the line must name: the value and a way out.
    f'{DIGITS} --config.syn.ipx=3': ["'ipx'", 'mean --config.syn.ipc?'],
    f'{DIGITS} --config.method.lr=fast': ['--config.method.lr=fast', 'float'],
    f'{DIGITS} extra': ["'extra'", '--config.name=value'],
    f'{DIGITS} --wokdir=x': ["'wokdir'", 'Did you mean'],
    '--config=nowhere/digits.py': ["'nowhere/digits.py'", 'mean digits?'],
    '': ['--config is missing', '--config=digits'],
    'digits': ["'digits'", 'a config is given by --config=digits'],
    '--flagfile=nowhere': ['--flagfile', "'nowhere'"],
    f'{DIGITS} --dry_run --compile': ['--compile', '--machine=h100'],
}
# The same, asked inside this process: entries -> words.
VALUES = [
    ({'dataset.name': 'digitz'}, ["'digitz'", 'choose from', 'digits']),
    ({'dataset.name': 'folder:'}, [
        '--config.dataset.name=folder:: the path of folder: is empty; give']),
    ({'dataset.name': 'folder:/no/where'}, [
        "--config.dataset.name=folder:/no/where: '/no/where' does not exist"]),
    ({'dataset.moved_to': f'folder:{__file__}'}, [
        f'--config.dataset.moved_to=folder:{__file__}: ', 'is a file, no fol']),
    ({'method.augment': 'blur'}, [
        '--config.method.augment=blur', 'choose from color, crop']),
    ({'method.augment_mode': 'x'}, ["mode 'x'", 'choose from all']),
    ({'method.distance': 'cos'}, ["'cos'", 'choose from cosine, l1']),
    ({'method.match': 'x'}, ["match 'x'", 'choose from']),
    ({'method.parameters': 'x'}, ["parameters 'x'", 'choose from all']),
    ({'segments.window': 'x'}, ["window 'x'", 'choose from aligned']),
    ({'segments.match': 'x'}, ["match 'x'", 'choose from auto, new, union']),
    ({'segments.score': 'x'}, ["score 'x'", 'choose from el2n']),
    ({'eval.recipe': 'x'}, ["recipe 'x'", 'choose from dc, idc']),
    ({'syn.init': 'x'}, ["init 'x'", 'choose from ccs, easiest']),
    ({'syn.space': 'x'}, ["space 'x'", 'choose from normalised']),
    ({'syn.ipc': 1, 'segments.number': 2}, [
        'segments.number=2', 'ipc=1', 'choose from']),
    ({'method.batch': 500}, ['batch=500', 'has 139', 'at most']),
    ({'syn.factor': 9}, ['--config.syn.factor=9', 'from 1 to 8']),
    ({'network.depth': 7}, ['--config.network.depth=7', 'at most depth 3']),
    ({'dataset.name': 'mnist', 'dataset.data_dir': '/nowhere'}, [
        "'/nowhere'", 'does not exist', 'data_dir']),
    ({'method.steps': -5}, ['steps=-5', 'at least 0']),
    ({'method.steps': 1, 'segments.number': 2}, ['steps=1 ', '2 segments']),
    ({'segments.gamma': 2.0}, ['gamma=2', 'from 0 to 1']),
    ({'sdc.weight': .1, 'sdc.ratio': .1}, ['set one']),
    ({'sdc.penalty': 'x'}, ["sdc.penalty 'x'", 'choose from batch_norm']),
    ({'sdc.weight': -.1}, ['must not be negative', '-0.1']),
    ({'seed': -1}, ['seed=-1', 'at least 0']),
    ({'eval.batch': -1}, ['--config.eval.batch=-1', 'at least 0']),
    ({'eval.lr': 0.0}, ['eval.lr=0', 'learns none']),
    ({'network.name': 'resnet18'}, ['FILE.py:network=resnet18']),
    ({'sdc.weight': .1, 'sdc.end_ratio': .1}, ['set one']),
    ({'eval.cutmix': 2.0}, ['--config.eval.cutmix=2.0', 'from 0 to 1']),
    ({'run.chunk': 0}, ['run.chunk=0', 'at least 1']),
    ({'method.lr': float('nan')}, ['method.lr=nan', 'finite']),
    ({'sdc.weight': float('inf')}, ['sdc.weight=inf', 'finite']),
    ({'syn.ipc': 400}, ['syn.ipc=400', "class '", 'at most that']),
    ({'syn.init': 'herding', 'syn.factor': 4}, [
        'ipc=10', '16 real ones', 'factor=4', 'has 139', 'lower one']),
    ({'method.name': 'herding'}, ['the name alone', ':method=herding']),
    ({'method.name': 'x'}, ["method.name 'x'", 'choose from aligned']),
    ({'coreset.epochs': 0}, ['coreset.epochs=0', 'at least 1']),
    ({'method.train_on': 'real', 'method.net_batch': 60_000}, [
        'net_batch=60000', 'at most that']),
    ({'method.train_on': 'real', 'method.net_batch': 60_000, 'syn.ipc': 400,
      'method.batch': 500}, ['ipc=400', '; and --config.method.batch=500',
                             '; and --config.method.net_batch=60000']),
    ({'segments.window': 'random', 'segments.number': 5}, [
        'random', 'class', '5 parts', 'lower --config.segments.number']),
]


def call(arguments, cwd=toy.ROOT, module='dasm_jax.main', **more):
  return subprocess.run(
      [sys.executable, '-m', module, *arguments], text=True, cwd=cwd,
      timeout=120, capture_output=True, env=toy.environment(**more))


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
  """What each mistake brings; two processes at a time."""
  root = tmp_path_factory.mktemp('main')
  def run(numbered):
    number, text = numbered
    return text, call([*text.split(), f'--workdir={root / str(number)}'])
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    return dict(pool.map(run, enumerate(MISTAKES)))


@pytest.mark.parametrize('text', MISTAKES)
def test_mistake_is_one_line(text, answers):
  done = answers[text]
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1, (
      done.stderr)
  for word in MISTAKES[text]:
    assert word in done.stderr, done.stderr
  assert 'segment 1' not in done.stdout  # nothing was begun


@pytest.fixture(name='typed')
def _typed():
  """Reads a command line in this process, and forgets it again."""
  with flagsaver.flagsaver():
    yield lambda *words: main.read(['main', *words])


# The same of command lines that need no process: what is typed -> words.
LINES = {
    '--config.sin.ipc=3': ["'sin'", 'did you mean --config.syn?'],
    '--config.network.name=vitt': ["'vitt'", 'choose from alexnet'],
    '--config.syn.ipc=0': ['--config.syn.ipc=0', 'at least 1'],
    f'{DIGITS}:ipx=3': ["'ipx'", 'choose from ipc'],
    f'{DIGITS}:ipc=ten': ["'ipc=ten'", 'the default is 3'],
    f'{DIGITS}:method=icd': ["'icd'", 'choose from aligned, cafe, '],
    '--config=configs/digitz.py': ["'configs/digitz.py'", 'configs/digits.py'],
    '--config=digitz:ipc=2': ["'digitz'", 'did you mean digits?'],
    '-config=configs/digits.py -config.syn.ipc=0': ['--config.syn.ipc=0'],
    '--workdir=': ['--workdir= is empty', 'leave it out'],
    '--machine= --dry_run': ['--machine= is empty'],
    '--steps=4': ['no flag --steps', 'did you mean --config.method.steps=…?'],
    '--method.steps=4': ['did you mean --config.method.steps=…?'],
    '--epochs=4': ['--config.coreset.epochs=… or --config.eval.epochs=…?'],
    '--ipc=4': ['--config=configs/digits.py:ipc=… or --config.syn.ipc=…?'],
    '--method=dc': ['did you mean --config=configs/digits.py:method=…?'],
    '--epohcs=4': ['--config.coreset.epochs=… or --config.eval.epochs=…?'],
    '--zzz=4': ["'zzz'"],
    'my photos/x.py': ["'my'", 'quote paths that have spaces'],
    '--coordinator=': ['--coordinator= is empty'],
}


@pytest.mark.parametrize('line', LINES)
def test_a_line_that_is_refused(line, typed, monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  with pytest.raises(UserError) as caught:
    typed(DIGITS, *line.split())
  for word in LINES[line]:
    assert word in str(caught.value), str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('entries, words', VALUES)
def test_impossible_value(entries, words, tmp_path):
  c = config.defaults('dc')
  c.dataset.name, c.network.depth = 'digits', 2
  c.update_from_flattened_dict(entries)
  with pytest.raises(UserError) as caught:
    run.run(c, tmp_path / 'new')
  for word in words:
    assert word in str(caught.value), str(caught.value)
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'new').exists()  # nothing came of it


def test_mistake_does_not_claim_the_workdir(tmp_path):
  # Mended, the same command must find it free.
  new = tmp_path / 'new'
  done = call([DIGITS, '--config.method.batch=500', f'--workdir={new}'])
  assert 'batch=500' in done.stderr
  assert not new.exists()


def test_workdir_that_cannot_be(tmp_path):
  # The one that is not named; what may change in it does not choose it.
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'digits-seed=1').touch()
  done = call([f'--config={toy.ROOT / "configs" / "digits.py"}',
               '--config.run.chunk=5', '--config.seed=1'], tmp_path)
  assert done.returncode == 2 and done.stderr.count('\n') == 1
  assert "'runs/digits-seed=1'" in done.stderr
  assert 'is a file, no directory; choose another' in done.stderr


def test_a_config_may_stand_in_a_flagfile(tmp_path):
  (tmp_path / 'flags').write_text(f'{DIGITS}\n--config.syn.ipc=0\n')
  done = call([f'--flagfile={tmp_path / "flags"}'])
  assert done.returncode == 2 and '--config.syn.ipc=0' in done.stderr


def test_a_platform_that_is_not_here(tmp_path):
  done = call([DIGITS, f'--workdir={tmp_path / "new"}'],
              JAX_PLATFORMS='nothing')
  assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
  assert 'JAX_PLATFORMS=nothing' in done.stderr
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_help_needs_no_backend(flag):
  # A platform that does not exist: asking JAX for a device would fail.
  done = call([flag], JAX_PLATFORMS='nothing')
  assert 'python -m dasm_jax.main --config=digits\n' in done.stdout
  for name in ('--config', '--workdir'):
    assert name in done.stdout
  assert '\n  --config.method.lr=0.1 ' in done.stdout
  assert not done.stderr and done.returncode == 0


def test_help_with_a_config_shows_its_values():
  done = call(['--help', f'{DIGITS}:ipc=7'])
  assert '\n  --config.syn.ipc=7 ' in done.stdout and done.returncode == 0


def test_broken_config_files(tmp_path):
  for text, words in (('x = (', 'not Python: '), ('x = 1', 'no get_config')):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    done = call([f'--config={path}'])
    assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
    assert str(path) in done.stderr and words in done.stderr


def test_default_workdir_names_what_was_set():
  assert main.default_workdir('configs/mnist.py:ipc=1') == 'runs/mnist-ipc=1'
  assert main.default_workdir('a/digits.py', ['method.lr=2', 'seed=1']) == (
      'runs/digits-method.lr=2-seed=1')
  long = main.default_workdir('digits.py', ['dataset.name=' + 200 * 'x'])
  assert len(long) < 130 and long != main.default_workdir(
      'digits.py', ['dataset.name=' + 199 * 'x' + 'y'])


@pytest.mark.parametrize('arguments', [
    ['--config.seed=-7', DIGITS], ['--config', 'configs/digits.py',
                                   '--config.seed=-7']])
def test_any_order_of_flags(arguments, tmp_path):
  # Understood as far as to be refused for its value.
  done = call([*arguments, f'--workdir={tmp_path}'])
  assert 'seed=-7 must be at least 0' in done.stderr


def test_default_workdir():
  name = main.default_workdir
  assert name('configs/digits.py') == os.path.join('runs', 'digits')
  assert name('a/mnist.py:ipc=1,method=dc') == str(
      pathlib.Path('runs') / 'mnist-ipc=1,method=dc')
  assert name('x.py:a=../..').count('/') == 1


def test_a_dry_run_refuses_a_workdir_of_another_configuration(tmp_path):
  tree = runpy.run_path(str(toy.ROOT / 'configs' / 'digits.py'))['get_config'](
      '').to_dict()
  (tmp_path / 'config.json').write_text(json.dumps(tree))
  done = call([DIGITS, '--dry_run', '--config.eval.epochs=3',
               f'--workdir={tmp_path}'])
  assert done.returncode == 2 and done.stderr.count('\n') == 1
  assert ('eval.epochs (400 there, 3 here); choose another --workdir or delete '
          'this one, or measure its set by dasm_jax.evaluate --set='
          ) in done.stderr


def test_the_package_is_the_command():
  done = call([], module='dasm_jax')
  assert done.returncode == 2
  assert done.stderr.startswith('error: --config is missing')


def test_help_may_be_read_in_part():
  done = subprocess.run(
      f'{sys.executable} -m dasm_jax.main --help | head -1', shell=True,
      text=True, cwd=toy.ROOT, env=toy.environment(), capture_output=True)
  assert not done.stderr and done.stdout
