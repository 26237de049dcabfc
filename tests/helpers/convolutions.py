"""Convolutions to compare with: by lax, and all derivatives of one."""

import jax
import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(0)


def arrays(height, width, c_in, c_out, n=3, k=3):
  return (jnp.asarray(RNG.normal(size=(n, height, width, c_in))),
          jnp.asarray(RNG.normal(size=(k, k, c_in, c_out))))


def by_lax(images, kernel, padding, stride=1):
  """What XLA has for it, whose derivatives are right."""
  return jax.lax.conv_general_dilated(
      images, kernel, (stride, stride), [(padding, padding)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def second(function, padding):
  """Value, first derivatives, and both of a derivative's own norm."""
  def value(images, kernel):
    out = function(images, kernel, padding)
    return jnp.sum(jnp.sin(out) + out ** 2)
  def size(images, kernel):
    # As matching does: a distance of gradients, differentiated again.
    a, b = jax.grad(value, (0, 1))(images, kernel)
    return jnp.sum(jnp.cos(a)) + jnp.sum(b ** 3) * 1e-3
  def every(images, kernel):
    return (value(images, kernel), jax.grad(value, (0, 1))(images, kernel),
            jax.grad(size, (0, 1))(images, kernel))
  return every
