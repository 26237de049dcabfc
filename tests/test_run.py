"""Whole runs on digits, shrunk to seconds: files, restarts, signals."""

import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import kill
import numpy as np
import pytest
import toy

from dasm_jax import evaluate, methods, parallel, run, segments
from dasm_jax import job as jobs
from dasm_jax import source as sources
from dasm_jax.config import defaults
from dasm_jax.errors import UserError
from dasm_jax.methods import gradient
from dasm_jax.types import Batch, Synthetic

PICTURES = ('images.png', 'windows.png', 'images_1.png', 'images_2.png',
            'window_1.png', 'window_2.png', 'report.html')

pytestmark = pytest.mark.usefixtures('quick_compiler')


def rows_of(workdir):
  return [json.loads(row) for row in (
      workdir / 'metrics.jsonl').read_text().splitlines()]


def tiny(method='dc', **changes):
  """A configuration of seconds; `changes` with `__` for a dot."""
  c = defaults(method)
  c.dataset.name = 'digits'
  c.network.depth, c.syn.ipc, c.segments.number = 2, 2, 2
  entries = kill.TINY | {'run.chunk': 3, 'run.save_seconds': 1e9} | {
      name.replace('__', '.'): value for name, value in changes.items()}
  c.update_from_flattened_dict(entries)
  return c


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The two straight runs of `kill`, in processes of their own."""
  root = tmp_path_factory.mktemp('whole')
  return root, *kill.straight(root, root / 'cache')


def test_runs_repeat_bit_for_bit(whole):
  _, one, two, _ = whole
  assert kill.difference(one, two) == []


def test_killed_runs_end_as_others(whole):
  root, one, _, seconds = whole
  # A seed that changes finds more; a failure shows it.
  assert not kill.killed_runs(root, one, seconds, 3, int(time.time()))


def test_results(whole):
  root = whole[0]
  found = json.loads((root / 'one' / 'results.json').read_text())
  assert {'dataset': 'digits', 'method': 'dc', 'ipc': 2, 'segments': 2,
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
  with np.load(root / 'one' / 'synthetic.npz', allow_pickle=False) as file:
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
  assert card['accuracy'] == json.loads(
      (root / 'one' / 'results.json').read_text())['accuracy']
  assert np.ptp(got['images'], axis=(2, 3, 4)).min() > 0


def test_pictures_and_metrics(whole):
  root = whole[0] / 'one'
  for name in PICTURES:
    assert (root / name).stat().st_size > 500, name
  rows = rows_of(root)
  assert [(row['segment'], row['step']) for row in rows] == [
      *((1, k) for k in range(1, 6)), *((2, k) for k in range(1, 6)),
      (None, 10)]
  assert all(row['match/loss'] > 0 for row in rows[:-1])
  assert rows[-1]['eval/synthetic/top1_mean'] >= 0
  assert json.loads((root / 'config.json').read_text())['syn']['ipc'] == 2


def test_finished_run_shows_its_table_at_once(whole):
  root = whole[0]
  before = kill.left(root / 'one')
  out = kill.finish(kill.start(root / 'one', root / 'cache'))
  table = out[out.index('set '):]
  assert 'distilled' in table and 'random real' in table
  log = (root / 'one' / 'log.txt').read_text()
  assert log.endswith(table) and 'segment' not in out
  assert kill.difference(before, kill.left(root / 'one')) == []


def test_evaluating_a_finished_run_finds_what_it_found(whole):
  """The command knows all it needs from the set, and ends bit-identical."""
  root = whole[0]
  def call():
    return subprocess.run(
        [sys.executable, '-m', 'dasm_jax.evaluate', f'--set={root / "one"}',
         '--networks=2', '--full'], cwd=root, text=True, check=True,
        capture_output=True, timeout=300, env=kill.environment(root / 'cache'))
  first = call()
  rows = json.loads((root / 'one' / 'evaluation.json').read_text())['rows']
  accuracy = json.loads((root / 'one' / 'results.json').read_text())['accuracy']
  assert [row['set'] for row in rows] == ['dc', 'random', 'full']
  for row, name in zip(rows, ('synthetic', 'random'), strict=False):
    assert {k: row[k] for k in ('mean', 'std', 'networks')} == accuracy[name]
  assert rows[2]['ipc'] is None and len(rows[2]['networks']) == 2
  assert not first.stderr and call().stdout == first.stdout  # computes nothing
  for row in rows:
    assert f'{row["mean"]:.2%}' in first.stdout


def test_other_configuration_is_refused(whole):
  root = whole[0]
  process = kill.start(root / 'one', root / 'cache', method__lr=0.5)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 2
  assert err.count('\n') == 1 and err.startswith('error: ')
  assert 'method.lr (0.1 there, 0.5 here)' in err and '--workdir' in err


def test_signals_save_and_say_how_to_go_on(whole):
  root = whole[0]
  steps = []
  for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
    process = kill.start(
        root / 'stopped', root / 'cache', method__steps=200_000,
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
    assert lines[1].startswith(f'{number.name}: saving at the end of this ')
    assert 'the same command goes on' in lines[-2] and len(lines) <= 5
    steps.append(int(lines[-2].split('step ')[1].split(';')[0]))
    assert steps[-1] == json.loads(rows.read_text().splitlines()[-1])['step']
  assert 0 < steps[0] < steps[1]


# ---- in this process, on eight devices


def test_one_segment_is_the_base_method(tmp_path):
  """A loop over the method, with no window, probe or replay in sight."""
  config = tiny('dc', segments__number=1, segments__window='aligned',
                segments__replay=.25, method__steps=5)
  run.run(config, tmp_path)
  job = jobs.build(config)
  labels = job.dataset.train.labels
  members = [np.flatnonzero(labels == c) for c in range(10)]
  first = segments.start(members, labels, np.zeros(len(labels), bool), 2,
                         [config.seed, 1, 0])
  images = jnp.asarray(job.dataset.train.images[first], 'float32') / 255
  mean, std = (jnp.asarray(x) for x in (job.codec.mean, job.codec.std))
  syn = Synthetic(
      (images - mean) / std,
      jnp.broadcast_to(jnp.eye(10)[:, None], (10, 2, 10)), jnp.float32(.01))
  method = methods.build(job.network, 10, job.codec, config.method,
                         gradient.Correction(), images=2,
                         axis_name=parallel.AXIS)
  data, _ = jobs.place(job)
  around = sources.Pool(
      jnp.arange(10), jnp.ones(10), data.everything, data.everything,
      Batch(jnp.zeros((10, 0, 8, 8, 1)), jnp.zeros((10, 0, 10))))
  key = jax.random.fold_in(jax.random.key(config.seed), 0)
  made = toy.on_devices(toy.Toy(method, method.init(key, syn), data, around,
                                key))
  state, _ = parallel.chunk(method)(made.state, data, made.pool, key, 5)
  with np.load(tmp_path / 'synthetic.npz') as file:
    np.testing.assert_array_equal(
        file['images'], toy.gather(made, state).syn.images)


@pytest.fixture
def hollow(monkeypatch):
  """Compiles nothing: steps that only count, probes that know the index."""
  def chunk(method):
    def call(state, data, pool, key, steps):
      counts = np.asarray(pool.window.counts)
      assert counts.min() >= 8  # never fewer than a real batch
      return state._replace(step=state.step + steps), {
          'match/loss': jnp.float32(1)}
    return call
  def scores(network, name):
    def call(probes, data):
      n = len(data.labels)
      return np.arange(n, dtype='float32'), np.full(10, .5, 'float32')
    return call
  def trained(*_):
    return lambda *_: {'kernel': jnp.zeros(1)}
  monkeypatch.setattr(parallel, 'chunk', chunk)
  monkeypatch.setattr(evaluate, 'scores', scores)
  monkeypatch.setattr(evaluate, 'probes', trained)
  monkeypatch.setattr(evaluate, 'probes_on_real', trained)
  monkeypatch.setattr(run, 'measure', lambda *_: {
      'synthetic': np.ones(2), 'random': np.zeros(2)})


@pytest.mark.parametrize('fall, ends', [(0., (.2, .2)), (1., (.2, 0.))])
def test_correction_may_fall_over_segments(fall, ends):
  job = jobs.build(tiny('dc', sdc__ratio=.2, sdc__fall=fall))
  found = [jobs.correction(job.config, job, part) for part in job.plan]
  assert [(one.start, one.end) for one in found] == [(x, x) for x in ends]
  assert all(one.relative for one in found)


@pytest.mark.parametrize('window, match', [
    *((name, 'new') for name in segments.WINDOWS), ('aligned', 'union')])
def test_every_window(window, match, hollow, tmp_path):
  config = tiny(segments__window=window, segments__match=match, syn__ipc=5)
  found = run.run(config, tmp_path)
  assert found['segments'] == 2 and found['window'] == window
  for name in PICTURES:
    assert (tmp_path / name).exists()


def test_segments_start_from_different_images(hollow, tmp_path):
  # Nothing moves here: what is left is what the segments started from.
  run.run(tiny(syn__ipc=6, segments__number=3), tmp_path)
  with np.load(tmp_path / 'synthetic.npz') as file:
    images = file['images'].reshape(60, -1)
  assert len({image.tobytes() for image in images}) == 60


def test_aligned_coreset(hollow, tmp_path):
  """Real images of the segments' windows, at each factor, and no step."""
  config = tiny('aligned', syn__ipc=4, syn__factor=2, method__steps=0,
                method__batch=1)
  found = run.run(config, tmp_path)
  assert (found['segments'], found['method']) == (2, 'aligned')
  job = jobs.build(config)
  images = job.dataset.train.images
  with np.load(tmp_path / 'synthetic.npz') as file:
    saved, factor = np.rint(255 * file['images']), int(file['factor'])
  assert saved.shape == (10, 4, 8, 8, 1) and factor == 2
  # Cells are every second pixel of a real image.
  small = images[:, ::2, ::2].reshape(len(images), -1)
  cells = saved.reshape(10, 4, 2, 4, 2, 4).transpose(0, 1, 2, 4, 3, 5)
  for c in range(10):
    members = np.flatnonzero(job.dataset.train.labels == c)
    hits = (cells[c].reshape(16, 1, -1) == small[members]).all(-1)
    assert hits.any(1).all()
    # Scores are indices, half are known: the second half of the set holds
    # none of the easiest gamma / 2 images.
    easy = int(config.segments.gamma / 2 * len(members))
    assert hits[8:, easy:].any(1).all() and not hits[8:, :easy].any()
  assert not (tmp_path / 'metrics.jsonl').read_text().count('match/loss')


def test_real_steps_of_idc_with_union(tmp_path, monkeypatch):
  monkeypatch.setattr(run, 'measure', lambda *_: {
      'synthetic': np.ones(2), 'random': np.zeros(2)})
  config = tiny('idc', segments__match='union', segments__window='everything',
                syn__factor=2, sdc__ratio=.2, method__steps=4)
  run.run(config, tmp_path)
  rows = rows_of(tmp_path)
  assert [row['step'] for row in rows] == [2, 2, 4]
  assert all(row['sdc/difficulty'] > 0 for row in rows[:-1])
  with np.load(tmp_path / 'synthetic.npz') as file:
    assert 0 <= file['images'].min() and file['images'].max() <= 1
    assert int(file['factor']) == 2


def test_loss_that_is_no_number(hollow, tmp_path, monkeypatch):
  def chunk(method):
    return lambda state, *_: (state, {'match/loss': jnp.float32('nan')})
  monkeypatch.setattr(parallel, 'chunk', chunk)
  with pytest.raises(UserError, match='nan at segment 1, step 3.*method.lr'):
    run.run(tiny(), tmp_path)
