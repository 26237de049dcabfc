"""Arrays of files that are no torch.save: safetensors, parquet, image folders.

Every reader asks how much there is before it takes memory, and runs nothing.
"""

import json
import re

import numpy as np

from dasm_jax.data import images
from dasm_jax.errors import UserError
from dasm_jax.runtime import npz, paths, safetensors

MOST_PIXELS = 2 ** 31  # numbers of all images of a folder or parquet file
IMAGE_FILES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')


def read_npz(path):
  """The arrays of an .npz by name; raises `UserError`."""
  try:
    with paths.remote_access(path):
      return npz.read(path)
  except npz.FAULTS as error:
    if isinstance(error, UserError):
      raise
    raise _not_whole(path, 'an .npz of arrays', error) from error


def read_safetensors(path):
  """The arrays of a .safetensors file by name; raises `UserError`.

  bfloat16 is widened to float32.
  """
  try:
    with paths.remote_access(path), path.open('rb') as file:
      return safetensors.read(file)
  except safetensors.FAULTS as error:
    if isinstance(error, UserError):
      raise
    raise _not_whole(path, 'a safetensors file', error) from error


def _not_whole(path, what, error):
  why = getattr(error, 'strerror', None) or (
      str(error) if type(error) is ValueError else 'it is cut or damaged')
  return UserError(f'{str(path)!r} is not {what}: {" ".join(why.split())}; '
                   'fetch it again')


# ---- Encoded images


def stack(count, decode):
  """Equally large images `[n, h, w, c]` uint8, decoded one after the other.

  count: n. decode: `k -> (image, name)`.

  Raises:
    UserError: one that cannot be read, or of another size than the first, or
      more than fit.
  """
  out = None
  for k in range(count):
    image, name = decode(k)
    if out is None:
      if count * image.size > MOST_PIXELS:
        raise UserError(
            f'{count} images of {image.shape} are more than are read at once '
            f'({MOST_PIXELS} numbers); give a part of the classes')
      out = np.empty((count, *image.shape), np.uint8)
    if image.shape[:2] == out.shape[1:3] and image.shape[2] < out.shape[3]:
      image = np.repeat(image, 3, axis=2)  # a gray one among those in colour
    if image.shape != out.shape[1:]:
      raise UserError(f'{name} is {image.shape}, and the first image '
                      f'{out.shape[1:]}: a distilled set has one size; remove '
                      'what is not of it')
    out[k] = image
  return out


def decoded(read, name):
  """What `read()` decodes; raises `UserError` for a broken image."""
  images.quiet_pillow()
  try:
    return read()
  except UserError:
    raise
  except Exception as error:  # Pillow raises anything
    raise UserError(f'{name} is no image that can be read: '
                    f'{" ".join(str(error).split())[:100]}; remove it, or '
                    'fetch it again') from error


def class_folders(folder):
  """`[(folder name, sorted image files)]` of the class folders in a folder.

  Hidden ones and those without images are left out.
  """
  found = []
  for entry in sorted(folder.iterdir(), key=lambda x: x.name):
    if entry.is_dir() and not entry.name.startswith('.'):
      files = image_files(entry)
      if files:
        found.append((entry.name, files))
  return found


def image_files(folder):
  """Images of a folder, in the order of the numbers in their names."""
  return sorted((x for x in folder.iterdir()
                 if x.suffix.lower() in IMAGE_FILES
                 and not x.name.startswith('.')), key=lambda x: by_number(x))


def by_number(path):
  """A key that puts `images_10` after `images_9`."""
  return [(int(part), '') if part.isdecimal() else (-1, part)
          for part in re.split(r'(\d+)', path.name) if part]


def read_images(files):
  """Images `[n, h, w, c]` uint8 of image files; raises `UserError`."""
  def decode(k):
    path = files[k]
    return decoded(lambda: images.decode(path), repr(str(path))), str(path)
  return stack(len(files), decode)


def read_parquet(files):
  """`(images, labels, class names)` of a data set of Hugging Face's.

  Args:
    files: paths of parquet files with a column of encoded images, `{bytes,
      path}` or bytes, and one of class numbers.

  Returns:
    `[n, h, w, c]` uint8, `[n]` int; a tuple, empty if they are not told.

  Raises:
    UserError: pyarrow is not installed, or other columns.
  """
  try:
    from pyarrow import ArrowException, parquet
  except ImportError as error:
    raise UserError(f'{str(files[0])!r} is parquet, which pyarrow reads: pip '
                    'install pyarrow') from error
  encoded, labels, names = [], [], ()
  for path in files:
    try:
      table = parquet.ParquetFile(str(path))
      told = table.metadata
      size = sum(told.row_group(k).total_byte_size
                 for k in range(told.num_row_groups))
      if max(size, told.num_rows * 64) > MOST_PIXELS:
        raise UserError(f'{str(path)!r} has {told.num_rows} images of {size} '
                        'bytes, which is no distilled set; give a smaller one')
      image, label = _columns(path, table.schema_arrow)
      names = names or _class_names(table.schema_arrow, label)
      rows = table.read([image, label]).to_pydict()
    except (ArrowException, OSError, ValueError) as error:
      if isinstance(error, UserError):
        raise
      raise _not_whole(path, 'a parquet file', error) from error
    encoded += [x['bytes'] if isinstance(x, dict) else x for x in rows[image]]
    labels += rows[label]
  if not encoded or not all(isinstance(x, bytes) for x in encoded) or not all(
      isinstance(x, int) for x in labels):
    raise UserError(f'{str(files[0])!r} has rows without an image or a class '
                    'number; its images must be in it, not beside it')

  def decode(k):
    name = f'image {k} of {str(files[0])!r}'
    return decoded(lambda: images.decode_bytes(encoded[k]), name), name
  return stack(len(encoded), decode), np.array(labels), names


def _columns(path, schema):
  """The names of the columns of images and of labels."""
  found = [next((name for name in names if name in schema.names), None)
           for names in (('image', 'img', 'images'),
                         ('label', 'labels', 'fine_label'))]
  if None in found:
    raise UserError(
        f'{str(path)!r} has columns {", ".join(schema.names[:8])}; a distilled '
        'set has one called image and one called label: rename them')
  return found


def _class_names(schema, label):
  """The classes that the metadata of Hugging Face tell, or none."""
  try:
    told = json.loads(schema.metadata[b'huggingface'])
    return tuple(map(str, told['info']['features'][label]['names']))
  except (TypeError, KeyError, ValueError):
    return ()
