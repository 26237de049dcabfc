"""What a run prints and the files it leaves."""

import io
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from dasm_jax.errors import UserError
from dasm_jax.runtime import logging, records, text

pytestmark = pytest.mark.filterwarnings('error')
_ROOT = pathlib.Path(__file__).resolve().parents[2]


class _Terminal(io.StringIO):
  def isatty(self):
    return True


class _Clock:
  now = 1000.

  def __call__(self):
    return self.now


def _terminal(monkeypatch, columns=80):
  monkeypatch.setenv('COLUMNS', str(columns))
  monkeypatch.setenv('TERM', 'xterm')
  return _Terminal()


def _rows(path):
  lines = (path / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_progress_not_on_a_terminal(tmp_path):
  stream, clock = io.StringIO(), _Clock()
  with logging.RunLog(tmp_path, stream, clock) as log:
    for step in range(1, 41):
      clock.now += 1
      log.progress((1, 2, step, 40), 12.345678, 1234, 100)
    log.progress((2, 2, 1, 40), 1.)  # at once after: not yet
    clock.now -= 3600  # a clock set back does not stop it for an hour
    log.progress((2, 2, 2, 40))
    for done in 1, 2, 3:  # at once: what is done has changed
      log.progress((1, 2, done, 9), None, None, 75, what='evaluation',
                   unit='network', note='epoch 5/9')
  lines = stream.getvalue().splitlines()
  assert lines[0] == ('segment 1/2  step 1/40  loss 12.35  1.2k images/s  '
                      '1m40s to evaluation')
  assert [int(re.search(r'step (\d+)/', line)[1]) for line in lines[:6]] == [
      1, 11, 21, 31, 40, 2]
  assert lines[6:] == ['evaluation 1/2  network 1/9  epoch 5/9  1m15s left']
  assert '\r' not in stream.getvalue() and '\x1b' not in stream.getvalue()


def test_progress_on_a_terminal(tmp_path, monkeypatch):
  stream, clock = _terminal(monkeypatch), _Clock()
  with logging.RunLog(tmp_path, stream, clock) as log:
    log.progress((1, 2, 20, 40), 1.5, 900, 8)
    line = stream.getvalue()
    bar = re.fullmatch(
        r'\r\x1b\[Ksegment 1/2  step 20/40  \[(#+\.+)\]  loss 1.5  '
        r'900 images/s  8.0s to evaluation', line)[1]
    assert 0 <= bar.count('.') - bar.count('#') <= 1  # half
    assert len(line) - 4 < 80
    log.progress((1, 2, 21, 40), 1.5)  # too soon to be seen
    assert stream.getvalue() == line
    log.say('hello')
    assert stream.getvalue() == line + '\r\x1b[Khello\n' + line[4:]
    log.progress((1, 2, 40, 40), 1.5)
    assert stream.getvalue().endswith('loss 1.5\n')
    log.say('done')
    assert stream.getvalue().endswith('loss 1.5\ndone\n')
    clock.now += 1
    log.progress((2, 2, 1, 40))
  assert stream.getvalue().endswith(']\n')
  assert (tmp_path / 'log.txt').read_text() == 'hello\ndone\n'


@pytest.mark.parametrize('columns', [1, 20, 40, 60, 81, 300])
def test_progress_fits_the_terminal(tmp_path, monkeypatch, columns):
  stream = _terminal(monkeypatch, columns)
  with logging.RunLog(tmp_path, stream) as log:
    log.progress((1, 2, 123456, 400000), 12.345678, 12345, 1e5)
  [line] = stream.getvalue().removeprefix('\r\x1b[K').splitlines() or ['']
  assert len(line) < columns


def test_a_dumb_terminal_gets_plain_lines(tmp_path, monkeypatch):
  stream = _terminal(monkeypatch)
  monkeypatch.setenv('TERM', 'dumb')
  with logging.RunLog(tmp_path, stream) as log:
    log.progress((1, 1, 1, 2))
  assert stream.getvalue() == 'segment 1/1  step 1/2\n'


def test_a_line_that_is_taken_away(monkeypatch):
  stream = _terminal(monkeypatch)
  shown = logging.Terminal(stream)
  shown.progress((1, 4, 2, 9), 1.5, what='row', unit='epoch')
  before = stream.getvalue()
  assert 'row 1/4  epoch 2/9' in before
  shown.wipe()
  shown.say('a row')
  assert stream.getvalue() == before + '\r\x1b[Ka row\n'
  shown.wipe()  # nothing is there
  assert stream.getvalue().endswith('a row\n')


def test_a_closed_reader_does_not_end_the_run(tmp_path):
  read, write = os.pipe()
  os.close(read)
  stream = os.fdopen(write, 'w')
  with logging.RunLog(tmp_path, stream) as log:
    log.say('hello')
  assert (tmp_path / 'log.txt').read_text() == 'hello\n'
  with pytest.raises(BrokenPipeError):
    stream.close()


def test_scalars(tmp_path):
  now = [3.0]
  with logging.RunLog(tmp_path, io.StringIO(), lambda: now[0]) as log:
    now[0] = 5.12345
    log.scalars(1, 2, {'match/loss': np.float32(.5), 'syn/lr': np.nan}, 2)
    [row] = _rows(tmp_path)
    assert row.pop('sum')
    assert row == {'segment': 1, 'step': 2, 'time': 5.123, 'seconds': 2.123,
                   'match/loss': .5, 'syn/lr': None}
    log.scalars(None, 4, {'eval/top1_mean': 10}, 4)
  [events] = (tmp_path / 'events').iterdir()
  assert b'match/loss' in events.read_bytes()
  # A later call adds its own time to what the earlier ones took.
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"segment": 1, "st')
  again = logging.RunLog(tmp_path, io.StringIO(), lambda: now[0])
  again.own('')
  now[0] += 10
  assert round(again.seconds, 3) == 12.123


def _run(tmp_path, points):
  with logging.RunLog(tmp_path, io.StringIO(), lambda: 0) as log:
    for total, (segment, step) in enumerate(points):
      log.scalars(segment, step, {'x': total}, total)


def test_rewind_leaves_what_a_straight_run_leaves(tmp_path):
  points = [(1, 10), (1, 20), (2, 10), (2, 20)]
  straight, killed = tmp_path / 'straight', tmp_path / 'killed'
  straight.mkdir()
  killed.mkdir()
  _run(straight, points)
  _run(killed, [*points[:3], (None, 10)])
  with (killed / 'metrics.jsonl').open('a') as file:
    file.write('{"segment": 1, "step": 1')
  with logging.RunLog(killed, io.StringIO(), lambda: 0) as log:
    log.rewind(1, 20)  # done: what comes after it has its own checkpoints
    log.rewind(2, 0)
    for total in (2, 3):
      log.scalars(*points[total], {'x': total}, total)
  assert _rows(killed) == _rows(straight)
  assert not [p for p in killed.iterdir() if 'tmp' in p.name]


@pytest.mark.parametrize('damage, lost', [
    (lambda lines: lines[:2] + [lines[2][:20]], 1),  # cut within a line
    (lambda lines: [lines[0][:9], *lines[1:]], 1),  # that line alone is lost
    (lambda lines: [lines[0].replace('1.0', '1.5'), *lines[1:]], 1),
    (lambda lines: [], 3), (lambda lines: lines[1:] + lines[:1], 0),
    (lambda lines: lines + lines, 0), (lambda lines: ['{}', '7'] + lines, 0)])
def test_rows_that_are_lost_are_told_of(damage, lost, tmp_path, caplog):
  path, points = tmp_path / 'metrics.jsonl', [(1, 1), (1, 2), (2, 1)]
  with logging.RunLog(tmp_path, io.StringIO()) as log:
    for number, at in enumerate(points):
      log.scalars(*at, {'x': number + 1}, number)
    assert [log.rows(*at) for at in points] == [1, 2, 3]
  whole = path.read_text().splitlines()
  path.write_text(''.join(f'{line}\n' for line in damage(whole)))
  log = logging.RunLog(tmp_path, io.StringIO())
  log.own('')
  for segment, rows in ((1, 2), (2, 3)):
    log.rewind(segment, 2, rows=rows)
  left = path.read_text().splitlines()
  assert len(left) == 3 - lost and set(left) <= set(whole)
  assert left == sorted(left, key=whole.index)
  if lost:
    assert f'lacks {lost} of the 3 rows' in caplog.messages[-1] or (
        f'lacks {lost} of the 2 rows' in caplog.messages[-1])
  else:
    assert not caplog.messages


def test_what_another_run_has_left_does_not_count(tmp_path, caplog):
  for run in 'one', 'two':
    with logging.RunLog(tmp_path, io.StringIO(), lambda: 7.) as log:
      log.own(run)
      log.scalars(1, 1, {'x': 1.}, 1)
      assert log.rows(1, 1) == 1
  assert 'clock.json is of another run' in caplog.text
  log.rewind(1, 1, rows=1)
  [row] = _rows(tmp_path)
  assert row['x'] == 1 and len(caplog.messages) == 1


@pytest.mark.parametrize('seconds', ['1e400', '-1', '"x"', 'null', 'NaN'])
def test_a_clock_that_cannot_be(seconds, tmp_path, caplog):
  log = logging.RunLog(tmp_path, io.StringIO(), lambda: 7.)
  records.write(tmp_path / 'clock.json', 'clock.json', '',
                {'seconds': json.loads(seconds)})
  log.own('')
  assert log.seconds == 0 and 'clock.json is' in caplog.text


def test_folders_and_files_in_the_place_of_each_other(tmp_path, caplog):
  (tmp_path / 'metrics.jsonl').mkdir()
  (tmp_path / 'events').write_text('')
  log = logging.RunLog(tmp_path, io.StringIO())
  log.own('')
  assert 'metrics.jsonl is a folder: set aside' in caplog.text
  with pytest.raises(UserError, match='events.*move away what is there'):
    log.scalars(1, 1, {'x': 1.}, 1)
  (tmp_path / 'log.txt').mkdir()
  with pytest.raises(UserError, match='log.txt.*move away what is there'):
    log.say('x')


def test_rewind_to_the_start_and_of_nothing(tmp_path):
  with logging.RunLog(tmp_path, io.StringIO()) as log:
    log.rewind(1, 0)
    log.scalars(1, 1, {'x': 1}, 1)
    log.rewind(1, 0)
    assert _rows(tmp_path) == []
    (tmp_path / 'metrics.jsonl').write_bytes(b'\xff\xfe[3]\n[3]\n7\n{}\n')
    log.rewind(9, 9)
    assert _rows(tmp_path) == []


def test_result(tmp_path):
  log = logging.RunLog(tmp_path, io.StringIO())
  log.result({'old': 1})
  log.result({'eval': {'a': np.float32(1.5), 'b': np.arange(2)},
              'c': float('inf')})
  text = (tmp_path / 'results.json').read_text()
  found = json.loads(text)
  assert found.pop('record')['kind'] == 'results.json'
  assert found == {'eval': {'a': 1.5, 'b': [0, 1]}, 'c': None}
  assert text.startswith('{\n  "eval"')


def test_a_workdir_that_is_gone(tmp_path):
  log = logging.RunLog(tmp_path / 'gone', io.StringIO())
  with pytest.raises(UserError, match='log.txt.*make room'):
    log.say('x')
  with pytest.raises(UserError, match='results.json'):
    log.result({})


def test_table():
  assert text.table([['random', 10, 9.5], ['full', 1, -.123456]],
                      ['set', 'ipc', 'top-1']) == (
      'set     ipc    top-1\n'
      '------  ---  -------\n'
      'random   10      9.5\n'
      'full      1  -0.1235')
  assert text.table([], ['set']) == 'set\n---'


@pytest.mark.parametrize(('function', 'value', 'text'), [
    (text.duration, 0, '0.0s'), (text.duration, 9.96, '10s'),
    (text.duration, 59.6, '1m00s'), (text.duration, 100, '1m40s'),
    (text.duration, 3599.7, '1h00m'), (text.duration, 7500, '2h05m'),
    (text.duration, 273600, '3d04h'), (text.duration, float('inf'), '?'),
    (text.count, 0, '0'), (text.count, 870, '870'),
    (text.count, 999.6, '1k'), (text.count, 1234, '1.2k'),
    (text.count, 34e6, '34M'), (text.count, .25, '0.2'),
    (text.count, float('nan'), '?'), (text.size, 512, '512 B'),
    (text.size, 1.5e6, '1.5 MB'), (text.size, 3e15, '3000 TB')])
def test_numbers_as_text(function, value, text):
  assert function(value) == text


def test_imports_are_light():
  out = subprocess.run(
      [sys.executable, '-c', 'import sys; from dasm_jax.runtime import '
       'logging; from dasm_jax.distill import figures; print([name for name in '
       '("matplotlib", "PIL", "tensorboardX") if name in sys.modules])'],
      env=os.environ | {'PYTHONPATH': str(_ROOT)}, capture_output=True,
      text=True, check=True).stdout
  assert out == '[]\n'
