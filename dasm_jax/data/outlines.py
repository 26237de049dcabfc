"""What a data set is like, from its description: no image is read."""

import numpy as np

from dasm_jax.data import digits, folder, images, prepare, records
from dasm_jax.data.directory import locate
from dasm_jax.data.splits import Dataset, Split, brief, stratify
from dasm_jax.data.table import row_of
from dasm_jax.errors import UserError

# Train and test images of what TFDS describes only once it is prepared.
COUNTS = {
    'mnist': (60_000, 10_000), 'fashion_mnist': (60_000, 10_000),
    'svhn_cropped': (73_257, 26_032), 'cifar10': (50_000, 10_000),
    'cifar100': (50_000, 10_000), 'imagenet2012': (1_281_167, 50_000)}


def outline(name, *, data_dir=None, size=0, holdout=0.0, seed=0):
  """What `data.load` would return, its images black and without memory.

  The classes of a TFDS set count as equally large: its description does not
  say. Takes what `data.load` takes; raises `UserError`.
  """
  if name == 'digits':
    train, test, names = digits.load()
    train, test, shape = train.labels, test.labels, train.images.shape[1:]
  elif name.startswith('folder:'):
    train, test, names, shape = _folder(name[7:], size, holdout)
  else:
    train, test, names, shape = _tfds(name, data_dir, size, holdout)
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
  files = folder.labelled(layout.train, layout.class_names)
  labels = np.array([label for _, label in files])
  if layout.test is not None:
    test = np.array([label for _, label in folder.labelled(
        layout.test, layout.class_names)])
  elif layout.cut:
    kept, held = stratify(labels, 0.2)
    labels, test = labels[kept], labels[held]
  else:
    test = labels[:0]
  try:
    shape = images.decode(files[0][0], size).shape
  except Exception as error:  # A broken file makes its decoder raise anything.
    raise UserError(f'cannot read {str(files[0][0])!r}: {brief(error)}; remove '
                    'it') from error
  return labels, test, layout.class_names, shape


def _tfds(name, data_dir, size, holdout):
  prepared = locate(name, data_dir) is not None
  with prepare.quiet():
    if prepared:
      builder = records.check(name, data_dir, holdout)
    else:
      builder = prepare.registered(name, data_dir)
      records.check_features(name, builder)
  counts = _counts(name, builder, holdout)
  label, shape = (builder.info.features[x] for x in ('label', 'image'))
  classes = label.num_classes
  if not classes:
    raise UserError(f'data set {name!r} does not say how many classes it has; '
                    'run it without --dry_run')
  names = tuple(label.names or map(str, range(classes)))
  train, test = (np.arange(count) % classes for count in counts)
  return train, test, names, shape.shape


def _counts(name, builder, holdout):
  """(train, test) images."""
  splits = builder.info.splits
  if splits:
    test = records.test_split(name, builder, holdout)
    return (splits['train'].num_examples,
            splits[test].num_examples if test else 0)
  if row_of(builder.name) and builder.name in COUNTS:
    return COUNTS[builder.name]
  raise UserError(f'data set {name!r} is not prepared, and TFDS does not say '
                  'how many images it has; prepare it first')
