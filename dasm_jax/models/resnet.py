"""Residual networks: IDC's ResNet and ResNet-AP, DC's ResNet-18."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from dasm_jax.errors import UserError, unknown
from dasm_jax.models import layers

_average = functools.partial(layers.pool, kind='avg')
_most = layers.overlapping_max_pool


class Stem(NamedTuple):
  """The first layers: a convolution of a kernel and stride, then poolings."""
  kernel: int = 3
  stride: int = 1
  pools: tuple = ()


STEMS = {
    'resnet': {'small': Stem(), 'mid': Stem(3, 1, (_most,)),
               'large': Stem(7, 2, (_most,))},
    'resnet_ap': {'small': Stem(), 'mid': Stem(3, 1, (_average,)),
                  'large': Stem(7, 1, (_average, _average))},
}
# Of the stem and the four stages.
WIDTHS = {'cifar': (32, 32, 64, 128, 256), 'imagenet': (64, 64, 128, 256, 512)}
BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class ResNet(nn.Module):
  """A stem, and four stages of basic blocks; the last three halve the sides.

  Stem: convolution, norm, ReLU, poolings; see `Stem`.
  Block: `relu(norm(conv(h(relu(norm(conv(x)))))) + s(x))`, convolutions 3x3
  without bias; `s(x)` is x, or `norm(conv1x1(h(x)))` where the shape changes.
  The first block of a stage halves: by 2x2 average pooling `h` if `pooled`
  (AP), else by convolutions of stride 2.

  Returns `(logits, features)`: `[n, classes]`, and the outputs of stem and
  stages `[n, height, width, width_of_stage]`, then their mean over height and
  width `[n, 1, 1, width_of_stage]`, which the classifier reads; if `flat` it
  reads the flattened last map.
  Source: He et al. (1512.03385); AP: DSA (2102.08259), IDC (2205.14959).
  """
  classes: int
  widths: tuple
  blocks: tuple
  norm: str
  pooled: bool
  stem: Stem = Stem()
  flat: bool = False
  kernel_init: Callable | None = None

  @nn.compact
  def __call__(self, x, train=False):
    x = self._conv(self.widths[0], self.stem.kernel, self.stem.stride)(x)
    x = jax.nn.relu(layers.Norm(self.norm)(x, train))
    for pool in self.stem.pools:
      x = pool(x)
    features = [x]
    for stage, blocks in enumerate(self.blocks):
      for block in range(blocks):
        halve = stage > 0 and block == 0
        x = self._block(x, self.widths[stage + 1], halve, train)
      features.append(x)
    # DC's AP network has no last average: its classifier reads the whole map.
    if not self.flat:
      features.append(x.mean((1, 2), keepdims=True))
    return layers.classify(features[-1], self.classes), tuple(features)

  def _conv(self, width, kernel=3, stride=1):
    return layers.Conv(width, kernel, stride=stride, use_bias=False,
                       kernel_init=self.kernel_init)

  def _block(self, x, width, halve, train):
    stride = 2 if halve and not self.pooled else 1
    pool = functools.partial(
        layers.pool, kind='avg' if halve and self.pooled else 'none')
    out = self._conv(width, stride=stride)(x)
    # The main path is halved after the ReLU, as in the released networks.
    out = pool(jax.nn.relu(layers.Norm(self.norm)(out, train)))
    out = layers.Norm(self.norm)(self._conv(width)(out), train)
    if halve or x.shape[-1] != width:
      # The reference pools after this convolution: the same, four times slower.
      x = self._conv(width, 1, stride)(pool(x))
      x = layers.Norm(self.norm)(x, train)
    return jax.nn.relu(out + x)


def resnet(shape: tuple[int, ...], classes: int, *, depth: int = 10,
           widen: float = 1.0, norm: str = 'batch', variant: str | None = None,
           stem: str | None = None) -> nn.Module:
  """IDC's checked `ResNet`, halving by stride.

  Args:
    shape: (height, width, channels) of the images.
    classes: number of outputs.
    depth: imagenet: 10, 18 or 34; cifar: `(depth - 2) // 6` blocks a stage.
    widen: factor of all widths.
    norm: of `layers.NORMS`.
    variant: `cifar` (widths 32 to 256) or `imagenet` (64 to 512); None is
      cifar for images of at most 32x32.
    stem: `small` (3x3), `mid` (3x3, then 3x3 max pooling of stride 2) or
      `large` (7x7 of stride 2, then the same pooling); None is small for cifar
      and by size (at most 64, at most 128) otherwise.

  Convolutions start as `layers.fan_out`, the classifier as in PyTorch.

  Raises:
    UserError: a setting outside of these; images that halve to nothing.
  Source: IDC (2205.14959) and its released networks.
  """
  return _idc('resnet', shape, classes, depth, widen, norm, variant, stem)


def resnet_ap(shape: tuple[int, ...], classes: int, *, depth: int = 10,
              widen: float = 1.0, norm: str = 'instance',
              variant: str | None = None, stem: str | None = None) -> nn.Module:
  """IDC's checked ResNet-AP: `resnet` that halves by 2x2 average pooling.

  Its stem, too: once after the 3x3 of `mid`, twice after the 7x7 of `large`,
  whose strides are 1.

  Raises:
    UserError: as `resnet`.
  Source: IDC (2205.14959), appendix, and its released networks.
  """
  return _idc('resnet_ap', shape, classes, depth, widen, norm, variant, stem)


def _idc(name, shape, classes, depth, widen, norm, variant, stem):
  side = max(shape[:2])
  if variant is None:
    variant = 'cifar' if side <= 32 else 'imagenet'
  if variant not in WIDTHS:
    raise unknown('variant', variant, WIDTHS)
  if stem is None:
    small = variant == 'cifar' or side <= 64
    stem = 'small' if small else 'mid' if side <= 128 else 'large'
  if stem not in STEMS[name]:
    raise unknown('stem', stem, STEMS[name])
  if variant == 'cifar':
    if depth < 8:
      raise UserError(f'depth {depth} of {name} leaves no block in a stage; '
                      'use at least 8')
    blocks = ((depth - 2) // 6,) * 4
  elif depth not in BLOCKS:
    raise unknown('depth', depth, BLOCKS)
  else:
    blocks = BLOCKS[depth]
  widths = layers.widened(WIDTHS[variant], widen)
  layers.check_norm(norm, widths)
  # Average pooling drops an odd last row and may leave nothing; strides and
  # the max pooling round up.
  pooled, stem = name == 'resnet_ap', STEMS[name][stem]
  layers.check_side(name, shape, 8 << len(stem.pools) if pooled else 1)
  return ResNet(classes, widths, blocks, norm, pooled, stem,
                kernel_init=layers.fan_out)


def resnet18(shape: tuple[int, ...], classes: int, *, norm: str = 'instance',
             widen: float = 1.0) -> nn.Module:
  """DC's checked ResNet-18: `ResNet` of 3x3 stem, widths 64 to 512.

  PyTorch's default initialisation. The released one averages the first 4x4 of
  the last map, which is all of it at 32 pixels, and takes at most 56; here the
  mean is over all. MTT's for ImageNet is `resnet` of depth 18, variant
  imagenet, stem large, norm instance, but for how its convolutions start.

  Raises:
    UserError: an unknown norm or widths that it cannot group.
  Source: DC (2006.05929), its released networks.
  """
  return _dc('resnet18', shape, classes, norm, widen)


def resnet18_ap(shape: tuple[int, ...], classes: int, *, norm: str = 'instance',
                widen: float = 1.0) -> nn.Module:
  """DC's checked ResNet-18-AP: halves by pooling, reads the flattened map.

  The released classifier fits 32 to 39 pixels (24 to 31 of gray images); here
  it reads the map of any size.

  Raises:
    UserError: as `resnet18`; images smaller than 8x8.
  Source: DSA (2102.08259), its released networks.
  """
  return _dc('resnet18_ap', shape, classes, norm, widen)


def _dc(name, shape, classes, norm, widen):
  widths = layers.widened(WIDTHS['imagenet'], widen)
  layers.check_norm(norm, widths)
  # No `kernel_init`: unlike IDC's, these convolutions start as PyTorch's do.
  pooled = name == 'resnet18_ap'
  layers.check_side(name, shape, 8 if pooled else 1)
  return ResNet(classes, widths, BLOCKS[18], norm, pooled, flat=pooled)
