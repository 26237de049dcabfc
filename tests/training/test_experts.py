"""Experts of a whole job: trained once, drawn from windows, asked."""

import dataclasses

import jax
import numpy as np
import pytest
import small
import toy

from dasm_jax import segments
from dasm_jax.distill import feeding, run, setup
from dasm_jax.errors import UserError
from dasm_jax.runtime import devices, logging, preemption
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.training import expert_store, experts, resumable

pytestmark = pytest.mark.usefixtures('quick_compiler')


def tiny(method='mtt', **changes):
  """A configuration of seconds."""
  return small.tiny(method, **{**dict(
      experts__number=3, experts__epochs=4, experts__lr=0.1,
      experts__batch=32, experts__augment='', method__augment='',
      method__student_steps=2,
      method__last_epoch=2, method__expert_epochs=1, method__steps=6,
      method__lr=10.0, segments__probe_epochs=1), **changes})


def settled(tmp_path, **changes):
  """A job, its data on the devices, a log, and nobody who asks to stop."""
  made = setup.build(tiny(**changes))
  return made, setup.place_data(made)[0], logging.RunLog(
      tmp_path), preemption.StopFlag()


def opened(tmp_path, **changes):
  made, data, log, watch = settled(tmp_path, **changes)
  with log:
    return made, data, experts.open_experts(
        made, workdirs.Workdir(tmp_path / 'run'), data, log,
        keeper(tmp_path, watch))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  return opened(tmp_path_factory.mktemp('trained'))


def test_augmentations_of_a_family_align_corners_everywhere():
  """Experts, students and the evaluation, as published."""
  made = setup.build(tiny())
  assert made.config.method.augment_mode == made.recipe.mode == 'mtt'
  assert experts.expert_recipe(made.config.experts, made.codec).mode == 'mtt'
  assert experts._identity(made)['experts.mode'] == 'mtt'
  assert setup.build(tiny(eval__recipe='idc')).recipe.mode == 'idc'
  assert setup.build(small.tiny('dm')).recipe.mode == 'single'


def test_experts_learn_and_differ(trained):
  made, data, buffer = trained
  assert buffer.missing() == [] and buffer.folder.parent.name == 'experts'
  def right(expert, epoch):
    labels, early = made.dataset.train.labels, buffer._replace(epochs=epoch)
    out = [*experts._final_logits(
        made, early, data, np.arange(len(labels)))][
        expert]
    return (out.argmax(-1) == labels).mean()
  # Epoch 0 guesses among ten; four epochs of SGD know more.
  assert right(0, 0) < 0.3 < right(0, 4)
  first, other = (expert_store.read_rows(buffer, [k], [0]) for k in (0, 1))
  assert abs(first - other).max() > 0.01


def keeper(folder, watch=None):
  return resumable.Keeper(
      folder / 'unfinished', 'experts', 1e9, watch or preemption.StopFlag(),
      lambda: None)


def test_experts_do_not_depend_on_who_trained_with_them(trained, tmp_path):
  made, _, buffer = trained
  again, data, log, _ = settled(tmp_path)
  about = experts._identity(again)
  alone = expert_store.claim_store(tmp_path / 'alone', about, 3, 4, buffer.size)
  with log:
    experts._train_missing(again, alone, [1], data, log, keeper(tmp_path))
  np.testing.assert_allclose(
      expert_store.read_rows(alone, [1], [4]), expert_store.read_rows(buffer,
                                                                      [1], [4]),
      rtol=1e-4, atol=1e-5)
  assert alone.missing() == [0, 2]


def claimed(made, folder):
  """The `ExpertStore` of three experts."""
  size = experts.flat_parameters(made.network)[0](
      made.network.init(jax.random.key(0))).size
  return expert_store.claim_store(folder, experts._identity(made), 3, 4, size)


class Impatient(preemption.StopFlag):
  """Asks to stop when it is heard for the n-th time."""

  def __init__(self, times):
    super().__init__()
    self._left = times

  def hear(self, *values):
    self._left -= 1
    if not self._left:
      self.note(15)
    return super().hear(*values)


# An epoch is one piece of whole batches, and one of the short batch.
@pytest.mark.parametrize('norm, times, epoch, rest', [
    ('instance', 3, 1, [2, 2, 3, 3, 4]), ('batch', 4, 2, [2, 3, 3, 4])])
def test_stopped_in_training_they_go_on_from_there(
    norm, times, epoch, rest, tmp_path):
  made, data, log, watch = settled(tmp_path, network__norm=norm)
  def claim(folder):
    return claimed(made, tmp_path / folder)
  one, other = claim('one'), claim('other')
  with log:
    experts._train_missing(made, one, [0, 1, 2], data, log, keeper(tmp_path
                                                                   / 'one'))
    with pytest.raises(preemption.Stopped,
                       match='saved 0 experts of 3, and 3 in '
                       f'training at epoch {epoch} of 4; the same'):
      experts._train_missing(made, other, [0, 1, 2], data, log,
                             keeper(tmp_path / 'other', Impatient(times)))
    assert other.missing() == [0, 1, 2]
    assert [other.begun(k) for k in range(3)] == 3 * [epoch + 1]
    # What was written after it was kept is written again.
    with other.part(1).open('ab') as file:
      file.write(b'half a row')
    claim('other')
    # Who trains one at a time goes on with all three.
    made.config.experts.at_once = 1
    told = []
    log.progress = lambda *given, **_: told.append(given[2])
    experts._train_missing(made, other, [0, 1, 2], data, log, keeper(tmp_path
                                                                     / 'other'))
  assert told == rest
  for k in range(3):
    assert one.path(k).read_bytes() == other.path(k).read_bytes()
  assert not [*(tmp_path / 'other' / 'unfinished').iterdir()]
  assert not [*(tmp_path / 'other').glob('*.part')]


def test_what_was_kept_without_its_rows_is_begun_anew(tmp_path):
  made, data, log, _ = settled(tmp_path)
  buffer = claimed(made, tmp_path / 'e')
  with log, pytest.raises(preemption.Stopped):
    experts._train_missing(made, buffer, [0], data, log,
                           keeper(tmp_path / 'e', Impatient(2)))
  buffer.part(0).unlink()
  with log:
    experts._train_missing(made, buffer, [0], data, log, keeper(tmp_path / 'e'))
  assert claimed(made, tmp_path / 'e').missing() == [1, 2]


def test_draws_stay_in_the_window():
  c = tiny(method__first_epoch=3, method__last_epoch=9, method__starts=40,
           method__expand=10, method__start_last_epoch=5, experts__epochs=10)
  one = dataclasses.make_dataclass('J', ['config'])(c)
  buffer = expert_store.ExpertStore(None, 3, 10, 1, 'float32')
  first = segments.plan(2, 2)[0]
  def epochs(window, step, segment=first):
    who, when = feeding.draw_expert_starts(one, segment, window, buffer, step)
    assert set(who) == {0, 1, 2}
    return when
  assert (epochs((3, 9), 0).min(), epochs((3, 9), 0).max()) == (3, 5)
  assert epochs((3, 9), 5).max() == 7   # half the way to 9
  assert epochs((3, 9), 99).max() == 9
  assert (epochs((3, 9), 7) == epochs((3, 9), 7)).all()
  assert (epochs((3, 9), 7) != epochs((3, 9), 8)).any()
  # Later segments replay earlier epochs now and then.
  second = segments.plan(2, 2)[1]
  c.segments.replay = 0.0
  assert epochs((8, 9), 99, second).min() == 8
  c.segments.replay = 0.5
  late = epochs((8, 9), 99, second)
  assert late.min() < 8 < late.max()
  # A window that begins after what is open so far is the epoch it begins at.
  c.segments.replay = 0.0
  assert set(epochs((8, 9), 0, second)) == {8}


def test_windows_of_epochs():
  def window(name, index, count, accuracy=0.0):
    return segments.expert_epochs(segments.WindowChoice(name), index, count, 10,
                                  19,
                                  accuracy)
  assert window('aligned', 0, 1) == (10, 19)       # one segment: everything
  assert window('aligned', 1, 2, 0.5) == (13, 19)  # gamma .6, h .03
  assert window('slide', 0, 3) == (10, 14)
  assert window('slide', 2, 3) == (15, 19)
  assert window('random', 1, 2) == (15, 19)


def test_soft_labels_are_those_of_who_knows(trained, monkeypatch):
  made, data, buffer = trained
  labels = made.dataset.train.labels
  chosen = np.array([[3, 8]])
  a, b = labels[chosen[0]]
  logits = np.zeros((3, 2, 10))
  logits[0, 0, a], logits[1, 0, a], logits[2, 0, (a + 1) % 10] = 2, 4, 9
  logits[:, 1, (b + 1) % 10] = [1, 2, 3]  # nobody knows the second
  monkeypatch.setattr(experts, '_final_logits', lambda *_: iter(logits))
  soft = experts.soft_labels(made, buffer, data, chosen)
  assert soft.shape == (1, 2, 10)
  odds = np.exp(np.eye(10)[[a, (b + 1) % 10]] * [[3.], [2.]])
  np.testing.assert_allclose(
      soft[0], odds / odds.sum(-1, keepdims=True), rtol=1e-6)


def test_known_asks_until_there_are_enough(trained, monkeypatch):
  made, data, buffer = trained
  labels = made.dataset.train.labels
  asked = []
  def told(*_):
    for k in range(3):
      asked.append(k)
      right = np.arange(len(labels)) % 2 == k
      yield np.eye(10)[np.where(right, labels, (labels + 1) % 10)]
  monkeypatch.setattr(experts, '_final_logits', told)
  known = experts.known_by_experts(made, buffer, data, 1)
  assert (known == (np.arange(len(labels)) % 2 == 0)).all() and asked == [0]
  most = np.bincount(labels).min()
  assert experts.known_by_experts(made, buffer, data, most).all()
  assert asked == [0, 0, 1]


def test_whole_run(tmp_path):
  # Two segments of expert epochs, whitened, with everything that is learned.
  c = tiny('datm', dataset__zca=0.1, sdc__ratio=0.1, method__lr_lr=1e-4,
           method__average=0.5, experts__number=2, experts__rho=0.05)
  results = run.run(c, tmp_path / 'run')
  assert results['segments'] == 2
  with np.load(tmp_path / 'run' / 'synthetic.npz') as file:
    got = dict(file)
  assert np.isfinite(got['images']).all()
  rows = small.rows_of(tmp_path / 'run')
  assert {'match/loss', 'student/lr', 'match/kept', 'sdc/difficulty'} <= set(
      rows[0])
  assert (tmp_path / 'experts').is_dir()
  assert run.run(c, tmp_path / 'run') == results


def test_window_beyond_the_experts(tmp_path):
  with pytest.raises(UserError, match='need experts of 5 epochs, but .*=4'):
    run.run(tiny(method__last_epoch=4), tmp_path / 'run')
  with pytest.raises(UserError, match='first_epoch=3 is after'):
    run.run(tiny(method__first_epoch=3), tmp_path / 'run')
  with pytest.raises(UserError, match='asks experts, which method dc'):
    run.run(small.tiny(syn__init='known'), tmp_path / 'run')
  assert devices.count() == 8 and jax.device_count() == 8
  assert toy.TRAJECTORY
