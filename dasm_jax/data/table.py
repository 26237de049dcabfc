"""The data sets that have a row: what TFDS calls them, their statistics."""

import difflib
from typing import NamedTuple

from dasm_jax.errors import UserError


class Row(NamedTuple):
  """tfds: its name there; test: the split to test on; mean, std: the field's.

  The statistics are those that papers normalise with, per channel on the
  [0, 1] scale; for CIFAR-10 they are not quite what the images have.
  """
  tfds: str
  test: str
  mean: tuple
  std: tuple


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DATASETS = {
    'mnist': Row('mnist', 'test', (0.1307,), (0.3081,)),
    'fashion_mnist': Row('fashion_mnist', 'test', (0.2861,), (0.3530,)),
    'svhn': Row('svhn_cropped', 'test', (0.4377, 0.4438, 0.4728),
                (0.1980, 0.2010, 0.1970)),
    'cifar10': Row('cifar10', 'test', (0.4914, 0.4822, 0.4465),
                   (0.2023, 0.1994, 0.2010)),
    'cifar100': Row('cifar100', 'test', (0.5071, 0.4866, 0.4409),
                    (0.2673, 0.2564, 0.2762)),
    # The test labels of these two were never published.
    'tiny_imagenet': Row('tiny_imagenet', 'validation', *_IMAGENET),
    'imagenet2012': Row('imagenet2012', 'validation', *_IMAGENET),
}


def row_of(name):
  """The row of a TFDS name, or None; subsets of Tiny ImageNet share its row."""
  for row in DATASETS.values():
    if name == row.tfds:
      return row
  if name.startswith('tiny_imagenet_'):
    return DATASETS['tiny_imagenet']
  return None


def unknown_name(name, looked, here=()):
  """`UserError` for a data set that is nowhere.

  looked: where, in words. here: names of sets that are there.
  """
  known = [one for one in dict.fromkeys(('digits', *DATASETS, *here))
           if one != name]
  close = difflib.get_close_matches(name.lower(), known, 3, 0.5)
  hint = f'did you mean {" or ".join(close)}? ' if close else ''
  if name.startswith('tiny_imagenet'):
    hint = ('TFDS has no Tiny ImageNet: prepare one, or unzip the original '
            'and use folder:PATH; ')
  return UserError(
      f'unknown data set {name!r}, looked in {looked}; {hint}choose from '
      f'{", ".join(sorted(known))}, any image classification set of TFDS, a '
      'prepared TFDS directory or folder:PATH')
