"""Winograd's products: values and gradients as lax's, where they pay."""

import functools

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
from convolutions import arrays, by_lax, second

from dasm_jax.models import fast_conv, winograd
from dasm_jax.runtime import devices

# Sides, padding, images, of them at a time.
SHAPES = [((8, 8), 1, 4, 2), ((7, 9), 1, 3, 3), ((7, 6), 0, 2, 1),
          ((6, 7), 2, 2, 2), ((9, 9), -1, 2, 1), ((1, 2), 1, 1, 1)]


@pytest.mark.parametrize('sides, padding, n, block', SHAPES)
def test_as_lax(sides, padding, n, block):
  with jax.enable_x64(True):
    images, kernel = arrays(*sides, 5, 4, n)
    want, back = jax.vjp(
        functools.partial(by_lax, images, padding=padding), kernel)
    got = winograd.convolution(images, kernel, padding, block)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
    cotangent = jnp.cos(want)
    np.testing.assert_allclose(
        winograd.weight_gradient(images, cotangent, padding, block),
        back(cotangent)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('sides, padding', lanes.slow_but(
    [((8, 8), 1)], [((8, 8), 1), ((9, 12), 1), ((9, 12), 0), ((8, 8), 2)]))
def test_every_derivative_is_lax_s(sides, padding):
  with jax.enable_x64(True):
    images, kernel = arrays(*sides, 17, 16, 12)
    assert winograd.pays(images, 3, *sides, 16)
    got, want = (jax.jit(second(f, padding))(images, kernel) for f in (
        functools.partial(fast_conv.convolution, unfold=True), by_lax))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-8)


def test_rounding():
  """In float32, beside float64, no worse than the sum of 1152 products."""
  images, kernel = (np.asarray(x, np.float32)
                    for x in arrays(16, 16, 128, 128, 4))
  with jax.enable_x64(True):
    want = np.asarray(by_lax(*(jnp.asarray(x, jnp.float64)
                               for x in (images, kernel)), 1))
  for f in (functools.partial(winograd.convolution, block=2), by_lax):
    got = jax.jit(functools.partial(f, padding=1))(images, kernel)
    assert np.abs(got - want).max() < 4e-6 * np.abs(want).max()


def convolutions(n, side, c_in, c_out, k=3, dtype=jnp.float32):
  """How many of a convolution and its two gradients are lax's."""
  shapes = (jax.ShapeDtypeStruct((n, side, side, c_in), dtype),
            jax.ShapeDtypeStruct((k, k, c_in, c_out), dtype))
  def value(images, kernel):
    return jnp.sum(fast_conv.convolution(images, kernel, k // 2) ** 2)
  return str(jax.make_jaxpr(jax.grad(value, (0, 1)))(*shapes)).count(
      'conv_general_dilated[')


@pytest.mark.parametrize('case, count', [
    ((8, 16, 32, 32), 0), ((8, 7, 32, 32), 0),
    # The weight gradient is a product of rows in each of these.
    ((8, 16, 8, 32), 1), ((8, 3, 32, 32), 2), ((8, 16, 32, 32, 5), 2),
    ((1, 16, 32, 32), 2), ((8, 16, 32, 32, 3, jnp.bfloat16), 2)])
def test_where_it_pays(case, count):
  assert convolutions(*case) == count


def test_an_accelerator_has_convolutions():
  with devices.building_for(devices.Target('gpu', 2 ** 30)):
    assert convolutions(8, 16, 32, 32) == 3
    # Of one image the weight gradient is a product there, too, but of rows.
    with pytest.MonkeyPatch.context() as patched:
      patched.delattr(winograd, 'weight_gradient')
      assert convolutions(1, 32, 32, 32) == 2
