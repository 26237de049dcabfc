"""Formats that hold 8-bit pictures: decoded, as pixels, before normalisation.

Who reads them knows no factor, and no space but pixels: they are for eyes, and
for programs that take image files. They are the set up to rounding, and cannot
be that set again; `rounding` says how far they are from it.

Sections: decoding and rounding, folders, Hugging Face datasets, TFDS, what the
three of them have in common.
"""

import contextlib
import io
import json
import os
import pathlib
import re

import numpy as np

from dasm_jax import synthetic
from dasm_jax.data import images as image_files
from dasm_jax.data import tfds as tfds_sets
from dasm_jax.data import tfds_features, tfds_prepare
from dasm_jax.errors import UserError
from dasm_jax.evaluate.exported.folders import plain_name
from dasm_jax.runtime import npz, records

ZCA = 'zca.npz'  # zca_mean and zca_matrix, where real images are whitened
SOFT = 'labels.npy'  # [n, classes], beside folders of classes

# ---- Decoding and rounding


def check(source, to):
  """Raises `UserError` for a set that pictures cannot hold."""
  if source.set.logits is not None:
    raise UserError(
        f'--to={to} has a label for each image, and this set has labels told '
        'for each epoch, of views that dasm_jax draws; take --to=npz, '
        '--to=safetensors, --to=pt or --to=card, which hold them')
  channels = source.set.shape[-1]
  if channels not in (1, 3):
    raise UserError(f'--to={to} is of gray or coloured images, and these have '
                    f'{channels} channels; take --to=npz or --to=safetensors')


def rounded(set_):
  """A set decoded, to 8 bits.

  set_: a `SavedSet`.

  Returns:
    `(images, labels, rounding)`: `[classes, decoded, h, w, c]` uint8,
    `[classes, decoded, classes]`, and `{'largest', 'beyond'}`: how far a pixel
    is from that of the set, on [0, 1], and which share of the pixels was
    beyond [0, 1].
  """
  codec = synthetic.training_codec(set_.codec)
  out, largest, beyond = [], 0.0, 0
  for stored in set_.syn.images:  # class by class: they need not all fit
    pixels = np.asarray(synthetic.unclipped_pixels(
        codec, synthetic.decode(codec, stored)))
    out.append(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8))
    largest = max(largest, float(np.abs(pixels - out[-1] / 255.0).max()))
    beyond += int(((pixels < 0) | (pixels > 1)).sum())
  out = np.stack(out)
  from_ = synthetic.decoded_from(codec, set_.ipc)
  return out, set_.syn.labels[:, from_], {
      'largest': largest, 'beyond': beyond / out.size}


def rounding_text(rounding):
  """What is said of a `rounding`."""
  beyond = rounding['beyond']
  return ('8-bit pixels, decoded: they differ from those of the set by up to '
          f'{rounding["largest"]:.4f} on [0, 1]' + (
              f'; {beyond:.1%} of these lay beyond it, and are cut'
              if beyond else ''))


def stored(folder, found, labels, card, told):
  """`(arrays, card)` of a set of the pictures that a folder holds.

  Args:
    folder: a path.
    found: `[n, height, width, channels]` uint8, class after class.
    labels: `[n]` class numbers, or `[n, classes]` probabilities.
    card: of the set that they were made of. told: of the export.
  """
  names = told['class_names']
  found = found.reshape(len(names), -1, *found.shape[1:])
  labels = labels.reshape(*found.shape[:2], *labels.shape[1:])
  # What was measured was measured on the set itself.
  kept = {name: value for name, value in card.items()
          if name not in ('accuracy', 'segment_images')}
  if card['storage']['factor'] == 1 and 'segment_images' in card:
    kept['segment_images'] = card['segment_images']
  kept |= {'ipc': found.shape[1], 'decoding': 'none: each stored image is one',
           'storage': card['storage'] | {
               'space': 'pixels', 'factor': 1, 'formation': 'single'},
           'rounded': told['rounding'] | {'from': told['set']}}
  if 'accuracy' in card:
    kept['accuracy_before'] = card['accuracy']
  arrays = {
      'images': found.astype(np.float32) / 255,
      'labels': labels.astype(np.float16 if labels.ndim == 3 else np.int32),
      'label_kind': np.array(told['label_kind']),
      'class_names': np.array(names), 'mean': np.float32(told['mean']),
      'std': np.float32(told['std']), 'factor': np.int32(1),
      'space': np.array('pixels')}
  if (folder / ZCA).is_file():
    arrays |= npz.read(folder / ZCA)
  return arrays, kept


# ---- Folders


def write_folder(folder, source):
  """Writes train/<class>/<number>.png, and labels.npy of soft labels.

  Returns:
    Names of what is in `folder`, and `folders`, one per class, `rounding`.
  """
  found, labels, rounding = rounded(source.set)
  places = folder_names(source.set.class_names)
  digits = len(str(found.shape[1] - 1))
  for place, images in zip(places, found, strict=True):
    into = folder / 'train' / place
    into.mkdir(parents=True)
    for number, image in enumerate(images):
      (into / f'{number:0{digits}}.png').write_bytes(_png(image))
  names = ['train', *_write_soft(folder, source, labels)]
  return names + _write_zca(folder, source), {
      'folders': places, 'rounding': rounding}


def read_folder(folder, card, told):
  """`(arrays, card)`; see `stored`."""
  if len(told['folders']) != len(told['class_names']):
    raise ValueError(f'{len(told["folders"])} folders for '
                     f'{len(told["class_names"])} classes')
  files = [path for place in told['folders'] for path in sorted(
      (folder / 'train' / plain_name(place)).glob('*.png'))]
  images = np.stack([_decoded(path.read_bytes(), told['shape'])
                     for path in files])
  if (folder / SOFT).is_file():
    labels = np.load(folder / SOFT, allow_pickle=False)
  else:
    count = len(told['class_names'])
    labels = np.repeat(np.arange(count), len(images) // count)
  return stored(folder, images, labels, card, told)


def folder_names(names):
  """A folder's name for each class: its own, if that can be one."""
  out = []
  for number, name in enumerate(names):
    # What Windows, macOS and Linux let a folder be called.
    plain = re.sub(r'[\x00-\x1f<>:"/\\|?*]', '_', name).strip(' .')
    while len(plain.encode()) > 200:
      plain = plain[:-1]
    out.append(plain or f'class_{number}')
  # ImageNet has two classes that are called crane, and two maillot.
  lower = [name.lower() for name in out]
  return [f'{name}_{number}' if lower.count(name.lower()) > 1 else name
          for number, name in enumerate(out)]


# ---- Hugging Face datasets

PARQUET = 'train-00000-of-00001.parquet'
ROWS = 100  # of a group, which a reader takes into memory at once


def write_hf(folder, source):
  """Writes data/train-….parquet, which `datasets.load_dataset` opens.

  Columns: `image`, `label`, and `probabilities` of soft labels.

  Raises:
    UserError: pyarrow is missing.
  """
  arrow, parquet = _pyarrow()
  found, labels, rounding = rounded(source.set)
  classes = len(source.set.class_names)
  schema = {'image': arrow.struct({'bytes': arrow.binary(),
                                   'path': arrow.string()}),
            'label': arrow.int64()}
  features = {'image': {'_type': 'Image'},
              'label': {'names': list(source.set.class_names),
                        '_type': 'ClassLabel'}}
  soft = source.card['label_kind'] == 'soft'
  if soft:
    schema['probabilities'] = arrow.list_(arrow.float32(), classes)
    features['probabilities'] = {
        'feature': {'dtype': 'float32', '_type': 'Value'}, 'length': classes,
        '_type': 'Sequence'}
  schema = arrow.schema(schema, {
      'huggingface': json.dumps({'info': {'features': features}})})
  (folder / 'data').mkdir()
  with records.replacing(folder / 'data' / PARQUET) as file:
    with parquet.ParquetWriter(file, schema) as writer:
      for rows in _groups(_rows(found, labels)):
        columns = {
            'image': [{'bytes': png, 'path': f'{number}.png'}
                      for number, png, _, _ in rows],
            'label': [label for _, _, label, _ in rows]}
        if soft:
          columns['probabilities'] = [row for *_, row in rows]
        writer.write_table(arrow.table(columns, schema))
  return ['data', *_write_zca(folder, source)], {'rounding': rounding}


def read_hf(folder, card, told):
  """`(arrays, card)`; see `stored`."""
  table = _pyarrow()[1].read_table(folder / 'data' / PARQUET)
  images = np.stack([_decoded(cell['bytes'].as_py(), told['shape'])
                     for cell in table['image']])
  soft = 'probabilities' in table.column_names
  labels = np.array(table['probabilities' if soft else 'label'].to_pylist())
  return stored(folder, images, labels, card, told)


def _pyarrow():
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError as error:
    raise UserError("--to=hf needs pyarrow: pip install 'dasm-jax[export]', or "
                    'pip install pyarrow; --to=folder does without') from error
  return pyarrow, pyarrow.parquet


def _groups(rows):
  group = []
  for row in rows:
    group.append(row)
    if len(group) == ROWS:
      yield group
      group = []
  if group:
    yield group


# ---- TFDS

VERSION = '1.0.0'


def write_tfds(folder, source):
  """Writes 1.0.0/, a set prepared by TFDS as array_record, of one split.

  Features: `image`, `label`, and `probabilities` of soft labels.

  Raises:
    UserError: tensorflow-datasets is missing.
  """
  tfds, registered = _tfds()
  found, labels, rounding = rounded(source.set)
  set_, soft = source.set, source.card['label_kind'] == 'soft'
  features = {
      'image': tfds.features.Image(shape=set_.shape, encoding_format='png'),
      # Of a file of lines.
      'label': tfds.features.ClassLabel(
          names=[' '.join(name.split()) or str(number)
                 for number, name in enumerate(set_.class_names)])
      if len(set(set_.class_names)) == len(set_.class_names) else
      tfds.features.ClassLabel(num_classes=len(set_.class_names))}
  if soft:
    features['probabilities'] = tfds.features.Tensor(
        shape=(len(set_.class_names),), dtype=np.float32)

  def info(self):
    # As they come, class after class.
    return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features),
        description='A distilled set; see the README.md beside it.',
        disable_shuffling=True)

  def examples(self):
    for number, png, label, row in _rows(found, labels):
      yield number, {'image': io.BytesIO(png), 'label': label,
                     **({'probabilities': np.float32(row)} if soft else {})}

  name = tfds_name(source)
  with registered.skip_registration(), tfds_prepare.quiet_tfds(), (
      contextlib.redirect_stdout(io.StringIO())):
    kind = type(name, (tfds.core.GeneratorBasedBuilder,), {
        'VERSION': tfds.core.Version(VERSION), 'name': name,
        '__module__': __name__, '_info': info,
        '_generate_examples': examples,
        '_split_generators': lambda self, manager: {
            'train': self._generate_examples()}})
    aside = folder / 'aside'
    kind(data_dir=os.fspath(aside),
         file_format='array_record').download_and_prepare()
  (aside / name / VERSION).rename(folder / VERSION)
  _remove_empty(aside)
  return [VERSION, *_write_zca(folder, source)], {'rounding': rounding}


def read_tfds(folder, card, told):
  """`(arrays, card)`; see `stored`."""
  tfds, _ = _tfds()
  place = folder / VERSION
  tfds_features.check_features(place)
  images, labels, rows = [], [], []
  with tfds_prepare.quiet_tfds():
    builder = tfds.builder_from_directory(os.fspath(place))
    with tfds_sets.open_source(builder.name, builder, 'train') as source:
      for number in range(len(source)):
        row = tfds_sets.features_of(source[number])
        images.append(_decoded(row['image'].bytes_list.value[0],
                               told['shape']))
        labels.append(row['label'].int64_list.value[0])
        if 'probabilities' in row:
          rows.append(row['probabilities'].float_list.value)
  return stored(folder, np.stack(images), np.array(rows or labels), card, told)


def tfds_name(source):
  """What TFDS calls the set: letters, digits and underscores."""
  card = source.card
  of = pathlib.PurePath(str(card.get('dataset', 'set'))).name
  text = f'{of}_{card["method"]}_ipc{source.set.ipc}'.lower()
  text = re.sub('[^a-z0-9]+', '_', text).strip('_')
  return text if text[:1].isalpha() else f'set_{text}'


def _tfds():
  try:
    import tensorflow_datasets
    from tensorflow_datasets.core import registered
  except ImportError as error:
    raise UserError('--to=tfds needs tensorflow-datasets and array-record: pip '
                    'install tensorflow-datasets array-record; --to=folder '
                    'does without') from error
  return tensorflow_datasets, registered


def _remove_empty(folder):
  for path in sorted(folder.rglob('*'), reverse=True):
    path.rmdir()
  folder.rmdir()


# ---- What the three of them have in common


def _rows(images, labels):
  """Yields `(number, PNG, class number, probabilities)`, class after class."""
  number = 0
  for index, (some, rows) in enumerate(zip(images, labels, strict=True)):
    for image, row in zip(some, rows, strict=True):
      # Of soft labels, too, the class that the image was made for.
      yield number, _png(image), index, row
      number += 1


def _png(image):
  from PIL import Image
  file = io.BytesIO()
  shape = image.shape[:2] if image.shape[-1] == 1 else image.shape
  Image.fromarray(image.reshape(shape)).save(file, format='PNG')
  return file.getvalue()


def _decoded(data, shape):
  """A PNG as `[height, width, channels]` uint8; ValueError for other sizes."""
  from PIL import Image
  image_files.quiet_pillow()
  with Image.open(io.BytesIO(data), formats=['PNG']) as image:
    wanted = {1: 'L', 3: 'RGB'}.get(shape[-1])
    # Asked before the pixels are read: the file may tell any size.
    if image.size != (shape[1], shape[0]) or image.mode != wanted:
      raise ValueError(f'an image of {image.size}, {image.mode}, in a set of '
                       f'{shape}')
    return np.asarray(image).reshape(shape)


def _write_soft(folder, source, labels):
  if source.card['label_kind'] != 'soft':
    return []
  with records.replacing(folder / SOFT) as file:
    np.save(file, labels.reshape(-1, labels.shape[-1]).astype(np.float32))
  return [SOFT]


def _write_zca(folder, source):
  found = {name: source.arrays[name] for name in ('zca_mean', 'zca_matrix')
           if name in source.arrays}
  if not found:
    return []
  with records.replacing(folder / ZCA) as file:
    np.savez(file, **found)
  return [ZCA]
