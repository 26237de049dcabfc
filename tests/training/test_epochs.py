"""Epochs on all real images, in memory or streamed: as `ensemble.fit` alone."""

import jax
import numpy as np
import pytest
import small
import toy

from dasm_jax import data as datasets
from dasm_jax.distill import run, setup
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices
from dasm_jax.training import ensemble, expert_store, experts, recipes, scoring

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick_compiler')]

NETWORK = toy.network(classes=10)
KEYS = jax.random.split(jax.random.key(4), 3)


@pytest.fixture(scope='module')
def digits():
  """`(Source, ResidentImages, room -> StreamedImages)` of the same images."""
  dataset = datasets.open('digits')
  rest = 10, dataset.mean, dataset.std
  whole = devices.replicate(sources.make_source(toy.Split(
      dataset.train.read(np.arange(len(dataset.train))),
      dataset.train.labels), *rest))
  def streamed(room):
    found = streaming.StreamedImages(
        dataset.train, *rest, small.buffer_mb(room))
    assert found.room == room
    return found
  return whole, streaming.ResidentImages(whole), streamed


# 1438 images: a short last batch, none, one batch of all.
@pytest.mark.parametrize('batch, room, changes', [
    (100, 900, dict(strategy='crop', cutmix=.5)), (719, 1, {}), (5000, 1, {})])
def test_as_a_network_alone(digits, batch, room, changes):
  source, resident, streamed = digits
  recipe = recipes.recipe(2, lr=.05, batch=batch, drops=(1,), extra=1,
                          restart=True, **changes)
  train, (seen, pieces) = ensemble.train_on_all(NETWORK, recipe), listener()
  ours = train(KEYS, resident)
  toy.leaves_equal(train(KEYS, streamed(room), seen), ours)
  # It reads fewer images than there are: several pieces an epoch.
  assert len(pieces) == 3 * {100: 6, 719: 2, 5000: 1}[batch]
  alone = jax.jit(lambda key: ensemble.fit(NETWORK, recipe, key, source)[0])
  for number, key in enumerate(KEYS):
    toy.leaves_close(jax.tree.map(lambda x: x[number], ours), alone(key),  # noqa: B023
                     1e-3, 1e-4)


def listener():
  """A hook of `ensemble.epoch_trainer`, and the list of what it was told."""
  told = []
  def seen(done, state, loss, within):
    told.append((done, within, state(), np.asarray(loss())))
  return seen, told


def test_each_piece_is_told_of(digits):
  *_, streamed = digits
  recipe, (seen, told) = recipes.recipe(1, batch=256), listener()
  begun = ensemble.states_from(recipe, jax.vmap(NETWORK.init)(KEYS))
  plan = [ensemble.EpochPlan(KEYS, .1), ensemble.EpochPlan(KEYS, 0.)]
  end = ensemble.epoch_trainer(NETWORK, recipe)(
      begun, plan, streamed(700), seen)  # two pieces of three an epoch
  rows = [(done, within) for done, within, *_ in told]
  assert rows[0] == (0, 1) and rows[-1] == (2, 0) and rows == sorted(rows)
  assert len(rows) == len(set(rows)) and (1, 0) in rows
  assert [(state.done, state.within) for *_, state, _ in told] == rows
  first, last = (told[rows.index(at)] for at in ((1, 0), (2, 0)))
  # At rate 0 nothing moves.
  toy.leaves_equal(first[2].variables, end)
  toy.leaves_equal(last[2].variables, end)
  assert first[3].shape == (3,) and (first[3] != last[3]).any()


def test_from_the_middle_of_an_epoch(digits):
  """With a buffer of another size, too."""
  *_, streamed = digits
  recipe, (seen, told) = recipes.dc_recipe(2, batch=128, lr=.1), listener()
  train = ensemble.epoch_trainer(NETWORK, recipe)
  begun = ensemble.states_from(recipe, jax.vmap(NETWORK.init)(KEYS))
  plan = [ensemble.EpochPlan(
      jax.vmap(jax.random.fold_in, (0, None))(KEYS, i), .1, i == 1)
          for i in range(3)]
  end = train(begun, plan, streamed(500), seen)
  for room, which in (500, 1), (900, 3), (1, 5):
    done, within, state, _ = told[which]
    assert within and done < 3
    toy.leaves_equal(train(state, plan, streamed(room)), end)


@pytest.mark.parametrize('history', [True, False])
def test_what_coresets_are_chosen_by(digits, history):
  _, resident, streamed = digits
  both = resident, streamed(500)
  train = scoring.train_choosers(
      NETWORK, recipes.recipe(3, lr=.05, batch=64), 2, history)
  ours, theirs = (train(KEYS, data) for data in both)
  toy.leaves_equal(ours, theirs)
  if history:
    assert ours[1].shape == (3, 2, 1438) and ours[1].dtype == bool
    assert .1 < ours[1].mean() < 1
  else:
    assert ours[1].shape == (3, 0, 1438)
    features = scoring.embeddings(NETWORK)
    networks = devices.replicate(ours[0])
    np.testing.assert_array_equal(*(
        features(networks, data) for data in both))


def expert_settings(**changes):
  return small.PLAIN | dict(
      experts__number=2, experts__epochs=2, experts__lr=.1, experts__batch=32,
      experts__augment='', method__student_steps=2,
      method__last_epoch=1, method__expert_epochs=1, method__steps=2,
      method__lr=10.0, segments__probe_epochs=1, eval__epochs=1,
      syn__ipc=1, segments__number=1) | changes


# What asks real images besides sweeps: experts, their labels, networks that
# others begin as, a coreset to begin with, norms.
@pytest.mark.parametrize('method, changes', [
    ('datm', expert_settings(network__norm='batch')),
    ('dm', small.PLAIN | dict(
                method__pretrained=2, method__pretrained_epochs=1,
                method__net_batch=128, method__steps=2, eval__epochs=1,
                syn__init='forgetting', coreset__epochs=2,
                segments__number=1))])
def test_runs_are_the_same(tmp_path, method, changes):
  found = []
  for stream in ('never', 'always'):
    c = small.tiny(method, dataset__stream=stream, **changes)
    run.run(c, small.measured(tmp_path / stream / 'run'))
    with np.load(tmp_path / stream / 'run' / 'synthetic.npz') as file:
      found.append({key: file[key] for key in ('images', 'labels')})
    experts, = (tmp_path / stream / 'experts').glob('digits_????????')
    # They are shared by runs that stream and runs that do not.
    found[-1] |= {'name': np.array(experts.name)} | {
        file.name: np.fromfile(file, np.float32)
        for file in experts.glob('*.bin')}
    assert len(found[-1]) == 5
  for key, value in found[0].items():
    np.testing.assert_array_equal(value, found[1][key], key)


def test_known_images_are_asked_in_pieces(digits, tmp_path):
  """Chunks of batch norm's statistics are the same."""
  _, resident, streamed = digits
  experiment = setup.build(small.tiny('datm', network__norm='batch'))
  ravel, _ = experts.flat_parameters(experiment.network)
  row = np.asarray(ravel(experiment.network.init(jax.random.key(0))))
  store = expert_store.ExpertStore(tmp_path, 1, 0, row.size, 'float32')
  store.path(0).write_bytes(row.tobytes())
  indices = np.arange(1000)[::-1]
  ours, theirs = (np.log(experts.soft_labels(experiment, store, data, indices))
                  for data in (resident, streamed(450)))
  np.testing.assert_allclose(ours, theirs, 1e-5, 1e-5)
  assert ours.shape == (1000, 10) and np.ptp(ours) > .1
  known = [experts.known_by_experts(experiment, store, data, 1)
           for data in (resident, streamed(450))]
  # An untrained network has near ties, which the size of pieces may decide.
  assert np.mean(known[0] == known[1]) > .995 and known[0].any()
