"""ConvNet, the network of the dataset-distillation literature."""

import flax.linen as nn

from dasm_jax.errors import UserError, unknown
from dasm_jax.models import layers


class ConvNet(nn.Module):
  """`depth` blocks of 3x3 convolution, norm, activation, 2x2 pooling.

  The linear classifier reads the flattened last map. `first_padding` is that
  of the first convolution.
  Source: Gidaris and Komodakis (1804.09458) as used by DC (2006.05929);
  PyTorch's default initialisation.

  Returns `(logits, features)`: `[n, classes]` and each block's output
  `[n, height, width, width_of_net]` after pooling.
  """
  classes: int
  depth: int = 3
  width: int = 128
  norm: str = 'instance'
  activation: str = 'relu'
  pooling: str = 'avg'
  first_padding: int = 1

  @nn.compact
  def __call__(self, x, train=False):
    act = layers.activation(self.activation)
    features = []
    for d in range(self.depth):
      padding = self.first_padding if d == 0 else 1
      x = layers.Conv(self.width, padding=padding, before=self.norm)(x)
      x = layers.Norm(self.norm)(x, train)
      x = act(x)
      # CAFE looks at maps before they are pooled.
      self.sow('intermediates', 'maps', x)
      x = layers.pool(x, self.pooling)
      features.append(x)
    return layers.classify(x, self.classes), tuple(features)


def convnet(shape: tuple[int, ...], classes: int, *, depth: int = 3,
            width: int = 128, norm: str = 'instance', activation: str = 'relu',
            pooling: str = 'avg', first_padding: int | None = None
            ) -> nn.Module:
  """A checked `ConvNet` for images of `shape` (height, width, channels).

  `first_padding` None is 3 for one-channel images of 28x28 (making 32x32 of
  them) and 1 otherwise; the reference takes 3 for any one-channel image.

  Raises:
    UserError: an unknown norm, activation or pooling; a width that the norm
      cannot group; more pooled blocks than the image can be halved.
  """
  layers.activation(activation)
  if pooling not in layers.POOLINGS:
    raise unknown('pooling', pooling, layers.POOLINGS)
  if depth < 1 or width < 1:
    raise UserError(f'depth {depth} and width {width} must be at least 1')
  layers.check_norm(norm, [width])
  first_padding = layers.first_padding(first_padding, shape, 3, 1)
  # A padding of 1 keeps the sides; every pooling rounds them down.
  side = min(shape[:2]) + 2 * (first_padding - 1)
  if pooling != 'none' and side >> depth == 0:
    raise UserError(
        f'depth {depth} halves {shape[0]}x{shape[1]} images to nothing; '
        f'use at most depth {side.bit_length() - 1}')
  return ConvNet(classes, depth, width, norm, activation, pooling,
                 first_padding)
