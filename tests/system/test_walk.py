"""Whole runs on digits in this process, on eight devices."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import toy

from dasm_jax import segments, streams, synthetic
from dasm_jax.config import validate
from dasm_jax.distill import feeding, initialise, run, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import comparison, saved_set
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import checkpoint, devices, preemption
from dasm_jax.streams import Stream
from dasm_jax.training import ensemble
from dasm_jax.types import Batch, Synthetic

pytestmark = pytest.mark.usefixtures('quick_compiler')


def tiny(method, **changes):
  """A configuration whose network has one block."""
  return small.tiny(method, network__depth=1, **changes)


def images_of(workdir):
  """The images of a run's set, and their factor."""
  with np.load(workdir / 'synthetic.npz') as file:
    return file['images'], int(file['factor'])


def progress_of(c, workdir, index):
  """The `Progress` that a run has left of a segment."""
  with small.started(c, workdir) as made:
    phase = made.experiment.plan[index]
    folder = workdir / setup.folder_of(made.experiment, phase)
    with checkpoint.open_checkpoints(
        folder, made.fingerprint, made.owner(phase)) as saved:
      return saved.latest(initialise.progress_shapes(made, phase))[1]


@pytest.mark.slow
def test_one_segment_is_the_base_method(tmp_path):
  """A loop over the method, with no window, probe or replay in sight."""
  config = tiny('dc', segments__number=1, segments__window='aligned',
                      segments__replay=.25, method__steps=5)
  run.run(config, small.measured(tmp_path))
  made = setup.build(config)
  labels = made.dataset.train.labels
  members = [np.flatnonzero(labels == c) for c in range(10)]
  first = segments.first_images(
      members, labels, np.zeros(len(labels), bool), 2,
      streams.seed(config.seed, Stream.FIRST_IMAGES, 0))
  images = jnp.asarray(made.dataset.train.images[first], 'float32') / 255
  mean, std = (jnp.asarray(x) for x in (made.codec.mean, made.codec.std))
  syn = Synthetic(
      (images - mean) / std,
      jnp.broadcast_to(jnp.eye(10)[:, None], (10, 2, 10)), jnp.float32(.01))
  method = setup.build_method(made, made.plan[0])
  data = streaming.fetch(
      streaming.place_dataset(made.dataset, made.codec)[0], None)
  around = sources.ClassWindows(
      jnp.arange(10), jnp.ones(10), data.everything, data.everything,
      Batch(jnp.zeros((10, 0, 8, 8, 1)), jnp.zeros((10, 0, 10))))
  key = jax.random.key(config.seed)
  begun = method.init(streams.key(key, Stream.FIRST_STATE, 0), syn)
  key = streams.key(key, Stream.SWEEPS, 0)
  many = toy.on_devices(toy.Toy(method, begun, data, around, key))
  state, _ = devices.chunk(method)(many.state, many.data, many.pool, key, 5)
  np.testing.assert_array_equal(
      images_of(tmp_path)[0], toy.gather(many, state).syn.images)


@pytest.mark.parametrize('fall, ends', [(0., (.2, .2)), (1., (.2, 0.))])
def test_correction_may_fall_over_segments(fall, ends):
  made = setup.build(tiny('dc', sdc__ratio=.2, sdc__fall=fall))
  found = [setup.correction_of(made.config, made, part) for part in made.plan]
  assert [(one.start, one.end) for one in found] == [(x, x) for x in ends]
  assert all(one.relative for one in found)


@pytest.mark.parametrize('change, want', [
    ({'ratio': .1}, (.1, .1, True)), ({'end_ratio': .1}, (0, .1, True)),
    ({'weight': .1, 'end_weight': 0.}, (.1, 0, False)),
    ({'end_weight': .1}, (0, .1, False))])
def test_correction_may_rise_within_a_segment(change, want):
  made = setup.build(tiny('dc', **{
      f'sdc__{name}': value for name, value in change.items()}))
  found = setup.correction_of(made.config, made, made.plan[0])
  assert (found.start, found.end, found.relative) == want


def test_influence_asks_for_real_images():
  for method, ratio in (('mtt', 0.), ('dm', .1)):
    validate.check_settings(tiny(
        method, sdc__ratio=ratio, sdc__penalty='influence'))
  for method in ('mtt', 'sre2l'):
    with pytest.raises(UserError, match=(
        f'influence asks .* method {method} draws none .* choose sample_norm')):
      validate.check_settings(tiny(
          method, sdc__ratio=.1, sdc__penalty='influence'))


def test_methods_know_how_far_the_run_is():
  made = setup.build(tiny('dsac', segments__number=3, syn__ipc=3,
                          method__steps=10))
  found = [setup.method_options(made, part) for part in made.plan]
  assert sum(one.steps for one in found) == 10
  # A quarter of the run's sweeps may begin alone, all of the first segment's.
  assert [one.alone for one in found] == [2.5, 0, 0]
  made = setup.build(tiny('dsac', segments__number=3, syn__ipc=3,
                          method__steps=10, segments__budget='each'))
  assert [setup.method_options(made, part).alone for part in made.plan] == [
      7.5, 0, 0]


@pytest.mark.parametrize('changes, steps', [
    ({}, [5 + 6, 5 + 6]), ({'segments__budget': 'each'}, [10 + 6] * 2),
    ({'segments__rates': (1., 0.)}, [10 + 6, 0])])
def test_a_teacher_of_each_segment_comes_on_top(changes, steps):
  made = setup.build(tiny(
      'sre2l', method__steps=10, method__teach=7, **changes))
  # The last of seven steps that teach is the first that moves images.
  assert [setup.segment_steps(made, part) for part in made.plan] == steps


NEW = {'segments__match': 'new'}


@pytest.mark.parametrize('method, changes, programs', [
    ('idc', NEW, 1), ('idc', {}, 3),  # so few images are matched in union
    ('dsac', NEW | {'method__alone_share': .5}, 3),
    ('dsac', NEW | {'method__alone_share': 0.}, 1)])
def test_segments_share_a_program_where_it_is_the_same(
    method, changes, programs, monkeypatch):
  made = setup.build(tiny(method, segments__number=3, syn__ipc=3,
                          method__steps=12, **changes))
  told = []
  monkeypatch.setattr(run.reports, 'tell_compiling',
                      lambda made, phase, step: told.append(phase.index))
  kept, around = {}, types.SimpleNamespace(experiment=made)
  for part in made.plan:
    run.compiled_chunks(around, part, setup.build_method(made, part), kept,
                        feeding.Position(0))
  assert len(told) == len(kept) == programs


def coreset(**changes):
  """Images of DASM's windows that no step moves."""
  return tiny('aligned', method__steps=0, **changes)


def ran(config, workdir):
  """Asserts what a run of two segments leaves; `Progress` of the last one."""
  found = run.run(config, small.measured(workdir))
  assert len(found['segments']) == 2 and found['method'] == 'aligned'
  assert found['window'] == config.segments.window
  assert all(one['moved'] == 0 for one in found['segments'])
  for name in small.PICTURES:
    assert (workdir / name).exists()
  assert 'moved: rms' in (workdir / 'report.html').read_text()
  ends = [progress_of(config, workdir, index) for index in range(2)]
  for one in ends:  # never fewer than a real batch
    assert np.asarray(one.window.counts).min() >= config.method.batch
  return ends[1]


@pytest.mark.parametrize('window', sorted({*segments.WINDOWS} - {'aligned'}))
def test_every_window(window, tmp_path):
  ran(coreset(segments__window=window, syn__ipc=5, method__batch=8), tmp_path)


def test_segments_start_from_different_images(tmp_path):
  # All may see all images, so that nothing but who had them tells them apart.
  run.run(coreset(syn__ipc=6, segments__number=3,
                  segments__window='everything'), small.measured(tmp_path))
  images = images_of(tmp_path)[0].reshape(60, -1)
  assert len({image.tobytes() for image in images}) == 60


def test_aligned_coreset(tmp_path):
  """Real images of the segments' windows, at each factor, and no step."""
  config = coreset(syn__ipc=4, syn__factor=2, method__batch=1,
                   segments__probe_epochs=40)
  judged, dropped = ran(config, tmp_path), 0
  train = setup.build(config).dataset.train
  saved, factor = images_of(tmp_path)
  saved = np.rint(255 * saved)
  assert saved.shape == (10, 4, 8, 8, 1) and factor == 2
  # Cells are every second pixel of a real image.
  halved = train.images[:, ::2, ::2].reshape(len(train.images), -1)
  cells = saved.reshape(10, 4, 2, 4, 2, 4).transpose(0, 1, 2, 4, 3, 5)
  for c in range(10):
    members = np.flatnonzero(train.labels == c)
    members = members[np.argsort(np.asarray(judged.scores)[members])]
    hits = (cells[c].reshape(16, 1, -1) == halved[members]).all(-1)
    assert hits.any(1).all()
    # The second half of the set holds none of the easiest that its networks
    # know.
    easy = int(config.segments.gamma * judged.accuracy[c] * len(members))
    assert hits[8:, easy:].any(1).all() and not hits[8:, :easy].any()
    dropped += easy
  assert dropped > 50
  assert not (tmp_path / 'metrics.jsonl').read_text().count('match/loss')


@pytest.mark.slow
def test_real_steps_of_idc_with_union(tmp_path):
  config = tiny(
      'idc', segments__match='union', segments__window='aligned',
      syn__factor=2, sdc__ratio=.2, method__steps=4, method__augment='',
      method__net_augment='')
  run.run(config, small.measured(tmp_path))
  rows = small.rows_of(tmp_path)
  assert [row['step'] for row in rows] == [2, 2, 4]
  assert all(row['sdc/difficulty'] > 0 for row in rows[:-1])
  images, factor = images_of(tmp_path)
  assert 0 <= images.min() and images.max() <= 1 and factor == 2


def simple(**changes):
  """DM of sweeps that compile quickly."""
  return tiny('dm', method__augment='', segments__window='everything',
                    **changes)


def test_loss_that_is_no_number(tmp_path):
  with pytest.raises(UserError, match='nan at segment 1, step 3.*method.lr'):
    run.run(simple(method__lr=1e9, network__norm='none'),
            small.measured(tmp_path))


@pytest.mark.slow
def test_a_stopped_run_has_the_rows_and_the_set_of_another(tmp_path):
  """A row is of all its steps, and a segment corrected as it should be."""
  def leave(name, stops):
    path = small.measured(tmp_path / name)
    for index, times in stops:
      def begun(path=path, index=index):
        return (path / f'segment_{index}').exists()
      with small.started(c, path, calls_of_a_step, small.AskedAt(
          times, begun)) as made, pytest.raises(
              preemption.Stopped, match=f'segment {index}, step {times - 1};'):
        run.distill(made)
    with small.started(c, path, calls_of_a_step) as made:
      run.distill(made)
    return small.rows_of(path), images_of(path)[0]

  def calls_of_a_step(made):  # there is room for the images of one
    return streaming.place_dataset(
        made.dataset, made.codec, small.buffer_mb(10 * c.method.batch))
  # The last segment is not corrected: its program is another one.
  c = simple(method__steps=12, run__chunk=3, sdc__ratio=.2, sdc__fall=1.,
             dataset__stream='always')
  straight, images = leave('straight', [])
  # Heard once before the first sweep, then after each.
  stopped, others = leave('stopped', [(1, 5), (2, 2)])
  assert [(row['segment'], row['step']) for row in straight] == [
      (1, 3), (1, 6), (2, 3), (2, 6), (None, 12)]
  for a, b in zip(straight, stopped, strict=True):
    assert a.keys() == b.keys()
    for name in a.keys() - {'segment', 'time', 'seconds', 'sum'}:
      np.testing.assert_allclose(a[name], b[name], 1e-6)
  np.testing.assert_array_equal(images, others)
  assert json.loads((tmp_path / 'stopped/results.json').read_text())[
      'method'] == 'dm'


@pytest.mark.slow
def test_the_first_segments_are_measured_alone(tmp_path):
  """As the set that they are would be; a stopped run goes on within them."""
  c = simple(eval__prefixes=9, eval__full=2)
  path = small.measured(tmp_path)  # the whole set is measured already
  with pytest.raises(preemption.Stopped, match='8 of 9 networks trained on the '
                                               'first segment; '):
    run.run(c, path, stopping=small.AskedAt(2, (path / 'images_2.png').exists))
  kept = json.loads((path / run.ACCURACIES).read_text())['first_1']
  found = run.run(c, path)
  first, whole = [row['accuracy'] for row in found['segments']]
  assert first['networks'][:8] == kept and len(kept) == 8
  assert whole == found['accuracy']['synthetic']
  assert set(found['accuracy']) == {'synthetic', 'random', 'full'}
  set_ = saved_set.load(path)
  with small.started(c, path) as made:
    experiment = made.experiment
    half = set_.syn._replace(images=set_.syn.images[:, :1],
                             labels=set_.syn.labels[:, :1])
    batch = Batch(*synthetic.training_inputs(experiment.codec, half))
    states = ensemble.train_on_set(experiment.network, experiment.recipe, None)(
        comparison.network_keys(c.seed, 9), devices.replicate(batch))
    np.testing.assert_allclose(first['networks'], comparison.tested(
        experiment.network)(states, made.test), 1e-6)
    states = ensemble.train_on_all(experiment.network, experiment.recipe)(
        comparison.network_keys(c.seed, 2), streaming.fetch(made.data, None))
    np.testing.assert_allclose(
        found['accuracy']['full']['networks'], comparison.tested(
            experiment.network)(states, made.test), 1e-6)
  assert 'after each segment: ' in (path / 'log.txt').read_text()
  for words in ('Accuracy after each segment', '<span>all real</span>'):
    assert words in (path / 'report.html').read_text()
