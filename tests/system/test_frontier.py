"""Runs by the frontier: its windows, its starts, who judges, what moves."""

import numpy as np
import pytest
import small
import toy

from dasm_jax.config import validate
from dasm_jax.distill import figures, initialise, results, run, setup
from dasm_jax.errors import UserError
from dasm_jax.runtime import checkpoint, preemption
from dasm_jax.training import scoring

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


def test_networks_with_a_history_serve_runs_without(tmp_path, monkeypatch):
  def networks(name, **changes):
    said = []
    with small.started(tiny(**changes), tmp_path / name) as made:
      monkeypatch.setattr(made.log, 'say', said.append)
      return *initialise.real_networks(made), said
  forgetting = {'segments__order': 'forgetting'}
  first, correct, said = networks('a/looks', **forgetting)
  assert correct.shape[1] == 2 and 'to train' in said[0]
  served, _, said = networks('a/asks_none')
  assert not said
  # As those that it would have trained itself, to the last bit.
  own, correct, said = networks('b/asks_none')
  assert correct.shape[1] == 0 and 'to train' in said[0]
  toy.leaves_equal(first, own)
  toy.leaves_equal(served, own)
  # Not the other way round: the history would be missing.
  _, correct, said = networks('b/looks', **forgetting)
  assert correct.shape[1] == 2 and 'to train' in said[0]


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


def judging(monkeypatch, real, before):
  """Has networks on real images and on segments be right about such images.

  Returns:
    Names of the scores that the former are asked for.
  """
  asked = []
  def give(right):
    scored = scoring.Scored(
        np.linspace(0, 1, len(right)), np.full(10, .5), right)
    return lambda *_: scored
  monkeypatch.setattr(initialise, 'real_networks', lambda made: None)
  monkeypatch.setattr(scoring, 'real_scores', lambda network, name: (
      asked.append(name) or give(real)))
  monkeypatch.setattr(
      scoring, 'difficulty_scores', lambda *_: give(before))
  return asked


@pytest.mark.parametrize('window', ['frontier', 'ccfs'])
def test_candidates_are_missed_and_of_ccfs_known_to_networks_on_real_images(
    window, monkeypatch, tmp_path):
  real, before = np.random.default_rng(0).random((2, 1438))
  asked = judging(monkeypatch, real, before)
  for number, order in enumerate(('loss', 'none')):
    config = tiny(segments__window=window, segments__order=order)
    with small.started(config, tmp_path / order) as made:
      said = []
      monkeypatch.setattr(made.log, 'say', said.append)
      judged = initialise.judge_images(
          made, made.experiment.plan[1], (), (), lambda: np.zeros(2))
    want = before < .5
    if window == 'ccfs':
      want &= real > .5
    np.testing.assert_array_equal(judged.missed, want)
    assert (judged.scores is None) == (order == 'none')
    # Who is asked who is right is asked for a score, too, and told so.
    if window == 'ccfs' or order == 'loss':
      assert asked.pop() == 'loss' and '; loss 0' in said[0]
    assert not asked and len(said) == 1 + (window == 'ccfs' or not number)


def test_networks_that_know_all_leave_the_next_in_order(monkeypatch, tmp_path,
                                                        capsys):
  everything = np.ones(1438)
  judging(monkeypatch, everything, everything)
  config = small.tiny('frontier', **small.PLAIN | dict(
      segments__number=2, syn__ipc=2, method__batch=8, method__steps=0))
  made, (_, second) = walked(config, tmp_path)
  words = 'the probes miss 0 unused images of class'
  assert capsys.readouterr().out.count(words) == 1  # of ten such classes
  labels = made.experiment.dataset.train.labels
  counts = np.asarray(second.window.counts)
  assert (counts == 8).all()
  for c in range(10):
    # The easiest have the first numbers; one of the class was used before.
    inside = np.asarray(second.window.indices)[c, :8]
    assert inside.max() <= np.flatnonzero(labels == c)[8]


def test_networks_begin_as_those_of_finished_segments_as_asked():
  experiment = setup.build(tiny(segments__networks=.25))
  shares = [setup.method_options(experiment, segment).from_finished
            for segment in experiment.plan]
  assert shares == [0, .25, .25]


@pytest.mark.parametrize('method, changes, name', [
    ('ccfs', {}, 'forgetting'), ('frontier', {}, 'loss'),
    ('frontier', {'segments__order': 'none'}, ''),
    ('aligned', {'segments__score': 'el2n'}, 'el2n')])
def test_pictures_of_windows_name_what_puts_images_in_order(
    method, changes, name, monkeypatch, tmp_path):
  axes = []
  def draw(pairs, path, score_name):
    del pairs, path
    axes.append(score_name)
  monkeypatch.setattr(figures, 'window_plots', draw)
  # A page without the picture.
  monkeypatch.setattr(results.page, 'pictures', lambda pairs: '')
  run.run(small.tiny(method, **small.PLAIN | dict(
      segments__number=2, syn__ipc=2, method__batch=8, method__steps=0,
      eval__networks=0, segments__probe_epochs=1, coreset__networks=1,
      coreset__epochs=1,
      **changes)), tmp_path)
  assert axes == [name]


@pytest.mark.parametrize('changes, words', [
    (dict(syn__init='ccfs'), 'a window; set --config.segments.window=ccfs'),
    (dict(syn__init='window'), 'syn.init=highest --config.coreset.skip=0.7'),
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
