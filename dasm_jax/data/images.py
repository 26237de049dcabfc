"""Image files to arrays, arrays to one size. Pillow throughout."""

import io
import warnings

import numpy as np


def quiet_pillow():
  """What Pillow warns of (odd EXIF, palettes, large images) it also reads.

  For good: `warnings.catch_warnings` would undo what other threads set.
  """
  warnings.filterwarnings('ignore', module=r'PIL\.')

SUFFIXES = frozenset(
    '.png .jpg .jpeg .jfif .bmp .gif .webp .tif .tiff .ppm .pgm .pbm'.split())


def fit(image, size):
  """The centre square of a Pillow image, `size` pixels wide (bilinear).

  As shorter side to `size`, then centre crop; but cropped first, so that a
  very long image never becomes a huge one. Antialiased when it shrinks.
  """
  from PIL import Image
  width, height = image.size
  if width == height == size:
    return image
  short = min(width, height)
  left, top = (width - short) / 2, (height - short) / 2
  return image.resize((size, size), Image.Resampling.BILINEAR,
                      box=(left, top, left + short, top + short))


def fit_array(image, size):
  """`fit` for a uint8 array `[height, width, channels]`."""
  from PIL import Image
  if image.shape[:2] == (size, size):
    return image
  channels = image.shape[-1]  # Pillow knows one channel as none.
  picture = Image.fromarray(image[..., 0] if channels == 1 else image)
  return np.asarray(fit(picture, size)).reshape(size, size, channels)


def is_gray(image):
  """Whether a Pillow image has one channel; needs its header only."""
  return image.mode in ('L', '1') or image.mode.startswith('I;16')


def _convert(image, mode):
  """A Pillow image in a mode; of 16 bits the upper 8, as in TensorFlow."""
  if image.mode.startswith('I;16'):  # Pillow would make most of it white.
    from PIL import Image
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  return image if image.mode == mode else image.convert(mode)


def decode(path, size=None):
  """The uint8 array `[height, width, 1 or 3]` of an image file, upright.

  One channel if the file is gray, else RGB; the centre square of `size` if
  that is given. Raises whatever Pillow raises for a broken file.
  """
  from PIL import Image, ImageOps
  with Image.open(path) as image:
    mode = 'L' if is_gray(image) else 'RGB'
    # Before the crop, which would else cut the wrong sides.
    ImageOps.exif_transpose(image, in_place=True)
    image = _convert(image, mode)
    array = np.asarray(fit(image, size) if size else image)
  return array[..., None] if array.ndim == 2 else array


def decode_bytes(data, channels=None, size=None):
  """The uint8 array of an encoded image, not turned by EXIF (as in TFDS).

  channels: 1, 3 or 4, to convert to; None for gray or RGB as it is.
  size: the centre square of that size if given.
  """
  from PIL import Image
  with Image.open(io.BytesIO(data)) as image:
    gray = channels == 1 if channels else is_gray(image)
    mode = 'L' if gray else 'RGBA' if channels == 4 else 'RGB'
    image = _convert(image, mode)
    array = np.asarray(fit(image, size) if size else image)
  return array[..., None] if gray else array
