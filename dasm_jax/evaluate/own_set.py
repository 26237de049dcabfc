"""A set of anybody's images, as a file that all commands here take."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dasm_jax import config, data, models, synthetic
from dasm_jax.config import validate
from dasm_jax.errors import UserError, unknown
from dasm_jax.evaluate import saved_set
from dasm_jax.pipeline import loading
from dasm_jax.training import recipes
from dasm_jax.types import Synthetic


def save(path: Any, images: ArrayLike, labels: ArrayLike | None = None, *,
         dataset: str, recipe: str | dict = 'idc', network: dict | None = None,
         factor: int = 1, card: dict | None = None) -> None:
  """Writes images as a distilled set, for `dasm_jax.load` and `evaluate`.

  >>> dasm_jax.save('mine.npz', images, labels, dataset='cifar10')

  Mean, standard deviation and names of classes are those of the data set; how
  networks are trained on it is a published recipe with its defaults.

  Args:
    path: of the npz; a file that is there is replaced.
    images: `[classes, ipc, height, width, channels]`, or `[n, height, width,
      channels]` in any order; floats on [0, 1], or uint8.
    labels: class numbers `[classes, ipc]` or `[n]`, or probabilities `[classes,
      ipc, classes]`; None: the first axis of `images` is the class.
    dataset: what they are of, as `--config.dataset.name` has it, and here;
      where its images have another size, they are resized to that of these.
    recipe: a key of `recipes.RECIPES`, or a dict of entries of `config.eval`
      such as `{'recipe': 'dc', 'epochs': 300}`.
    network: settings of `models.build`, such as `{'name': 'resnet18'}`; None:
      a ConvNet that fits.
    factor: cells along a side of each image, see `synthetic.decode`.
    card: what else there is to say, such as `{'method': 'mine'}`.

  Raises:
    UserError: in one line, anything that does not fit; nothing is written.
  """
  images = _checked_images(images)
  c = _configuration(recipe)
  c.dataset.name = dataset
  names, statistics, written = _of_data(c, images.shape[-3:])
  images, labels = _class_major(images, labels, len(names))
  shape, ipc = images.shape[2:], images.shape[1]
  codec = synthetic.codec(*statistics, space='pixels', factor=factor,
                          shape=shape)
  network = _network(network, c, shape, len(names))
  recipe = config.evaluation_recipe(c, c.eval.epochs, *statistics)
  card = dict(card or {})
  reserved = sorted(card.keys() & {'data', 'network', 'recipe', 'recipe_name',
                                   'storage', 'ipc'})
  if reserved:
    raise UserError(f'card has {", ".join(reserved)}, which are known; leave '
                    'them out')
  syn = Synthetic(images, labels, np.float32(recipe.lr))
  arrays, card = saved_set.to_arrays(syn, codec, names, {
      'dataset': dataset, 'method': 'own', **card, 'data': written, 'ipc': ipc,
      'network': network, 'recipe': recipe._asdict(),
      'recipe_name': c.eval.recipe, 'real_lr': recipe.lr,
      'storage': {'space': 'pixels', 'factor': factor, 'formation': 'single',
                  'zca': 0.0}})
  # Whatever reading would refuse is refused before anything is written.
  saved_set.from_arrays(arrays, saved_set.through_json(card), path,
                        'mend the card')
  saved_set.write(path, arrays, card)


def _checked_images(images):
  """`[…, height, width, channels]` float32 on [0, 1]."""
  images = np.asarray(images)
  if images.ndim not in (4, 5) or not images.size:
    raise UserError(
        f'images of shape {images.shape}; give [classes, ipc, height, width, '
        'channels], or [n, height, width, channels] with labels')
  if images.shape[-1] not in (1, 3):
    moved = images.shape[-3] in (1, 3)
    raise UserError(
        f'images of shape {images.shape} have {images.shape[-1]} channels; '
        'give 1 or 3, as the last axis' + (
            ': np.moveaxis(images, -3, -1) puts them there' * moved))
  if images.dtype == np.uint8:
    return images.astype(np.float32) / 255
  if images.dtype.kind != 'f' and images.dtype.name != 'bfloat16':
    raise UserError(f'images of type {images.dtype}; give floats on [0, 1], or '
                    'uint8')
  images = images.astype(np.float32)
  low, high = float(images.min()), float(images.max())
  if not (low >= 0 and high <= 1):  # a NaN is neither
    raise UserError(
        f'images from {low:g} to {high:g} are not on [0, 1]; undo their '
        'normalisation (images * std + mean) and clip them, or give uint8')
  return images


def _configuration(recipe):
  """A configuration with the evaluation that `recipe` asks for."""
  entries = {'recipe': recipe} if isinstance(recipe, str) else dict(recipe)
  name = entries.get('recipe', 'idc')
  if name not in recipes.RECIPES:
    raise unknown('recipe', name, recipes.RECIPES)
  # A coreset: it asks nothing of the data that are not here.
  c = config.defaults('random')
  c.eval = config.evaluation_of(name)
  for key, value in entries.items():
    why = config.difference(f'eval.{key}', c)
    if why:
      raise UserError(f'recipe: {why}')
    try:
      c.eval[key] = value
    except (TypeError, ValueError) as error:
      raise UserError(f'recipe: {key}={value!r}: {error}') from error
  # Of data that are always there: whether others are is no matter here.
  c.dataset.name = 'digits'
  validate.check(c)
  return c


def _of_data(c, shape):
  """`(class names, (mean, std), what the card says)` of a data set.

  Sets `size` of the configuration where its images have another shape.
  """
  name = c.dataset.name
  described = data.describe(**loading.request_of(c))
  # Names of classes are in the data alone, and who evaluates compares them.
  described.check()
  *_, have = described.content()
  if have[-1] != shape[-1]:
    raise UserError(f'images have {shape[-1]} channels, those of {name!r} have '
                    f'{have[-1]}')
  if have[:2] != shape[:2]:
    if shape[0] != shape[1]:
      raise UserError(f'images of {shape[0]}x{shape[1]}, but those of {name!r} '
                      f'are {have[0]}x{have[1]}; give that size, or squares, '
                      'to which they can be resized')
    c.dataset.size = shape[0]
  found = data.open(**loading.request_of(c))
  if found.statistics is None:  # all images tell, not some
    found = loading.load_configured(c)
  return (found.class_names, (found.mean, found.std),
          loading.written_request(c, found))


def _class_major(images, labels, classes):
  """`[classes, ipc, …]` images and probabilities `[classes, ipc, classes]`."""
  if images.ndim == 5 and len(images) != classes:
    raise UserError(f'images of {len(images)} classes, but the data set has '
                    f'{classes}; give [classes, ipc, height, width, channels]')
  if labels is None:
    if images.ndim == 4:
      raise UserError(f'images {images.shape} need labels [n]; without, give '
                      '[classes, ipc, height, width, channels]')
    labels = np.broadcast_to(np.arange(classes)[:, None], images.shape[:2])
  labels = np.asarray(labels)
  lead = images.shape[:-3]
  if labels.shape not in (lead, (*lead, classes)):
    raise UserError(
        f'labels of shape {labels.shape} for images of {images.shape}; give '
        f'class numbers {lead}, or probabilities {(*lead, classes)}')
  if labels.shape == lead:
    labels = _one_hot(labels, classes)
  else:
    labels = _probabilities(labels)
  numbers = labels.argmax(-1)
  if images.ndim == 5:
    wrong = numbers != np.arange(classes)[:, None]
    if synthetic.class_numbers(labels) is not None and wrong.any():
      at = tuple(map(int, np.argwhere(wrong)[0]))
      raise UserError(
          f'image {at} is labelled {int(numbers[at])}, but the first axis of '
          'images is the class; give [n, height, width, channels] and [n] '
          'labels in any order')
    return images, labels
  counts = np.bincount(numbers, minlength=classes)
  if counts.min() != counts.max():
    raise UserError(
        f'class {int(counts.argmin())} has {counts.min()} images and class '
        f'{int(counts.argmax())} has {counts.max()}; every class needs as many')
  order = numbers.argsort(kind='stable')
  return (images[order].reshape(classes, -1, *images.shape[1:]),
          labels[order].reshape(classes, -1, classes))


def _one_hot(labels, classes):
  if labels.dtype.kind not in 'iu':
    raise UserError(f'labels of type {labels.dtype}; class numbers are whole')
  if labels.min() < 0 or labels.max() >= classes:
    raise UserError(f'labels from {labels.min()} to {labels.max()}; the data '
                    f'set has classes from 0 to {classes - 1}')
  return np.eye(classes, dtype=np.float32)[labels]


def _probabilities(labels):
  labels = labels.astype(np.float32)
  sums = labels.sum(-1)
  if not (labels.min() >= 0 and np.abs(sums - 1).max() < 1e-2):
    raise UserError(
        f'labels from {labels.min():g} to {labels.max():g} with sums from '
        f'{sums.min():g} to {sums.max():g} are no probabilities; of logits '
        'give jax.nn.softmax(labels)')
  return labels / sums[..., None]


def _network(network, c, shape, classes):
  """Settings of a network that fits the images."""
  if network is not None:
    settings = dict(network)
    name = settings.pop('name', 'convnet')
    settings = {**models.settings_of(name), **settings}
    models.build(name, shape=shape, classes=classes, **settings)
    return {'name': name, **settings}
  settings = c.network.to_dict()
  # Of small images it halves the sides less often.
  while settings['depth'] > 1 and min(shape[:2]) >> settings['depth'] < 2:
    settings['depth'] -= 1
  models.build(shape=shape, classes=classes, **settings)
  return settings
