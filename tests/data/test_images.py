"""How an image becomes a square, against loops, for every way of reading."""

import math

import numpy as np
import pytest
from image_sets import mixed_folder, refused_early, same, whole
from PIL import Image

from dasm_jax import data
from dasm_jax.data import images
from dasm_jax.errors import UserError

pytestmark = pytest.mark.filterwarnings('error')


def slow_squash(image, size):
  """Bilinear, half-pixel centres, no antialias: a number at a time, float."""
  height, width, channels = image.shape
  out = np.zeros((size, size, channels))
  def near(place, length):
    place = max(0., place)
    before = min(int(math.floor(place)), length - 1)
    return before, min(before + 1, length - 1), place - before
  for i in range(size):
    top, bottom, down = near((i + .5) * height / size - .5, height)
    for j in range(size):
      left, right, across = near((j + .5) * width / size - .5, width)
      for c in range(channels):
        one, two, three, four = (float(image[y, x, c]) for y in (top, bottom)
                                 for x in (left, right))
        upper = one * (1 - across) + two * across
        lower = three * (1 - across) + four * across
        out[i, j, c] = upper * (1 - down) + lower * down
  return out


def squashed(found, wanted, size):
  """Whether images are those of the loops, to whole numbers."""
  for image, other in zip(found, wanted, strict=True):
    assert image.shape == (size, size, image.shape[-1])
    assert abs(image - slow_squash(other, size)).max() <= .5 + 1e-3


@pytest.mark.parametrize('shape, size', [
    ((9, 20, 3), 6), ((31, 7, 1), 8), ((5, 4, 3), 16), ((8, 8, 3), 8),
    ((1, 3, 1), 5)])
def test_squash_against_loops(shape, size):
  image = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
  shaping = images.Shaping(size, 'squash')
  squashed([images.shape_array(image, shaping)], [image], size)
  if shape[:2] == (size, size):
    np.testing.assert_array_equal(images.squash(image, size), image)


def test_squash_takes_single_pixels():
  """Where antialiasing would take the mean of many."""
  stripes = np.tile(np.uint8([[0, 255]]), (16, 8))[..., None]
  assert {*images.squash(stripes[..., 0], 2).ravel()} == {128}  # of two pixels
  dots = np.zeros((9, 9), np.uint8)
  dots[1::3, 1::3] = 255  # the middle of each ninth
  assert {*images.squash(dots, 3).ravel()} == {255}
  antialiased = np.asarray(images.crop(Image.fromarray(dots), 3))
  assert antialiased.max() < 128


def test_a_folder_is_squashed(tmp_path):
  root = mixed_folder(tmp_path / 'images', 12)
  name, given = f'folder:{root}', {'size': 7, 'resize': 'squash'}
  found = data.load(name, **given, holdout=.4, seed=1)
  files = [np.asarray(Image.open(path)) for path in sorted(root.glob('*/*'))]
  every = {slow_squash(file, 7).round().tobytes(): file for file in files}
  assert len(every) == len(files)
  for split in found.train, found.test:
    squashed(split.images, [min(files, key=lambda file, image=image: abs(
        slow_squash(file, 7) - image).max()) for image in split.images], 7)
  # Streamed, and from a cache that holds cropped images too.
  same(data.open(name, **given), name, **given)
  options = data.ReadOptions(cache=str(tmp_path / 'cache'), threads=0)
  for more in {'resize': 'crop'}, {}, {}:
    once = data.open(name, **given | more, options=options)
    want = data.load(name, **given | more)
    np.testing.assert_array_equal(whole(once.train), want.train.images)
    np.testing.assert_array_equal(whole(once.test), want.test.images)
  assert len([*(tmp_path / 'cache').glob('*.images')]) == 2


def test_records_and_arrays_are_squashed(store):
  root, written = store
  found = data.load('tiny_set', data_dir=root, size=5, resize='squash')
  plain = data.load('tiny_set', data_dir=root)
  squashed(found.test.images[:3], plain.test.images[:3], 5)
  given = {'size': 5, 'resize': 'squash'}
  same(data.open('digits', **given), 'digits', **given)
  squashed(data.load('digits', **given).test.images[:3],
           data.load('digits').test.images[:3], 5)


def test_test_images_are_cut(tmp_path, store):
  """As resized to 256 and cut to 224, say, here to 8 and 7; train is not."""
  root = tmp_path / 'images'
  rng = np.random.default_rng(3)
  for split, shape in (('train', (12, 20)), ('test', (24, 16))):
    for name in 'ab':
      (root / split / name).mkdir(parents=True)
      Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(
          root / split / name / '0.png')
  given = dict(size=7, test_crop=.875)
  for name, more in ((f'folder:{root}', {}), ('digits', {}),
                     ('tiny_set', {'data_dir': store[0]})):
    cut, plain = (data.load(name, **more, size=given['size'], test_crop=share)
                  for share in (.875, 1.))
    np.testing.assert_array_equal(cut.train.images, plain.train.images)
    assert (cut.test.images != plain.test.images).any()
    same(data.open(name, **given, **more), name, **given, **more)
  found = data.load(f'folder:{root}', **given)
  whole_ = np.asarray(Image.open(root / 'test/a/0.png'))  # 24 high, 16 wide
  want = Image.fromarray(whole_).resize(
      (7, 7), Image.Resampling.BILINEAR, box=(1, 5, 15, 19))
  np.testing.assert_array_equal(found.test.images[0], np.asarray(want))


@pytest.mark.parametrize('given, words', [
    (dict(size=7, test_crop=0.), 'above 0 and at most 1'),
    (dict(size=7, test_crop='x'), 'above 0 and at most 1'),
    (dict(test_crop=.9), 'dataset.size'),
    (dict(size=7, test_crop=.9, resize='squash'), 'resize=crop'),
    (dict(size=7, test_crop=.9, holdout=.2), 'held out')])
def test_what_cannot_be_cut(given, words):
  with pytest.raises(UserError, match=words) as caught:
    data.describe('digits', **given)
  assert '--config.dataset.test_crop=' in str(caught.value)


def test_what_is_held_out_is_not_cut(tmp_path):
  root = mixed_folder(tmp_path / 'images', 12)
  with pytest.raises(UserError, match='held out'):
    data.describe(f'folder:{root}', size=7, test_crop=.9)


def test_there_are_two_ways():
  refused_early('resize', "'stretch'", 'crop, squash', name='digits',
                resize='stretch')
