"""Small TFDS sets, written as array_record."""

import tensorflow_datasets as tfds

from dasm_jax.data import prepare


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
  with prepare.quiet():
    kind(data_dir=str(root), file_format='array_record'
         ).download_and_prepare()
