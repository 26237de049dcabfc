"""Images read as they are needed: the same as in memory, whoever reads."""

import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from image_sets import (
  mixed_folder,
  odd_folder,
  refused,
  same,
  small_folder,
  whole,
  write,
)

from dasm_jax import data
from dasm_jax.data import images, reader, workers
from dasm_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings('error')


# ---- the same as in memory


@pytest.mark.parametrize('options', [
    {}, {'size': 5}, {'holdout': 0.3, 'seed': 2}])
def test_digits_as_in_memory(options):
  same(reader.open_lazy('digits', threads=0, **options), 'digits', **options)


@pytest.mark.parametrize('options', [
    {'size': 6}, {'size': 6, 'holdout': 0.5, 'seed': 3}])
def test_odd_images_as_in_memory(tmp_path, options):
  name = f'folder:{odd_folder(tmp_path)}'
  same(reader.open_lazy(name, threads=0, **options), name, **options)


def test_folders_as_in_memory(tmp_path):
  gray = small_folder(tmp_path / 'gray', 5)
  same(reader.open_lazy(f'folder:{gray}', threads=0), f'folder:{gray}')
  # One colour among the test images makes all of three channels.
  shutil.copytree(gray, tmp_path / 'set' / 'train')
  write(tmp_path / 'set' / 'val' / 'bee' / 'x.png', mode='RGB', value=9)
  name = f'folder:{tmp_path}/set'
  found = reader.open_lazy(name, threads=0)
  assert found.test.shape == (8, 8, 3)
  same(found, name)
  write(gray / 'ant' / 'wide.png', shape=(20, 10))
  with pytest.raises(UserError, match='several sizes.*20x10.*size='):
    reader.open_lazy(f'folder:{gray}', threads=0)


def test_imagenet_sample_where_it_is(tmp_path):
  sample = Path(os.environ.get('TFDS_DATA_DIR') or 'none') / 'imagenet_sample'
  if sample.is_dir():
    (tmp_path / 'train').symlink_to(sample / 'train')
    (tmp_path / 'val').symlink_to(sample / 'odd')
    name = f'folder:{tmp_path}'
    found = reader.open_lazy(name, size=32, threads=0)
    assert len(found.train) == 100 and len(found.test) == 3
    same(found, name, size=32)


def test_statistics_of_a_sample(tmp_path, monkeypatch):
  name = f'folder:{mixed_folder(tmp_path)}'
  monkeypatch.setattr(reader, 'STATISTICS_SAMPLE', 8)
  said = []
  found = reader.open_lazy(name, size=6, threads=0, say=said.append)
  assert any('8 of 32' in line for line in said)
  pixels = whole(found.train)[::4] / 255
  np.testing.assert_allclose(found.mean, pixels.mean((0, 1, 2)), rtol=1e-9)
  np.testing.assert_allclose(found.std, pixels.std((0, 1, 2)), rtol=1e-9)


def test_errors_are_those_of_load(tmp_path):
  for name, options, word in [
      ('', {}, 'empty'), ('digits', {'size': -1}, 'positive'),
      ('digits', {'holdout': 1.0}, 'less than 1'),
      (f'folder:{tmp_path}', {'size': 4}, '0 class folders'),
      ('cifr10', {'data_dir': tmp_path}, 'did you mean cifar10')]:
    refused(word, call=reader.open_lazy, name=name, **options)
    refused(word, name=name, **options)


# ---- reading


def test_any_order_each_decoded_once(tmp_path, monkeypatch):
  found = reader.open_lazy(f'folder:{mixed_folder(tmp_path)}', size=6,
                           threads=0)
  images = whole(found.train)
  read, decode = [], images.decode
  monkeypatch.setattr(
      images, 'decode', lambda path, size: read.append(path) or decode(
          path, size))
  indices = np.array([[5, 31, 5], [0, 5, 31]], np.int32)
  np.testing.assert_array_equal(found.train.read(indices), images[indices])
  assert len(read) == len(set(read)) == 3
  assert found.train.read([]).shape == (0, 6, 6, 3)
  for wrong in [-1], [32], [0.5]:
    with pytest.raises(IndexError, match='0 to 31'):
      found.train.read(wrong)


def test_threads_and_processes_read_the_same(tmp_path):
  name = f'folder:{mixed_folder(tmp_path, 90)}'
  (tmp_path / 'a' / '000.png').write_text('broken')
  indices = np.random.RandomState(0).randint(0, 70, 150)
  want = reader.open_lazy(name, size=16, threads=0).train.read(indices)
  for options in {'threads': 3}, {'workers': 2}:
    found = reader.open_lazy(name, size=16, **options)
    for _ in range(2):
      np.testing.assert_array_equal(found.train.read(indices), want)
    assert found.train.replaced == {0: 1}
    found.train.close()


def test_reading_holds_what_was_asked_for(tmp_path):
  found = reader.open_lazy(f'folder:{mixed_folder(tmp_path)}', size=64,
                           threads=2)
  indices = np.random.RandomState(0).randint(0, 32, 300)
  found.train.read(indices)
  tracemalloc.start()
  try:
    size = found.train.read(indices).nbytes
    assert size <= tracemalloc.get_traced_memory()[1] < 1.2 * size
  finally:
    tracemalloc.stop()


def test_stop(tmp_path):
  found = reader.open_lazy(f'folder:{mixed_folder(tmp_path, 90)}', size=4,
                           threads=2)
  asked = []
  with pytest.raises(workers.ReadCancelled):
    found.train.read(np.arange(70), lambda: asked.append(0) or len(asked) > 1)
  assert whole(found.train).shape == (72, 4, 4, 3)


def test_broken_images_are_replaced(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(reader, 'STATISTICS_SAMPLE',
                      1)  # Statistics must not find them first.
  mixed_folder(tmp_path / 'train', 20)
  write(tmp_path / 'val' / 'a' / 'x.png')
  name = f'folder:{tmp_path}'
  images = whole(reader.open_lazy(name, size=6, threads=0).train)
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
    found = reader.open_lazy(name, size=6, threads=0).train
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
    reader.open_lazy(name, size=4, threads=0)
  with pytest.raises(UserError, match=r"none of the 4 .* 'bee' .*\.png"):
    data.load(name, size=4)


def test_a_second_look_is_enough(tmp_path, monkeypatch):
  found = reader.open_lazy(f'folder:{small_folder(tmp_path, 5)}', size=4,
                           threads=0)
  want, decode, read = whole(found.train), images.decode, []

  def busy(path, size):
    read.append(path)
    if len(read) == 1:
      raise OSError('try again')
    return decode(path, size)

  monkeypatch.setattr(images, 'decode', busy)
  np.testing.assert_array_equal(whole(found.train), want)
  assert not found.train.replaced and len(read) == len(want) + 1


# ---- processes


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
  os.kill(one._process.pid, signal.SIGTERM)
  assert one.decode(0, ['x'])[1] == [(0, '')]
  with pytest.raises(RuntimeError, match='SIGKILL'):
    one.decode(0, ['die'])
  assert not one.sound
  assert 'prints' in capfd.readouterr().err


def test_processes_end_with_who_started_them(tmp_path):
  code = (f'import os, signal; from dasm_jax.data import lazy; '
          f'found = lazy.open({f"folder:{small_folder(tmp_path)}"!r}, '
          'workers=1); print(found.train._pool._idle.get()._process.pid, '
          'flush=True); os.kill(os.getpid(), signal.SIGKILL)')
  done = subprocess.run([sys.executable, '-c', code], text=True,
                        cwd=Path(__file__).parents[2], timeout=60,
                        capture_output=True)
  # Both pipes are at their end: nobody is left to write.
  assert done.returncode == -signal.SIGKILL and done.stdout.strip().isdigit()
  assert done.stderr == ''


def test_images_of_classes_that_are_not_wanted_do_not_count(tmp_path):
  """Neither their colours nor their size."""
  for index in range(12):
    write(tmp_path / 'ab'[index % 2] / f'{index}.png', shape=(9, 9),
          mode='L', value=index)
    write(tmp_path / 'c' / f'{index}.png', mode='RGB', value=index,
          shape=(12, 12))
  name = f'folder:{tmp_path}'
  found = reader.open_lazy(name, threads=0, classes='a,b')
  assert found.train.shape == (9, 9, 1)
  same(found, name, classes='a,b')
