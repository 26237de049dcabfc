"""Layers with PyTorch's initialisation and formulas, in flax linen."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core import meta

from dasm_jax.errors import UserError, unknown
from dasm_jax.models import fast_conv
from dasm_jax.runtime import devices

# PyTorch's, which flax's defaults (1e-6, .99) are not.
EPSILON = 1e-5
MOMENTUM = 0.9  # flax's reading: the old average keeps nine tenths
GROUPS = 4  # of group norm in DC's networks

ACTIVATIONS = {
    'relu': jax.nn.relu,
    'leakyrelu': lambda x: jax.nn.leaky_relu(x, 0.01),
    'sigmoid': jax.nn.sigmoid,
    'swish': jax.nn.swish,
}


def activation(name):
  """The activation called `name`; raises `UserError` if there is none."""
  if name not in ACTIVATIONS:
    raise unknown('activation', name, ACTIVATIONS)
  return ACTIVATIONS[name]


class Drawn(struct.PyTreeNode, meta.AxisMetadata):
  """A parameter that is still to be drawn, see `filled`.

  value: zeros of its shape. spread: bound of a uniform draw around 0, standard
  deviation of a normal one. kind: `uniform` or `normal`.
  """
  value: Any
  spread: float = struct.field(pytree_node=False)
  kind: str = struct.field(pytree_node=False)

  def unbox(self):
    return self.value

  def replace_boxed(self, val):
    return self.replace(value=val)

  def add_axis(self, index, params):
    return self

  def remove_axis(self, index, params):
    return self


def to_draw(kind, spread):
  """The initialiser of a parameter that `filled` draws."""
  def init(key, shape, dtype=jnp.float32):
    del key
    return Drawn(jnp.zeros(shape, dtype), spread, kind)
  return init


def uniform(fan_in):
  """PyTorch's default for weights and biases: `U(-1, 1) / sqrt(fan_in)`."""
  return to_draw('uniform', 1 / math.sqrt(fan_in))


def fan_out(key, shape, dtype=jnp.float32):
  """`N(0, 2 / (k * k * out))`, IDC's for the convolutions of ResNets."""
  k, _, _, out = shape
  return to_draw('normal', math.sqrt(2 / (k * k * out)))(key, shape, dtype)


# Of numbers on [0, 1), and of normal ones.
DRAWS = {'uniform': lambda key, n: 2 * jax.random.uniform(key, (n,)) - 1,
         'normal': lambda key, n: jax.random.normal(key, (n,))}


def filled(params, keys):
  """Parameters with each `Drawn` in its place drawn; a key for each of `DRAWS`.

  One draw serves all of a kind. A draw for each, by a key for each, as flax has
  it, is two rounds of random bits a parameter: seconds of compiling in every
  program that begins a network, and a fifth of its kernels on a GPU.
  """
  leaves, structure = jax.tree.flatten(
      params, is_leaf=lambda x: isinstance(x, Drawn))
  for (kind, draw), key in zip(DRAWS.items(), keys, strict=True):
    mine = [i for i, x in enumerate(leaves)
            if isinstance(x, Drawn) and x.kind == kind]
    ends = np.cumsum([leaves[i].value.size for i in mine])
    parts = jnp.split(draw(key, int(ends[-1])), ends[:-1]) if mine else []
    for i, part in zip(mine, parts, strict=True):
      like = leaves[i].value
      leaves[i] = (leaves[i].spread * part).reshape(like.shape).astype(
          like.dtype)
  return jax.tree.unflatten(structure, leaves)


def wide(x):
  """`x` in float32 if it is in half precision, else as it is."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Conv(nn.Module):
  """A `kernel x kernel` convolution.

  padding: zeros on each side; None is `kernel // 2`.
  before: the norm that follows. An instance norm takes any bias off again: it
    is there, as in PyTorch, but not added, and its gradient is exactly 0.
  kernel_init: None is `uniform`, which the bias always takes.
  """
  features: int
  kernel: int = 3
  padding: int | None = None
  stride: int = 1
  use_bias: bool = True
  before: str = 'none'
  kernel_init: Callable | None = None

  @nn.compact
  def __call__(self, x):
    default = uniform(self.kernel ** 2 * x.shape[-1])
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init or default, shape)
    padding = self.kernel // 2 if self.padding is None else self.padding
    x = fast_conv.convolution(x, kernel.astype(x.dtype), padding, self.stride)
    if not self.use_bias:
      return x
    bias = self.param('bias', default, (self.features,))
    return x if self.before == 'instance' else x + bias.astype(x.dtype)


class Dense(nn.Module):
  """`x @ kernel + bias`."""
  features: int

  @nn.compact
  def __call__(self, x):
    init = uniform(x.shape[-1])
    kernel = self.param('kernel', init, (x.shape[-1], self.features))
    bias = self.param('bias', init, (self.features,))
    return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


class Norm(nn.Module):
  """Normalises and scales: instance, group, layer or batch norm, or none.

  instance: each channel of each image over height and width.
  group: the same over `GROUPS` groups of channels.
  layer: each image over everything, with one scale for each entry.
  batch: each channel over the batch; running averages when not training
    (their variance is the unbiased one, as in PyTorch). Sows each image's
    `moments` then, if asked to.
  Half precision is normalised in float32.
  """
  kind: str

  @nn.compact
  def __call__(self, x, train=False):
    if self.kind == 'none':
      return x
    dtype, x = x.dtype, wide(x)
    shape = x.shape[1:] if self.kind == 'layer' else x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, shape).astype(x.dtype)
    bias = self.param('bias', nn.initializers.zeros, shape).astype(x.dtype)
    if self.kind == 'instance':
      return instance_norm(x, scale, bias).astype(dtype)
    if self.kind == 'batch':
      mean, variance = self._batch(x, train)
    else:
      mean, variance = _moments(x, self.kind)
    return _normalised(x, scale, bias, mean, variance).astype(dtype)

  def _batch(self, x, train):
    c, n = x.shape[-1], math.prod(x.shape[:-1])
    mean = self.variable('batch_stats', 'mean', jnp.zeros, (c,))
    variance = self.variable('batch_stats', 'var', jnp.ones, (c,))
    if not train:
      # Only where `Network.moments` asks (SRe2L).
      if self.is_mutable_collection('intermediates'):
        now, spread = _mean_variance(x, (1, 2))
        self.sow('intermediates', 'moments', {
            'mean': now[:, 0, 0], 'var': spread[:, 0, 0]})
      return mean.value.astype(x.dtype), variance.value.astype(x.dtype)
    now, spread = _mean_variance(x, (0, 1, 2))
    now, spread = now.reshape(c), spread.reshape(c)
    # The blank image that a network is built by says nothing of the data.
    if not self.is_initializing():
      keep, add = MOMENTUM, 1 - MOMENTUM
      mean.value = keep * mean.value + add * now
      variance.value = keep * variance.value + add * spread * n / max(n - 1, 1)
    return now, spread


NORMS = ('batch', 'group', 'instance', 'layer', 'none')


def check_norm(kind, widths):
  """Raises `UserError` if there is no norm `kind` or a width has no groups."""
  if kind not in NORMS:
    raise unknown('norm', kind, NORMS)
  for width in widths:
    if kind == 'group' and width % GROUPS:
      raise UserError(f'width {width} does not split into {GROUPS} groups; '
                      'take a multiple, or norm=instance')


def check_side(name, shape, least):
  """Raises `UserError` if images of `shape` have a side under `least`."""
  if min(shape[:2]) < least:
    raise UserError(
        f'{name} needs images of at least {least}x{least}, not '
        f'{shape[0]}x{shape[1]}; use larger ones, or network convnet')


def check_positive(**settings):
  """Raises `UserError` for the first setting that is not a number above 0."""
  for name, value in settings.items():
    if not value > 0:
      raise UserError(f'{name} {value} must be more than 0')


def widened(widths, widen):
  """`widths` times `widen`, at least 1; raises `UserError` if it is not > 0."""
  check_positive(widen=widen)
  return tuple(max(1, int(width * widen)) for width in widths)


class LayerNorm(nn.Module):
  """Normalises and scales the last axis (1607.06450)."""

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    dtype, x = x.dtype, wide(x)
    # Centred before it is squared: nothing cancels where the mean is large.
    x = x - x.mean(-1, keepdims=True)
    variance = jnp.square(x).mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + EPSILON)
    return (x * scale.astype(x.dtype) + bias.astype(x.dtype)).astype(dtype)


def _mean_variance(x, axes):
  """Mean and biased variance from one pass, `E[x^2] - E[x]^2` (clamped)."""
  # Reads x once: the first block, forwards and backwards, is 1.9 times as fast
  # on a CPU. Rounding may make the difference negative.
  mean = x.mean(axes, keepdims=True)
  square = jnp.square(x).mean(axes, keepdims=True)
  return mean, jnp.maximum(square - jnp.square(mean), 0)


def _normalised(x, scale, bias, mean, variance):
  # One multiply and one add over the image: the rest is per channel.
  gain = scale * jax.lax.rsqrt(variance + EPSILON)
  return x * gain + (bias - mean * gain)


@jax.custom_vjp
def instance_norm(x, scale, bias):
  """Each channel of each image with mean 0 and variance 1, scaled and moved.

  Its gradient is written out: two sums over the image, then one multiply and
  one add a pixel. What JAX derives has more passes: with it, and biases before,
  a step of ConvNet-3 is 54 kernels of a GPU, so 43, and a third longer on a
  TPU, as compiled.

  Args:
    x: `[n, height, width, channels]`.
    scale, bias: `[channels]`.

  Returns:
    As `x`. Forward mode (`jax.jvp`) is not defined.

  Source: Ulyanov et al. (1607.08022).
  """
  return _normalised(x, scale, bias, *_mean_variance(x, (1, 2)))


def _instance_norm_fwd(x, scale, bias):
  mean, variance = _mean_variance(x, (1, 2))
  return (_normalised(x, scale, bias, mean, variance),
          (x, scale, mean, variance))


def _instance_norm_bwd(saved, cotangent):
  x, scale, mean, variance = saved
  # Sums over images are taken of the sums over pixels: the compiler would make
  # one sum over everything of the two, and read all of it once more.
  total, along = jax.lax.optimization_barrier((
      cotangent.sum((1, 2), keepdims=True),
      (cotangent * x).sum((1, 2), keepdims=True)))
  root = jax.lax.rsqrt(variance + EPSILON)
  along = root * (along - mean * total)  # along the normalised image
  gain, pixels = scale * root, math.prod(x.shape[1:3])
  # A variance that rounding made negative is 0 and does not move.
  slope = jnp.where(variance > 0, gain * root * along / pixels, 0)
  offset = slope * mean - gain * total / pixels
  return (gain * cotangent - slope * x + offset,
          along.sum((0, 1, 2)), total.sum((0, 1, 2)))


instance_norm.defvjp(_instance_norm_fwd, _instance_norm_bwd)


def _moments(x, kind):
  n, height, width, c = x.shape
  groups = 1 if kind == 'layer' else GROUPS
  split = x.reshape(n, height, width, groups, c // groups)
  # Back to one value a channel, as scale and bias are of channels.
  moments = _mean_variance(split, (1, 2, 4))
  return tuple(
      jnp.broadcast_to(m, (n, 1, 1, groups, c // groups)).reshape(n, 1, 1, c)
      for m in moments)


def first_padding(value, shape, gray, other):
  """`value` checked; if None `gray` for 28x28x1 images, `other` for others.

  The references take `gray` for any one-channel image.
  """
  if value is None:
    return gray if tuple(shape) == (28, 28, 1) else other
  if value < 0:
    raise UserError(f'first_padding {value} must be at least 0')
  return value


def pool(x, kind):
  """2x2 pooling of stride 2, dropping an odd last row or column.

  Args:
    x: `[n, height, width, channels]`.
    kind: `avg`, `max` or `none`.
  """
  if kind == 'none':
    return x
  if kind == 'avg' and devices.backend() == 'tpu':
    return _summed(x, x.shape[1:3]) / 4
  n, height, width, c = x.shape
  x = x[:, :height // 2 * 2, :width // 2 * 2]
  x = x.reshape(n, height // 2, 2, width // 2, 2, c)
  if kind == 'avg':
    # Four terms by name: a reduction over two short axes is slow on CPU.
    return (x[:, :, 0, :, 0] + x[:, :, 0, :, 1]
            + x[:, :, 1, :, 0] + x[:, :, 1, :, 1]) / 4
  # Not x.max((2, 4)) or jnp.maximum: their gradients look for entries equal to
  # the maximum, and where the compiler computes x twice, rounded otherwise,
  # there is none (gradient 0 or NaN). Of equal entries the first one counts.
  x = _larger(x[:, :, :, :, 0], x[:, :, :, :, 1])
  return _larger(x[:, :, 0], x[:, :, 1])


# On a TPU images lie with n and channels together: taking rows and columns
# apart, as `pool` does elsewhere, copies them, and a step of ConvNet-3 is 2.7
# times as long, as compiled. Of either function the other is the gradient:
# derivatives of derivatives meet no windows but these two.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _summed(x, sides):
  """Sums of 2x2 pixels, of an image with these sides."""
  del sides
  return jax.lax.reduce_window(
      x, np.zeros((), x.dtype), jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1),
      'VALID')


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _spread(x, sides):
  """Each pixel as 2x2 pixels, of an image with these sides; 0 in an odd one."""
  # Zeros between the pixels, then the sum of each window, which has one.
  padding = [(0, 0, 0), *((1, side - 2 * n + 1, 1) for side, n in zip(
      sides, x.shape[1:3], strict=True)), (0, 0, 0)]
  zero = np.zeros((), x.dtype)
  return jax.lax.reduce_window(
      jax.lax.pad(x, zero, padding), zero, jax.lax.add, (1, 2, 2, 1),
      (1, 1, 1, 1), 'VALID')


_summed.defvjp(lambda x, sides: (_summed(x, sides), None),
               lambda sides, _, cotangent: (_spread(cotangent, sides),))
_spread.defvjp(lambda x, sides: (_spread(x, sides), None),
               lambda sides, _, cotangent: (_summed(cotangent, sides),))


def overlapping_max_pool(x):
  """3x3 max pooling of stride 2, padded by one: sides are halved, rounded up.

  x: `[n, height, width, channels]`.
  """
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
  # By `_larger` for the reason that `pool` has, and one axis after the other:
  # of equal entries the first counts, row by row, as in PyTorch.
  height, width = ((side - 1) // 2 for side in x.shape[1:3])
  x = functools.reduce(_larger, (
      x[:, :, k:k + 2 * width - 1:2] for k in range(3)))
  return functools.reduce(_larger, (
      x[:, k:k + 2 * height - 1:2] for k in range(3)))


def _larger(a, b):
  return jnp.where(b > a, b, a)


POOLINGS = ('avg', 'max', 'none')


def classify(x, classes):
  """Logits of the flattened `x`, `[n, …]`, inside a module: `[n, classes]`."""
  return Dense(classes)(wide(x.reshape(len(x), -1)))
