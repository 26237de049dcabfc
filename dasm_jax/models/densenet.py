"""DenseNet for small images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dasm_jax.errors import UserError
from dasm_jax.models import layers


class DenseNet(nn.Module):
  """A 3x3 convolution of `2 growth` maps, and stages of dense layers.

  Dense layer: `x <- [f(x), x]` with `f` norm, ReLU, 1x1 convolution to
  `4 growth`, norm, ReLU, 3x3 convolution to `growth`. Between stages: norm,
  ReLU, 1x1 convolution to `floor(reduction maps)`, 2x2 average pooling. After
  the last: norm, ReLU, mean over height and width. Convolutions have no bias;
  PyTorch's default initialisation.

  Returns `(logits, features)`: `[n, classes]`, and the outputs of the stem and
  of each stage `[n, height, width, maps]`, then their mean `[n, 1, 1, maps]`.
  Source: Huang et al. (1608.06993) as released with IDC (2205.14959).
  """
  classes: int
  blocks: tuple
  growth: int
  reduction: float
  norm: str

  @nn.compact
  def __call__(self, x, train=False):
    x = layers.Conv(2 * self.growth, use_bias=False)(x)
    features = [x]
    for stage, blocks in enumerate(self.blocks):
      if stage:
        x = self._conv(x, int(self.reduction * x.shape[-1]), 1, train)
        x = layers.pool(x, 'avg')
        features.append(x)
      for _ in range(blocks):
        new = self._conv(x, 4 * self.growth, 1, train)
        new = self._conv(new, self.growth, 3, train)
        # New maps first, as in the released program.
        x = jnp.concatenate([new, x], -1)
    x = jax.nn.relu(layers.Norm(self.norm)(x, train))
    features += [x, x.mean((1, 2), keepdims=True)]
    return layers.classify(features[-1], self.classes), tuple(features)

  def _conv(self, x, width, kernel, train):
    x = jax.nn.relu(layers.Norm(self.norm)(x, train))
    return layers.Conv(width, kernel, use_bias=False)(x)


def densenet(shape: tuple[int, ...], classes: int, *,
             blocks: tuple[int, ...] = (6, 12, 24, 16), growth: int = 12,
             reduction: float = 0.5, norm: str = 'batch') -> nn.Module:
  """A checked `DenseNet`; the defaults are IDC's `densenet_cifar`.

  The released one averages the first 4x4 of the last map, which is the whole of
  it at 32 pixels, and takes at most 63. Here the mean is over all of it.

  Args:
    shape: (height, width, channels) of the images.
    classes: number of outputs.
    blocks: dense layers of each stage.
    growth: maps that a dense layer adds.
    reduction: share of the maps kept between stages, in (0, 1].
    norm: of `layers.NORMS`.

  Raises:
    UserError: a setting outside of these; maps that the norm cannot group;
      images that halve to nothing.
  """
  blocks = tuple(blocks)
  if not blocks or min(blocks) < 1 or growth < 1:
    raise UserError(f'blocks {blocks} and growth {growth} must be at least 1')
  if not 0 < reduction <= 1:
    raise UserError(f'reduction {reduction} must be in (0, 1]')
  # How many maps each norm sees: before and after every dense layer of a stage.
  maps, seen = 2 * growth, []
  for stage, count in enumerate(blocks):
    maps = int(reduction * maps) if stage else maps
    if not maps:
      raise UserError(f'reduction {reduction} leaves no maps; take more')
    seen += [maps + growth * i for i in range(count + 1)]
    maps = seen[-1]
  layers.check_norm(norm, [4 * growth, *seen])
  layers.check_side('densenet', shape, 1 << (len(blocks) - 1))
  return DenseNet(classes, blocks, growth, reduction, norm)
