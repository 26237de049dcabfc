"""The gradient of a mean loss, block by block: the same sum in less memory."""

import math

import jax
import jax.numpy as jnp

# Positions (images x height x width) of a block on a CPU: a layer's activations
# then stay in its cache. Measured on ConvNet shapes, 8 to 32 thousand are
# alike, and a fifth faster than 250 thousand.
POSITIONS = 8192


def value_and_grad(loss, params, batch):
  """Value and gradient of `loss` on a CPU in blocks, elsewhere in one piece.

  Args:
    loss: `(params, batch) -> scalar`, a mean over images of terms linear in
      their labels: an image with labels 0 adds nothing.
    params: a pytree.
    batch: `Batch` of `n` images and labels.

  Returns:
    `(value, gradient)`, as `jax.value_and_grad` to rounding.
  """
  n = len(batch.images)
  parts = split(n, math.prod(batch.images.shape[1:3]))
  if parts == 1:
    return jax.value_and_grad(loss)(params, batch)
  size = -(-n // parts)

  def cut(x):
    x = jnp.pad(x, [(0, parts * size - n)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(parts, size, *x.shape[1:])

  def add(total, part):
    return jax.tree.map(jnp.add, total,
                        jax.value_and_grad(loss)(params, part)), None

  zero = jax.tree.map(jnp.zeros_like, (
      jax.eval_shape(loss, params, batch), params))
  total, _ = jax.lax.scan(add, zero, jax.tree.map(cut, batch))
  return jax.tree.map(lambda x: x * (size / n), total)


def split(n, positions):
  """Number of blocks of `n` images of `positions` pixels each."""
  if jax.default_backend() != 'cpu':
    return 1
  return -(-n // max(1, POSITIONS // positions))
