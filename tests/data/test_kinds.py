"""A kind of data set is a module and its row; all that is done works for it."""

import numpy as np
import pytest
import tensorflow_datasets
from image_sets import refused, refused_early, same, small_folder
from PIL import Image

from dasm_jax import data
from dasm_jax.data import dataset as datasets
from dasm_jax.data import registry
from dasm_jax.pipeline import loading


@pytest.fixture
def npz(tmp_path, monkeypatch):
  """The name of a set of another kind."""
  monkeypatch.setattr(registry, 'KINDS', (
      registry.Kind('npz_kind', lambda name: name.endswith('.npz'), 'X.npz'),
      *registry.KINDS))
  random = np.random.RandomState(0)
  np.savez(tmp_path / 'set.npz', names=['cat', 'dog', 'eel'],
           images=random.randint(0, 256, (30, 9, 9, 3), np.uint8),
           labels=np.arange(30, dtype=np.int32) % 3)
  return str(tmp_path / 'set.npz')


def one_of_each(root, store):
  """What `data.load` takes of a set of each kind."""
  return [{'name': 'digits'}, {'name': f'folder:{small_folder(root, 10)}'},
          {'name': 'tiny_set', 'data_dir': store[0]}]


@pytest.mark.parametrize('classes, channels', [
    ('', 3), ('ant+bee', 1)])
def test_an_outline_has_the_colours_of_the_classes_that_are_asked(
    classes, channels, tmp_path):
  """Though the first image, and all of other classes, are gray."""
  for name in ('ant', 'bee', 'cat'):
    (tmp_path / name).mkdir()
    for k in range(5):
      mode = 'RGB' if name == 'cat' and k > 1 else 'L'
      Image.new('L', (8, 8), 40 * k).convert(mode).save(
          tmp_path / name / f'{k}.png')
  given = dict(name=f'folder:{tmp_path}', classes=classes)
  found = data.load(**given).train.shape
  assert data.outline(**given).train.shape == found == (8, 8, channels)


@pytest.mark.parametrize('given', [
    {}, {'size': 5}, {'holdout': .3, 'seed': 2}, {'classes': 'eel+cat'},
    {'classes': 'dog,eel', 'size': 4, 'holdout': .5}])
def test_another_kind(npz, given):
  found = data.load(npz, **given)
  same(data.open(npz, **given), npz, **given)
  seen = data.outline(npz, **given)
  assert seen.class_names == found.class_names
  for one, other in zip(seen[1:3], found[1:3], strict=True):
    assert one.shape == other.shape
    np.testing.assert_array_equal(np.bincount(one.labels),
                                  np.bincount(other.labels))
  assert found.mean == datasets.statistics(found.train.images)[0]
  assert data.here(npz)
  data.check(npz, **given)
  for stream in 'always', 'never', 'auto':
    loaded = loading.load(npz, stream=stream, **given)
    np.testing.assert_array_equal(
        loaded.train.read(np.arange(8)), found.train.images[:8])


def test_another_kind_is_refused_alike(npz):
  refused_early('unknown class', 'did you mean dog', name=npz,
                classes='dgo+cat')
  refused_early('size=-1', name=npz, size=-1)
  refused('size=-1', name=npz, size=-1, call=data.outline)
  refused('choose from', 'X.npz, digits, folder:PATH', name=' ')


def test_a_path_is_whole_wherever_it_is_read(npz, store, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'sets').symlink_to(store[0])
  for name, whole in {
      'digits': 'digits', 'mnist': 'mnist', 'tiny_set': 'tiny_set',
      'mnist/3.0.1': 'mnist/3.0.1', 'gs://bucket/set': 'gs://bucket/set',
      'sets/tiny_set': f'{tmp_path}/sets/tiny_set', 'set.npz': npz,
      './sets/../sets/tiny_set': f'{tmp_path}/sets/tiny_set',
      'folder:photos': f'folder:{tmp_path}/photos',
      'folder:gone': f'folder:{tmp_path}/gone'}.items():
    assert data.absolute(name) == whole
    assert data.absolute(whole) == whole


def test_what_is_described_is_opened(store, tmp_path):
  for given in one_of_each(tmp_path, store):
    described = data.describe(**given)
    described.check()
    assert described.missing == '' and data.here(**given)
    found = data.open_described(described)
    assert found.class_names == described.class_names
    outline = data.outline_described(described)
    for one, other in zip(outline[1:3], found[1:3], strict=True):
      assert one.shape == other.shape and len(one.labels) == len(other.labels)
      assert one.read([0]).shape == other.read([0]).shape
    same(found, **given)


def test_a_set_of_tfds_is_opened_once(store, monkeypatch):
  opened, opener = [], tensorflow_datasets.builder_from_directory

  def spy(path):
    opened.append(path)
    return opener(path)

  monkeypatch.setattr(tensorflow_datasets, 'builder_from_directory', spy)
  for stream in 'always', 'never', 'auto':
    opened.clear()
    loading.load('tiny_set', data_dir=str(store[0]), stream=stream)
    assert len(opened) == 1


def test_what_nobody_knows_is_not_here(tmp_path):
  assert not data.here('folder:nowhere')
  assert not data.here('cifr10', data_dir=tmp_path)
