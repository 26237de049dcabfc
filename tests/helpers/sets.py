"""Small TFDS sets, written as array_record."""

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from dasm_jax.data import tfds_prepare


def build(root, name, splits, shape, label='label'):
  """Writes a set of the classes no and yes below `root`.

  splits: `{split: [(image, label)]}`; an image is a Pillow one, or a file of
  encoded bytes that need not be an image. shape: of the feature.
  """
  def info(self):
    features = tfds.features.FeaturesDict({
        'image': tfds.features.Image(shape=shape),
        label: tfds.features.ClassLabel(names=['no', 'yes'])})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def examples(self, rows):
    for key, (image, value) in enumerate(rows):
      yield key, {'image': image, label: value}

  def generators(self, manager):
    return {split: self._generate_examples(rows)
            for split, rows in splits.items()}

  kind = type(name, (tfds.core.GeneratorBasedBuilder,), {
      'VERSION': tfds.core.Version('1.0.0'), 'name': name,
      '__module__': __name__, '_info': info, '_generate_examples': examples,
      '_split_generators': generators})
  with tfds_prepare.quiet_tfds():
    kind(data_dir=str(root), file_format='array_record'
         ).download_and_prepare()


def written(tmp_path_factory):
  """`(directory, images)` of them."""
  root = tmp_path_factory.mktemp('tfds')
  images = np.random.RandomState(0).randint(0, 256, (6, 5, 7, 3), np.uint8)

  def builder(name, channels=3, shape=(5, 7), tests='validation', low=0,
              label='label'):
    def example(row, low=0):
      array = images[row] if channels == 3 else images[row, ..., 0]
      crop = row if shape == (None, None) else 0
      return Image.fromarray(array[:, :7 - crop]), max(row % 2 + low, -1)

    splits = {'train': [example(row) for row in range(4)]}
    if tests:
      splits[tests] = [example(row, low) for row in range(4, 6)]
    build(root, name, splits, (*shape, channels), label)

  builder('tiny_set')
  builder('tiny_gray', channels=1, tests='test')
  builder('tiny_sizes', shape=(None, None))
  builder('tiny_alone', tests=None)
  builder('tiny_secret', tests='test', low=-2)
  builder('tiny_other', label='answer')
  builder('tiny_imagenet_2')
  return root, images
