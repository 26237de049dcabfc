"""Whole runs on digits in this process, on eight devices."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import toy

from dasm_jax import methods, objectives, segments
from dasm_jax.distill import run, setup
from dasm_jax.errors import UserError
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices, preemption, timing
from dasm_jax.training import ensemble, scoring
from dasm_jax.types import Batch, Synthetic

pytestmark = pytest.mark.usefixtures('quick_compiler')


def test_one_segment_is_the_base_method(tmp_path):
  """A loop over the method, with no window, probe or replay in sight."""
  config = small.tiny('dc', segments__number=1, segments__window='aligned',
                segments__replay=.25, method__steps=5)
  run.run(config, tmp_path)
  job = setup.build(config)
  labels = job.dataset.train.labels
  members = [np.flatnonzero(labels == c) for c in range(10)]
  first = segments.first_images(members, labels, np.zeros(len(labels), bool), 2,
                                [config.seed, 1, 0])
  images = jnp.asarray(job.dataset.train.images[first], 'float32') / 255
  mean, std = (jnp.asarray(x) for x in (job.codec.mean, job.codec.std))
  syn = Synthetic(
      (images - mean) / std,
      jnp.broadcast_to(jnp.eye(10)[:, None], (10, 2, 10)), jnp.float32(.01))
  method = methods.build(job.network, 10, job.codec, config.method,
                         objectives.Correction(), images=2,
                         axis_name=devices.AXIS)
  data = streaming.fetch(setup.place_data(job)[0], None)
  around = sources.ClassWindows(
      jnp.arange(10), jnp.ones(10), data.everything, data.everything,
      Batch(jnp.zeros((10, 0, 8, 8, 1)), jnp.zeros((10, 0, 10))))
  key = jax.random.fold_in(jax.random.key(config.seed), 0)
  made = toy.on_devices(toy.Toy(method, method.init(key, syn), data, around,
                                key))
  state, _ = devices.chunk(method)(made.state, data, made.pool, key, 5)
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
  monkeypatch.setattr(devices, 'chunk', chunk)
  monkeypatch.setattr(scoring, 'difficulty_scores', scores)
  monkeypatch.setattr(ensemble, 'train_on_set', trained)
  monkeypatch.setattr(scoring, 'train_probes', trained)
  small.unmeasured(monkeypatch)


@pytest.mark.parametrize('fall, ends', [(0., (.2, .2)), (1., (.2, 0.))])
def test_correction_may_fall_over_segments(fall, ends):
  job = setup.build(small.tiny('dc', sdc__ratio=.2, sdc__fall=fall))
  found = [setup.correction_of(job.config, job, part) for part in job.plan]
  assert [(one.start, one.end) for one in found] == [(x, x) for x in ends]
  assert all(one.relative for one in found)
  # Each segment's program has its own strength, resumed or not.
  compiled = {}
  for part in job.plan:
    run._compiled_chunks(job, part, setup.build_method(job, part), compiled)
  assert len(compiled) == len(set(ends))


@pytest.mark.parametrize('change, want', [
    ({'ratio': .1}, (.1, .1, True)), ({'end_ratio': .1}, (0, .1, True)),
    ({'weight': .1, 'end_weight': 0.}, (.1, 0, False)),
    ({'end_weight': .1}, (0, .1, False))])
def test_correction_may_rise_within_a_segment(change, want):
  job = setup.build(small.tiny('dc', **{
      f'sdc__{name}': value for name, value in change.items()}))
  assert setup.correction_of(job.config, job, job.plan[0])[:2] == want[:2]
  assert setup.correction_of(job.config, job, job.plan[0]).relative == want[2]


@pytest.mark.parametrize('window, match', [
    *((name, 'new') for name in segments.WINDOWS), ('aligned', 'union')])
def test_every_window(window, match, hollow, tmp_path):
  config = small.tiny(segments__window=window, segments__match=match,
                      syn__ipc=5)
  found = run.run(config, tmp_path)
  assert found['segments'] == 2 and found['window'] == window
  for name in small.PICTURES:
    assert (tmp_path / name).exists()


def test_segments_start_from_different_images(hollow, tmp_path):
  # Nothing moves here: what is left is what the segments started from.
  run.run(small.tiny(syn__ipc=6, segments__number=3), tmp_path)
  with np.load(tmp_path / 'synthetic.npz') as file:
    images = file['images'].reshape(60, -1)
  assert len({image.tobytes() for image in images}) == 60


def test_aligned_coreset(hollow, tmp_path):
  """Real images of the segments' windows, at each factor, and no step."""
  config = small.tiny('aligned', syn__ipc=4, syn__factor=2, method__steps=0,
                      method__batch=1)
  found = run.run(config, tmp_path)
  assert (found['segments'], found['method']) == (2, 'aligned')
  job = setup.build(config)
  images = job.dataset.train.images
  with np.load(tmp_path / 'synthetic.npz') as file:
    saved, factor = np.rint(255 * file['images']), int(file['factor'])
  assert saved.shape == (10, 4, 8, 8, 1) and factor == 2
  # Cells are every second pixel of a real image.
  halved = images[:, ::2, ::2].reshape(len(images), -1)
  cells = saved.reshape(10, 4, 2, 4, 2, 4).transpose(0, 1, 2, 4, 3, 5)
  for c in range(10):
    members = np.flatnonzero(job.dataset.train.labels == c)
    hits = (cells[c].reshape(16, 1, -1) == halved[members]).all(-1)
    assert hits.any(1).all()
    # Scores are indices, half are known: the second half of the set holds
    # none of the easiest gamma / 2 images.
    easy = int(config.segments.gamma / 2 * len(members))
    assert hits[8:, easy:].any(1).all() and not hits[8:, :easy].any()
  assert not (tmp_path / 'metrics.jsonl').read_text().count('match/loss')


def test_real_steps_of_idc_with_union(tmp_path, monkeypatch):
  small.unmeasured(monkeypatch)
  config = small.tiny(
      'idc', segments__match='union', segments__window='everything',
      syn__factor=2, sdc__ratio=.2, method__steps=4)
  run.run(config, tmp_path)
  rows = small.rows_of(tmp_path)
  assert [row['step'] for row in rows] == [2, 2, 4]
  assert all(row['sdc/difficulty'] > 0 for row in rows[:-1])
  with np.load(tmp_path / 'synthetic.npz') as file:
    assert 0 <= file['images'].min() and file['images'].max() <= 1
    assert int(file['factor']) == 2


def test_loss_that_is_no_number(hollow, tmp_path, monkeypatch):
  def chunk(method):
    return lambda state, *_: (state, {'match/loss': jnp.float32('nan')})
  monkeypatch.setattr(devices, 'chunk', chunk)
  with pytest.raises(UserError, match='nan at segment 1, step 3.*method.lr'):
    run.run(small.tiny(), tmp_path)


def test_a_row_is_of_all_its_steps_whenever_it_was_stopped(
    tmp_path, monkeypatch):
  small.unmeasured(monkeypatch)
  c = small.tiny('dm', segments__number=1, method__steps=6, run__chunk=3)
  run.run(c, tmp_path / 'straight')
  monkeypatch.setattr(timing, 'CALL_SECONDS', 0.)  # a step a call
  heard, calls = preemption.StopFlag.hear, []
  def hear(self, *values):
    calls.append(values)
    # The first call has three steps; those before it hear without values.
    if sum(map(bool, calls)) == 2:
      self.note(15)
    return heard(self, *values)
  with monkeypatch.context() as during:
    during.setattr(preemption.StopFlag, 'hear', hear)
    with pytest.raises(preemption.Stopped, match='segment 1, step 4'):
      run.run(c, tmp_path / 'stopped')
  assert [row['step'] for row in small.rows_of(tmp_path / 'stopped')] == [3]
  run.run(c, tmp_path / 'stopped')
  one, other = (small.rows_of(tmp_path / name) for name in (
      'straight', 'stopped'))
  assert [row['step'] for row in one[:2]] == [3, 6]
  for a, b in zip(one, other, strict=True):
    assert a['step'] == b['step']
    for name in set(a) - {'segment', 'step', 'time', 'seconds'}:
      np.testing.assert_allclose(a[name], b[name], 1e-6)
