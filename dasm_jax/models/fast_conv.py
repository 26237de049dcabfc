"""Convolution whose every reverse-mode derivative is fast.

A convolution, its gradient in the images and its gradient in the kernel: the
derivatives of each piece are the other pieces, so that gradients of gradients,
as matching has them, meet no other code. XLA left to itself transposes its own
transposes: it ends with windows as large as the image over padded kernels, for
3.5 times the work of IDC's matching on a GPU.

On a CPU a 3x3 kernel is one of `winograd`'s, half the time of XLA's. Where that
does not pay the weight gradient is a product of unfolded rows: XLA's compiler
leaves its own in a slow layout inside loops (27-68 times slower), and every
distillation step sits in a loop. A stride folds neighbours into channels
there and is a stride-1 convolution then (forward 2-6 times slower than XLA's,
its gradients 7-40 times faster); accelerators take XLA's strided one whole.

Forward mode (`jax.jvp`) is not defined.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from dasm_jax.models import winograd
from dasm_jax.runtime import devices

# Rows unfolded at a time: the unfolded block (rows x 9 x channels) then stays
# in a core's cache. Measured on ConvNet shapes: 256-1024 are alike.
ROWS = 512
# Below this many input channels the transposed product has too few columns.
NARROW = 16


def convolution(images, kernel, padding, stride=1, unfold=None):
  """Correlates `images` with `kernel`.

  Args:
    images: `[n, height, width, channels_in]`.
    kernel: `[k, k, channels_in, channels_out]`.
    padding: zeros added on each of the four sides (int, may be negative).
    stride: of both sides.
    unfold: whether weight gradients are products of unfolded rows, as suits a
      CPU; None: where programs are for one, see `devices.backend`. Those of a
      single image always are.

  Returns:
    `[n, (height + 2 * padding - k) // stride + 1, …, channels_out]`.
  """
  if unfold is None:
    unfold = devices.backend() == 'cpu'
  if stride == 1:
    return _convolution(images, kernel, padding, unfold)
  if not unfold:
    return _lax(images, kernel, padding, stride)
  # A 1x1 kernel sees no neighbours: the others need not be folded in.
  if len(kernel) == 1 and not padding:
    return _convolution(images[:, ::stride, ::stride], kernel, 0, True)
  return _convolution(*_fold_stride(images, kernel, padding, stride), 0, True)


def _lax(images, kernel, padding, stride=1):
  return lax.conv_general_dilated(
      images, kernel, (stride, stride), [(padding, padding)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _fold_stride(images, kernel, padding, stride):
  """Images and kernel with `stride * stride` neighbours as one pixel.

  Returns:
    `[n, height / stride, width / stride, stride * stride * channels_in]`, cut
    or padded to what the outputs see, and the kernel likewise.
  """
  k, _, c_in, c_out = kernel.shape
  taps = -(-k // stride)
  # Below zero it cuts off what no output sees.
  def fit(side):
    out = (side + 2 * padding - k) // stride + 1
    return padding, (out - 1 + taps) * stride - side - padding, 0
  n, height, width, _ = images.shape
  images = lax.pad(images, jnp.zeros((), images.dtype),
                   [(0, 0, 0), fit(height), fit(width), (0, 0, 0)])
  height, width = images.shape[1] // stride, images.shape[2] // stride
  images = images.reshape(n, height, stride, width, stride, c_in)
  images = images.transpose(0, 1, 3, 2, 4, 5)
  more = (0, taps * stride - k)
  kernel = jnp.pad(kernel, (more, more, (0, 0), (0, 0)))
  kernel = kernel.reshape(taps, stride, taps, stride, c_in, c_out)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
  return (images.reshape(n, height, width, -1),
          kernel.reshape(taps, taps, -1, c_out))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(images, kernel, padding, unfold):
  k, _, c_in, c_out = kernel.shape
  if not unfold:
    # A TPU would make the images of a gradient in the image again for each row
    # of the kernel: of ResNet's 7x7 at 224 pixels from four maps, seven times.
    # Three times costs less than to keep them (IDC's matching of CIFAR-10).
    if k > 3 and c_out < NARROW <= c_in and devices.backend() == 'tpu':
      images = lax.optimization_barrier(images)
    return _lax(images, kernel, padding)
  height, width = (x + 2 * padding - k + 1 for x in images.shape[1:3])
  if winograd.pays(images, k, height, width, c_out):
    return winograd.convolution(images, kernel, padding,
                                _block(len(images), height * width))
  if c_out < NARROW <= c_in:
    return _folded(images, kernel, padding)
  return _lax(images, kernel, padding)


def _folded(images, kernel, padding):
  """Few output channels (a gradient in the image): one product, k*k adds."""
  k, _, c_in, c_out = kernel.shape
  taps = images @ jnp.moveaxis(kernel, 2, 0).reshape(c_in, k * k * c_out)
  side = (padding, padding, 0)
  taps = lax.pad(taps, jnp.zeros((), taps.dtype),
                 [(0, 0, 0), side, side, (0, 0, 0)])
  height, width = taps.shape[1] - k + 1, taps.shape[2] - k + 1
  return sum(
      taps[:, i:i + height, j:j + width, at:at + c_out]
      for i in range(k) for j in range(k)
      for at in [(i * k + j) * c_out])


def _convolution_fwd(images, kernel, padding, unfold):
  return _convolution(images, kernel, padding, unfold), (images, kernel)


def _convolution_bwd(padding, unfold, saved, cotangent):
  images, kernel = saved
  return (_input_gradient(cotangent, kernel, padding, unfold),
          weight_gradient(images, cotangent, padding, kernel.shape[0], unfold))


_convolution.defvjp(_convolution_fwd, _convolution_bwd)


def _input_gradient(cotangent, kernel, padding, unfold):
  turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
  return _convolution(cotangent, turned, kernel.shape[0] - 1 - padding, unfold)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def weight_gradient(images, cotangent, padding, k, unfold=True):
  """Gradient of `sum(cotangent * convolution(images, kernel))` in the kernel.

  Args:
    images: `[n, height, width, channels_in]`.
    cotangent: `[n, height_out, width_out, channels_out]`.
    padding: as given to `convolution`.
    k: height and width of the kernel.
    unfold: see `convolution`.

  Returns:
    `[k, k, channels_in, channels_out]`.
  """
  # Of one image alone it is a product everywhere: under a vmap, as per-sample
  # gradients have it, it would be a convolution in groups, 3 to 22 times the
  # work on a TPU.
  if not unfold and len(images) > 1:
    # Channels as the batch, images as the channels: what libraries know as the
    # gradient in the filter.
    return lax.conv_general_dilated(
        images, cotangent, (1, 1), [(padding, padding)] * 2,
        dimension_numbers=('CHWN', 'IHWO', 'HWNC'))
  n, height, width, c_out = cotangent.shape
  c_in = images.shape[-1]
  block = _block(n, height * width)
  if unfold and winograd.pays(images, k, height, width, c_out):
    return winograd.weight_gradient(images, cotangent, padding, block)
  images = images.reshape(n // block, block, *images.shape[1:])
  cotangent = cotangent.reshape(n // block, block * height * width, c_out)
  # Blocks of half precision are added up in float32.
  narrow, sums = c_in < NARROW, jnp.promote_types(images.dtype, jnp.float32)
  if not narrow:
    # Once for all blocks: a product with both operands row-major is faster.
    cotangent = lax.optimization_barrier(jnp.swapaxes(cotangent, 1, 2))

  def add(total, block):
    rows = _unfold(block[0], padding, k).reshape(-1, k * k * c_in)
    pair = (rows.T, block[1]) if narrow else (block[1], rows)
    return total + (pair[0] @ pair[1]).astype(sums), None

  shape = (k * k * c_in, c_out) if narrow else (c_out, k * k * c_in)
  total, _ = lax.scan(add, jnp.zeros(shape, sums), (images, cotangent))
  total = total if narrow else total.T
  return total.reshape(k, k, c_in, c_out).astype(images.dtype)


def _block(n, positions):
  """The largest divisor of `n` whose images have at most ROWS positions."""
  # Equal blocks need no padding, and are one program.
  block = max(1, min(n, ROWS // positions))
  while n % block:
    block -= 1
  return block


def _unfold(images, padding, k):
  side = (padding, padding, 0)
  images = lax.pad(images, jnp.zeros((), images.dtype),
                   [(0, 0, 0), side, side, (0, 0, 0)])
  height, width = images.shape[1] - k + 1, images.shape[2] - k + 1
  return jnp.concatenate(
      [images[:, i:i + height, j:j + width]
       for i in range(k) for j in range(k)], axis=-1)


def _weight_gradient_fwd(images, cotangent, padding, k, unfold):
  return (weight_gradient(images, cotangent, padding, k, unfold),
          (images, cotangent))


def _weight_gradient_bwd(padding, k, unfold, saved, kernel):
  # It is linear in both, so its derivatives are a data gradient and a
  # convolution: any order of reverse mode meets these three pieces only.
  images, cotangent = saved
  del k
  return (_input_gradient(cotangent, kernel, padding, unfold),
          _convolution(images, kernel, padding, unfold))


weight_gradient.defvjp(_weight_gradient_fwd, _weight_gradient_bwd)
