"""Where numbers and pictures of a run go beside metrics.jsonl."""

import csv
import io
import sys
import types

import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from dasm_jax.errors import UserError
from dasm_jax.runtime import logging, trackers


def a_run(path, track, steps=(1, 2), run='it', picture=True):
  with logging.RunLog(path, io.StringIO(), lambda: 7.) as log:
    log.own(run)
    log.track, log.settings = trackers.names_of(track), {'seed': 3}
    log.rewind(1, steps[0] - 1)
    for step in steps:
      log.scalars(1, step, {'match/loss': step / 2, f'at_{step}': 1}, step)
    if picture:
      Image.new('RGB', (5, 4), 'red').save(path / 'x.png')
      log.picture('images of segment 1', path / 'x.png')


def events(path):
  """What TensorBoard reads, of all files in their order."""
  for file in sorted((path / 'events').iterdir()):
    data = file.read_bytes()
    while data:  # length, its checksum, the event, its checksum
      size = int.from_bytes(data[:8], 'little')
      yield event_pb2.Event.FromString(data[12:12 + size])
      data = data[16 + size:]


def test_tensorboard_has_numbers_and_pictures(tmp_path):
  a_run(tmp_path, 'tensorboard')
  found = {(value.tag, event.step): value for event in events(tmp_path)
           for value in event.summary.value}
  assert found['match/loss', 2].simple_value == 1
  image = found['images of segment 1', 2].image
  assert (image.width, image.height) == (5, 4)
  assert image.encoded_image_string == (tmp_path / 'x.png').read_bytes()


def test_a_table_has_all_rows_of_all_calls(tmp_path):
  a_run(tmp_path, 'csv', steps=(1, 2))
  a_run(tmp_path, 'csv', steps=(2, 3))  # one that was stopped goes on
  with (tmp_path / 'metrics.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['step'] for row in rows] == ['1', '2', '3']
  assert [row['match/loss'] for row in rows] == ['0.5', '1.0', '1.5']
  assert rows[0]['at_1'] == '1.0' and rows[0]['at_3'] == ''
  assert not (tmp_path / 'events').exists()


def test_no_tracker_leaves_the_rows(tmp_path):
  a_run(tmp_path, '')
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 2
  assert not (tmp_path / 'events').exists()


def test_an_earlier_picture_is_not_shown_again(tmp_path):
  Image.new('RGB', (5, 4)).save(tmp_path / 'x.png')
  with logging.RunLog(tmp_path, io.StringIO()) as log:
    log.picture('x', tmp_path / 'x.png')
  assert not (tmp_path / 'events').exists()


@pytest.fixture
def wandb(monkeypatch):
  """A stand-in for the package, which keeps what it is told."""
  told = []
  run = types.SimpleNamespace(
      define_metric=lambda *a, **k: told.append(('metric', a, k)),
      log=lambda values: told.append(('log', values)),
      finish=lambda: told.append(('finish',)))
  def init(**given):
    told.append(('init', given))
    return run
  package = types.ModuleType('wandb')
  package.__spec__ = types.SimpleNamespace(name='wandb')
  package.init, package.Image = init, lambda path: ('image', path)
  monkeypatch.setitem(sys.modules, 'wandb', package)
  monkeypatch.delenv('WANDB_PROJECT', raising=False)
  return told


def test_wandb_is_told_once_a_call(wandb, tmp_path):
  trackers.check('run.track', 'wandb')
  a_run(tmp_path, 'wandb')
  (_, begun), metric, *logged, finish = wandb
  assert begun['id'] == 'it' and begun['resume'] == 'allow'
  assert begun['project'] == 'dasm_jax' and begun['config'] == {'seed': 3}
  assert metric[2] == {'step_metric': 'sweep'} and finish == ('finish',)
  assert logged[1] == ('log', {'match/loss': 1., 'at_2': 1., 'sweep': 2})
  assert logged[2][1]['images of segment 1'] == (
      'image', str(tmp_path / 'x.png'))


def test_mistakes_are_one_line(monkeypatch):
  trackers.check('run.track', 'csv,tensorboard')
  trackers.check('run.track', '')
  with pytest.raises(UserError, match="'tensorbord'.*tensorboard"):
    trackers.check('run.track', 'csv,tensorbord')
  monkeypatch.setitem(sys.modules, 'wandb', None)
  monkeypatch.setattr(trackers.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match='wandb is not installed; pip install'):
    trackers.check('run.track', 'wandb')


def test_a_full_disk_closes_the_others(tmp_path, monkeypatch):
  close = trackers.TensorBoard.close
  def full(self):
    close(self)
    raise UserError('full')
  monkeypatch.setattr(trackers.TensorBoard, 'close', full)
  with pytest.raises(UserError, match='full'):
    a_run(tmp_path, 'csv,tensorboard')
  assert (tmp_path / 'metrics.csv').exists()
