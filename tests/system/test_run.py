"""Whole runs on digits, shrunk to seconds: files, restarts, signals."""

import json
import signal
import subprocess
import sys
import time

import kill
import numpy as np
import pytest
import small

from dasm_jax.runtime import environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A straight run, another of streamed images; what they left and said."""
  root = tmp_path_factory.mktemp('whole')
  kill.finish(start(root / 'one/run', root))
  began = time.time()
  said = kill.finish(start(root / 'two/run', root, dataset__stream='always'))
  return root, kill.left(root / 'one/run'), said, time.time() - began


def start(workdir, root, **changes):
  """The process of a run that compiles quickly."""
  return kill.start(workdir, root / 'cache', **small.PLAIN, **changes)


def test_runs_repeat_bit_for_bit_and_streamed_ones_end_as_others(whole):
  """Images that are read as they are used are the same images."""
  root, one, said, _ = whole
  assert 'read as they are used' in said.splitlines()[0]
  # The card tells the configuration.
  assert kill.difference(one, kill.left(root / 'two/run')) == ['card']


def test_killed_runs_end_as_others(whole):
  root, one, _, seconds = whole
  # A seed that changes finds more; a failure shows it. What has been compiled
  # before takes less time.
  assert not kill.killed_runs(root, one, .7 * seconds, 1, int(time.time()),
                              **small.PLAIN)


def test_results(whole):
  root = whole[0]
  found = json.loads((root / 'one/run' / 'results.json').read_text())
  assert {'dataset': 'digits', 'method': 'dc', 'ipc': 2, 'classes': '',
          'seed': 0, 'devices': 1}.items() <= found.items()
  assert found['seconds'] > 0
  assert set(found['accuracy']) == {'synthetic', 'random'}
  for one in found['accuracy'].values():
    assert set(one) == {'mean', 'std', 'networks'} and len(one['networks']) == 2
    assert all(0 <= x <= 1 for x in one['networks'])
    np.testing.assert_allclose(one['mean'], np.mean(one['networks']))
    np.testing.assert_allclose(one['std'], np.std(one['networks']))


def test_synthetic_set(whole):
  root = whole[0]
  with np.load(root / 'one/run' / 'synthetic.npz', allow_pickle=False) as file:
    got = dict(file)
  assert set(got) == {'images', 'labels', 'label_kind', 'class_names', 'mean',
                      'std', 'factor', 'space', 'card'}
  assert got['images'].shape == (10, 2, 8, 8, 1)
  assert got['images'].dtype == got['mean'].dtype == np.float32
  assert np.isfinite(got['images']).all()
  np.testing.assert_array_equal(got['labels'], np.mgrid[:10, :2][0])
  assert str(got['label_kind']) == 'hard' and int(got['factor']) == 1
  assert got['class_names'].tolist() == list('0123456789')
  assert got['mean'].shape == got['std'].shape == (1,)
  card = json.loads(str(got['card']))
  assert card['storage'] == {
      'space': 'normalised', 'factor': 1, 'formation': 'single',
      'zca': 0.0}
  assert card['recipe']['epochs'] == 2 and card['network']['width'] == 4
  versions = environment.versions()
  assert versions.items() <= card.items()
  assert versions.items() <= json.loads(
      (root / 'one/run' / 'results.json').read_text()).items()
  assert card['accuracy'] == json.loads(
      (root / 'one/run' / 'results.json').read_text())['accuracy']
  assert np.ptp(got['images'], axis=(2, 3, 4)).min() > 0


def test_pictures_and_metrics(whole):
  root = whole[0] / 'one/run'
  for name in small.PICTURES:
    assert (root / name).stat().st_size > 500, name
  rows = small.rows_of(root)
  assert [(row['segment'], row['step']) for row in rows] == [
      *((1, k) for k in range(1, 6)), *((2, k) for k in range(1, 6)),
      (None, 10)]
  assert all(row['match/loss'] > 0 for row in rows[:-1])
  assert rows[-1]['eval/synthetic/top1_mean'] >= 0
  assert json.loads((root / 'config.json').read_text())['syn']['ipc'] == 2


def test_finished_run_shows_its_table_at_once(whole):
  root = whole[0]
  before = kill.left(root / 'one/run')
  out = kill.finish(start(root / 'one/run', root))
  table = out[out.index('set '):]
  assert 'distilled' in table and 'random real' in table
  log = (root / 'one/run' / 'log.txt').read_text()
  assert log.endswith(table) and 'segment' not in out
  assert kill.difference(before, kill.left(root / 'one/run')) == []


def test_evaluating_a_finished_run_finds_what_it_found(whole):
  """The command knows all it needs from the set, and ends bit-identical."""
  root = whole[0]
  def call():
    return subprocess.run(
        [sys.executable, '-m', 'dasm_jax.evaluate', f'--set={root / "one/run"}',
         '--networks=2', '--full'], cwd=root, text=True, check=True,
        capture_output=True, timeout=300, env=kill.environment(root / 'cache'))
  first = call()
  rows = json.loads((root / 'one/run' / 'evaluation.json').read_text())['rows']
  accuracy = json.loads(
      (root / 'one/run' / 'results.json').read_text())['accuracy']
  assert [row['set'] for row in rows][:3] == ['dc', 'random', 'full']
  for row, name in zip(rows, ('synthetic', 'random'), strict=False):
    assert {k: row[k] for k in ('mean', 'std', 'networks')} == accuracy[name]
  assert rows[2]['ipc'] is None and len(rows[2]['networks']) == 2
  assert not first.stderr
  # Computes nothing again, so that no row is on its way.
  assert call().stdout == ''.join(line for line in first.stdout.splitlines(True)
                                  if not line.startswith('row '))
  for row in rows:
    assert f'{row["mean"]:.2%}' in first.stdout


def test_other_configuration_is_refused(whole):
  root = whole[0]
  process = start(root / 'one/run', root, method__lr=0.5)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 2
  assert err.count('\n') == 1 and err.startswith('error: ')
  assert 'method.lr (0.1 there, 0.5 here)' in err and '--workdir' in err


def test_signals_save_and_say_how_to_go_on(whole):
  root = whole[0]
  steps = []
  for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 75)):
    process = start(root / 'stopped', root, method__steps=200_000,
                    run__save_seconds=1e9)
    rows, until = root / 'stopped' / 'metrics.jsonl', time.time() + 90
    had = rows.read_text().count('\n') if rows.exists() else 0
    while time.time() < until and process.poll() is None and not (
        rows.exists() and rows.read_text().count('\n') > had + 2):
      time.sleep(.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f'{number.name}: saved segment 1, step ' in err
    lines = err.split('\n')
    assert lines[1].startswith(f'{number.name}: saving at the end of the ')
    assert 'the same command goes on' in lines[-2] and len(lines) <= 5
    steps.append(int(lines[-2].split('step ')[1].split(';')[0]))
    assert steps[-1] == json.loads(rows.read_text().splitlines()[-1])['step']
  assert 0 < steps[0] < steps[1]
