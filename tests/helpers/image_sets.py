"""Folders of small images, and what reading them must give."""

import contextlib

import numpy as np
import pytest
from PIL import Image

from dasm_jax import data
from dasm_jax.errors import UserError

ALONE = data.ReadOptions(threads=0)


def write(path, array=None, mode='RGB', shape=(8, 8), value=0, **options):
  """Writes an image file, of one value if no array is given."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = (Image.fromarray(array) if array is not None
           else Image.new('L', shape, value).convert(mode))
  image.save(path, **options)


def small_folder(root, count=5, mode='L', **options):
  for label, name in enumerate(('ant', 'bee')):
    for index in range(count):
      write(root / name / f'{index}.png', mode=mode,
            value=100 * label + index, **options)
  return root


def refused(*words, call=data.load, **options):
  """Calls with `name` and options; the error is one line with `words`."""
  with pytest.raises(UserError) as caught:
    call(options.pop('name'), **options)
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert word in message, message


def refused_early(*words, **options):
  """`refused` by `load`, and by `check` already."""
  refused(*words, **options)
  options.pop('seed', None)
  refused(*words, call=data.check, **options)


def whole(split):
  """All images of a `LazySplit`."""
  return split.read(np.arange(len(split)))


def same(found, name, **options):
  """A `Dataset` of `data.open` is that of `data.load`."""
  want = data.load(name, **options)
  assert found.class_names == want.class_names
  assert (found.mean, found.std) == (want.mean, want.std)
  for one, other in zip(found[1:3], want[1:3], strict=True):
    assert one.labels.dtype == np.int32
    assert one.shape == other.images.shape[1:]
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(whole(one), other.images)


@contextlib.contextmanager
def hidden(root):
  """Within, a folder of images is elsewhere: none of them can be read."""
  aside = root.with_name(f'{root.name}_aside')
  root.rename(aside)
  try:
    yield
  finally:
    aside.rename(root)


def odd_folder(root):
  """Files of every kind, some gray, in one size each; two classes."""
  exif = Image.Exif()
  exif[0x0112] = 6  # Turned by a quarter.
  random = np.random.RandomState(0)
  for index, (mode, ending) in enumerate([
      ('L', 'jpg'), ('CMYK', 'JPEG'), ('P', 'gif'), ('RGBA', 'png'),
      ('1', 'bmp'), ('RGB', 'webp'), ('LA', 'png'), ('RGB', 'tif')]):
    path = root / 'ab'[index % 2] / f'{index}.{ending}'
    write(path, random.randint(0, 256, (9 + index, 20, 3), np.uint8))
    with Image.open(path) as image:
      image = image.convert(mode)
    image.save(path)
  write(root / 'a' / 'turned.jpg', random.randint(0, 256, (9, 20, 3), np.uint8),
        exif=exif)
  write(root / 'b' / 'deep.png', np.full((8, 9), 0xABCD, np.uint16))
  path = root / 'b' / 'png_inside.JPEG'
  write(path.with_suffix('.png'), mode='RGBA', value=7)
  path.with_suffix('.png').rename(path)
  return root


def mixed_folder(root, count=40):
  """A folder of images of several sizes, more than one block of them."""
  random = np.random.RandomState(1)
  for index in range(count):
    write(root / 'ab'[index % 2] / f'{index:03}.png',
          random.randint(0, 256, (8 + index % 5, 12, 3), np.uint8))
  return root
