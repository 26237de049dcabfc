"""TFDS sets by name and by path, written here; every error on one line."""

import contextlib
import json
import os
from pathlib import Path, PosixPath

import numpy as np
import pytest
from etils import epath
from image_sets import refused, refused_early

from dasm_jax import data
from dasm_jax.data import dataset as datasets
from dasm_jax.data import registry, tfds_prepare
from dasm_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings('error')


def test_tfds_by_name_and_by_path(store, monkeypatch):
  root, images = store
  monkeypatch.setenv('TFDS_DATA_DIR', str(root))
  for name in ('tiny_set', 'tiny_set:1.0.0', f'{root}/tiny_set',
               f'{root}/tiny_set/1.0.0'):
    data.check(name)
    found = data.load(name)
    assert found.class_names == ('no', 'yes')
    assert found.train.images.shape == (4, 5, 7, 3)
    assert found.test.images.shape == (2, 5, 7, 3)
    every = np.concatenate([found.train.images, found.test.images])
    assert {image.tobytes() for image in every} == {
        image.tobytes() for image in images}
    for image, label in zip(*found.train, strict=True):
      row = [image.tobytes() == other.tobytes() for other in images].index(True)
      assert row % 2 == label
    assert found.mean == datasets.statistics(found.train.images)[0]


def test_tfds_gray_sizes_holdout_and_rows(store):
  root, _ = store
  gray = data.load('tiny_gray', data_dir=root, size=3)
  assert gray.train.images.shape == (4, 3, 3, 1)
  refused('(5, 7, 3)', '(5, 3, 3)', 'dataset.size=', name='tiny_sizes',
          data_dir=root)
  refused('several sizes', '7x5', 'dataset.size=', name='tiny_sizes',
          data_dir=root, holdout=.5)
  found = data.load('tiny_sizes', data_dir=root, size=4)
  assert found.train.images.shape == (4, 4, 4, 3)
  alone = data.load('tiny_alone', data_dir=root, holdout=0.5)
  assert len(alone.train.labels) == len(alone.test.labels) == 2
  row = data.load('tiny_imagenet_2', data_dir=root)
  assert row.mean == (0.485, 0.456, 0.406)


def test_tfds_read_only(store):
  root, _ = store
  for path, _, _ in os.walk(root):
    os.chmod(path, 0o555)
  try:
    assert len(data.load('tiny_set', data_dir=root).train.labels) == 4
  finally:
    for path, _, _ in os.walk(root):
      os.chmod(path, 0o755)


def test_tfds_errors(store, monkeypatch, tmp_path):
  root, _ = store
  refused_early('no test or validation', 'holdout', name='tiny_alone',
                data_dir=root)
  refused('no label', "'test'", name='tiny_secret', data_dir=root)
  refused_early("'label'", 'answer', name='tiny_other', data_dir=root)
  refused_early('cifr10', 'did you mean cifar10', str(root), 'folder:PATH',
                name='cifr10', data_dir=root)
  refused_early('unknown', name='a b', data_dir=root)
  refused_early('TFDS has no Tiny ImageNet', name='tiny_imagenet',
                data_dir=root)
  refused_early('imagenette/17px', name='imagenette/17px', data_dir=root)
  refused_early('put by hand', 'ILSVRC2012', name='imagenet2012',
                data_dir=root)
  refused_early('no prepared TFDS set', name=str(tmp_path))
  gone = tmp_path / 'gone'
  refused_early(str(gone), 'does not exist', 'data_dir', name='mnist',
                data_dir=gone)
  monkeypatch.setenv('TFDS_DATA_DIR', str(gone))
  refused_early(str(gone), 'TFDS_DATA_DIR', name='mnist')
  data.load('digits')


def test_tfds_damage(store, tmp_path):
  root, _ = store
  info = json.loads((root / 'tiny_set/1.0.0/dataset_info.json').read_text())
  here = tmp_path / 'tiny_set' / '1.0.0'
  here.mkdir(parents=True)
  for file in (root / 'tiny_set/1.0.0').iterdir():
    if 'train' not in file.name:
      (here / file.name).write_bytes(file.read_bytes())
  refused("split 'train'", 'cannot read', name=str(here))
  (here / 'dataset_info.json').write_text(
      json.dumps({**info, 'fileFormat': 'tfrecord'}))
  refused_early('tfrecord', 'array_record', 'python -c', name=str(here))
  (here / 'dataset_info.json').write_text('{')
  refused_early('cannot read', name=str(here))
  for config in 'one', 'two':
    path = tmp_path / 'many' / config / '1.0.0'
    path.mkdir(parents=True)
    (path / 'dataset_info.json').write_text('{}')
  refused_early('many/one, many/two', name='many', data_dir=tmp_path)


def test_tfds_without_network(tmp_path, monkeypatch):
  def no_address(*args):
    raise OSError('no address')
  monkeypatch.setattr('socket.getaddrinfo', no_address)
  monkeypatch.setattr('urllib.request.getproxies', dict)
  refused_early('cifar10', str(tmp_path), 'no network', 'python -c',
                '0 of 1 files', name='cifar10', data_dir=tmp_path)
  # What an interrupted download leaves is no download.
  part = tmp_path / 'downloads' / 'cifar10' / 'cs.toro.edu.tar.gz.tmp.0123'
  part.mkdir(parents=True)
  (part / 'cifar-10-binary.tar.gz').write_text('half')
  refused_early('no network', 'was interrupted', str(part.parent),
                name='cifar10', data_dir=tmp_path)
  (part.parent / 'labels.txt').write_text('')
  refused_early('no network', 'was interrupted', name='cifar10',
                data_dir=tmp_path)
  # And what was ended later needs no network.
  (part.parent / ('cs.toronto.edu_kriz_cifar-10-binaryxKOMUKG8XzocVTfyFVq51o-'
                  'fJese2Nnd2j2ymlm8od0.tar.gz')).write_text('')
  tfds_prepare.check_possible('cifar10', tfds_prepare.registered_builder(
      'cifar10', tmp_path), tmp_path)


def test_tfds_without_network_and_with_some_of_the_files(tmp_path, monkeypatch):
  def no_answer(*args):
    raise TimeoutError
  monkeypatch.setattr('socket.create_connection', no_answer)
  monkeypatch.setattr('urllib.request.getproxies', dict)
  files = tmp_path / 'downloads' / 'mnist'
  files.mkdir(parents=True)
  (files / ('cvdf-datasets_mnist_t10k-labels-idx1-ubyte965g-S4A7G3r0jpgiMMdvSN'
            'x7KP_oN7677JZkkIErsY.gz')).touch()
  refused_early('no answer from', '1 of 4 files', name='mnist',
                data_dir=tmp_path)
  (files / 'of_another_version.gz').touch()
  refused_early('1 of 4 files', name='mnist', data_dir=tmp_path)


def test_a_data_directory_that_takes_no_files(tmp_path):
  (tmp_path / '.dasm_jax.lock').mkdir()
  with pytest.raises(UserError, match='cannot write to data directory'):
    with tfds_prepare.preparation_lock(tmp_path):
      pass


def test_tfds_prepares_without_tensorflow(tmp_path, monkeypatch, capfd):
  from tensorflow_datasets.core.download import download_manager
  source = tmp_path / 'source'
  batches = source / 'cifar-10-batches-bin'
  batches.mkdir(parents=True)
  records = np.random.RandomState(0).randint(0, 256, (10, 3073), np.uint8)
  records[:, 0] = np.arange(10)
  for name in *(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin':
    (batches / name).write_bytes(records.tobytes())
  (batches / 'batches.meta.txt').write_text('\n'.join('abcdefghij'))
  monkeypatch.setattr(download_manager.DownloadManager, 'download_and_extract',
                      lambda self, url: str(source))
  monkeypatch.setattr('socket.create_connection',
                      lambda *where: contextlib.nullcontext())
  root = tmp_path / 'root'
  root.mkdir()
  found = data.load('cifar10', data_dir=root)
  assert found.class_names == tuple('abcdefghij')
  assert found.train.images.shape == (50, 32, 32, 3)
  assert found.mean == registry.DATASETS['cifar10'].mean
  for image, label in zip(*found.test, strict=True):
    planes = records[label, 1:].reshape(3, 32, 32)
    np.testing.assert_array_equal(image, planes.transpose(1, 2, 0))
  assert capfd.readouterr() == ('', '')


@pytest.mark.slow
def test_mnist_where_it_is(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  root = Path(os.environ.get('TFDS_DATA_DIR') or 'none')
  if (root / 'mnist').is_dir():
    data.check('mnist', data_dir=root)
    found = data.load('mnist', data_dir=root)
    assert found.train.images.shape == (60000, 28, 28, 1)
    assert found.test.images.shape == (10000, 28, 28, 1)
    measured = datasets.statistics(found.train.images)
    np.testing.assert_allclose(found.mean, measured[0], atol=1e-4)
    np.testing.assert_allclose(found.std, measured[1], atol=1e-4)


def test_tfds_outline(store):
  root, _ = store
  for name, options in (('tiny_set', {}), ('tiny_gray', {'size': 3}),
                        ('tiny_alone', {'holdout': 0.5})):
    seen = data.outline(name, data_dir=root, **options)
    real = data.load(name, data_dir=root, **options)
    assert seen.class_names == real.class_names
    for one, other in zip(seen[1:3], real[1:3], strict=True):
      assert one.images.shape == other.images.shape
  refused('differ in size', 'dataset.size', name='tiny_sizes', data_dir=root,
          call=data.outline)


def test_data_directories_in_buckets(store):
  """A stand-in for gs://: paths with the methods of this machine's."""
  @epath.register_path_cls('local://')
  class Local(PosixPath):
    def __new__(cls, path):
      return Path(path.removeprefix('local:/'))

  @epath.register_path_cls('lost://')
  class Lost(PosixPath):
    def is_dir(self):
      raise ImportError('Please install gcsfs')

  loaded = data.load('tiny_set', data_dir=f'local:/{store[0]}', size=4)
  whole = data.load('tiny_set', data_dir=str(store[0]), size=4)
  np.testing.assert_array_equal(loaded.train.images, whole.train.images)
  with pytest.raises(UserError, match=r"'lost://bucket'.*gcsfs.*\[gcs\]"):
    tfds_prepare.data_root('lost://bucket')


def test_a_name_that_is_nearly_that_of_a_prepared_set(store):
  with pytest.raises(UserError, match='did you mean tiny_set or '):
    data.check('tiny_sett', data_dir=str(store[0]))
