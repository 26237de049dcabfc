"""Images read as they are needed: the same as in memory, whoever reads."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from image_sets import (
  ALONE,
  mixed_folder,
  odd_folder,
  refused,
  same,
  small_folder,
  whole,
  write,
)
from PIL import Image

from dasm_jax import data
from dasm_jax.data import dataset as datasets
from dasm_jax.data import images, reader, workers
from dasm_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings('error')


# ---- the same as in memory, and as by Pillow alone


@pytest.mark.parametrize('options', [
    {}, {'size': 5}, {'holdout': 0.3, 'seed': 2}])
def test_digits_as_in_memory(options):
  same(data.open('digits', **options), 'digits', **options)


@pytest.mark.parametrize('options', [
    {'size': 6}, {'size': 6, 'holdout': 0.5, 'seed': 3}])
def test_odd_images_as_in_memory(tmp_path, options):
  name = f'folder:{odd_folder(tmp_path)}'
  same(data.open(name, **options), name, **options)


@pytest.mark.parametrize('size', [0, 6])
def test_images_are_those_of_pillow(tmp_path, size):
  """Of a class by their names, every fifth of them for testing."""
  root = odd_folder(tmp_path) if size else small_folder(tmp_path)
  paths = [path for folder in sorted(root.iterdir())
           for path in sorted(folder.iterdir())]
  labels = np.array([path.parent != paths[0].parent for path in paths], int)
  each = [images.decode(path, images.Shaping(size)) for path in paths]
  channels = max(image.shape[-1] for image in each)
  want = np.stack([np.broadcast_to(image, (*image.shape[:2], channels))
                   for image in each])
  for rows, split in zip(datasets.stratify(labels, .2, 0),
                         data.load(f'folder:{root}', size=size)[1:3],
                         strict=True):
    np.testing.assert_array_equal(split.images, want[rows])
    np.testing.assert_array_equal(split.labels, labels[rows])


def test_folders_as_in_memory(tmp_path):
  gray = small_folder(tmp_path / 'gray', 5)
  same(data.open(f'folder:{gray}'), f'folder:{gray}')
  # One colour among the test images makes all of three channels.
  shutil.copytree(gray, tmp_path / 'set' / 'train')
  write(tmp_path / 'set' / 'val' / 'bee' / 'x.png', mode='RGB', value=9)
  name = f'folder:{tmp_path}/set'
  found = data.open(name)
  assert found.test.shape == (8, 8, 3)
  same(found, name)
  write(gray / 'ant' / 'wide.png', shape=(20, 10))
  with pytest.raises(UserError, match='several sizes.*20x10.*size='):
    data.open(f'folder:{gray}').train.statistics()


def test_imagenet_sample_where_it_is(tmp_path):
  sample = Path(os.environ.get('TFDS_DATA_DIR') or 'none') / 'imagenet_sample'
  if sample.is_dir():
    (tmp_path / 'train').symlink_to(sample / 'train')
    (tmp_path / 'val').symlink_to(sample / 'odd')
    name = f'folder:{tmp_path}'
    found = data.open(name, size=32)
    assert len(found.train) == 100 and len(found.test) == 3
    same(found, name, size=32)


def test_statistics_of_a_sample(tmp_path):
  name = f'folder:{mixed_folder(tmp_path)}'
  said = []
  found = data.open(name, size=6, statistics='own', options=data.ReadOptions(
      sample=8, say=said.append))
  assert not any('8 of 32' in line for line in said)
  assert len(found.mean) == len(found.std) == 3
  assert sum('8 of 32' in line for line in said) == 1  # measured once
  pixels = whole(found.train)[::4] / 255
  np.testing.assert_allclose(found.mean, pixels.mean((0, 1, 2)), rtol=1e-9)
  np.testing.assert_allclose(found.std, pixels.std((0, 1, 2)), rtol=1e-9)
  # In memory they are of all images, whatever was asked for before.
  found = found.in_memory()
  want = data.load(name, size=6, statistics='own')
  assert (found.mean, found.std) == (want.mean, want.std)
  assert found.mean == datasets.statistics(want.train.images)[0]


def test_errors_are_those_of_load(tmp_path):
  for name, options, word in [
      ('', {}, 'empty'), ('digits', {'size': -1}, 'positive'),
      ('digits', {'holdout': 1.0}, 'less than 1'),
      (f'folder:{tmp_path}', {'size': 4}, '0 class folders'),
      ('cifr10', {'data_dir': tmp_path}, 'did you mean cifar10')]:
    refused(word, call=data.open, name=name, **options)
    refused(word, name=name, **options)


# ---- reading


def test_any_order_each_decoded_once(tmp_path, opened_images):
  found = data.open(f'folder:{mixed_folder(tmp_path)}', size=6)
  images = whole(found.train)
  opened_images.clear()
  indices = np.array([[5, 31, 5], [0, 5, 31]], np.int32)
  np.testing.assert_array_equal(found.train.read(indices), images[indices])
  assert len(opened_images) == len(set(opened_images)) == 3
  assert found.train.read([]).shape == (0, 6, 6, 3)
  for wrong in [-1], [32], [0.5]:
    with pytest.raises(IndexError, match='0 to 31'):
      found.train.read(wrong)


def test_threads_and_processes_read_the_same(tmp_path):
  name = f'folder:{mixed_folder(tmp_path, 90)}'
  (tmp_path / 'a' / '000.png').write_text('broken')
  indices = np.random.RandomState(0).randint(0, 70, 150)
  want = data.open(name, size=16, options=ALONE).train.read(indices)
  for options in {}, {'threads': 3}, {'workers': 2}:
    found = data.open(name, size=16, options=data.ReadOptions(**options))
    for _ in range(2):
      np.testing.assert_array_equal(found.train.read(indices), want)
    assert found.train.replaced == {0: 1}
    found.train.close()


def test_reading_holds_what_was_asked_for(tmp_path):
  found = data.open(f'folder:{mixed_folder(tmp_path)}', size=64,
                    options=data.ReadOptions(threads=2))
  indices = np.random.RandomState(0).randint(0, 32, 300)
  found.train.read(indices)
  tracemalloc.start()
  try:
    size = found.train.read(indices).nbytes
    assert size <= tracemalloc.get_traced_memory()[1] < 1.2 * size
  finally:
    tracemalloc.stop()


def test_stop(tmp_path):
  found = data.open(f'folder:{mixed_folder(tmp_path, 90)}', size=4,
                    options=data.ReadOptions(threads=2))
  asked = []
  with pytest.raises(workers.ReadCancelled):
    found.train.read(np.arange(70), lambda: asked.append(0) or len(asked) > 1)
  assert whole(found.train).shape == (72, 4, 4, 3)


def test_broken_images_are_replaced(tmp_path, caplog):
  mixed_folder(tmp_path / 'train', 20)
  write(tmp_path / 'val' / 'a' / 'x.png')
  name = f'folder:{tmp_path}'
  images = whole(data.open(name, size=6).train)
  a = tmp_path / 'train' / 'a'
  (a / '004.png').write_bytes((a / '004.png').read_bytes()[:-40])
  (a / '006.png').write_text('no image')
  (a / '018.png').write_bytes(b'')
  wanted = {2: 4, 3: 4, 9: 0}  # After the last of the class its first.
  order = np.arange(20)
  for old, new in wanted.items():
    order[order == old] = new
  for indices in np.arange(20), np.arange(20)[::-1], [9, 3, 3, 0, 9]:
    caplog.clear()
    found = data.open(name, size=6).train
    for _ in range(2):
      np.testing.assert_array_equal(found.read(indices), images[order[indices]])
    assert found.replaced == {
        old: new for old, new in wanted.items() if old in indices}
    lines = [record.getMessage() for record in caplog.records]
    assert sum('018.png' in line for line in lines) == 1
    assert sum('006.png (not an image)' in line for line in lines) == 1
  np.testing.assert_array_equal(
      found.labels, np.repeat([0, 1], 10).astype(np.int32))
  caplog.clear()
  loaded = data.load(name, size=6).train  # all at once: the same images
  np.testing.assert_array_equal(loaded.images, images[order])
  np.testing.assert_array_equal(loaded.labels, found.labels)
  assert '3 of 20 images' in caplog.text and '018.png' in caplog.text


def test_a_class_of_broken_images(tmp_path):
  name = f'folder:{small_folder(tmp_path, 5)}'
  for path in (tmp_path / 'bee').iterdir():
    path.write_text('broken')
  # Mean and standard deviation are of images of both classes.
  with pytest.raises(UserError, match=r"none of the 4 .* 'bee' .*\.png"):
    data.open(name, size=4).train.statistics()
  with pytest.raises(UserError, match=r"none of the 4 .* 'bee' .*\.png"):
    data.load(name, size=4)


def test_a_second_look_is_enough(tmp_path, monkeypatch):
  found = data.open(f'folder:{small_folder(tmp_path, 5)}', size=4)
  want, opener, read = whole(found.train), Image.open, []

  def busy(path):
    read.append(path)
    if len(read) == 1:
      raise OSError('try again')
    return opener(path)

  monkeypatch.setattr(Image, 'open', busy)
  np.testing.assert_array_equal(whole(found.train), want)
  assert not found.train.replaced and len(read) == len(want) + 1


def test_held_out_images_stand_in_for_none_of_train(tmp_path):
  """What stands in for a broken image is of the same split."""
  root = small_folder(tmp_path, 20)
  for path in sorted(root.glob('*/*'))[::4]:
    path.write_text('broken')
  found = data.load(f'folder:{root}', holdout=.5, seed=1)
  values = [{*split.images[..., 0].ravel().tolist()} for split in (
      found.train, found.test)]
  assert all(values) and not values[0] & values[1]


# ---- threads and processes


@pytest.mark.parametrize('size, alone', [
    (9_000, [True, True]), (200_000, [True, False]), (10 ** 6, [False, False])])
def test_threads_decode_many_large_images(size, alone):
  """Small images none, and large ones once they are more than 100 MB."""
  seen = set()

  def decode(items, out, places):
    seen.add(threading.get_ident())
    return []

  store = reader.Store(np.zeros(400, np.int32), list, decode, str,
                       identity=str, image_bytes=size)
  pool = workers.DecoderPool([store], (2, 2, 1))
  part = np.arange(400)
  for want in alone:
    seen.clear()
    assert pool.fill(0, part, np.zeros((400, 2, 2, 1), np.uint8), part) == []
    assert (seen == {threading.get_ident()}) == want


def _spy(items, out, places):
  """Takes the place of `Store.decode` in a process."""
  if items == ['die']:
    os.kill(os.getpid(), signal.SIGKILL)
  if items == ['refuse']:
    raise UserError('several sizes')
  print('what a library prints')
  out[0] = 7
  return [(0, ' '.join({'jax', 'grain'} & set(sys.modules)))]


def test_a_process_of_its_own(capfd):
  one = workers.DecoderProcess([_spy], (2, 3, 1), 4)
  images, broken = one.decode(0, ['x'])
  assert broken == [(0, '')]  # No JAX.
  assert images.tolist() == np.full((1, 2, 3, 1), 7).tolist()
  with pytest.raises(UserError, match='several sizes'):
    one.decode(0, ['refuse'])
  assert one.sound
  os.kill(one.pid, signal.SIGTERM)
  assert one.decode(0, ['x'])[1] == [(0, '')]
  with pytest.raises(RuntimeError, match='SIGKILL'):
    one.decode(0, ['die'])
  assert not one.sound
  assert 'prints' in capfd.readouterr().err


def test_processes_end_with_who_started_them(tmp_path):
  code = ('import os, signal; from dasm_jax import data; '
          f'found = data.open({f"folder:{small_folder(tmp_path)}"!r}, '
          'options=data.ReadOptions(workers=1)); '
          'print(len(found.train.read([0, 1])), flush=True); '
          'os.kill(os.getpid(), signal.SIGKILL)')
  done = subprocess.run([sys.executable, '-c', code], text=True,
                        cwd=Path(__file__).parents[2], timeout=60,
                        capture_output=True)
  # Both pipes are at their end: nobody is left to write.
  assert done.returncode == -signal.SIGKILL and done.stdout.strip() == '2'
  assert done.stderr == ''


def test_images_of_classes_that_are_not_wanted_do_not_count(tmp_path):
  """Neither their colours nor their size."""
  for index in range(12):
    write(tmp_path / 'ab'[index % 2] / f'{index}.png', shape=(9, 9),
          mode='L', value=index)
    write(tmp_path / 'c' / f'{index}.png', mode='RGB', value=index,
          shape=(12, 12))
  name = f'folder:{tmp_path}'
  found = data.open(name, classes='a,b')
  assert found.train.shape == (9, 9, 1)
  same(found, name, classes='a,b')
