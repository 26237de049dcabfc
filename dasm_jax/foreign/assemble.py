"""A `SavedSet` of what others published: the images as ours are stored."""

import hashlib
import json
import re
from typing import NamedTuple

import numpy as np

from dasm_jax import config, data, synthetic
from dasm_jax.config import small_images
from dasm_jax.data import registry
from dasm_jax.data.dataset import class_indices
from dasm_jax.errors import UserError
from dasm_jax.foreign import guess, layouts
from dasm_jax.foreign.guess import IMAGENET, NOTHING
from dasm_jax.saved import SavedSet
from dasm_jax.transforms import zca
from dasm_jax.types import Synthetic

# By what families of programs normalise where they differ from the field.
# MTT's has CIFAR-10's numbers for both, FRePo's those that CIFAR-10 has.
STATISTICS = {
    ('mtt', 'cifar100'): (registry.DATASETS['cifar10'].mean,
                          registry.DATASETS['cifar10'].std),
    ('frepo', 'cifar10'): ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ('frepo', 'tiny_imagenet'): ((0.4759, 0.4481, 0.3926),
                                 (0.2763, 0.2687, 0.2813))}
MOST_WHITENED = 64 * 64 * 3  # numbers of an image; the matrix is of its square
MOST_IMAGES = 2 ** 30  # numbers that a set may have as floats


def split(path):
  """`(path, number)` of a path that `#2` may follow; 0 where none does."""
  head, mark, number = str(path).rpartition('#')
  if mark and number.isdecimal() and int(number):
    return head, int(number)
  return str(path), 0


def home(path):
  """The file or folder that a path of `load` names; `UserError` if none."""
  return layouts.existing(split(path)[0])


def load(path, told=NOTHING, data_dir=None):
  """The `SavedSet` of a published file or folder.

  Args:
    path: of a file or folder; `#2` behind it takes the second of several sets,
      the last if none is said.
    told: a `Told`.
    data_dir: where TFDS sets are; None: TFDS_DATA_DIR.

  Returns:
    A `SavedSet`, class-major: labels decide of which class an image is. What
    was found and decided is in `card['source']`: `layout`, `files`, `digest`
    and `notes`, a line each.

  Raises:
    UserError: no set that is known, something that must be told, or data that
      it cannot be of.
  """
  guess.check(told)
  place, number = split(path)
  found = layouts.find(place, number)
  if found.images.size > MOST_IMAGES:
    raise UserError(f'{place!r} has {len(found.images)} images of '
                    f'{found.images.shape[1:]}, more than {MOST_IMAGES} '
                    'numbers; give a part of it')
  kind, about_labels = guess.labels(found, place, told)
  name, classes, about_data = guess.dataset(found, place, told)
  space, eps, about_space = guess.space(found, place, told)
  factor, about_factor = guess.factor(found, place, told)
  recipe, training, about_recipe = guess.training(found, place, told, space)
  real = _real(found, name, classes, data_dir, place)
  images, labels = class_major(
      found, _numbered(found, real), kind, len(real.class_names), place)
  mean, std, about_statistics = _statistics(real, training.family)
  c = _configured(real, training, recipe, eps, images.shape)
  if space == '255':
    images = images / np.float32(255)
  codec = synthetic.codec(
      mean, std, space='normalised' if space == 'normalised' else 'pixels',
      factor=factor, shape=images.shape[2:],
      whitening=_whitening(real, eps, mean, std, training.family))
  recipe = config.evaluation_recipe(c, c.eval.epochs, mean, std)
  usual = recipe.lr
  if found.lr is not None:
    recipe = recipe._replace(lr=found.lr)
  said = [guess.line('layout', found.layout), *found.notes, about_data,
           about_space + about_statistics, about_factor, about_labels,
          *real.notes, about_recipe, _about_rate(found, usual)]
  storage = {'space': codec.space, 'factor': factor, 'formation': codec.kind,
             'zca': eps}
  card = {
      'dataset': name, 'data': real.origin,
      'method': guess.method(found, place) or 'published',
      'ipc': images.shape[1], 'segments': 1, 'network': c.network.to_dict(),
      'recipe': recipe._asdict(), 'recipe_name': c.eval.recipe,
      'real_lr': usual, 'storage': storage,
      'source': {
          'layout': found.layout, 'files': [x.name for x in found.paths][:20],
          'digest': _digest(found, [storage, mean, std, kind]),
          # Rows of real images are of all sets that see them alike.
          'real': {'mean': [*map(float, mean)], 'std': [*map(float, std)],
                   'zca': eps, 'family': training.family * (eps > 0)},
          'notes': [note for note in said if note]}}
  return SavedSet(
      Synthetic(images, labels, np.float32(recipe.lr)), codec, card['network'],
      recipe, c.eval.recipe, real.origin, real.class_names, card)


def notes(set_):
  """What was found and decided of a set of others, a line each."""
  return tuple(set_.card.get('source', {}).get('notes', ()))


def _digest(found, decided):
  """Of the files' contents and of what they were taken for."""
  text = found.digest() + json.dumps(decided, default=float)
  return hashlib.sha256(text.encode()).hexdigest()


def _about_rate(found, usual):
  if found.lr is not None:
    return guess.line('rate', f'{found.lr:.4g}, as learned with the images; '
                      f'{usual:g} on real images')
  if found.layout == 'MTT, FTD, TESLA':
    return guess.line('rate', f'{usual:g}, as the rate that was learned is in '
                      'no file')
  return ''


# ---- The real data that a set is of


class Real(NamedTuple):
  """What is known of the data set.

  name: as `registry` has it. origin: for `loading.load_again`.
  class_names: one per label. data_dir: of TFDS.
  notes: what was decided, a line each.
  """
  name: str
  origin: dict
  class_names: tuple
  data_dir: str | None
  notes: tuple

  def open(self):
    """Its `Dataset`, images to be read."""
    return data.open(**self.origin | {'seed': None}, data_dir=self.data_dir)


def _real(found, name, classes, data_dir, path):
  described = data.describe(name, data_dir=data_dir)
  names, notes = described.class_names, []
  count, size = guess.classes_of(found), found.images.shape[1:]
  if described.missing and name != IMAGENET:
    notes.append(guess.line('classes', f'called 0 to {len(names) - 1}, as data '
                            f'set {name} is not here'))
  named = set(found.classes) <= set(names) and len(found.classes) > 0
  if not classes and named and len(found.classes) < len(names):
    classes = '+'.join(re.sub(r'([+,\\])', r'\\\1', x) for x in found.classes)
  if not classes and count in (10, 100) and len(names) == 1000:
    classes = f'imagenet{count}'
    notes.append(guess.line('classes', f'the list {classes}, as IDC has it'))
  if classes:
    names = tuple(names[k] for k in class_indices(names, classes))
  if count not in (0, len(names)):
    raise UserError(
        f'{str(path)!r} ({found.layout}) has labels of {count} classes, but '
        f'data set {name!r} has {len(names)}; say what it is of by --dataset')
  if found.classes and not named:
    notes.append(guess.line(
        'classes', f'by their order: {found.classes[0]!r} is {names[0]!r}, '
        f'{found.classes[-1]!r} is {names[-1]!r}'))
  shape = _shape(name, described)
  if shape[-1] != size[-1] or (shape != size and size[0] != size[1]):
    raise UserError(
        f'{str(path)!r} ({found.layout}) has images {size}, but data set '
        f'{name!r} has {shape}; say what it is of by --dataset')
  if shape != size:
    notes.append(guess.line('size', f'real images are made {size[0]} x '
                            f'{size[0]}, as those of the set'))
  origin = {'name': data.absolute(name), 'holdout': 0.0, 'seed': 0,
            'size': 0 if shape == size else size[0], 'classes': classes}
  return Real(name, origin, names, data_dir, tuple(notes))


def _shape(name, described):
  """(height, width, channels) of real images, None where they differ."""
  row = registry.DATASETS.get(name)
  return tuple(row.shape if row else described.content()[2])


def _numbered(found, real):
  """The labels of a set by the order of its data set's classes."""
  names = real.class_names
  if found.labels is None or set(found.classes) != set(names):
    return found.labels
  at = np.array([names.index(name) for name in found.classes])
  return at[found.labels]


def _statistics(real, family):
  """`(mean, std, words)` by which real images are normalised."""
  usual = registry.DATASETS.get(real.name)
  if (family, real.name) in STATISTICS:
    whose = 'CIFAR-10' if family == 'mtt' else 'FRePo'
    return *STATISTICS[family, real.name], f', by the statistics of {whose}'
  if family == 'imagenet':
    return *registry.IMAGENET, ', by the statistics of ImageNet, as RDED has it'
  if usual is not None:
    return usual.mean, usual.std, f', by the statistics of {real.name}'
  opened = real.open()
  return (tuple(map(float, opened.mean)), tuple(map(float, opened.std)),
          f', by the statistics of {real.name}')


def _whitening(real, eps, mean, std, family):
  """The `zca.Zca` of the train images, or None for an eps of 0.

  FRePo whitens images that are normalised already, and its eps is a share of
  their mean variance; both steps together are one matrix.
  """
  if not eps:
    return None
  images = real.open().in_memory().train.images
  size = int(np.prod(images.shape[1:]))
  if size > MOST_WHITENED:
    raise UserError(f'--zca={eps} of images of {size} numbers needs a matrix '
                    f'of their square; images of {MOST_WHITENED} or fewer can '
                    'be whitened')
  if family != 'frepo':
    return zca.fit(images, eps)
  mean, std = np.float32(mean), np.float32(std)
  normal = (images / np.float32(255) - mean) / std
  variance = float(np.var(normal.reshape(len(normal), -1), axis=0,
                          dtype=np.float64).mean())
  after = zca.fit(normal, eps * variance)
  pixels = size // len(mean)
  mean, std = (np.tile(np.float64(x), pixels) for x in (mean, std))
  return zca.Zca(mean + std * after.mean, after.matrix / std[:, None],
                 after.inverse * std)


# ---- Images and labels


def class_major(found, labels, kind, classes, path):
  """`(images [classes, ipc, h, w, c], labels [classes, ipc, classes])`.

  Args:
    found: a `layouts.Found`. labels: its labels, or None.
    kind: one of `guess.LABELS`.
    classes: how many the data set has.
    path: for errors.

  Returns:
    float32; labels are probabilities. The images of a class keep their order.

  Raises:
    UserError: unequally many of the classes.
  """
  n = len(found.images)
  if labels is None and n % classes == 0:
    labels = np.repeat(np.arange(classes), n // classes)
  elif labels is None:
    raise UserError(f'{str(path)!r} ({found.layout}) has {n} images without '
                    f'labels, which are no whole number for each of {classes} '
                    'classes; put its labels beside it')
  soft = None
  if labels.ndim == 2:
    soft = None if kind == 'hard' else probabilities(labels, kind, path)
    labels = labels.argmax(1)
  counts = np.bincount(labels, minlength=classes)
  if (counts == counts[0]).all():
    order = np.argsort(labels, kind='stable')
  elif soft is not None and n % classes == 0:
    # Of soft labels every image has its own, wherever it stands.
    order = np.arange(n)
  else:
    few, many = counts.argmin(), counts.argmax()
    raise UserError(
        f'{str(path)!r} ({found.layout}) has {counts[few]} images of class '
        f'{few} and {counts[many]} of class {many}; a set needs as many of '
        'each: leave some out')
  images = found.images[order].astype(np.float32)
  one_hot = np.eye(classes, dtype=np.float32)[labels[order]]
  given = one_hot if soft is None else synthetic.stored_labels(soft[order])
  return (images.reshape(classes, -1, *images.shape[1:]),
          given.reshape(classes, -1, classes))


def probabilities(rows, kind, path=''):
  """Labels `[n, classes]` of a kind as the probabilities that are trained on.

  Of logits that is their softmax. Centred ones are one-hot rows less
  1 / classes, which may have been learned since: what falls below 0 is cut.
  """
  rows = np.asarray(rows, np.float64)
  if kind == 'logits':
    rows = np.exp(rows - rows.max(1, keepdims=True))
  elif kind == 'centred':
    rows = np.maximum(rows + 1 / rows.shape[1], 0)
  sums = rows.sum(1, keepdims=True)
  if (rows < -1e-6).any() or (sums <= 0).any():
    raise UserError(f'{str(path)!r} has labels that are no {kind}: from '
                    f'{rows.min():.3g}, in rows that sum to {sums.min():.3g} '
                    'and more; --labels says what they are')
  return (np.maximum(rows, 0) / sums).astype(np.float32)


# ---- How it is trained


def _configured(real, training, recipe, eps, shape):
  """A configuration whose network and evaluation are those of a set."""
  c = config.defaults(training.like)
  c.dataset.name, c.dataset.zca, c.eval.epochs = real.name, eps, training.epochs
  classes, ipc, side, *_ = shape
  if training.like in ('sre2l', 'rded'):
    config.set_network(c, 'resnet')
    c.network.update(small_images.RESNET18 if side <= 64 else {'depth': 18})
  elif 'depth' in c.network:
    c.network.depth = depth(side)
  if training.like == 'rded':
    c.eval.batch = small_images.rded_batch(ipc, classes)
  more = {'sre2l_cifar': small_images.SRE2L_CIFAR,
          'sre2l_tiny': small_images.SRE2L_TINY}.get(recipe, {})
  c.update_from_flattened_dict({
      name: value for name, value in more.items() if name.startswith('eval.')})
  if real.name in config.UNFLIPPED:
    config.remove_flips(c)
  if real.name == IMAGENET and training.like in ('sre2l', 'rded'):
    real.origin['test_crop'] = 0.875
  return c


def depth(side):
  """Blocks of a ConvNet for images of a side, as the field has them."""
  for blocks, least in ((6, 224), (5, 128), (4, 64), (3, 16)):
    if side >= least:
      return blocks
  return 2
