"""What --dry_run says, without images, for every method; it writes nothing."""

import re
import subprocess
import sys

import numpy as np
import pytest
import small
import toy
from PIL import Image

from dasm_jax import data
from dasm_jax.config import files
from dasm_jax.cost import dry_run, machine
from dasm_jax.errors import UserError
from dasm_jax.methods.registry import METHODS

ONE = machine.Machine('cpu', 'a core', 1, 1e9, 10 ** 9)


@pytest.mark.parametrize('method', METHODS)
def test_dry_run_of_every_method(method, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  lines = []
  changes = {'method__last_epoch': 1, 'experts__epochs': 3} if (
      method in toy.TRAJECTORY) else {}
  if method == 'sre2l':
    changes = {'method__teach': 1}
  coreset = METHODS[method].settings['match'] == 'none'
  if coreset:
    changes = {'method__steps': 0, 'segments__number': 1}
  found = dry_run.dry_run(small.tiny(method, **changes), 'runs/x', ONE,
                          lines.append)
  assert list(tmp_path.iterdir()) == []
  assert all(value > 0 for value in found['seconds'].values())
  assert ('distillation' in found['seconds']) != coreset
  assert ('experts' in found['disk']) == (method in toy.TRAJECTORY)
  assert 'warning' not in lines[-1] and 'evaluation' in lines[-1]


@pytest.mark.parametrize('changes, word', [
    ({'dataset__zca': 0.1, 'network__width': 1, 'dataset__stream': 'never'},
     'most of it for data; lower --config.dataset.size, or'),
    ({'network__width': 64, 'segments__number': 1},
     'for the activations of evaluation; lower --config.eval.batch, or'),
    ({'network__width': 64, 'syn__ipc': 100, 'segments__number': 1},
     'activations of distillation; lower --config.method.batch, '
     '--config.method.limit'),
    ({'network__width': 64, 'method__batch': 100, 'method__train_on': 'real',
      'segments__window': 'everything'}, 'raise --config.syn.phases')])
def test_warns_where_memory_is_short(changes, word):
  lines = []
  dry_run.dry_run(small.tiny(**changes), 'x', ONE._replace(memory=1000),
                  lines.append)
  assert lines[-1].startswith('warning: a device has 1 kB')
  assert word in lines[-1] and lines[-1].endswith('or take devices with more')


def test_a_machine_that_is_not_here():
  found = machine.parse_machine('gpu:4:80:400')
  assert found == ('gpu', 'gpu:4:80:400', 4, 400e12, 80 * 10 ** 9)
  lines = []
  c = small.tiny()
  slow, fast = (dry_run.dry_run(
      c, 'x', machine.parse_machine(f'tpu:1:16:{speed}'), lines.append)[
          'seconds'] for speed in (1, 2))
  assert sum(slow.values()) > sum(fast.values())
  assert any('1 tpu:1:16:1 (tpu)' in line for line in lines)


PAGE = toy.ROOT / 'docs' / 'cost.md'


@pytest.mark.parametrize('job, told', [
    (job, cells.split(' | ')) for job, cells in re.findall(
        r'^\| `(\w+\.py:\S+)` \| ([\d. |]+) \|$', PAGE.read_text(), re.M)])
def test_the_hours_that_the_page_tells(job, told):
  file, _, arguments = job.partition(':')
  found = [dry_run.dry_run(
      files.load(f'configs/{file}:{arguments},segments=1'), 'x',
      machine.parse_machine(f'gpu:{devices}:80:100'), say=str)
           for devices in (1, 8)]
  assert told == [
      *(f'{sum(one["seconds"].values()) / 3600:.1f}' for one in found),
      *(f'{sum(one["memory"].values()) / 1e9:.1f}' for one in found)]


@pytest.mark.parametrize('text', [
    'h100:0', 'h100:8:80', 'b200', 'gpu:8', 'gpu:0:80:400', 'gpu:1:80:-4',
    'gpu:1:inf:4', 'npu:1:1:1', 'gpu:1:1:1:1', 'gpu:1.5:1:1'])
def test_no_such_machine(text):
  with pytest.raises(UserError, match=f'machine={text} is not .*gpu:1:80:400'):
    machine.parse_machine(text)


def everything(machine=ONE, **changes):
  found = dry_run.dry_run(small.tiny(**changes), 'x', machine, say=str)
  return (sum(found['seconds'].values()), sum(found['memory'].values()),
          found['disk']['set'])


@pytest.mark.parametrize('more', [
    {'syn__ipc': 8}, {'dataset__size': 16}, {'network__width': 8}])
def test_more_costs_more(more):
  for less, now in zip(everything(), everything(**more), strict=True):
    assert now > less or more == {'network__width': 8} and now == less


def test_more_classes_cost_more(tmp_path):
  def of(classes):
    return everything(dataset__name=folders(tmp_path / str(classes), classes))
  for less, more in zip(of(2), of(4), strict=True):
    assert more > less


def folders(root, classes, each=8, parts=('train', 'test')):
  """A folder of black images."""
  for k in range(classes):
    for part in parts:
      where = root / part / f'class_{k}'
      where.mkdir(parents=True)
      for i in range(each + k):
        Image.new('L', (8, 8)).save(where / f'{i}.png')
  return f'folder:{root}'


@pytest.mark.parametrize('options', [
    {}, {'holdout': 0.25, 'seed': 3}, {'size': 5}, {'parts': ('.',)}])
def test_outline_is_like_what_is_loaded(options, tmp_path):
  parts = options.pop('parts', ('train', 'test'))
  for name in ('digits', folders(tmp_path, 2, parts=parts)):
    seen, real = (call(name, **options) for call in (data.outline, data.load))
    for split in ('train', 'test'):
      one, other = getattr(seen, split), getattr(real, split)
      assert one.images.shape == other.images.shape
      assert one.images.dtype == other.images.dtype
      np.testing.assert_array_equal(one.labels, other.labels)
    assert seen.class_names == real.class_names


def test_outline_of_what_is_not_there(tmp_path):
  found = data.outline('cifar10', data_dir=str(tmp_path), holdout=0.1)
  assert found.train.images.shape == (45_000, 32, 32, 3)
  assert found.test.images.shape == (5_000, 32, 32, 3)
  large = data.outline('imagenet2012', data_dir=str(tmp_path), size=224)
  assert large.train.images.shape == (1_281_167, 224, 224, 3)
  assert large.train.images.strides[:3] == (0, 0, 0)  # of no memory
  assert len(large.class_names) == 1000


def test_refuses_what_cannot_be_streamed():
  def told(**changes):
    return dry_run.dry_run(
        small.tiny('cafe', dataset__stream='always', **changes), 'x', ONE)
  with pytest.raises(UserError, match="method 'cafe'.*watch_images=0"):
    told()
  assert told(method__watch_images=0)['seconds']['distillation'] > 0
  with pytest.raises(UserError, match='zca=0.1 whitens.*stream=never'):
    told(method__watch_images=0, dataset__zca=.1)


def test_an_outline_passes_over_broken_images(tmp_path):
  for name in ('ant', 'bee'):
    (tmp_path / name).mkdir()
    for index in range(6):
      Image.new('RGB', (9, 8)).save(tmp_path / name / f'{index}.png')
  (tmp_path / 'ant' / '0.png').write_bytes(b'broken')
  found = data.outline(f'folder:{tmp_path}')
  assert found.train.images.shape[1:] == (8, 9, 3)


def test_says_that_a_set_is_not_there(tmp_path):
  there, away = [], []
  dry_run.dry_run(small.tiny(), 'x', ONE, there.append)
  dry_run.dry_run(small.tiny(dataset__name='mnist',
                             dataset__data_dir=str(tmp_path)), 'x', ONE,
                  away.append)
  assert any('mnist is not here' in line and 'first ask TFDS' in line
             for line in away)
  assert 'ask TFDS' in data.describe('mnist', data_dir=tmp_path).missing
  found = data.describe('tiny_imagenet', data_dir=tmp_path)
  assert 'TFDS has none' in found.missing
  assert data.here('digits') and not data.here('mnist', data_dir=tmp_path)
  assert not any('not here' in line for line in there)


@pytest.mark.parametrize('name, words', [
    ('imagenet2012', ['differ in size', '--config.dataset.size=']),
    ('nothing', ["'nothing'", 'choose from']),
    ('folder:nowhere', ['nowhere', 'does not exist'])])
def test_outline_refuses_in_one_line(name, words, tmp_path):
  with pytest.raises(UserError) as caught:
    data.outline(name, data_dir=str(tmp_path))
  assert all(word in str(caught.value) for word in words)
  assert '\n' not in str(caught.value)


def test_refuses_what_a_run_would_refuse():
  with pytest.raises(UserError, match='batch=500'):
    dry_run.dry_run(small.tiny(method__batch=500), 'x', ONE)


@pytest.mark.slow
def test_command_writes_nothing(tmp_path):
  done = subprocess.run(
      [sys.executable, '-m', 'dasm_jax.main', '--dry_run',
       f'--config={toy.ROOT / "configs/digits.py"}'], cwd=tmp_path, text=True,
      env=toy.environment(), capture_output=True, timeout=120)
  assert done.returncode == 0 and not done.stderr, done.stderr
  for word in ('1438 train', 'network ', 'sweeps ', 'memory ', 'disk ',
               'distillation', 'in all'):
    assert word in done.stdout
  assert list(tmp_path.iterdir()) == []


def test_this_machine():
  found = machine.measure_machine()
  assert found.backend == 'cpu' and found.devices == 8
  assert 1e8 < found.speed < 1e14 and found.memory > 1e8
