"""Runs by the frontier: its windows, its starts, who judges, what moves."""

import numpy as np
import pytest
import small
import toy

from dasm_jax.config import validate
from dasm_jax.distill import initialise, run, setup
from dasm_jax.errors import UserError
from dasm_jax.runtime import checkpoint, preemption

pytestmark = pytest.mark.usefixtures('quick_compiler')
FRONTIER = dict(segments__window='frontier', segments__share=.5,
                segments__number=3, syn__ipc=6, syn__init='easiest',
                segments__replay=0., coreset__networks=2, coreset__epochs=2,
                segments__probe_epochs=6)


def tiny(method='dm', **changes):
  return small.tiny(method, **small.PLAIN | FRONTIER | changes)


def walked(config, workdir):
  """`(made, [Progress of each segment])` of a run that has ended."""
  run.run(config, small.measured(workdir))
  found = []
  with small.started(config, workdir) as made:
    for segment in made.experiment.plan:
      folder = workdir / setup.folder_of(made.experiment, segment)
      with checkpoint.open_checkpoints(
          folder, made.fingerprint, made.owner(segment)) as saved:
        found.append(saved.latest(
            initialise.progress_shapes(made, segment))[1])
    return made, found


@pytest.fixture(scope='module')
def frontier(tmp_path_factory):
  """A run of which the second segment stays, and half of the third moves."""
  config = tiny('dm', segments__shares=(1., 2., 3.), syn__ipc=6,
                segments__rates=(1., 0., 1.), segments__moving=.5,
                segments__number=0, segments__probes=3)
  return walked(config, tmp_path_factory.mktemp('runs') / 'a')


def test_windows_hold_unused_misses_the_easiest_first(frontier):
  made, segments = frontier
  labels = made.experiment.dataset.train.labels
  used = np.zeros(len(labels), bool)
  for k, progress in enumerate(segments):
    missed, scores = map(np.asarray, (progress.missed, progress.scores))
    counts = np.asarray(progress.window.counts)
    floor = max(8, 2 * progress.state.syn.images.shape[1])
    for c in range(10):
      inside = np.asarray(progress.window.indices)[c, :counts[c]]
      candidates = np.flatnonzero((labels == c) & missed & ~used)
      if k == 0:
        assert missed.all() and not scores.any()
        assert counts[c] == np.sum(labels == c)
        continue
      order = candidates[np.argsort(scores[candidates], kind='stable')]
      want = max(floor, -(-len(order) // 2))
      assert set(order[:want]) <= set(inside) and len(inside) == want
      # The start is the easiest of the window.
      width = progress.state.syn.images.shape[1]
      new = np.flatnonzero(np.asarray(progress.used) & ~used & (labels == c))
      assert set(order[:width]) <= set(new) and len(new) == width
    used = np.asarray(progress.used)
  # An order by networks trained on real images is one for all segments.
  np.testing.assert_array_equal(segments[1].scores, segments[2].scores)
  assert 0 < np.mean(segments[2].missed) < 1


def test_segments_of_chosen_sizes_move_as_asked(frontier):
  made, segments = frontier
  assert [s.width for s in made.experiment.plan] == [1, 2, 3]
  assert [setup.segment_steps(made.experiment, s)
          for s in made.experiment.plan] == [5, 0, 5]
  real = made.experiment.dataset.train.images / 255.
  real = real.reshape(len(real), -1)
  mean, std = (np.asarray(x) for x in (
      made.experiment.codec.mean, made.experiment.codec.std))
  def nearest(images):  # real one, rms
    pixels = np.asarray(images) * std + mean
    flat = pixels.reshape(-1, real.shape[1])
    return np.sqrt(((flat[:, None] - real) ** 2).mean(-1).min(1)).reshape(
        pixels.shape[:2])
  first, second, third = (nearest(p.state.syn.images) for p in segments)
  assert second.max() < 1e-5 and first.min() > 1e-4
  assert third[:, 2:].max() < 1e-5 and third[:, :2].min() > 1e-4


def test_networks_trained_on_real_images_are_shared(frontier, tmp_path,
                                                    monkeypatch):
  made, segments = frontier
  folders = list(made.home.experts.glob('digits_judges_*'))
  assert len(folders) == 1
  # Another run beside it trains none: its rates, ipc and method may differ.
  other = tiny('dm', segments__number=2, syn__ipc=4, segments__probes=3)
  said = []
  with small.started(other, made.home.path.parent / 'b') as beside:
    monkeypatch.setattr(beside.log, 'say', said.append)
    variables, correct = initialise.real_networks(beside)
    assert correct.shape == (2, 0, 1438) and not said
    again, _ = initialise.real_networks(made._replace(log=beside.log))
    toy.leaves_equal(variables, again)
  # Another seed has others, and so has who looks at each epoch.
  for changes in ({'seed': 1}, {'segments__order': 'forgetting'}):
    with small.started(tiny(**changes), tmp_path / str(len(changes))) as new:
      _, correct = initialise.real_networks(new)
      assert correct.shape == (2, 2 * ('segments__order' in changes), 1438)
      assert list(new.home.experts.glob('digits_judges_*')) != folders


def test_networks_in_training_are_kept(tmp_path):
  config = tiny(coreset__epochs=3, run__save_seconds=0.,
                segments__order='forgetting')
  with small.started(config, tmp_path / 'straight' / 'run') as made:
    want = initialise.real_networks(made)
  home = tmp_path / 'stopped' / 'run'
  with small.started(config, home, stopping=small.AskedAt(2)) as made, (
      pytest.raises(preemption.Stopped, match='real images at epoch')):
    initialise.real_networks(made)
  with small.started(config, home) as made:
    got = initialise.real_networks(made)
  for a, b in zip(*(np.concatenate([np.ravel(y) for y in x]) for x in (
      (want[1],), (got[1],))), strict=True):
    assert a == b
  assert got[1].any() and not got[1].all()


@pytest.mark.parametrize('changes, words', [
    (dict(segments__shares=(5, 5), segments__number=0), 'add up to 10; make'),
    (dict(segments__shares=(50, 50)), 'are 2, but --config.segments.number=3'),
    (dict(segments__shares=(.1,) * 10, segments__number=0), 'more than --con'),
    (dict(segments__rates=(1., 0.)), 'are 2, but there are 3 segments'),
    (dict(segments__rates=(0., 0., 0.)), 'move no image; take a coreset'),
    (dict(segments__rates=(1., -1., 0.)), 'must not be negative'),
    (dict(segments__order='x'), "unknown --config.segments.order 'x'"),
    (dict(segments__moving=0.), 'must be positive'),
    (dict(segments__budget='x'), 'choose from each, total')])
def test_what_cannot_be_is_refused(changes, words):
  with pytest.raises(UserError, match=words):
    validate.check_settings(tiny(**changes))


def test_networks_and_labels_that_a_method_has_not():
  for method, more in (('mtt', {}), ('sre2l', {}),
                       ('frontier', {'method__steps': 0})):
    with pytest.raises(UserError, match=f'{method} begins no networks'):
      validate.check_settings(small.tiny(method, segments__networks=.5, **more))
  with pytest.raises(UserError, match='warmup=3: networks that train as long'):
    validate.check_settings(small.tiny('cafe', method__warmup=3))
  validate.check_settings(small.tiny(
      'cafe', method__warmup=3, method__watch_images=0))
  with pytest.raises(UserError, match='relabel=False or .teacher'):
    validate.check_settings(small.tiny(
        'sre2l', segments__rates=(1., 0.), method__steps=40))
