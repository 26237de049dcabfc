"""What a file of others does not say: told by the user, or guessed and said.

Each question has a function `(found, …, told) -> answer`, whose last part is a
line that says what was decided and by what. What is doubtful is refused, with
the flag that settles it: a wrong guess here makes a set look worthless.

The thresholds are ours. They separate real CIFAR-10 images on [0, 1],
normalised (std 1.2, neighbouring pixels correlated by .93), and whitened as MTT
does (.26, .63) and FRePo (.47, .36); distilled images drift from these.
"""

import os
import re
from typing import NamedTuple

import numpy as np

from dasm_jax.data import registry
from dasm_jax.errors import UserError, unknown
from dasm_jax.runtime import paths
from dasm_jax.synthetic import class_numbers

SPACES = ('pixels', 'normalised', '255')
LABELS = ('hard', 'probabilities', 'logits', 'centred')
PIXELS_WITHIN = -0.2, 1.2  # IDC does not cut its images at 0 and 1
NORMALISED_STD = 0.7, 1.7
NEIGHBOURS = 0.75  # correlation of pixels, below which images may be whitened
SEAM, NO_SEAM = 1.8, 1.4  # steps between cells, over those within
PLAIN = 0.85  # correlation of neighbours of images that are in one piece
ZCA_EPS = 0.1  # of MTT and all who follow it
MOST_LOOKED_AT = 500  # images, to tell what they are


class Told(NamedTuple):
  """What the user says of a set; what is empty is found out.

  dataset: what it is of, such as cifar10 or folder:PATH; for a set of ours,
    where its data are now.
  space: of its values, one of `SPACES`.
  zca: eps of the whitening its images are in; 0: they are not; None: unsaid.
  factor: cells along a side of a stored image (IDC).
  recipe: how networks are trained on it, one of `RECIPES`.
  labels: what rows of real numbers are, one of `LABELS`.
  """
  dataset: str = ''
  space: str = ''
  zca: float | None = None
  factor: int = 0
  recipe: str = ''
  labels: str = ''


NOTHING = Told()


def check(told):
  """Raises `UserError` for a value of `Told` that is none of its choices."""
  for name, choices in (('space', SPACES), ('recipe', RECIPES),
                        ('labels', LABELS)):
    value = getattr(told, name)
    if value and value not in choices:
      raise unknown(f'--{name}', value, choices)
  if told.zca is not None and not 0 <= told.zca < 1e3:
    raise UserError(f'--zca={told.zca} must be 0 (not whitened) or the eps of '
                    'the whitening, .1 in MTT')
  if told.factor < 0:
    raise UserError(f'--factor={told.factor} must be at least 1')
  if told.zca and told.space in ('pixels', '255'):
    raise UserError(f'--zca={told.zca} and --space={told.space} contradict '
                    'each other: whitened images are no pixels; leave one out')


def words(path):
  """Lists of lower-case words of the last parts of a path, the last first."""
  # A file is known by the folders that it is in, wherever one stands.
  path = str(path) if paths.is_remote(path) else os.path.abspath(path)
  parts = [part for part in path.split('/') if part][-5:]
  return [[word for word in re.split(r'[^a-z0-9]+', part.lower()) if word]
          for part in reversed(parts)]


def line(what, text):
  """A line of what is said of a set."""
  return f'{what:<10}{text}'


# ---- Which data set


IMAGENET = 'imagenet2012'
# Words of paths, in the order in which they are looked for: what a data set is
# called, and the list of its classes.
DATASET_WORDS = (
    (r'fashion(_?mnist)?|fmnist', 'fashion_mnist', ''),
    (r'cifar_?100', 'cifar100', ''),
    (r'cifar_?10', 'cifar10', ''),
    (r'svhn', 'svhn', ''),
    (r'mnist', 'mnist', ''),
    (r'tiny(_?image_?net(_?200)?)?', 'tiny_imagenet', ''),
    *((rf'(image)?{name.removeprefix("image")}', IMAGENET, name)
      for name in registry.CLASS_LISTS if 'net1' not in name),
    (r'image_?net_?100', IMAGENET, 'imagenet100'),
    (r'image_?net_?10', IMAGENET, 'imagenet10'),
    (r'image_?net(_?1k|2012)?', IMAGENET, ''),
    (r'digits', 'digits', ''))
DIGITS = ((8, 8, 1), 10)


def classes_of(found):
  """How many classes the labels of a `layouts.Found` tell; 0: there are none.

  Of class numbers that is the largest and one.
  """
  if found.labels is None:
    return 0
  return int(found.labels.max()) + 1 if found.labels.ndim == 1 else (
      found.labels.shape[1])


def dataset(found, path, told):
  """`(name, list of classes, line)`: what a set is of.

  Raises:
    UserError: nobody knows.
  """
  count, shape = classes_of(found), found.images.shape[1:]
  named = _named(path, shape, count)
  if told.dataset:
    classes = ''
    if told.dataset == IMAGENET:
      classes = next((c for name, c, _ in named if name == IMAGENET),
                     _list_of(count))
    return told.dataset, classes, line('data', ' '.join(filter(None, (
        told.dataset, classes))) + ', as told')
  for name, classes, word in named:
    return name, classes, line('data', ' '.join(filter(None, (
        name, classes))) + f', by {word!r} in the path')
  fitting = [name for name in (*registry.DATASETS, 'digits')
             if _fits(name, '', shape, count)]
  size = 'x'.join(map(str, shape))
  if len(fitting) == 1 and fitting[0] != IMAGENET:
    return fitting[0], '', line(
        'data', f'{fitting[0]}, by {count} classes of {size}')
  choices = fitting or ['NAME']
  raise UserError(
      f'{str(path)!r} ({found.layout}) does not say which data it is of: '
      f'{count or "an unknown number of"} classes of {size}; say it by '
      f'--dataset={" or --dataset=".join(choices)}, or --dataset=folder:PATH')


def _named(path, shape, count):
  """`[(name, list of classes, word)]` of data sets in a path that fit."""
  out = []
  for part in words(path):
    joined = '_'.join(part)
    for pattern, name, classes in DATASET_WORDS:
      # No digit behind it: cifar10 is in cifar100.
      match = re.search(rf'(?<![a-z]){pattern}(?![0-9a-z])', joined)
      if match is None:
        continue
      classes = classes or (_list_of(count) if name == IMAGENET else '')
      if _fits(name, classes, shape, count):
        out.append((name, classes, match[0]))
  return out


def _list_of(count):
  """IDC's lists of ImageNet's classes, by how many there are."""
  return {10: 'imagenet10', 100: 'imagenet100'}.get(count, '')


def _fits(name, classes, shape, count):
  row = registry.DATASETS.get(name)
  known, own = (row.shape, row.classes) if row else DIGITS
  own = len(registry.CLASS_LISTS[classes]) if classes else own
  return (count in (0, own) and known[-1] == shape[-1] and (
      None in known or known == shape))


# ---- Of what the values are


def space(found, path, told):
  """`(space, eps of the whitening or 0, line)` of the stored values.

  Raises:
    UserError: they look like several, or like none.
  """
  low, high, mean, std = look(found.images)
  seen = f'mean {mean:.3g}, std {std:.3g}, from {low:.3g} to {high:.3g}'
  in_pixels = PIXELS_WITHIN[0] <= low and high <= PIXELS_WITHIN[1]
  in_bytes = found.images.dtype.kind in 'iu' or (
      low >= -1 and 2 < high < 300 and mean > 2)
  if told.zca:
    if in_pixels or in_bytes:
      raise _contradiction(path, found, f'--zca={told.zca}', seen)
    return 'normalised', told.zca, line(
        'space', f'whitened ({seen}), eps {told.zca:g}, as told')
  if told.space:
    return told.space, 0.0, line('space', f'{told.space} ({seen}), as told')
  if found.space and not {
      'pixels': low > -1 and high < 2, '255': low >= 0 and high <= 255,
      'normalised': not (in_pixels or in_bytes)}[found.space]:
    raise _contradiction(path, found, f'its layout means {found.space}', seen)
  if found.space == '255' or in_bytes:
    return '255', 0.0, line('space', f'bytes, 0 to 255 ({seen})')
  if found.space == 'pixels' or (in_pixels and found.space == ''):
    why = f', as {found.layout} stores' if found.space else ''
    return 'pixels', 0.0, line('space', f'pixels on [0, 1] ({seen}){why}')
  if found.space == 'normalised':
    return 'normalised', 0.0, line(
        'space', f'channel-normalised ({seen}), as {found.layout} stores')
  whitened, why = _whitened(found, path, std, seen, told)
  if whitened:
    return 'normalised', whitened, line(
        'space', f'whitened ({seen}), eps {whitened:g}, {why}')
  return 'normalised', 0.0, line('space', f'channel-normalised ({seen}){why}')


def look(images):
  """`(min, max, mean, std)`, the last two of some images."""
  some = sample(images)
  return (float(images.min()), float(images.max()), float(some.mean()),
          float(some.std()))


def sample(images):
  """Some images, evenly spaced, as float64: enough to tell spaces apart."""
  return np.asarray(images[::-(-len(images) // MOST_LOOKED_AT)], np.float64)


def _contradiction(path, found, what, seen):
  return UserError(
      f'{str(path)!r} ({found.layout}): {what}, but its values have {seen}; '
      f'say what they are by --space={" or --space=".join(SPACES)}'
      + (', without --zca' if '--zca' in what else ''))


def _whitened(found, path, std, seen, told):
  """`(eps or 0, why)` of values that are no pixels."""
  if told.zca is not None:
    return 0.0, ', not whitened, as told'
  if not found.whitens:
    return 0.0, ''
  for part in words(path):
    joined = '_'.join(part)
    if re.search(r'(no|non|without|wo)_?zca', joined):
      return 0.0, ', not whitened, by its path'
    if 'zca' in part:
      return ZCA_EPS, "by 'zca' in the path"
  if found.layout == 'FRePo':
    if found.images.shape[-1] == 1:
      return 0.0, ', as FRePo normalises gray images'
    return ZCA_EPS, 'as FRePo whitens images in colour'
  low, high = NORMALISED_STD
  if low <= std <= high and neighbours(found.images) >= NEIGHBOURS:
    return 0.0, '; --zca=0.1 if it was distilled with --zca'
  look_ = 'whitened' if std < low else 'like either'
  raise UserError(
      f'{str(path)!r} ({found.layout}) does not say whether it is whitened, '
      f'and looks {look_} ({seen}, neighbouring pixels correlated by '
      f'{neighbours(found.images):.2f}): --zca=0.1 if it was distilled with '
      '--zca, else --zca=0')


def neighbours(images):
  """Correlation of each pixel with the one to its right."""
  some = sample(images)
  left, right = (x.ravel() - x.mean() for x in (some[:, :, :-1],
                                                some[:, :, 1:]))
  return float(left @ right / np.sqrt((left @ left) * (right @ right) + 1e-30))


# ---- Cells of an image


def factor(found, path, told):
  """`(factor, line)`: cells along a side of a stored image.

  Raises:
    UserError: its program makes several, and this one does not show how many.
  """
  if told.factor:
    return told.factor, line('factor', f'{told.factor}, as told')
  if not found.cells:
    return max(found.factor, 1), ''
  for part in words(path):
    for word in part:
      match = re.fullmatch(r'(?:factor|f)([1-9])', word)
      if match:
        return int(match[1]), line('factor', f'{match[1]}, by {word!r} in '
                                    'the path')
  steps = {g: seams(found.images, g) for g in (2, 3, 4, 5)
           if g < min(found.images.shape[1:3])}
  if found.images.shape[-1] == 3:
    seen = [g for g, (least, _) in steps.items() if least > SEAM]
    if seen:
      return max(seen), line(
          'factor', f'{max(seen)}, as the images step at the edges of '
          f'{max(seen)} x {max(seen)} cells; --factor=1 if they do not')
    # In rough images the edges of cells are no larger steps than others.
    if neighbours(found.images) >= PLAIN and all(
        most < NO_SEAM for _, most in steps.values()):
      return 1, line('factor', '1, as no edges of cells are seen; --factor=2 '
                      'if there are')
  raise UserError(
      f'{str(path)!r} ({found.layout}) does not say how many cells an image '
      'holds, and its images do not show it: --factor=1, or what --factor its '
      'program was given (2 as a rule, 3 for ImageNet)')


def seams(images, g):
  """`(least, most)` step between g x g cells, over the mean step within.

  A step is the mean absolute difference of neighbouring pixels. The least is
  over both directions and all edges, the most as well.
  """
  found = []
  images = sample(images)
  for axis in (1, 2):
    side = images.shape[axis]
    others = tuple(k for k in range(4) if k != axis)
    steps = np.abs(np.diff(images, axis=axis)).mean(others)
    edges = [k * -(-side // g) - 1 for k in range(1, g)]
    edges = [edge for edge in edges if edge < len(steps)]
    found += list(steps[edges] / (np.delete(steps, edges).mean() + 1e-12))
  return min(found), max(found)


# ---- Labels


def labels(found, path, told):
  """`(kind, line)`: what the labels are, one of `LABELS`.

  Raises:
    UserError: rows of numbers that may be several of them.
  """
  if found.labels is None:
    return 'hard', line('labels', 'none in the file: as many of each class, '
                         'one class after the other')
  if found.labels.ndim == 1:
    if told.labels not in ('', 'hard'):
      raise UserError(f'--labels={told.labels} is not what {str(path)!r} '
                      f'({found.layout}) has: class numbers; leave it out')
    return 'hard', ''
  if told.labels:
    return told.labels, line('labels', f'{told.labels}, as told')
  rows = found.labels
  sums, least = rows.sum(1), rows.min()
  seen = (f'from {least:.3g} to {rows.max():.3g}, rows sum to '
          f'{sums.min():.3g} to {sums.max():.3g}')
  if class_numbers(rows) is not None:
    return 'hard', line('labels', 'class numbers, as ones and zeros')
  if found.label_kind:
    return found.label_kind, line(
        'labels', f'{found.label_kind}, as {found.layout} has them ({seen})')
  if found.layout == 'FRePo':
    return 'centred', line(
        'labels', f'centred, as FRePo has them ({seen}): 1 / classes is added; '
        'its program trains on their squared error, and here on cross-entropy')
  if least >= -1e-6 and np.allclose(sums, 1, atol=1e-2):
    return 'probabilities', line('labels', f'probabilities ({seen})')
  by_path = any('datm' in part for part in words(path))
  if by_path or (np.abs(sums) > 0.1).mean() > 0.5:
    return 'logits', line(
        'labels', f'logits, as they are no probabilities ({seen}): their '
        'softmax is trained on')
  raise UserError(
      f'{str(path)!r} ({found.layout}) has labels that may be logits or '
      f'probabilities less 1 / classes ({seen}): --labels=logits or '
      '--labels=centred')


# ---- How networks are trained on it


class Training(NamedTuple):
  """A published evaluation: that of a method here, at a length.

  like: a method of ours, whose evaluation it has. epochs: as published.
  family: whose statistics real images are normalised by.
  """
  like: str
  epochs: int
  family: str = ''


# By the word for a method.
TRAININGS = {
    'dc': Training('dc', 300), 'dsa': Training('dsa', 1000),
    'dm': Training('dm', 1000), 'cafe': Training('cafe', 600),
    'idc': Training('idc', 1000), 'ncfm': Training('idc', 1000),
    'mtt': Training('mtt', 1000, 'mtt'), 'tm': Training('mtt', 1000, 'mtt'),
    'ftd': Training('ftd', 1000, 'mtt'), 'datm': Training('datm', 1000, 'mtt'),
    'tesla': Training('tesla', 1000, 'mtt'), 'kip': Training('dc', 300),
    'frepo': Training('dsa', 1000, 'frepo'), 'random': Training('dc', 300),
    'kmeans': Training('dc', 300), 'sre2l': Training('sre2l', 300),
    'rded': Training('rded', 300, 'imagenet')}
# What --recipe takes: an evaluation by the name of its method, or a recipe.
RECIPES = ('dc', 'dm', 'dsa', 'idc', 'mtt', 'rded', 'sre2l', 'sre2l_cifar',
           'sre2l_tiny')


def method(found, path):
  """The word for the method of a set: of its path, else of its layout."""
  for part in words(path):
    for word in part:
      if word in TRAININGS:
        return word
  return found.method


def training(found, path, told, space_):
  """`(name of the recipe, Training, line)`."""
  word = method(found, path)
  family = TRAININGS[word].family if word else (
      'mtt' if found.layout == 'DD-Ranking' else '')
  if told.recipe:
    like = told.recipe.partition('_')[0]
    chosen, why = TRAININGS[like], 'as told'
    return told.recipe, chosen._replace(family=family), line(
        'recipe', f'{told.recipe}, {why}')
  if word:
    chosen = TRAININGS[word]
    return chosen.like, chosen, line(
        'recipe', f'that of {chosen.like}, {chosen.epochs} epochs, as the set '
        f'is of {word}; --recipe= takes another')
  like = {'pixels': 'idc', '255': 'idc'}.get(space_, 'dsa')
  return like, TRAININGS[like]._replace(family=family), line(
      'recipe', f'that of {like}, {TRAININGS[like].epochs} epochs, as nothing '
      'says whose set it is; --recipe= takes another')
