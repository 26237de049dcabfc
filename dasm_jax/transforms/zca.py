"""ZCA whitening as trajectory matching uses it: fitted on the host, in NumPy.

Images are `[n, height, width, channels]`: floats in [0, 1], used *instead of*
a mean and deviation per channel, or integers, which count as 255 times that.
The order of the features does not matter: permute them and the matrix is
permuted in rows and columns.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dasm_jax.errors import UserError
from dasm_jax.types import Array

CHUNK = 1000  # images; a float64 copy of these is all that is made


class Zca(NamedTuple):
  """A fitted whitening of images with d = height * width * channels.

  mean: `[d]` float64. matrix: `[d, d]` float64, symmetric. inverse: of it.
  """
  mean: np.ndarray
  matrix: np.ndarray
  inverse: np.ndarray


def fit(images: np.ndarray, eps: float = 0.1, chunk: int = CHUNK) -> Zca:
  """The whitening `V diag((s + eps)^-1/2) V^T` of the images' covariance.

  The covariance divides by n - 1; s and V are its eigenvalues and vectors.
  Needs about `8 * (6 d^2 + 2 chunk d)` bytes beside the images: 0.5 GB for
  32 x 32 x 3 whatever their number, 7 GB for 64 x 64 x 3.

  Args:
    images: `[n, height, width, channels]`, see above.
    eps: added to the variances; 0.1 in MTT, on [0, 1].
    chunk: images at a time.

  Returns:
    A `Zca`. Fit it on training images only.

  Raises:
    UserError: fewer than two images, an eps that is not positive.

  Source: Krizhevsky (2009), appendix A; MTT (2203.11932).
  """
  if len(images) < 2:
    raise UserError(f'ZCA of {len(images)} images; it needs at least 2')
  if not eps > 0:
    raise UserError(f'eps={eps} of ZCA must be above 0; MTT takes 0.1')
  n, d = len(images), int(np.prod(images.shape[1:]))
  # Two passes over the images: centred before they are multiplied, so that
  # nothing cancels.
  total = np.zeros(d)
  for part in _parts(images, chunk):
    total += part.sum(0)
  mean, covariance = total / n, np.zeros((d, d))
  for part in _parts(images, chunk):
    part -= mean
    covariance += part.T @ part
  covariance /= n - 1
  # MTT's program takes a singular value decomposition: of a symmetric matrix
  # the same.
  values, vectors = np.linalg.eigh(covariance)
  del covariance
  scale = np.sqrt(np.maximum(values, 0) + eps)  # rounding goes below 0
  return Zca(mean, vectors / scale @ vectors.T, vectors * scale @ vectors.T)


def whiten(zca: Zca, images: Array) -> Array:
  """`(x - mean) matrix` of each image, flattened.

  Args:
    zca: a `Zca`.
    images: `[..., height, width, channels]`, see above; a JAX or NumPy array.

  Returns:
    A JAX array of the same shape, in the images' dtype (integers: float32).
    Works under `jit`, `vmap` and `grad`.

  Raises:
    UserError: images of another size than those fitted.
  """
  x = _flat(zca, images)
  return _times(x - jnp.asarray(zca.mean, x.dtype), zca.matrix, images.shape)


def colour(zca: Zca, images: Array) -> Array:
  """The inverse of `whiten`: `y inverse + mean`; arguments as there.

  Args:
    zca: a `Zca`.
    images: whitened ones, `[n, height, width, channels]`.

  Returns:
    The same shape.
  """
  y = _times(_flat(zca, images), zca.inverse, (-1, len(zca.mean)))
  return (y + jnp.asarray(zca.mean, y.dtype)).reshape(images.shape)


def _parts(images, chunk):
  """Float64 copies `[chunk, d]` in [0, 1], one after another."""
  for start in range(0, len(images), chunk):
    part = np.asarray(images[start:start + chunk])
    # Asked before the cast, which is also the copy that `fit` changes.
    whole = np.issubdtype(part.dtype, np.integer)
    part = part.reshape(len(part), -1).astype(np.float64)
    part /= 255 if whole else 1
    yield part


def _flat(zca, images):
  shape, size = images.shape, len(zca.mean)
  if np.prod(shape[-3:]) != size:
    raise UserError(f'ZCA was fitted on images of {size} numbers, these have '
                    f'the shape {tuple(shape[-3:])}; fit it on their like')
  x = jnp.asarray(images)
  if jnp.issubdtype(x.dtype, jnp.integer):
    x = x.astype(jnp.float32) / 255
  return x.reshape(-1, size)


def _times(x, matrix, shape):
  # True float32: TF32 would round a whitening to three digits.
  return jnp.matmul(x, jnp.asarray(matrix, x.dtype),
                    precision='highest').reshape(shape)
