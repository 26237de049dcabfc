"""TFDS sets read as they are needed, and the labels kept beside them."""

import hashlib
import io
import os

import numpy as np
import pytest
import sets
import tensorflow_datasets
from image_sets import refused, same, whole
from PIL import Image

from dasm_jax import data
from dasm_jax.data import images, registry, tfds

pytestmark = pytest.mark.filterwarnings('error')


def encoded(random, mode='RGB', kind='PNG', rows=9, **options):
  file = io.BytesIO()
  Image.fromarray(random.randint(0, 256, (rows, 11, 3), np.uint8)).convert(
      mode).save(file, kind, **options)
  file.seek(0)
  return file


@pytest.fixture(scope='module')
def original(tmp_path_factory):
  """A data directory with sets of odd images, and with broken ones."""
  root = tmp_path_factory.mktemp('lazy')
  random = np.random.RandomState(0)
  turned = Image.Exif()
  turned[0x0112] = 6
  odd = [encoded(random, 'L'), encoded(random, 'CMYK', 'JPEG'),
         encoded(random, 'P'), encoded(random, 'RGBA'), encoded(random, 'LA'),
         encoded(random, 'RGB', 'JPEG', rows=20, exif=turned),
         encoded(random, '1')]
  deep = io.BytesIO()
  Image.fromarray(np.full((9, 11), 0xABCD, np.uint16)).save(deep, 'PNG')
  deep.seek(0)

  def rows(files):
    return [(file, at % 2) for at, file in enumerate(files)]

  plain = [encoded(random, rows=8 + at % 4) for at in range(40)]
  sets.build(root, 'lazy_odd', {
      'train': rows([*odd, deep]), 'test': rows(plain[:6])}, (None, None, 3))
  for file in plain:
    file.seek(0)
  sets.build(root, 'lazy_set', {
      'train': rows(plain[:30]), 'validation': rows(plain[30:])},
      (None, None, 3))
  broken = [encoded(random) for _ in range(8)]
  broken[2] = io.BytesIO(b'no image')
  broken[5] = io.BytesIO(broken[5].read()[:60])
  sets.build(root, 'lazy_broken', {
      'train': rows(broken), 'test': rows([encoded(random)])}, (9, 11, 3))
  sets.build(root, 'lazy_gray', {
      'train': rows([encoded(random, 'L') for _ in range(4)]),
      'test': rows([encoded(random, 'L') for _ in range(2)])}, (9, 11, 1))
  return root


@pytest.fixture
def root(original, tmp_path, monkeypatch):
  """A copy of its own, and a cache of its own."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  for path in original.rglob('*'):
    copy = tmp_path / 'sets' / path.relative_to(original)
    if path.is_file() and not path.name.endswith('.labels'):
      copy.parent.mkdir(parents=True, exist_ok=True)
      copy.write_bytes(path.read_bytes())
  return tmp_path / 'sets'


def kept(root):
  """The label files beside `lazy_set`."""
  return sorted((root / 'lazy_set' / '1.0.0').glob('.dasm_jax-*.labels'))


def open_set(root, **options):
  """A `Dataset` of images of several sizes; `options` say how it is read."""
  return data.open('lazy_set', data_dir=root, size=5,
                   options=data.ReadOptions(**options))


def labels_of(root, split='train', block=10, threads=0):
  """`(labels, lines of progress)`: a line a block that had to be read."""
  said = []
  builder = data.describe('lazy_set', data_dir=root).source
  found = tfds.read_labels(
      'lazy_set', builder, split,
      data.ReadOptions(threads=threads, say=said.append), block, progress=0)
  return found, said


def encoded_records(root, name, split):
  """The examples of a split, as TFDS itself reads them."""
  builder = tensorflow_datasets.builder_from_directory(
      str(root / name / '1.0.0'))
  return builder.as_data_source(split, decoders={
      'image': tensorflow_datasets.decode.SkipDecoding()})


@pytest.mark.parametrize('name, options', [
    ('lazy_set', {'size': 5}), ('lazy_set', {'size': 5, 'holdout': 0.2}),
    ('lazy_odd', {'size': 7}), ('lazy_gray', {}), ('lazy_gray', {'size': 4})])
def test_records_as_in_memory(root, name, options):
  found = data.open(name, data_dir=root, **options)
  same(found, name, data_dir=root, **options)


@pytest.mark.parametrize('name, size, tests', [
    ('lazy_set', 5, 'validation'), ('lazy_odd', 7, 'test'),
    ('lazy_gray', 0, 'test')])
def test_records_are_those_of_tfds(root, name, size, tests):
  found = data.load(name, data_dir=root, size=size)
  for split, key in (found.train, 'train'), (found.test, tests):
    records = encoded_records(root, name, key)
    channels = split.images.shape[-1]
    assert split.labels.tolist() == [record['label'] for record in records]
    for image, record in zip(split.images, records, strict=True):
      np.testing.assert_array_equal(
          image, images.decode_bytes(record['image'], channels,
                                     images.Shaping(size)))


def test_threads_and_processes_read_the_same_records(root):
  indices = np.random.RandomState(0).randint(0, 30, 99)
  want = open_set(root).train.read(indices)
  for options in {'threads': 2}, {'workers': 1}:
    found = open_set(root, **options)
    np.testing.assert_array_equal(found.train.read(indices), want)
    found.test.close()


def test_sixteen_bits_are_cut(root):
  found = data.open('lazy_odd', data_dir=root, size=7)
  assert np.all(whole(found.train) == 0xAB, (1, 2, 3)).sum() == 1


def test_errors_of_records(root):
  refused('dataset.size=', call=data.open, name='lazy_set', data_dir=root)
  for file in (root / 'lazy_gray' / '1.0.0').glob('*-train*'):
    file.unlink()
  refused('cannot read', "split 'train'", call=data.open, name='lazy_gray',
          data_dir=root)


def test_rows_have_statistics(root):
  (root / 'lazy_set').rename(root / 'tiny_imagenet_9')
  info = root / 'tiny_imagenet_9' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('lazy_set', 'tiny_imagenet_9'))
  for file in info.parent.glob('lazy_set-*'):
    file.rename(info.parent / file.name.replace('lazy_set', 'tiny_imagenet_9'))
  found = data.open('tiny_imagenet_9', data_dir=root, size=5)
  assert found.mean == registry.DATASETS['tiny_imagenet'].mean
  same(found, 'tiny_imagenet_9', data_dir=root, size=5)


def test_broken_records(root, caplog):
  found = data.open('lazy_broken', data_dir=root)
  images = whole(found.train)
  assert len(found.train.replaced) == 2
  for broken, other in found.train.replaced.items():
    assert found.train.labels[broken] == found.train.labels[other]
    np.testing.assert_array_equal(images[broken], images[other])
  caplog.clear()
  loaded = data.load('lazy_broken', data_dir=str(root)).train  # all at once
  np.testing.assert_array_equal(loaded.images, images)
  np.testing.assert_array_equal(loaded.labels, found.train.labels)
  assert '2 of 8 images' in caplog.text and 'truncated' in caplog.text
  # Now the disk spoils another record, and its time tells nothing.
  shard = next((root / 'lazy_broken' / '1.0.0').glob('lazy*-train*'))
  when = shard.stat().st_mtime_ns
  body = bytearray(shard.read_bytes())
  record = encoded_records(root, 'lazy_broken', 'train')[0]['image']
  body[body.index(record[150:170])] ^= 255
  shard.write_bytes(body)
  os.utime(shard, ns=(when, when))
  caplog.clear()
  again = data.open('lazy_broken', data_dir=root).train
  spoilt = whole(again)
  assert len(again.replaced) == 3
  assert 'train record' in caplog.text and 'Corrupted' in caplog.text
  good = [at for at in range(8) if at not in again.replaced]
  np.testing.assert_array_equal(spoilt[good], images[good])
  for broken, other in again.replaced.items():
    assert again.labels[broken] == again.labels[other]


# ---- the labels on disk


def test_labels_are_read_once_and_without_decoding(root, opened_images):
  found, said = labels_of(root)
  assert [line.split(': ')[1].split(',')[0] for line in said] == [
      '10 of 30', '20 of 30', '30 of 30']
  assert not opened_images and len(kept(root)) == 1
  again, said = labels_of(root)
  assert not said
  np.testing.assert_array_equal(again, found)
  for threads in 0, 3:
    for path in kept(root):
      path.unlink()
    again, said = labels_of(root, block=7, threads=threads)
    np.testing.assert_array_equal(again, found)
    assert len(said) == 5


def test_opening_decodes_an_image_a_split(root, opened_images):
  found = open_set(root)
  assert len(opened_images) == 2 and len(kept(root)) == 2
  np.testing.assert_array_equal(found.train.labels, labels_of(root)[0])
  found.train.statistics()
  assert len(opened_images) == 2 + 30


def forged(body):
  """Whole by its digest, with a label that no class has."""
  labels = (10 ** 9).to_bytes(4, 'little') + body[36:]
  return hashlib.sha256(labels).digest() + labels


@pytest.mark.parametrize('damage', [
    forged, lambda body: body[:-1], lambda body: b'',
    lambda body: body + b'\0\0\0\0',
    lambda body: body[:40] + bytes([body[40] ^ 1]) + body[41:]])
def test_damaged_labels_are_read_again(root, damage):
  want = open_set(root).train.labels
  path = next(path for path in kept(root) if 'train' in path.name)
  body = path.read_bytes()
  path.write_bytes(damage(body))
  np.testing.assert_array_equal(open_set(root).train.labels, want)
  assert path.read_bytes() == body
  assert len(kept(root)) == 2


def test_labels_of_a_set_that_was_are_read_again(root):
  open_set(root)
  old = kept(root)
  shard = next((root / 'lazy_set' / '1.0.0').glob('lazy*-train*'))
  os.utime(shard, ns=(1, 1))
  assert len(labels_of(root)[1]) == 3
  assert not labels_of(root, 'validation')[1]  # It is as it was.
  assert len(kept(root)) == 2 and kept(root) != old


def test_labels_of_a_read_only_set_are_in_the_cache(root, tmp_path,
                                                    monkeypatch):
  place = root / 'lazy_set' / '1.0.0'
  place.chmod(0o555)
  try:
    open_set(root)
    assert not kept(root)
    assert len(list((tmp_path / 'cache/dasm_jax/index').iterdir())) == 2
    assert not labels_of(root)[1]
    monkeypatch.setenv('XDG_CACHE_HOME', '/dev/null')
    said = []
    open_set(root, say=said.append)
    assert sum('cannot keep the labels' in line for line in said) == 2
  finally:
    place.chmod(0o755)


def test_missing_labels(root, tmp_path):
  random = np.random.RandomState(0)
  sets.build(tmp_path, 'lazy_secret', {
      'train': [(encoded(random), at % 2) for at in range(4)],
      'test': [(encoded(random), -1)]}, (None, None, 3))
  refused('no label', "'test'", call=data.open, name='lazy_secret',
          data_dir=tmp_path, size=5)
  assert not list((tmp_path / 'lazy_secret/1.0.0').glob('.*-test-*'))
