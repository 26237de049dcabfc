"""RDED: the choice against a loop, whole runs, crops for other methods."""

import functools

import jax
import numpy as np
import pytest
import small

from dasm_jax import crops, models, segments, streams, synthetic
from dasm_jax.config import validate
from dasm_jax.distill import initialise, real_crops, run, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import saved_set
from dasm_jax.streams import Stream
from dasm_jax.training import weights_file
from dasm_jax.types import SoftLabelled

pytestmark = pytest.mark.usefixtures('quick_compiler')
SHAPE = (8, 8, 1)
CHANGES = dict(segments__number=1, network__width=8, coreset__pool=30,
               coreset__cells=2, coreset__epochs=2, method__net_augment='',
               method__steps=0)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  """A network for the digits, its variables, and their file."""
  network = models.build('convnet', shape=SHAPE, classes=10, depth=1, width=8,
                         norm='batch')
  variables = jax.jit(network.init)(jax.random.key(5))
  path = tmp_path_factory.mktemp('teacher') / 'teacher.npz'
  weights_file.save(path, variables)
  return network, variables, path


def rded(**changes):
  return small.tiny('rded', **CHANGES | changes)


@pytest.mark.slow
def test_choice_as_a_loop_makes_it(teacher, tmp_path):
  network, variables, path = teacher
  c = rded(method__teacher=str(path), coreset__crops=3)
  with small.started(c, tmp_path / 'run') as made:
    train = made.experiment.dataset.train
    phase, = made.experiment.plan
    rows = [np.flatnonzero(train.labels == k) for k in range(10)]
    used = np.zeros(len(train.labels), bool)
    used[rows[3][:20]] = True
    found = real_crops.teacher(made, learned=None)  # that of the file
    chosen, got = real_crops.choose(made, phase, rows, used, found)
    mean, std = made.experiment.codec.mean, made.experiment.codec.std
    images = np.asarray(real_crops.packed(made.experiment, got))
  assert chosen.shape == (10, 8) and got.shape == (10, 8, 4, 4, 1)
  assert got.dtype == np.uint8
  assert not used[chosen[3]].any()
  pool = crops.draw_pool(segments.unused_first(rows, used, 8), 30,
                         streams.seed(0, Stream.CROPS, 0))
  key = streams.key(jax.random.key(0), Stream.CROPS, 1, 0)
  cut = jax.jit(lambda image, key: crops.cut(
      image, crops.random_boxes(key, 3, 8, 8), (4, 4)))
  look = jax.jit(lambda x: network.apply(variables, x)[0])
  for label in 0, 3:
    scores, best = [], []
    for n in pool[label]:
      three = np.asarray(cut(train.images[n].astype('f') / 255,
                             jax.random.fold_in(key, n)))
      # The teacher sees it normalised, with zeros around.
      wide = np.pad((three - mean) / std, ((0, 0), (2, 2), (2, 2), (0, 0)))
      logits = np.asarray(look(wide.astype('f')))
      losses = np.log(np.exp(logits).sum(1)) - logits[:, label]
      scores.append(losses.min())
      best.append(three[losses.argmin()])
    order = np.argsort(scores, kind='stable')[:8]
    np.testing.assert_array_equal(chosen[label], pool[label][order])
    np.testing.assert_allclose(
        got[label] / 255, np.array(best)[order], atol=1e-6)
  # Cell (i, j) of image n is crop (2 i + j) * 2 + n: the surest are apart.
  for n in range(2):
    for i in range(2):
      for j in range(2):
        np.testing.assert_allclose(
            images[:, n, 4 * i:4 * i + 4, 4 * j:4 * j + 4],
            got[:, (2 * i + j) * 2 + n] / 255, atol=1e-6)


@pytest.mark.long
@pytest.mark.slow
def test_whole_runs(teacher, tmp_path):
  """With a teacher that the run trains and its labels; by a file, without."""
  found = run.run(rded(), tmp_path / 'soft')
  assert found['label_kind'] == 'told'
  files = [path.name for path in (tmp_path / 'soft').glob('*.npz')]
  assert sorted(files) == ['synthetic.npz', 'teacher_1.npz']
  labelled = saved_set.load(tmp_path / 'soft').batch
  assert isinstance(labelled, SoftLabelled)
  assert labelled.logits.shape == (2, 20, 10)
  c = rded(method__teacher=str(tmp_path / 'soft' / 'teacher_1.npz'),
           method__relabel=False, eval__augment='auto')
  hard = run.run(c, small.measured(tmp_path / 'hard'))
  assert hard['label_kind'] == 'hard'
  one, two = (saved_set.load(tmp_path / name) for name in ('soft', 'hard'))
  # The same teacher chooses the same crops; stored whole, with 8 bits.
  np.testing.assert_array_equal(one.syn.images, two.syn.images)
  assert one.codec.factor == 1 and one.recipe_name == 'rded'
  assert two.recipe.strategy == 'patches2_rrc'  # digits are not mirrored
  levels = 255 * one.syn.images
  np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)


@pytest.mark.slow
def test_first_images_of_another_method(tmp_path):
  # Without a teacher of its own; each cell is decoded by itself.
  c = small.tiny('idc', syn__init='rded', syn__factor=2, segments__number=1,
                 coreset__pool=12, coreset__networks=1, coreset__epochs=1,
                 segments__window='everything')
  with small.started(c, tmp_path / 'run') as made:
    phase, = made.experiment.plan
    progress = initialise.begin_phase(made, phase, [], [])
    experiment = made.experiment
    learned = initialise.real_networks(made)  # kept
    teacher = real_crops.teacher(made, lambda: learned)
    rows = [np.flatnonzero(experiment.dataset.train.labels == k)
            for k in range(10)]
    _, got = real_crops.choose(
        made, phase, rows, np.zeros(len(progress.used), bool), teacher)
  images = np.asarray(progress.state.syn.images)
  np.testing.assert_allclose(images[:, 1, :4, 4:], got[:, 3] / 255, atol=1e-6)
  assert int(progress.used.sum()) == 10 * 2 * 4
  decoded = jax.eval_shape(functools.partial(
      synthetic.decode, experiment.codec), images[0])
  assert decoded.shape == (8, *SHAPE)


@pytest.mark.slow
def test_a_teacher_is_trained_once(tmp_path, monkeypatch):
  trained, train = [], real_crops.ensemble.train_on_all
  def counted(*args):
    trained.append(args)
    return train(*args)
  monkeypatch.setattr(real_crops.ensemble, 'train_on_all', counted)
  c = rded(segments__number=2)
  run.run(c, small.measured(tmp_path / 'run'))
  assert len(trained) == 1
  one, two = (np.load(tmp_path / 'run' / f'teacher_{k}.npz') for k in (1, 2))
  assert all((one[name] == two[name]).all() for name in one)
  made = setup.build(c)
  assert [real_crops.trains_teacher(made, k) for k in (0, 1)] == [True, False]
  made = setup.build(rded(segments__number=2, method__relabel=False))
  assert [real_crops.trains_teacher(made, k) for k in (0, 1)] == [True, True]


@pytest.mark.parametrize('changes, words', [
    (dict(coreset__cells=4), '=30 images a class that are cropped, but 32 '
     'crops are asked for, as --config.syn.ipc=2 at --config.syn.factor=1 and '
     '--config.coreset.cells=4; raise the pool to that'),
    (dict(coreset__cells=5), 'cells 5; choose from 1, 2, 3, 4'),
    (dict(coreset__crops=0), 'crops=0 must be at least 1')])
def test_refuses(changes, words):
  with pytest.raises(UserError) as caught:
    validate.check_settings(rded(**changes))
  assert str(caught.value).endswith(words) and '\n' not in str(caught.value)


def test_refuses_a_class_that_is_too_small():
  c = rded(coreset__cells=4, syn__ipc=10, coreset__pool=300)
  validate.check_settings(c)
  with pytest.raises(UserError, match='of 16 real ones each at .*cells=4, but '
                     'class') as caught:
    setup.build(c)
  assert '\n' not in str(caught.value)
