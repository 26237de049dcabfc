"""Data sets by name, without network; every error on one line."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_sets import refused, refused_early, small_folder, write
from PIL import Image

from dasm_jax import data
from dasm_jax.data import dataset as datasets
from dasm_jax.data import registry
from dasm_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings('error')


# ---- digits, hold-out, statistics


def test_digits():
  data.check('digits')
  found = data.load('digits')
  assert found.train.images.dtype == np.uint8
  assert found.train.labels.dtype == np.int32
  assert found.train.images.shape[1:] == (8, 8, 1)
  assert len(found.train.labels) + len(found.test.labels) == 1797
  assert found.train.images.max() == 255
  assert found.class_names == tuple('0123456789')
  every = np.bincount(np.concatenate([found.train.labels, found.test.labels]))
  share = np.bincount(found.test.labels) / every
  assert np.all(abs(share - 0.2) < 0.01)
  again = data.load('digits')
  np.testing.assert_array_equal(found.test.images, again.test.images)


def test_statistics_are_those_of_the_train_images():
  found = data.load('digits', size=6)
  assert found.train.images.shape[1:] == (6, 6, 1)
  pixels = found.train.images / 255
  np.testing.assert_allclose(found.mean, pixels.mean((0, 1, 2)), rtol=1e-9)
  np.testing.assert_allclose(found.std, pixels.std((0, 1, 2)), rtol=1e-9)
  mean, std = datasets.statistics(np.full((2, 3, 3, 1), 51, np.uint8))
  assert mean == (pytest.approx(0.2),) and std == (1.0,)


def test_what_images_are_normalised_with(tmp_path):
  gray = f'folder:{small_folder(tmp_path / "gray")}'
  colour = f'folder:{small_folder(tmp_path / "colour", mode="RGB")}'
  for ways, name in ((('auto', 'imagenet'), colour), (('own',), colour),
                     (('auto', 'own'), gray), (('auto', 'own'), 'digits')):
    for way in ways:
      found = data.load(name, statistics=way)
      streamed = data.open(name, statistics=way)
      assert (found.mean, found.std) == (streamed.mean, streamed.std)
      own = datasets.statistics(found.train.images)
      assert found.statistics == (
          registry.IMAGENET if 'imagenet' in ways else own)
  for name in gray, 'digits':
    refused('imagenet', 'three colours', 'own', name=name,
            statistics='imagenet')
  refused_early("statistics 'none'", 'auto, imagenet, own', name='digits',
                statistics='none')


def test_holdout_is_a_part_of_train_and_never_of_test():
  plain = data.load('digits')
  held = data.load('digits', holdout=0.25, seed=3)
  keys = [[image.tobytes() for image in split.images] for split in (
      plain.train, held.train, held.test)]
  assert sorted(keys[0]) == sorted(keys[1] + keys[2])
  want = np.bincount(plain.train.labels) * 0.25
  assert np.all(abs(np.bincount(held.test.labels) - want) <= 1)
  same = data.load('digits', holdout=0.25, seed=3)
  other = data.load('digits', holdout=0.25, seed=4)
  np.testing.assert_array_equal(held.test.images, same.test.images)
  assert not np.array_equal(held.test.images, other.test.images)


@pytest.mark.parametrize('fraction', [0.001, 0.5, 0.999])
def test_stratify_keeps_and_holds_one_of_each_class(fraction):
  labels = np.array([0] * 2 + [1] * 3 + [2] * 100)
  for seed in None, -1, 2**40:
    kept, held = datasets.stratify(labels, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert set(labels[kept]) == set(labels[held]) == {0, 1, 2}


def test_host_code_does_not_import_the_slow():
  code = ('import sys, dasm_jax.data as d, dasm_jax.data.tfds; '
          'd.check("digits"); print([m for m in ("jax", "PIL", "sklearn", '
          '"tensorflow_datasets", "grain") if m in sys.modules])')
  done = subprocess.run([sys.executable, '-c', code], text=True,
                        cwd=Path(__file__).parents[2], check=True,
                        stdout=subprocess.PIPE)
  assert done.stdout.strip() == '[]'


@pytest.mark.parametrize('options, words', [
    ({'size': -1}, ['size=-1', 'positive']),
    ({'size': True}, ['size=True']),
    ({'size': 8.0}, ['size=8.0']),
    ({'holdout': 1.0}, ['holdout=1.0', 'less than 1']),
    ({'holdout': -0.1}, ['holdout=-0.1']),
    ({'holdout': float('nan')}, ['holdout=nan']),
    ({'name': ''}, ["''", 'digits']),
])
def test_options_are_checked(options, words):
  refused_early(*words, **{'name': 'digits', **options})


def test_images_that_memory_cannot_hold():
  with pytest.raises(UserError, match=r'GiB.*--config\.dataset\.size='):
    datasets.empty_images((10**9, 1000, 1000, 3))


# ---- folders


def test_folder_cuts_a_fifth(tmp_path):
  root = small_folder(tmp_path, 10)
  data.check(f'folder:{root}')
  found = data.load(f'folder:{root}')
  assert found.class_names == ('ant', 'bee')
  assert found.train.images.shape == (16, 8, 8, 1)
  assert np.bincount(found.test.labels).tolist() == [2, 2]
  both = np.concatenate([found.train.images, found.test.images])[:, 0, 0, 0]
  assert sorted(both) == [*range(10), *range(100, 110)]
  other = data.load(f'folder:{root}', seed=1)  # which, the seed says
  assert np.bincount(other.test.labels).tolist() == [2, 2]
  assert not np.array_equal(other.test.images, found.test.images)
  # A holdout takes its place: it is a share of all images.
  held = data.load(f'folder:{root}', holdout=0.5)
  assert len(held.train.labels) == len(held.test.labels) == 10


def test_folder_of_mixed_files(tmp_path, caplog):
  train = tmp_path / 'train'
  exif = Image.Exif()
  exif[0x0112] = 6  # Turned by a quarter: 20x10 is shown as 10x20.
  left = np.zeros((10, 20, 3), np.uint8)
  left[:, :10] = 255
  write(train / 'a' / '0.JPEG', left, exif=exif, quality=95)
  write(train / 'a' / '1.JPEG', mode='CMYK', shape=(30, 40), value=200)
  write(train / 'a' / '2.gif', mode='P', value=50)
  write(train / 'b' / '3.png', mode='RGBA', value=60)
  write(train / 'b' / '4.bmp', mode='1', value=255)
  write(train / 'b' / '5.webp', mode='RGB', value=80)
  clear = Image.new('P', (8, 8))
  clear.save(train / 'b' / '6.png', transparency=b'\x00\x80')
  whole = (train / 'a' / '0.JPEG').read_bytes()
  (train / 'b' / 'cut.jpg').write_bytes(whole[:len(whole) // 2])
  (train / 'b' / 'text.png').write_text('no image')
  (train / 'b' / 'notes.txt').write_text('no image either')
  (train / 'b' / '._3.png').write_text('hidden')
  write(tmp_path / 'val' / 'b' / 'x.png', mode='L', value=9)
  with caplog.at_level(logging.WARNING, 'dasm_jax'):
    found = data.load(f'folder:{tmp_path}', size=4)
  assert found.train.images.shape == (9, 4, 4, 3)
  assert found.train.labels.tolist() == [0] * 3 + [1] * 6
  # The first of the class stands in for its last two.
  for broken in found.train.images[7:]:
    np.testing.assert_array_equal(broken, found.train.images[3])
  assert found.test.images.tolist() == np.full((1, 4, 4, 3), 9).tolist()
  upright = found.train.images[0, :, :, 0].astype(int)
  assert upright[0].min() > 200 and upright[-1].max() < 50
  assert found.train.images[4].min() == 255
  hid, clear, line = (record.getMessage() for record in caplog.records)
  assert '2 of 9' in line and 'cut.jpg' in line and 'text.png' in line
  assert '1 image file (' in hid and '6.png' in clear


def test_folder_sizes(tmp_path):
  root = small_folder(tmp_path, 2)
  write(root / 'ant' / 'wide.png', mode='L', shape=(20, 10))
  refused('8x8', '20x10', '--config.dataset.size=', name=f'folder:{root}')
  stripes = np.repeat(np.arange(0, 240, 12, dtype=np.uint8)[None], 10, 0)
  write(root / 'ant' / 'wide.png', stripes)
  found = data.load(f'folder:{root}', size=10)
  kept = [image for image in found.train.images if np.ptp(image)]
  np.testing.assert_array_equal(kept[0][..., 0], stripes[:, 5:15])


def test_folder_of_sixteen_bits_is_gray(tmp_path):
  root = small_folder(tmp_path, 3)
  write(root / 'ant' / 'deep.png', np.full((8, 8), 0xABCD, np.uint16))
  found = data.load(f'folder:{root}')
  assert found.train.images.shape[-1] == 1
  assert 0xAB in np.concatenate([found.train.images, found.test.images])


def test_folder_as_tiny_imagenet_is_unpacked(tmp_path):
  for index, name in enumerate(('n1', 'n2')):
    write(tmp_path / 'train' / name / 'images' / f'{name}_0.JPEG', value=index)
    write(tmp_path / 'val' / 'images' / f'val_{index}.JPEG', value=200 + index)
  write(tmp_path / 'test' / 'images' / 'test_0.JPEG')
  (tmp_path / 'val' / 'val_annotations.txt').write_text(
      'val_0.JPEG\tn2\t0\t0\t9\t9\nval_1.JPEG\tn1\t0\t0\t9\t9\n')
  found = data.load(f'folder:{tmp_path}')
  assert found.class_names == ('n1', 'n2')
  assert found.test.labels.tolist() == [1, 0]


def test_folder_errors(tmp_path):
  refused_early('is empty', name='folder:')
  refused_early('does not exist', name=f'folder:{tmp_path}/none')
  refused_early('0 class folders', name=f'folder:{tmp_path}')
  root = tmp_path / 'set'
  small_folder(root / 'train', 1)
  refused_early('no test, val', 'holdout', name=f'folder:{root}')
  refused('two train images', 'ant', name=f'folder:{root}', holdout=0.1)
  refused('nothing to test', name=f'folder:{root}/train')
  write(root / 'test' / 'ant' / 'x.png')
  write(root / 'test' / 'cow' / 'x.png')
  refused_early('cow', 'train has not', name=f'folder:{root}')
  (root / 'train' / 'dog').mkdir()
  refused_early('no images', 'dog', name=f'folder:{root}')
  (root / 'train' / 'dog' / 'x.png').write_text('broken')
  (root / 'test' / 'cow' / 'x.png').unlink()
  (root / 'test' / 'cow').rmdir()
  refused('none of the 1 images', 'dog', name=f'folder:{root}')
