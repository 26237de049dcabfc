"""scikit-learn's digits: 1797 gray 8x8 images that need no download."""

import importlib.util

import numpy as np

from dasm_jax.data.dataset import Description, stratify
from dasm_jax.data.reader import Contents, array_part
from dasm_jax.errors import UserError

CLASS_NAMES = tuple(str(digit) for digit in range(10))


def describe(request):
  """The `Description` of a request; `UserError` without scikit-learn."""
  del request
  if importlib.util.find_spec('sklearn') is None:
    raise UserError("data set 'digits' comes with scikit-learn, which is not "
                    'installed: pip install scikit-learn')

  def content():
    images, labels = _arrays()
    kept, held = stratify(labels, 0.2)
    return labels[kept], labels[held], images.shape[1:]

  return Description(CLASS_NAMES, content)


def open(described, options):
  """The `Contents`; a fifth of each class is test, always the same."""
  del options
  images, labels = _arrays()
  shapings = described.request.shaping, described.request.test_shaping
  return Contents(*(
      array_part(images[rows], labels[rows], shaping)
      for shaping, rows in zip(shapings, stratify(labels, 0.2), strict=True)),
                  CLASS_NAMES)


def absolute(name):
  """The same: it is no path."""
  return name


def _arrays():
  """`(images, labels)`: `[1797, 8, 8, 1]` uint8, `[1797]` int32."""
  from sklearn.datasets import load_digits
  bunch = load_digits()
  # Written with 17 levels, 0 to 16.
  images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
  return images, bunch.target.astype(np.int32)
