"""Experts of a whole run: trained once, drawn from windows, asked."""

import copy
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import toy

from dasm_jax import config, segments
from dasm_jax.distill import feeding, run, setup
from dasm_jax.errors import UserError
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices, logging, preemption
from dasm_jax.training import expert_store, experts, resumable
from dasm_jax.types import Variables

pytestmark = pytest.mark.usefixtures('quick_compiler')


def tiny(method='mtt', **changes):
  """A configuration of seconds."""
  return small.tiny(method, **{**dict(
      experts__number=3, experts__epochs=4, experts__lr=0.1,
      experts__batch=32, experts__augment='', method__augment='',
      method__student_steps=2,
      method__last_epoch=2, method__expert_epochs=1, method__steps=6,
      method__lr=10.0, segments__probe_epochs=1), **changes})


def built(**changes):
  """An `Experiment`, and its data on the devices."""
  experiment = setup.build(tiny(**changes))
  return experiment, streaming.place_dataset(
      experiment.dataset, experiment.codec)[0]


class Log(logging.SilentLog):
  """Keeps the epochs that were shown."""

  def __init__(self, folder):
    super().__init__(folder)
    self.epochs = []

  def progress(self, counts, *_, **__):
    self.epochs.append(counts[2])


def opened(experiment, data, folder, stopping=None, log=None, **changes):
  """The `ExpertStore` below a folder, all its experts trained."""
  settings = copy.deepcopy(config.expert_settings(experiment.config))
  settings.update(changes)
  keeper = resumable.Keeper(
      folder / 'unfinished', '', 1e9, stopping or preemption.StopFlag(),
      lambda: None)
  return experts.open_experts(
      experiment, settings, folder, data, log or Log(folder), keeper)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """An `Experiment`, its data, and the `ExpertStore` of three experts."""
  made = built()
  return *made, opened(*made, tmp_path_factory.mktemp('trained'))


def copied(store, folder, names):
  """The store in another folder, with some of its experts in this order."""
  folder = folder / store.folder.name
  folder.mkdir(parents=True)
  shutil.copy(store.folder / 'buffer.json', folder)
  found = store._replace(folder=folder)
  for k, name in enumerate(names):
    if name is not None:
      shutil.copy(store.path(name), found.path(k))
  return found


def known(experiment, data, store, tmp_path, expert):
  """Which images one expert of a store knows, `[n]` bool."""
  alone = copied(store, tmp_path / f'alone_{expert}', [expert])
  return experts.known_by_experts(
      experiment, alone._replace(number=1), data, 10 ** 9)


@pytest.mark.slow
def test_augmentations_of_a_family_align_corners_everywhere(trained):
  """Experts, students and the evaluation, as published."""
  made, _, store = trained
  assert made.config.method.augment_mode == made.recipe.mode == 'mtt'
  assert experts.expert_recipe(made.config.experts, made.codec).mode == 'mtt'
  about = json.loads((store.folder / 'buffer.json').read_text())
  assert about['experts.mode'] == 'mtt'
  assert setup.build(tiny(eval__recipe='idc')).recipe.mode == 'idc'
  assert setup.build(small.tiny('dm')).recipe.mode == 'dsa'


def test_experts_learn_and_differ(trained, tmp_path):
  experiment, data, store = trained
  assert store.missing() == [] and store.folder.name.startswith('digits_')
  # Epoch 0 guesses among ten; four epochs of SGD know more.
  early, late = (known(experiment, data, store._replace(epochs=epoch),
                       tmp_path / str(epoch), 0).mean() for epoch in (0, 4))
  assert early < 0.3 < late
  first, other = (expert_store.read_rows(store, [k], [0]) for k in (0, 1))
  assert abs(first - other).max() > 0.01


@pytest.mark.slow
def test_experts_do_not_depend_on_who_trained_with_them(trained, tmp_path):
  experiment, data, store = trained
  copied(store, tmp_path, [0, None, 2])
  again = opened(experiment, data, tmp_path)
  assert again.folder == tmp_path / store.folder.name
  np.testing.assert_allclose(
      *(expert_store.read_rows(x, [1], [4]) for x in (again, store)),
      rtol=1e-4, atol=1e-5)
  for k in (0, 2):  # they stay as they are
    assert again.path(k).read_bytes() == store.path(k).read_bytes()


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
@pytest.mark.slow
@pytest.mark.parametrize('norm, times, epoch, rest', [
    ('instance', 3, 1, [2, 2, 3, 3, 4]), ('batch', 4, 2, [2, 3, 3, 4])])
def test_stopped_in_training_they_go_on_from_there(
    norm, times, epoch, rest, tmp_path):
  made, log = built(network__norm=norm), Log(tmp_path)
  one = opened(*made, tmp_path / 'one')
  with pytest.raises(preemption.Stopped,
                     match='saved 0 experts of 3, and 3 in '
                     f'training at epoch {epoch} of 4; the same'):
    opened(*made, tmp_path / 'other', Impatient(times))
  other = one._replace(folder=tmp_path / 'other' / one.folder.name)
  assert other.missing() == [0, 1, 2]
  assert [other.begun(k) for k in range(3)] == 3 * [epoch + 1]
  # What was written after it was kept is written again.
  with other.part(1).open('ab') as file:
    file.write(b'half a row')
  # Who trains one at a time goes on with all three.
  assert other == opened(*made, tmp_path / 'other', log=log, at_once=1)
  assert log.epochs == rest
  for k in range(3):
    assert one.path(k).read_bytes() == other.path(k).read_bytes()
  assert not [*(other.folder / 'unfinished').iterdir()]
  assert not [*other.folder.glob('*.part')]


@pytest.mark.slow
def test_what_was_kept_without_its_rows_is_begun_anew(tmp_path):
  made, log = built(), Log(tmp_path)
  with pytest.raises(preemption.Stopped):
    opened(*made, tmp_path, Impatient(2), number=1)
  part, = tmp_path.glob('*/*.part')
  part.unlink()
  store = opened(*made, tmp_path, log=log, number=1)
  assert store._replace(number=3).missing() == [1, 2]
  assert log.epochs[0] == 0 and log.epochs[-1] == 4  # in its first epoch


def test_draws_stay_in_the_window():
  c = tiny(method__first_epoch=3, method__last_epoch=9, method__starts=40,
           method__expand=10, method__start_last_epoch=5, experts__epochs=10)
  experiment = types.SimpleNamespace(config=c)
  first = segments.plan(2, 2)[0]
  def epochs(window, step, segment=first):
    who, when = feeding.draw_expert_starts(experiment, segment, window, 3, step)
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
    return segments.expert_epochs(
        segments.WindowChoice(name, share=.5), index, count, (10, 19), accuracy)
  assert window('aligned', 0, 1) == (10, 19)       # one segment: everything
  assert window('aligned', 1, 2, 0.5) == (13, 19)  # gamma .6, h .03
  assert window('slide', 0, 3) == (10, 14)
  assert window('slide', 2, 3) == (15, 19)
  assert window('random', 1, 2) == (15, 19)


def sure_of(network, logits):
  """The parameters of a network that makes these logits of any image."""
  params = jax.tree.map(jnp.zeros_like, network.init(jax.random.key(0)).params)
  params['Dense_0']['bias'] = jnp.asarray(logits, jnp.float32)
  return experts.flat_parameters(network)[0](Variables(params, {}))


def test_soft_labels_are_those_of_who_knows(trained, tmp_path):
  experiment, data, store = trained
  labels = experiment.dataset.train.labels
  chosen = np.array([[3, 8]])
  a, b = labels[chosen[0]]
  c = min({*range(10)} - {a, b})  # nobody knows the second image
  logits = np.zeros((3, 10))
  logits[[0, 1, 2], [a, a, c]] = 2, 4, 9
  told = store._replace(folder=tmp_path, epochs=0)
  for k in range(3):
    told.path(k).write_bytes(np.asarray(
        sure_of(experiment.network, logits[k])).tobytes())
  soft = experts.soft_labels(experiment, told, data, chosen)
  assert soft.shape == (1, 2, 10)
  odds = np.exp([logits[:2].mean(0), logits.mean(0)])
  np.testing.assert_allclose(
      soft[0], odds / odds.sum(-1, keepdims=True), rtol=1e-6)
  # The first alone, who is wrong about the second image.
  soft = experts.soft_labels(experiment, told, data, chosen, one=True)
  odds = np.exp(logits[0]) / np.exp(logits[0]).sum()
  np.testing.assert_allclose(soft[0], [odds, odds], rtol=1e-6)


def test_known_asks_until_there_are_enough(trained, tmp_path):
  experiment, data, store = trained
  def fewest(right):
    return np.bincount(labels[right], minlength=10).min()
  labels = experiment.dataset.train.labels
  first, second = (known(experiment, data, store, tmp_path, k) for k in (0, 1))
  both = first | second
  assert 0 < fewest(first) < fewest(both) < fewest(np.full(len(labels), True))
  # Who is not there cannot be asked.
  one = copied(store, tmp_path / 'one', [0])
  two = copied(store, tmp_path / 'two', [0, 1])
  np.testing.assert_array_equal(first, experts.known_by_experts(
      experiment, one, data, fewest(first)))
  np.testing.assert_array_equal(both, experts.known_by_experts(
      experiment, two, data, fewest(first) + 1))
  np.testing.assert_array_equal(both, experts.known_by_experts(
      experiment, two, data, fewest(both)))
  for few, each in ((one, fewest(first) + 1), (two, fewest(both) + 1)):
    with pytest.raises(UserError, match='cannot read the expert'):
      experts.known_by_experts(experiment, few, data, each)


@pytest.mark.slow
def test_whole_run(tmp_path):
  # Two segments of expert epochs, whitened, with everything that is learned.
  c = tiny('datm', dataset__zca=0.1, sdc__ratio=0.1, method__lr_lr=1e-4,
           method__average=0.5, experts__number=2, experts__rho=0.05)
  results = run.run(c, tmp_path / 'run')
  assert len(results['segments']) == 2
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
