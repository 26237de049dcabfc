"""What is saved comes back, usable alone; what cannot be used is refused."""

import io
import json
import re
import tracemalloc
import zipfile

import jax
import numpy as np
import pytest
from image_sets import small_folder, write

from dasm_jax import synthetic
from dasm_jax.config import defaults
from dasm_jax.data import registry
from dasm_jax.diagnose import __main__ as diagnose
from dasm_jax.distill import results, run, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import __main__ as evaluate
from dasm_jax.evaluate import saved_set, subjects
from dasm_jax.runtime import npz
from dasm_jax.types import SoftLabelled, Synthetic

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(10, 2, 8, 8, 1)).astype(np.float32)
HARD = np.broadcast_to(np.eye(10, dtype=np.float32)[:, None], (10, 2, 10))
SOFT = RNG.dirichlet(np.ones(10), (10, 2)).astype(np.float32)


def built(**entries):
  c = defaults('idc')
  c.dataset.name, c.network.depth, c.syn.ipc = 'digits', 2, 2
  c.syn.factor, c.eval.epochs, c.dataset.holdout, c.seed = 2, 30, .25, 7
  c.update_from_flattened_dict(entries)
  return setup.build(c)


@pytest.fixture(scope='module')
def experiment():
  return built()


def save(experiment, labels, path):
  syn = Synthetic(IMAGES, labels, np.float32(.1))
  saved_set.save(path, syn, experiment.codec, experiment.dataset.class_names,
                 results.card(experiment, syn, {}))
  return path


@pytest.fixture(scope='module')
def saved(experiment, tmp_path_factory):
  return save(experiment, HARD,
              tmp_path_factory.mktemp('set') / 'synthetic.npz')


@pytest.mark.parametrize('space', synthetic.SPACES)
def test_what_is_saved_comes_back(space, tmp_path):
  experiment = built(**{'syn.space': space})
  save(experiment, HARD, tmp_path / 'synthetic.npz')
  got = saved_set.load(tmp_path)  # the workdir, as well as the file
  np.testing.assert_array_equal(got.syn.images, IMAGES)
  np.testing.assert_array_equal(got.syn.labels, HARD)
  assert got.recipe == experiment.recipe
  assert got.network == experiment.config.network.to_dict()
  assert got.class_names == experiment.dataset.class_names
  assert (got.shape, got.ipc, got.segment_images) == ((8, 8, 1), 2, (2,))
  assert got.card['method'] == got.recipe_name == 'idc'
  assert got.data == {
      'name': 'digits', 'size': 0, 'holdout': .25, 'seed': 7, 'classes': ''}
  syn = Synthetic(IMAGES, HARD, np.float32(.1))
  inputs = synthetic.training_inputs(experiment.codec, syn)
  for mine, its in zip(got.batch, inputs, strict=True):
    assert len(mine) == 80
    np.testing.assert_array_equal(mine, its)
  # Real images are normalised, however the set is stored.
  dataset = experiment.dataset
  real = dataset.test.images[:3]
  np.testing.assert_allclose(
      got.real(real), (real / 255 - dataset.mean) / dataset.std,
      rtol=1e-4, atol=1e-5)


def test_classes_and_pixels_come_back(tmp_path):
  experiment = built(**{'dataset.classes': '9+8+7+6+5+4+3+2+1+0',
                  'eval.augment': 'rrc_jitter3', 'eval.weight_decay': 1e-4})
  got = saved_set.load(save(experiment, HARD, tmp_path / 'set.npz'))
  assert got.recipe == experiment.recipe and got.recipe.weight_decay == 1e-4
  dataset = experiment.dataset
  assert got.recipe.statistics == (dataset.mean, dataset.std)
  assert got.class_names == dataset.class_names == tuple('9876543210')
  assert got.data['classes'] == experiment.config.dataset.classes


def test_soft_labels(experiment, tmp_path):
  path = save(experiment, SOFT, tmp_path / 'soft.npz')
  with np.load(path) as file:
    assert str(file['label_kind']) == 'soft'
    assert file['labels'].dtype == np.float16
  got = saved_set.load(path)
  np.testing.assert_allclose(got.syn.labels, SOFT, atol=1e-3)
  np.testing.assert_allclose(got.syn.labels.sum(-1), 1, atol=1e-6)
  # Decoded, each image keeps its own label.
  np.testing.assert_array_equal(
      got.batch.labels[:8], np.tile(got.syn.labels[0], (4, 1)))


@pytest.mark.parametrize('labels, count', [
    (HARD, 20), (SOFT, 400), (np.where(HARD == 1, .9, .1 / 9), 400)])
def test_bytes(labels, count):
  got = synthetic.set_bytes(Synthetic(IMAGES, labels, 0))
  assert (got['images'], got['labels']) == (10 * 2 * 8 * 8, count)


def test_loading_needs_no_device(saved, monkeypatch):
  def refuse(*_, **__):
    raise AssertionError('asked for a device')
  monkeypatch.setattr(jax, 'devices', refuse)
  monkeypatch.setattr(jax, 'device_put', refuse)
  got = saved_set.load(saved)
  assert all(isinstance(x, np.ndarray) for x in got.syn[:2])


def changed(path, to, **entries):
  """A copy of a set with other arrays, or other entries of its card."""
  with np.load(path) as file:
    arrays = dict(file)
  inner = json.loads(str(arrays['card']))
  for name, value in entries.items():
    if name in arrays:
      arrays[name] = value
    else:
      inner[name] = value
  arrays['card'] = np.array(json.dumps(inner))
  np.savez(to, **{k: v for k, v in arrays.items() if v is not None})
  return to


BAD = {
    'newer': (dict(format=2), ['card of format 2', 'reads 1']),
    'unknown': (dict(format=None), ['card of format None']),
    'space': (dict(storage={'space': 'x', 'factor': 1, 'formation': 'single'}),
              ["storage space 'x'", 'choose from normalised, pixels']),
    'soft': (dict(labels=SOFT[..., :9], label_kind='soft'),
             ['soft labels of shape (10, 2, 9)', '10 classes']),
    'labels': (dict(labels=np.full((10, 2), 10)), ['no usable set']),
    'recipe': (dict(recipe={'drops': []}), ['no usable set']),
    'kind': (dict(label_kind='logits'), ["'logits'", 'from hard, soft, told']),
    'missing': (dict(images=None), ["it has no 'images'"]),
    'images': (dict(images=IMAGES[0]), ['shape (2, 8, 8, 1)']),
    'text': (dict(images=IMAGES.astype(str)), ['images of type <U']),
    'negative': (dict(labels=np.full((10, 2), -1)), ['a label of -1']),
    'method': (dict(method=[]), ["method of its card is '[]'"]),
    'network': (dict(network='convnet'), ['network of its card']),
    'name': (dict(data={'name': ['x'], 'size': 0}), ['name of its data']),
    'endless': (dict(recipe={'epochs': float('inf'), 'drops': []}),
                ["epochs of its recipe is 'inf'"]),
    'rate': (dict(recipe={'epochs': 1, 'drops': [], 'lr': float('nan')}),
             ["lr of its recipe is 'nan'"]),
    'segments': (dict(segment_images=[1, 2]), ['segments of [1, 2] images']),
    'none': (dict(segment_images=[2, 0]), ['segments of [2, 0]']),
    'words': (dict(segment_images=7), ['no usable set']),
}


@pytest.mark.parametrize('name', BAD)
def test_sets_that_cannot_be_used(name, saved, tmp_path):
  entries, words = BAD[name]
  path = changed(saved, tmp_path / 'bad.npz', **entries)
  with pytest.raises(UserError) as caught:
    saved_set.load(path)
  for word in [str(path), *words]:
    assert word in str(caught.value), str(caught.value)
  assert '\n' not in str(caught.value)


def test_labels_of_other_draws_are_refused(experiment, tmp_path):
  # Labels for each epoch are of views: another program must draw the same ones.
  syn = Synthetic(IMAGES, HARD, np.float32(.1))
  batch = SoftLabelled(*synthetic.training_inputs(experiment.codec, syn),
                       np.zeros((30, 80, 10), np.float16), 0, 1.)
  path = tmp_path / 'told.npz'
  saved_set.save(path, syn, experiment.codec, experiment.dataset.class_names,
                 results.card(experiment, syn, {}), batch)
  found = saved_set.load(path)
  assert found.logits.shape == (30, 80, 10)
  # Earlier ones said nothing.
  lessons = {k: v for k, v in found.card['lessons'].items() if k != 'draws'}
  for wrong in lessons, lessons | {'draws': 99}:
    with pytest.raises(UserError, match='as another version of dasm_jax draws '
                       'them; use that, '):
      saved_set.load(changed(path, tmp_path / 'old.npz', lessons=wrong))


@pytest.mark.parametrize('segments, images', [
    (2, (1, 1)), (1, (2,)), (3, (2,)), ('x', (2,)), (None, (2,))])
def test_segments_of_older_sets(segments, images, saved, tmp_path):
  path = changed(saved, tmp_path / 'old.npz', segment_images=None,
                 segments=segments)
  assert saved_set.load(path).segment_images == images


def test_files_that_are_no_sets(saved, tmp_path):
  whole = saved.read_bytes()
  files = {'cut': whole[:len(whole) // 2], 'empty': b'', 'text': b'hello\n',
           'flipped': whole[:200] + bytes(50) + whole[250:]}
  for name, content in files.items():
    (tmp_path / name).write_bytes(content)
  np.savez(tmp_path / 'foreign.npz', x=np.ones(2))
  np.save(tmp_path / 'array.npy', np.ones(2))
  np.savez(tmp_path / 'pickle.npz', card=np.array({}, object))
  for name in [*files, 'foreign.npz', 'array.npy', 'pickle.npz']:
    with pytest.raises(UserError, match='not a whole synthetic.npz') as caught:
      saved_set.load(tmp_path / name)
    assert name in str(caught.value) and '\n' not in str(caught.value)
    assert 'give one that a run has left' in str(caught.value)
    assert 'Error' not in str(caught.value) and 'BadZip' not in str(
        caught.value)
  with pytest.raises(UserError, match='does not exist; give a synthetic.npz'):
    saved_set.load(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='holds no synthetic.npz; .* finish'):
    saved_set.load(tmp_path)


def test_a_damaged_set_of_a_run_is_made_again_by_its_command(saved, tmp_path):
  path = tmp_path / 'synthetic.npz'
  path.write_bytes(saved.read_bytes()[:-99])
  (tmp_path / 'config.json').touch()
  for given in tmp_path, str(path):
    with pytest.raises(UserError, match='not a whole .*; the command that '
                       'began this run makes it again'):
      saved_set.load(given)


def bomb(path, shape, descr='<f4', compression=zipfile.ZIP_STORED, size=0):
  """An npz of one array, whose header tells a shape; `size` bytes follow."""
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(header, {
      'descr': descr, 'fortran_order': False, 'shape': shape})
  with zipfile.ZipFile(path, 'w', compression) as file:
    with file.open('images.npy', 'w') as array:
      array.write(header.getvalue())
      for _ in range(size >> 20):
        array.write(bytes(2 ** 20))
  return path


@pytest.mark.parametrize('name, given', {
    'huge': dict(shape=(10 ** 6, 10 ** 6)),
    'beyond': dict(shape=(2 ** 40, 2 ** 40)),
    'letters': dict(shape=(1,), descr='<U2000000000'),
    'grows': dict(shape=(2 ** 22,), size=2 ** 24,
                  compression=zipfile.ZIP_DEFLATED)}.items())
def test_files_that_would_take_all_memory(name, given, tmp_path, monkeypatch):
  monkeypatch.setattr(npz, 'MOST_BYTES', 2 ** 20)
  path = bomb(tmp_path / f'{name}.npz', **given)
  tracemalloc.start()
  with pytest.raises(UserError, match='not a whole synthetic.npz'):
    saved_set.load(path)
  assert tracemalloc.get_traced_memory()[1] < 2 ** 24
  tracemalloc.stop()


def test_a_set_that_somebody_has_compressed_is_read(saved, tmp_path):
  with np.load(saved) as file:
    np.savez_compressed(tmp_path / 'small.npz', **dict(file))
  one, other = map(saved_set.load, (saved, tmp_path / 'small.npz'))
  np.testing.assert_array_equal(one.syn.images, other.syn.images)


def test_a_set_is_short_to_look_at(saved):
  assert re.fullmatch(r'<\w+ on \w+: 2 images of [\dx]+ for each of \d+ '
                      r'classes>', repr(saved_set.load(saved)))


def small_run(c):
  """The least of all configurations of the images that `c` names."""
  c.network.depth, c.network.width, c.syn.ipc = 1, 4, 1
  c.syn.factor, c.eval.epochs, c.segments.number = 1, 1, 1
  c.method.batch = 4
  return c


def kept_set(c, folder):
  """A saved set of a configuration that no run has made."""
  experiment = setup.build(small_run(c))
  classes = experiment.classes
  labels = np.eye(classes, dtype=np.float32)[:, None]
  syn = Synthetic(np.zeros((classes, 1, *experiment.shape), np.float32), labels,
                  np.float32(.1))
  folder.mkdir(parents=True, exist_ok=True)
  saved_set.save(folder / 'synthetic.npz', syn, experiment.codec,
                 experiment.dataset.class_names,
                 results.card(experiment, syn, {}))
  return experiment


@pytest.fixture
def photos(tmp_path, monkeypatch):
  """A configuration of a folder by a relative path, and the folder."""
  root = small_folder(tmp_path / 'there' / 'photos', 10)
  monkeypatch.chdir(tmp_path / 'there')
  c = defaults('dm')
  c.dataset.name = 'folder:photos'
  return c, root


def test_a_folder_is_found_from_anywhere(photos, tmp_path, monkeypatch):
  c, root = photos
  experiment = kept_set(c, tmp_path / 'run')
  monkeypatch.chdir(tmp_path)
  subject = subjects.saved_subject(tmp_path / 'run')
  assert subject.set.data['name'] == f'folder:{root}'
  # The fifth that the seed has drawn.
  np.testing.assert_array_equal(subject.dataset.test.images,
                                experiment.dataset.test.images)


def test_a_folder_that_has_moved(photos, tmp_path, capsys):
  c, root = photos
  experiment = kept_set(c, tmp_path / 'run')
  now = root.rename(tmp_path / 'now')
  for command in evaluate.main, diagnose.main:
    assert command([f'--set={tmp_path / "run"}']) == 2
    said = capsys.readouterr().err
    assert 'does not exist' in said and 'moved, --dataset=NAME' in said
    assert said.count('\n') == 1
  found = saved_set.load(tmp_path / 'run', 'folder:../now')
  assert found.data['name'] == f'folder:{now}'
  assert evaluate.main(
      [f'--set={tmp_path / "run"}', f'--dataset=folder:{now}'],
      lambda *given: given[-1](np.zeros(1))) == 0
  rows = json.loads((tmp_path / 'run' / 'evaluation.json').read_text())['rows']
  assert {row['data']['name'] for row in rows} == {f'folder:{now}'}
  assert evaluate.main(['--set=real:digits:random:2', '--dataset=x']) == 2
  assert '--dataset=x is for saved sets' in capsys.readouterr().err
  # A run goes on with the same images under the name that it had.
  with pytest.raises(UserError, match='moved, --config.dataset.moved_to=NAME'):
    setup.build(c)
  c.dataset.moved_to = f'folder:{now}'
  again = setup.build(c)
  assert again.dataset.name == 'folder:photos'
  np.testing.assert_array_equal(again.dataset.train.images,
                                experiment.dataset.train.images)
  assert 'dataset.moved_to' in run.FREE_ENTRIES


@pytest.mark.parametrize('seed', [0, 1])
def test_a_fifth_of_old_sets_is_evenly_spaced(seed, photos, tmp_path):
  c, root = photos
  c.seed = seed
  experiment = kept_set(c, tmp_path)
  with np.load(tmp_path / 'synthetic.npz') as file:
    arrays = dict(file)
  card = json.loads(str(arrays['card']))
  assert card['data'].pop('cut') == .2
  np.savez(tmp_path / 'old.npz', **{**arrays, 'card': json.dumps(card)})
  found = [subjects.saved_subject(tmp_path / name).dataset.test.images
           for name in ('synthetic.npz', 'old.npz')]
  np.testing.assert_array_equal(found[0], experiment.dataset.test.images)
  assert found[1][:, 0, 0, 0].tolist() == [2, 7, 102, 107]


def test_what_is_seldom_said_of_data_is_kept(photos, tmp_path):
  c, root = photos
  write(root / 'ant' / 'x.png', np.arange(64, dtype=np.uint8).reshape(4, 16))
  c.dataset.background, c.dataset.resize, c.dataset.size = 'black', 'squash', 5
  experiment = kept_set(c, tmp_path)
  subject = subjects.saved_subject(tmp_path)
  assert subject.set.data == {
      'name': f'folder:{root}', 'size': 5, 'holdout': 0, 'seed': 0,
      'classes': '', 'background': 'black', 'resize': 'squash', 'cut': .2}
  np.testing.assert_array_equal(subject.dataset.test.images,
                                experiment.dataset.test.images)


@pytest.mark.parametrize('entry, mode, written', [
    ('auto', 'RGB', 'imagenet'), ('own', 'RGB', 'own'), ('auto', 'L', None)])
def test_a_card_says_what_images_are_normalised_with(
    entry, mode, written, photos, tmp_path):
  """So that nobody takes networks of others for those of this set."""
  c, root = photos
  small_folder(root, 10, mode=mode)
  c.dataset.statistics = entry
  experiment = kept_set(c, tmp_path)
  subject = subjects.saved_subject(tmp_path)
  assert subject.set.data.get('statistics') == written
  assert (subject.dataset.mean, subject.dataset.std) == (
      experiment.codec.mean, experiment.codec.std)
  assert (experiment.codec.mean == registry.IMAGENET[0]) == (
      written == 'imagenet')
