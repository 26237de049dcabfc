"""Formulas: label losses and distances between gradients or features.

Everything here is pure, keeps the dtype it is given, and works under `jit`,
`vmap` and `pmap`. A "row" of a parameter is what belongs to one output unit:
the last axis of a kernel in flax and haiku (layout `HWIO`, and `[in, out]`),
the first of a weight in PyTorch and equinox (`OIHW`, and `[out, in]`).

The examples of its functions begin with

    >>> import jax.numpy as jnp
    >>> from dasm_jax import losses
"""

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dasm_jax.errors import UserError, unknown
from dasm_jax.types import Array, PyTree

EPSILON = 1e-6  # DC's, outside of the norms: by itself it prevents no NaN


# ---- Of labels


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
  """Mean over the batch of `-sum_c labels_c log softmax(logits)_c`.

  Args:
    logits: `[n, classes]`.
    labels: `[n, classes]`, one-hot or probabilities.

  Returns:
    A scalar in nats.

  Raises:
    UserError: labels of another shape than the logits (values are not read).

  Examples:
    >>> logits = jnp.log(jnp.array([[0.7, 0.3], [0.5, 0.5]]))
    >>> labels = jnp.array([[1., 0.], [0., 1.]])
    >>> print(f'{losses.cross_entropy(logits, labels):.4f}')
    0.5249
  """
  if jnp.shape(labels) != jnp.shape(logits):
    raise UserError(
        f'labels of shape {jnp.shape(labels)} do not fit logits of shape '
        f'{jnp.shape(logits)}; class numbers become labels by '
        f'jax.nn.one_hot(numbers, {jnp.shape(logits)[-1]})')
  return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1))


def soft_cross_entropy(logits: ArrayLike, target_logits: ArrayLike,
                       temperature: ArrayLike = 1.0) -> Array:
  """`cross_entropy(logits / T, softmax(target_logits / T))`.

  T = 1 is DATM's loss on learned logits (2310.05773); the target has a
  gradient. Shapes as in `cross_entropy`.

  Args:
    logits: `[n, classes]`.
    target_logits: `[n, classes]`.
    temperature: above 0; both logits are divided by it.

  Returns:
    A scalar in nats.

  Examples:
    >>> logits = jnp.log(jnp.array([[0.5, 0.5]]))
    >>> target = jnp.log(jnp.array([[0.9, 0.1]]))
    >>> print(f'{losses.soft_cross_entropy(logits, target):.4f}')
    0.6931
  """
  targets = jax.nn.softmax(target_logits / temperature)
  return cross_entropy(logits / temperature, targets)


def kl(logits: ArrayLike, target_logits: ArrayLike, temperature: ArrayLike = 1.0
       ) -> Array:
  """Batch mean of `KL(softmax(target / T) || softmax(logits / T))`.

  The target is constant. Multiply by `T ** 2` to keep the size of gradients
  (Hinton et al., 1503.02531).

  Args:
    logits: `[n, classes]`.
    target_logits: `[n, classes]`.
    temperature: above 0; both logits are divided by it.

  Returns:
    A scalar in nats, 0 where the two agree.

  Examples:
    >>> logits = jnp.log(jnp.array([[0.5, 0.5]]))
    >>> target = jnp.log(jnp.array([[0.9, 0.1]]))
    >>> print(f'{losses.kl(logits, target):.4f}')
    0.3681
    >>> print(f'{losses.kl(logits, target, temperature=2.):.4f}')
    0.1308
  """
  # From logarithms: probabilities may be 0 where these are finite.
  target = jax.lax.stop_gradient(target_logits) / temperature
  log_p = jax.nn.log_softmax(target)
  log_q = jax.nn.log_softmax(logits / temperature)
  return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def mse_logits(logits: ArrayLike, target_logits: ArrayLike,
               labels: ArrayLike | None = None, weight: float = 0.0) -> Array:
  """Mean of `(logits - target)^2`, plus `weight` times `cross_entropy`.

  Args:
    logits: `[n, classes]`.
    target_logits: `[n, classes]`.
    labels: `[n, classes]`, wanted when `weight` is not 0.
    weight: of the cross-entropy (DD-Ranking: 0.1).

  Returns:
    A scalar.

  Examples:
    >>> a, b = jnp.array([[1., 2.]]), jnp.array([[3., 2.]])
    >>> print(f'{losses.mse_logits(a, b):.4f}')
    2.0000
  """
  value = jnp.mean(jnp.square(jnp.subtract(logits, target_logits)))
  if not weight:
    return value
  if labels is None:
    raise UserError(f'weight={weight} of the cross-entropy asks for labels; '
                    'give them, or weight=0')
  return value + weight * cross_entropy(logits, labels)


def half_square(outputs: ArrayLike, targets: ArrayLike) -> Array:
  """Mean over the batch of `sum (outputs - targets)^2 / 2`.

  The loss of kernel methods (KIP, 2107.13034), whose targets are one-hot
  labels less `1 / classes`. Shapes as in `cross_entropy`.

  Args:
    outputs: `[n, classes]`.
    targets: `[n, classes]`.

  Returns:
    A scalar.

  Examples:
    >>> outputs = jnp.array([[0.5, -0.5], [0.5, 0.5]])
    >>> targets = jnp.array([[0.5, -0.5], [-0.5, 0.5]])
    >>> print(f'{losses.half_square(outputs, targets):.4f}')
    0.2500
  """
  apart = jnp.square(jnp.subtract(outputs, targets))
  return jnp.mean(jnp.sum(apart, axis=-1)) / 2


# ---- Norms


def norm(x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Array:
  """Euclidean norm whose gradient at 0 is 0, not NaN.

  Args:
    x: any shape.
    axis: axis or axes to sum over; None for all.

  Returns:
    `x` without the axes that are summed over.

  Examples:
    >>> x = jnp.array([[3., 4.], [0., 0.]])
    >>> print(losses.norm(x, axis=1))
    [5. 0.]
  """
  # Chosen twice: where the outer choice alone drops a branch, its gradient is
  # still computed, and 0 times infinity is NaN.
  square = jnp.sum(jnp.square(x), axis)
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def tree_norm(tree: PyTree) -> Array:
  """Euclidean norm of all leaves together; its gradient at 0 is 0.

  Args:
    tree: any pytree of arrays.

  Returns:
    A scalar.

  Examples:
    >>> tree = {'a': jnp.array([3., 4.]), 'b': jnp.array([12.])}
    >>> print(losses.tree_norm(tree))
    13.0
  """
  square = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree))
  positive = square > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


# Which axis of a parameter counts its output units.
LAYOUTS = {'HWIO': -1, 'OIHW': 0}


def select(tree: PyTree, ndims: Collection[int] | None = None,
           layout: str = 'HWIO') -> list[Array]:
  """The leaves with one of the numbers of dimensions in `ndims`, as `HWIO`.

  Convolutions have 4, layer norms 3, linear kernels 2, biases and the scales
  of norms 1. A leaf of three or more dimensions that has a single entry for
  each output unit is one of the last, too: an equinox bias `[c, 1, 1]`, a
  haiku scale `[1, 1, 1, c]`.

  Args:
    tree: a pytree of parameters or their gradients.
    ndims: the numbers of dimensions to take; None takes all.
    layout: a key of `LAYOUTS`.

  Returns:
    A list of arrays whose last axis is that of the output units.

  Raises:
    UserError: an unknown layout.

  Examples:
    >>> params = {'conv': jnp.ones((8, 3, 5, 5)), 'bias': jnp.ones((8, 1, 1))}
    >>> [x.shape for x in losses.select(params, (2, 3, 4), 'OIHW')]
    [(3, 5, 5, 8)]
  """
  axis = _output_axis(layout)
  def dimensions(x):
    return 1 if x.ndim > 2 and x.size == x.shape[axis] else x.ndim
  return [_units_last(x, axis) for x in jax.tree.leaves(tree)
          if ndims is None or dimensions(x) in ndims]


# ---- Distances between gradients or features


def layerwise_cosine(a: PyTree, b: PyTree, layout: str = 'HWIO') -> Array:
  """`sum_rows 1 - <a, b> / (|a| |b| + 1e-6)` over the rows of all leaves.

  Give it the leaves with two or more dimensions, see `select`, for DC's own
  distance (2006.05929, eq. 10 as coded). A leaf with one dimension counts each
  entry as a row. Zero rows have gradient 0 or finite, never NaN.

  Args:
    a, b: pytrees of equal structure, such as the gradients of synthetic and of
      real images; the value is the same the other way round.
    layout: a key of `LAYOUTS`.

  Returns:
    A scalar, at most twice the number of rows.

  Raises:
    UserError: an unknown layout.

  Examples:
    >>> a = [jnp.array([[3., 1.], [4., 0.]])]  # [in, out]: rows are columns
    >>> b = [jnp.array([[4., -1.], [3., 0.]])]
    >>> print(f'{losses.layerwise_cosine(a, b):.4f}')  # (1 - 24/25) + 2
    2.0400
  """
  axis = _output_axis(layout)
  def leaf(x, y):
    # A dead filter has a zero row: `norm` keeps its gradient from being NaN.
    x, y = _rows(x, axis), _rows(y, axis)
    size = norm(x, 0) * norm(y, 0)
    return jnp.sum(1 - jnp.sum(x * y, 0) / (size + EPSILON))
  return _total(leaf, a, b)


def mse(a: PyTree, b: PyTree) -> Array:
  """`sum (a - b)^2` over all entries of all leaves (a sum, not a mean).

  Args:
    a, b: pytrees of equal structure.

  Returns:
    A scalar.

  Examples:
    >>> a, b = [jnp.array([1., 2.])], [jnp.array([1., 5.])]
    >>> print(losses.mse(a, b))
    9.0
  """
  return _total(lambda x, y: jnp.sum(jnp.square(x - y)), a, b)


def l1(a: PyTree, b: PyTree) -> Array:
  """`sum |a - b|` over all entries; the gradient where equal is 0.

  Args:
    a, b: pytrees of equal structure.

  Returns:
    A scalar.

  Examples:
    >>> a, b = [jnp.array([1., 2.])], [jnp.array([1., 5.])]
    >>> print(losses.l1(a, b))
    3.0
  """
  return _total(lambda x, y: jnp.sum(_abs(x - y)), a, b)


def l1_mean(a: PyTree, b: PyTree, layout: str = 'HWIO') -> Array:
  """`sum_rows mean |a - b|` over the rows of all leaves (IDC, 2205.14959).

  Args:
    a, b: pytrees of equal structure.
    layout: a key of `LAYOUTS`.

  Returns:
    A scalar.

  Raises:
    UserError: an unknown layout.

  Examples:
    >>> a = [jnp.array([[1., 2.], [3., 4.]])]  # two rows of two entries
    >>> b = [jnp.zeros((2, 2))]
    >>> print(losses.l1_mean(a, b))  # (1 + 3) / 2 + (2 + 4) / 2
    5.0
  """
  axis = _output_axis(layout)
  return _total(lambda x, y: jnp.sum(jnp.mean(_abs(_rows(x - y, axis)), 0)),
                a, b)


def cosine(a: PyTree, b: PyTree) -> Array:
  """`1 - <a, b> / (|a| |b| + 1e-6)` of all leaves as one vector.

  Args:
    a, b: pytrees of equal structure.

  Returns:
    A scalar in [0, 2].

  Examples:
    >>> a, b = [jnp.array([3., 4.])], [jnp.array([4., 3.])]
    >>> print(f'{losses.cosine(a, b):.4f}')  # 1 - 24/25
    0.0400
  """
  dot = _total(lambda x, y: jnp.sum(x * y), a, b)
  return 1 - dot / (tree_norm(a) * tree_norm(b) + EPSILON)


# DC has the first for its own, IDC takes `mse` or `l1` by the data set.
DISTANCES = {
    'layerwise_cosine': layerwise_cosine,
    'mse': mse,
    'l1': l1,
    'l1_mean': l1_mean,
    'cosine': cosine,
}


def distance(name: str) -> Callable[..., Array]:
  """The distance called `name`; raises `UserError` if there is none.

  Args:
    name: a key of `DISTANCES`.

  Returns:
    `(a, b) -> scalar`.

  Examples:
    >>> distance = losses.distance('mse')
    >>> print(distance(jnp.array([1., 2.]), jnp.array([1., 5.])))
    9.0
  """
  if name not in DISTANCES:
    raise unknown('distance', name, DISTANCES)
  return DISTANCES[name]


def _total(leaf, a, b):
  return sum(jax.tree.leaves(jax.tree.map(leaf, a, b)))


def _output_axis(layout):
  if layout not in LAYOUTS:
    raise unknown('layout', layout, LAYOUTS)
  return LAYOUTS[layout]


def _units_last(x, axis):
  # Where nothing moves nothing is added to the program.
  return x if axis == -1 or x.ndim < 2 else jnp.moveaxis(x, axis, -1)


def _rows(x, axis):
  """`[entries, rows]`; an entry of a one-dimensional leaf is its own row."""
  x = _units_last(x, axis)
  return x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x[None]


def _abs(x):
  # jnp.abs has gradient 1 at 0, PyTorch (and a subgradient that rests) 0.
  return x * jax.lax.stop_gradient(jnp.sign(x))
