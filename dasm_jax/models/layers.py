"""Layers with PyTorch's initialisation and formulas, in flax linen."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from dasm_jax.errors import unknown
from dasm_jax.models import conv

EPSILON = 1e-5
MOMENTUM = 0.9  # flax's reading: the old average keeps nine tenths
GROUPS = 4

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


def uniform(fan_in):
  """PyTorch's default for weights and biases: `U(-1, 1) / sqrt(fan_in)`."""
  bound = 1 / math.sqrt(fan_in)

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)
  return init


class Conv(nn.Module):
  """A `kernel x kernel` convolution of stride 1 with bias."""
  features: int
  kernel: int = 3
  padding: int = 1

  @nn.compact
  def __call__(self, x):
    fan_in = self.kernel ** 2 * x.shape[-1]
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    kernel = self.param('kernel', uniform(fan_in), shape)
    bias = self.param('bias', uniform(fan_in), (self.features,))
    return conv.convolution(x, kernel.astype(x.dtype), self.padding) + (
        bias.astype(x.dtype))


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
    (their variance is the unbiased one, as in PyTorch).
  """
  kind: str

  @nn.compact
  def __call__(self, x, train=False):
    if self.kind == 'none':
      return x
    shape = x.shape[1:] if self.kind == 'layer' else x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, shape).astype(x.dtype)
    bias = self.param('bias', nn.initializers.zeros, shape).astype(x.dtype)
    if self.kind == 'batch':
      mean, variance = self._batch(x, train)
    else:
      mean, variance = _moments(x, self.kind)
    # One multiply and one add over the image: the rest is per channel.
    gain = scale * jax.lax.rsqrt(variance + EPSILON)
    return x * gain + (bias - mean * gain)

  def _batch(self, x, train):
    c, n = x.shape[-1], math.prod(x.shape[:-1])
    mean = self.variable('batch_stats', 'mean', jnp.zeros, (c,))
    variance = self.variable('batch_stats', 'var', jnp.ones, (c,))
    if not train:
      return mean.value.astype(x.dtype), variance.value.astype(x.dtype)
    now, spread = _mean_variance(x, (0, 1, 2))
    now, spread = now.reshape(c), spread.reshape(c)
    if not self.is_initializing():
      keep, add = MOMENTUM, 1 - MOMENTUM
      mean.value = keep * mean.value + add * now
      variance.value = keep * variance.value + add * spread * n / max(n - 1, 1)
    return now, spread


NORMS = ('batch', 'group', 'instance', 'layer', 'none')


def _mean_variance(x, axes):
  """Mean and biased variance from one pass, `E[x^2] - E[x]^2` (clamped)."""
  mean = x.mean(axes, keepdims=True)
  square = jnp.square(x).mean(axes, keepdims=True)
  return mean, jnp.maximum(square - jnp.square(mean), 0)


def _moments(x, kind):
  n, height, width, c = x.shape
  if kind == 'instance':
    return _mean_variance(x, (1, 2))
  groups = 1 if kind == 'layer' else GROUPS
  split = x.reshape(n, height, width, groups, c // groups)
  moments = _mean_variance(split, (1, 2, 4))
  return tuple(
      jnp.broadcast_to(m, (n, 1, 1, groups, c // groups)).reshape(n, 1, 1, c)
      for m in moments)


def pool(x, kind):
  """2x2 pooling of stride 2, dropping an odd last row or column.

  Args:
    x: `[n, height, width, channels]`.
    kind: `avg`, `max` or `none`.
  """
  if kind == 'none':
    return x
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


def _larger(a, b):
  return jnp.where(b > a, b, a)


POOLINGS = ('avg', 'max', 'none')
