"""VGG-11 and AlexNet as DC has them: stages of convolutions and max pooling."""

import flax.linen as nn
import jax

from dasm_jax.models import layers

# By stage: the sides of the kernels, and the widths.
STAGES = {
    'vgg11': ((3, 3, 3, 3, 3),
              ((64,), (128,), (256, 256), (512, 512), (512, 512))),
    'alexnet': ((5, 5, 3), ((128,), (192,), (256, 192, 192))),
}


class Stages(nn.Module):
  """Stages of `relu(norm(conv(x)))`, each ended by 2x2 max pooling.

  The linear classifier reads the flattened last map. `widths` are those of
  the convolutions, `kernels` their sizes, both by stage; `first_padding` is
  that of the first, the others keep the sides. PyTorch's default
  initialisation.

  Returns `(logits, features)`: `[n, classes]` and each stage's output
  `[n, height, width, width_of_stage]` after pooling.
  """
  classes: int
  widths: tuple
  kernels: tuple
  norm: str
  first_padding: int

  @nn.compact
  def __call__(self, x, train=False):
    features, padding = [], self.first_padding
    for widths, kernel in zip(self.widths, self.kernels, strict=True):
      for width in widths:
        x = layers.Conv(width, kernel, padding, before=self.norm)(x)
        x = jax.nn.relu(layers.Norm(self.norm)(x, train))
        padding = None
      # The one map that the pooling of the stage reads.
      self.sow('intermediates', 'maps', x)
      x = layers.pool(x, 'max')
      features.append(x)
    return layers.classify(x, self.classes), tuple(features)


def vgg11(shape: tuple[int, ...], classes: int, *, norm: str = 'instance',
          widen: float = 1.0, first_padding: int | None = None) -> nn.Module:
  """A checked VGG-11: 3x3, `widen` times 64, 128, 256 256, 512 512, 512 512.

  `first_padding` None is 3 for one-channel images of 28x28, else 1. The
  released classifier fits 32 to 63 pixels; here it reads the map of any size.

  Raises:
    UserError: an unknown norm or widths that it cannot group; images smaller
      than 32x32.
  Source: Simonyan and Zisserman (1409.1556) as used by DC (2006.05929).
  """
  return _stages('vgg11', shape, classes, norm, widen, first_padding, (3, 1))


def alexnet(shape: tuple[int, ...], classes: int, *, norm: str = 'none',
            widen: float = 1.0, first_padding: int | None = None) -> nn.Module:
  """A checked AlexNet: 5x5 128, 5x5 192, 3x3 256 192 192, times `widen`.

  `first_padding` None is 4 for one-channel images of 28x28, else 2. The
  released classifier fits 32 to 39 pixels; here it reads the map of any size.

  Raises:
    UserError: an unknown norm or widths that it cannot group; images smaller
      than 8x8.
  Source: Krizhevsky et al. (2012) as used by DC (2006.05929).
  """
  return _stages('alexnet', shape, classes, norm, widen, first_padding, (4, 2))


def _stages(name, shape, classes, norm, widen, padding, defaults):
  kernels, stages = STAGES[name]
  widths = tuple(layers.widened(stage, widen) for stage in stages)
  layers.check_norm(norm, sum(widths, ()))
  padding = layers.first_padding(padding, shape, *defaults)
  # Pixels by which the first convolution makes the sides smaller.
  lost = kernels[0] - 1 - 2 * padding
  layers.check_side(name, shape, (1 << len(stages)) + lost)
  return Stages(classes, widths, kernels, norm, padding)
