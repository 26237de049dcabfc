"""Image files to arrays of bytes, arrays to one size. Pillow throughout.

Sections: how an image becomes a square, what its numbers mean, decoding.
"""

import io
import warnings
from typing import NamedTuple

import numpy as np

from dasm_jax.errors import UserError

SUFFIXES = frozenset(
    '.png .jpg .jpeg .jfif .bmp .gif .webp .tif .tiff .ppm .pgm .pbm'.split())
BACKGROUNDS = ('white', 'black')


def quiet_pillow():
  """What Pillow warns of (odd EXIF, palettes, large images) it also reads.

  For good: `warnings.catch_warnings` would undo what other threads set.
  """
  warnings.filterwarnings('ignore', module=r'PIL\.')


# ---- How an image becomes a square


class Shaping(NamedTuple):
  """What decoding makes of an image.

  size: side in pixels; 0 leaves it. resize: a key of `RESIZES`.
  background: of `BACKGROUNDS`, what is put behind a transparent image file.
  keep: share of the side of the square that `crop` keeps, around its centre.
  """
  size: int = 0
  resize: str = 'crop'
  background: str = 'white'
  keep: float = 1.0


AS_IT_IS = Shaping()


def crop(image, size, keep=1.0):
  """The centre square of a Pillow image, `size` pixels wide (bilinear).

  As shorter side to `size / keep`, then centre crop; but cropped first, so that
  a very long image never becomes a huge one. Antialiased when it shrinks.
  """
  from PIL import Image
  width, height = image.size
  short = min(width, height) * keep
  if width == height == size == short:
    return image
  left, top = (width - short) / 2, (height - short) / 2
  return image.resize((size, size), Image.Resampling.BILINEAR,
                      box=(left, top, left + short, top + short))


def squash(image, size, keep=1.0):
  """The whole of an image, both sides made `size` pixels long; an array.

  Bilinear, half-pixel centres, no antialiasing, to whole numbers: what
  torchvision's `Resize((size, size))` does to tensors, and so MTT's and FTD's
  programs to ImageNet.
  """
  del keep
  array = np.asarray(image)
  for axis in 0, 1:
    array = _interpolate(array, size, axis)
  return np.rint(array).astype(np.uint8)


def _interpolate(array, size, axis):
  """Values of `array` at `size` even places of one axis, float32."""
  length = array.shape[axis]
  places = (np.arange(size) + 0.5) * (length / size) - 0.5
  places = places.clip(0, length - 1)
  before = places.astype(int)
  after = np.minimum(before + 1, length - 1)
  share = np.expand_dims(np.float32(places - before),
                         [x for x in range(array.ndim) if x != axis])
  one, other = (np.float32(array.take(at, axis)) for at in (before, after))
  return one + (other - one) * share


RESIZES = {'crop': crop, 'squash': squash}


def shape_array(image, shaping):
  """A uint8 array `[height, width, channels]`, shaped as an image file is."""
  from PIL import Image
  size = shaping.size
  if not size or image.shape[:2] == (size, size) and shaping.keep == 1:
    return image
  channels = image.shape[-1]  # Pillow knows one channel as none.
  picture = Image.fromarray(image[..., 0] if channels == 1 else image)
  return _shaped(picture, shaping).reshape(size, size, channels)


def _shaped(image, shaping):
  """The array of a Pillow image, of the size that is asked for."""
  size = shaping.size
  if not size:
    return np.asarray(image)
  return np.asarray(RESIZES[shaping.resize](image, size, shaping.keep))


# ---- What the numbers of a file mean


def is_gray(image):
  """Whether a Pillow image has one channel; needs its header only."""
  return (image.mode in ('L', '1', 'LA', 'La', 'I', 'F')
          or image.mode.startswith('I;16'))


def in_bytes(image, name=''):
  """A Pillow image whose channels are bytes: itself, or one made of it.

  Without a sign, of 16 bits or 12: the upper 8, as in TensorFlow. Fractions:
  1 is white. Of other whole numbers (with a sign, or of 32 bits) nobody says
  which is white: they are taken as bytes. Pillow would cut all of these off
  at 255.

  Args:
    image: of any mode. name: what an error calls it.

  Raises:
    UserError: numbers beyond these ranges.
  """
  from PIL import Image
  mode, kind = image.mode, image.format
  if mode not in ('I', 'F') and not mode.startswith('I;16'):
    return image
  # What TIFF says of its numbers: how many bits, and whether 0 is white.
  tags = getattr(image, 'tag_v2', {})
  values = np.asarray(image)
  if mode == 'F':
    values = _within(values, 1, 'fractions', name) * 255
  elif mode == 'I' and kind not in ('PPM', 'PNG'):
    values = _within(values, 255, 'whole numbers with a sign, or of 32 bits,',
                     name)
  else:
    values = values >> (4 if tags.get(258) == (12,) else 8)
  values = np.rint(values).astype(np.uint8)
  return Image.fromarray(255 - values if tags.get(262) == 0 else values)


def _within(values, most, what, name):
  """The values, if all are from 0 to `most`."""
  low, high = values.min(), values.max()
  if not (low >= 0 and high <= most):  # so, for a NaN is neither
    raise UserError(
        f'{name or "an image"} holds {what} from {low:g} to {high:g}, of which '
        f'those from 0 to {most} can be read; convert the images to 8 bits, or '
        'to 16 bits without a sign')
  return values


def on_background(image, color):
  """A Pillow image without transparency, which is filled with a color."""
  if not image.has_transparency_data:
    return image
  from PIL import Image
  mode = 'L' if is_gray(image) else 'RGB'
  if image.mode in ('La', 'RGBa'):  # Multiplied by their alpha.
    image = image.convert({'La': 'LA', 'RGBa': 'RGBA'}[image.mode])
  image = image.convert('RGBA')
  below = Image.new('RGBA', image.size, color)
  return Image.alpha_composite(below, image).convert(mode)


# ---- Decoding


def decode(path, shaping=AS_IT_IS):
  """The uint8 array `[height, width, 1 or 3]` of an image file, upright.

  One channel if the file is gray, else RGB, on the background. Raises
  `UserError` for what `in_bytes` refuses, and whatever Pillow raises for a
  broken file.
  """
  from PIL import Image, ImageOps
  with Image.open(path) as image:
    mode = 'L' if is_gray(image) else 'RGB'
    # Before the crop, which would else cut the wrong sides.
    ImageOps.exif_transpose(image, in_place=True)
    plain = on_background(in_bytes(image, path), shaping.background)
    array = _shaped(plain if plain.mode == mode else plain.convert(mode),
                    shaping)
  return array[..., None] if array.ndim == 2 else array


def decode_bytes(data, channels=None, shaping=AS_IT_IS):
  """The uint8 array of an encoded image as TFDS reads it.

  It is not turned by EXIF, and its transparency is dropped.

  Args:
    data: bytes. channels: 1, 3 or 4, to convert to; None for gray or RGB as it
      is. shaping: a `Shaping`.

  Raises:
    As `decode`.
  """
  from PIL import Image
  with Image.open(io.BytesIO(data)) as image:
    gray = channels == 1 if channels else is_gray(image)
    mode = 'L' if gray else 'RGBA' if channels == 4 else 'RGB'
    plain = in_bytes(image)
    array = _shaped(plain if plain.mode == mode else plain.convert(mode),
                    shaping)
  return array[..., None] if gray else array
