"""Convolutions of 3x3 kernels in 16 products for each 2x2 outputs, not 36.

For a CPU, where products are most of the time. A patch x of 4x4 inputs and a
kernel w are transformed by sums, multiplied element by element (of all patches
and channels: sixteen matrix products) and the result is transformed back:

    y = A' [(G w G') (.) (B' x B)] A        the gradient in w, over all patches:
    dw = G' [sum (B' x B) (.) (A dy A')] G

    B' = 1  0 -1  0    G = 1   0   0    A' = 1  1  1  0
         0  1  1  0        .5  .5  .5        0  1 -1 -1
         0 -1  1  0        .5 -.5  .5
         0  1  0 -1        0   0   1

In float32 it rounds no worse than XLA's sum of as many products (1 to 2e-6 of
the largest output, each). Larger patches would save more and round badly.

Source: Lavin and Gray (1509.09308), section 4.1.
"""

import jax.numpy as jnp
from jax import lax

KERNEL = 3  # its sides
# Below so many patches in all, products are too small to pay for the kernel's
# transform.
PATCHES = 128


def pays(images, k, height, width, c_out):
  """Whether a convolution is faster so.

  Args:
    images: `[n, height_in, width_in, channels_in]`.
    k: sides of its kernel.
    height, width: of its outputs; c_out: their channels.

  Returns:
    A bool.
  """
  n, c_in = len(images), images.shape[-1]
  patches = _patches(height) * _patches(width)
  # Of an odd side the last patches are half empty. Narrow products, and those
  # of few patches, gain nothing; half precision would lose in the sums.
  return (k == KERNEL and min(c_in, c_out) >= 16 and n * patches >= PATCHES
          and 16 * patches < 0.75 * 9 * height * width
          and images.dtype.itemsize >= 4)


def convolution(images, kernel, padding, block):
  """Correlates `images` with a 3x3 `kernel`.

  Args:
    images: `[n, height, width, channels_in]`.
    kernel: `[3, 3, channels_in, channels_out]`.
    padding: zeros added on each of the four sides (int, may be negative).
    block: images at a time, a divisor of n: their transform, four times as
      large, stays in the cache.

  Returns:
    `[n, height + 2 * padding - 2, width + 2 * padding - 2, channels_out]`.
  """
  height, width = (x + 2 * padding - 2 for x in images.shape[1:3])
  c_out = kernel.shape[3]
  # Side by side, as images below: columns first, then rows.
  weights = _of_kernel(_of_kernel(kernel, 0), 1).reshape(16, -1, c_out)

  def of_block(images):
    inputs = _transformed(images, padding, height, width)
    products = (inputs @ weights).reshape(
        4, 4, -1, _patches(height), _patches(width), c_out)
    # Two columns for each patch, then two rows.
    pixels = _to_outputs(_to_outputs(products, 4), 2)
    return pixels.reshape(len(images), 2 * _patches(height),
                          2 * _patches(width), c_out)[:, :height, :width]

  if block == len(images):
    return of_block(images)
  out = lax.map(of_block, _in_blocks(images, block))
  return out.reshape(-1, *out.shape[2:])


def weight_gradient(images, cotangent, padding, block):
  """Gradient of `sum(cotangent * convolution(images, kernel))` in the kernel.

  Args:
    images, padding, block: as of `convolution`.
    cotangent: `[n, height_out, width_out, channels_out]`.

  Returns:
    `[3, 3, channels_in, channels_out]`.
  """
  _, height, width, c_out = cotangent.shape

  def of_block(images, cotangent):
    inputs = _transformed(images, padding, height, width)
    whole = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [
        (0, 0, 0), (0, height % 2, 0), (0, width % 2, 0), (0, 0, 0)])
    outputs = _of_outputs(_of_outputs(whole, 1), 3).reshape(16, -1, c_out)
    return jnp.swapaxes(inputs, 1, 2) @ outputs

  if block == len(images):
    total = of_block(images, cotangent)
  else:
    def add(total, part):
      return total + of_block(*part), None
    zero = jnp.zeros((16, images.shape[-1], c_out), images.dtype)
    total, _ = lax.scan(add, zero, (_in_blocks(images, block),
                                    _in_blocks(cotangent, block)))
  total = total.reshape(4, 4, *total.shape[1:])
  return _to_kernel(_to_kernel(total, 1), 0)


def _patches(side):
  return -(-side // 2)


def _in_blocks(x, block):
  return x.reshape(-1, block, *x.shape[1:])


def _transformed(images, padding, height, width):
  """`[16, patches, channels]` of images with so many outputs a side."""
  def side(inside, outputs):
    return padding, 2 * _patches(outputs) + 2 - inside - padding, 0
  images = lax.pad(images, jnp.zeros((), images.dtype), [
      (0, 0, 0), side(images.shape[1], height), side(images.shape[2], width),
      (0, 0, 0)])
  return _of_inputs(_of_inputs(images, 1), 3).reshape(
      16, -1, images.shape[-1])


# ---- The three matrices and their transposes, along one axis
#
# Each is an array of its own: of two at once the compiler makes sixteen loops
# over the images, and takes twice as long to make them.


def _of_inputs(x, axis):
  """B' of each patch: they begin at every second of `2 patches + 2` inputs."""
  stop = x.shape[axis] - 3
  a, b, c, d = (lax.slice_in_dim(x, at, at + stop, 2, axis) for at in range(4))
  return jnp.stack([a - c, b + c, c - b, b - d])


def _of_kernel(w, axis):
  """G."""
  a, b, c = (lax.index_in_dim(w, at, axis, False) for at in range(KERNEL))
  return jnp.stack([a, (a + b + c) / 2, (a - b + c) / 2, c])


def _to_kernel(m, axis):
  """G' along the first axis, whose result is `axis`."""
  a, b, c, d = m
  return jnp.stack([a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d], axis)


def _to_outputs(m, axis):
  """A' along the first axis, whose result is `axis`."""
  a, b, c, d = m
  return jnp.stack([a + b + c, b - c - d], axis)


def _of_outputs(y, axis):
  """A of each patch of two outputs."""
  a, b = (lax.slice_in_dim(y, at, None, 2, axis) for at in range(2))
  return jnp.stack([a, a + b, a - b, -b])
