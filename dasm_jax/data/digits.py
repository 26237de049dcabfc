"""scikit-learn's digits: 1797 gray 8x8 images that need no download."""

import importlib.util

import numpy as np

from dasm_jax.data.dataset import Split, stratify, take_rows
from dasm_jax.errors import UserError


def check():
  """`UserError` if scikit-learn is not installed."""
  if importlib.util.find_spec('sklearn') is None:
    raise UserError("data set 'digits' comes with scikit-learn, which is not "
                    'installed: pip install scikit-learn')


def load(size=0):
  """`(train, test, class_names)`; a fifth of each class is test, always the
  same; images `[n, 8, 8, 1]`, or of another size; raises `UserError` without
  scikit-learn."""
  check()
  from sklearn.datasets import load_digits
  bunch = load_digits()
  # Written with 17 levels, 0 to 16.
  images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
  if size:
    from dasm_jax.data.images import fit_array
    images = np.stack([fit_array(image, size) for image in images])
  whole = Split(images, bunch.target.astype(np.int32))
  kept, held = stratify(whole.labels, 0.2)
  return (take_rows(whole, kept), take_rows(whole, held),
          tuple(str(digit) for digit in range(10)))
