"""LeNet and the multilayer perceptron as DC has them."""

import flax.linen as nn
import jax

from dasm_jax.errors import UserError
from dasm_jax.models import layers


class LeNet(nn.Module):
  """5x5 convolutions of 6 and 16, each with ReLU and 2x2 max pooling; 120, 84.

  `first_padding` is that of the first convolution, the second has none.
  PyTorch's default initialisation.

  Returns `(logits, features)`: `[n, classes]`; both pooled maps, and both
  hidden layers `[n, 1, 1, units]`.
  """
  classes: int
  first_padding: int

  @nn.compact
  def __call__(self, x, train=False):
    features = []
    for width, padding in ((6, self.first_padding), (16, 0)):
      x = jax.nn.relu(layers.Conv(width, 5, padding)(x))
      self.sow('intermediates', 'maps', x)
      x = layers.pool(x, 'max')
      features.append(x)
    logits, features = _perceptron(x, (120, 84), self.classes, features)
    # A hidden layer ends in no pooling: it is its own map. `models.pure` adds
    # the last one.
    self.sow('intermediates', 'maps', features[2])
    return logits, features


class MLP(nn.Module):
  """Linear layers with ReLU between them, on the flattened image.

  PyTorch's default initialisation.

  Returns `(logits, features)`: `[n, classes]` and each hidden layer
  `[n, 1, 1, units]`.
  """
  classes: int
  widths: tuple

  @nn.compact
  def __call__(self, x, train=False):
    return _perceptron(x, self.widths, self.classes, [])


def _perceptron(x, widths, classes, features):
  """Logits and, after `features`, the hidden layers; inside a module."""
  for width in widths:
    x = jax.nn.relu(layers.classify(x, width))
    # As an image of one pixel, like the maps of other networks.
    features.append(x[:, None, None])
  return layers.classify(x, classes), tuple(features)


def lenet(shape: tuple[int, ...], classes: int, *,
          first_padding: int | None = None) -> nn.Module:
  """A checked `LeNet`.

  `first_padding` None is 2 for one-channel images of 28x28, else 0. The
  released network fits 32 to 35 pixels; here the map may have any size.

  Raises:
    UserError: images smaller than 16x16, less twice the padding.
  Source: LeCun et al. (1998) as used by DC (2006.05929).
  """
  padding = layers.first_padding(first_padding, shape, 2, 0)
  layers.check_side('lenet', shape, 16 - 2 * padding)
  return LeNet(classes, padding)


def mlp(shape: tuple[int, ...], classes: int, *, depth: int = 2,
        width: int = 128) -> nn.Module:
  """A checked `MLP` of `depth` hidden layers of `width` units.

  The released one reads 28x28x1 or 32x32x3, this one any images.

  Raises:
    UserError: a depth or width under 1.
  Source: DC (2006.05929).
  """
  if depth < 1 or width < 1:
    raise UserError(f'depth {depth} and width {width} must be at least 1')
  return MLP(classes, (width,) * depth)
