"""What a data set is like, from its description: no image is read."""

import numpy as np

from dasm_jax.data import digits, folder, images, tfds, tfds_prepare
from dasm_jax.data.dataset import Dataset, Split, brief, stratify
from dasm_jax.data.tfds_prepare import locate
from dasm_jax.errors import UserError

# What is known of sets that need not be prepared: train and test images, their
# shape, classes.
KNOWN_SETS = {
    'mnist': (60_000, 10_000, (28, 28, 1), 10),
    'fashion_mnist': (60_000, 10_000, (28, 28, 1), 10),
    'svhn': (73_257, 26_032, (32, 32, 3), 10),
    'cifar10': (50_000, 10_000, (32, 32, 3), 10),
    'cifar100': (50_000, 10_000, (32, 32, 3), 100),
    'tiny_imagenet': (100_000, 10_000, (64, 64, 3), 200),
    'imagenet2012': (1_281_167, 50_000, (None, None, 3), 1000)}


def outline(name, *, data_dir=None, size=0, holdout=0.0, seed=0):
  """What `data.load` would return, its images black and without memory.

  The classes of a TFDS set count as equally large: its description does not
  say. Takes what `data.load` takes; raises `UserError`.
  """
  if name == 'digits':
    train, test, names = digits.load()
    train, test, shape = train.labels, test.labels, train.images.shape[1:]
  elif name.startswith(folder.PREFIX):
    train, test, names, shape = _folder(
        name[len(folder.PREFIX):], size, holdout)
  else:
    train, test, names, shape = _tfds(name, data_dir, holdout)
  if size:
    shape = (size, size, shape[-1])
  if None in shape:
    raise UserError(f'images of data set {name!r} differ in size; set '
                    '--config.dataset.size=')
  if holdout:
    kept, held = stratify(train, holdout, seed)
    train, test = train[kept], train[held]
  grey = (0.5,) * shape[-1]
  return Dataset(name, _black(train, shape), _black(test, shape), names, grey,
                 grey)


def _black(labels, shape):
  images_ = np.broadcast_to(np.uint8(0), (len(labels), *shape))
  return Split(images_, np.asarray(labels, np.int32))


def _folder(path, size, holdout):
  layout = folder.check(path, holdout)
  files = list(folder.labelled(layout.train, layout.class_names))
  labels = np.array([label for _, label in files])
  if layout.test is not None:
    test = np.array([label for _, label in folder.labelled(
        layout.test, layout.class_names)])
  elif layout.cut:
    kept, held = stratify(labels, 0.2)
    labels, test = labels[kept], labels[held]
  else:
    test = labels[:0]
  return labels, test, layout.class_names, _first_shape(
      [path for path, _ in files], size)


def _first_shape(paths, size):
  """Of the first image that can be read, as a run will leave the others out."""
  for path in paths:
    try:
      return images.decode(path, size).shape
    except Exception as error:  # A decoder raises anything.
      last = error
  raise UserError(f'none of {len(paths)} images can be read, such as '
                  f'{str(paths[-1])!r}: {brief(last)}')


def _tfds(name, data_dir, holdout):
  if locate(name, data_dir) is None and name in KNOWN_SETS:
    *counts, shape, classes = KNOWN_SETS[name]
    names = names_of(name, data_dir) or tuple(map(str, range(classes)))
  else:
    counts, shape, names = _described(name, data_dir, holdout)
  train, test = (np.arange(count) % len(names) for count in counts)
  return train, test, names, shape


def names_of(name, data_dir=None):
  """The classes' names as TFDS knows them without the data, or None."""
  try:
    with tfds_prepare.quiet_tfds():
      builder = tfds_prepare.registered_builder(name, data_dir)
      return tuple(builder.info.features['label'].names)
  except UserError:  # Tiny ImageNet is not in TFDS.
    return None


def _described(name, data_dir, holdout):
  """`(counts, shape, class names)` as TFDS knows them."""
  builder = tfds.check(name, data_dir, holdout)
  splits, features = builder.info.splits, builder.info.features
  if not (splits and features['label'].num_classes):
    raise UserError(f'data set {name!r} is not prepared, and TFDS does not say '
                    'how many images and classes it has; prepare it first')
  test = tfds.test_split(name, builder, holdout)
  counts = [splits[split].num_examples if split else 0
            for split in ('train', test)]
  label = features['label']
  names = label.names or map(str, range(label.num_classes))
  return counts, features['image'].shape, tuple(names)
