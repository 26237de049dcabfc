"""A small vision transformer."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from dasm_jax.errors import UserError
from dasm_jax.models import layers


class ViT(nn.Module):
  """Transformer on patches, averaged over them.

  With the n x n patches as tokens, learned positions E, and LayerNorm N over
  the last axis:
    z = patch W + b + E
    z <- z + A(N(z)),  A: `heads` heads of softmax(q k' / sqrt(width / heads)) v
    z <- z + W2 gelu(W1 N(z)),  W1: width to 4 width    (`depth` times each)
    logits = W mean_tokens(N(z)) + b
  Linear layers start as in PyTorch, positions as N(0, 0.02^2).

  Returns `(logits, features)`: `[n, classes]`, and each block's tokens
  `[n, height / patch, width / patch, width_of_net]`, then the mean that the
  classifier reads, `[n, 1, 1, width_of_net]`.
  Source: Dosovitskiy et al. (2010.11929); mean for the class token: Beyer et
  al. (2205.01580).
  """
  classes: int
  patch: int
  width: int
  depth: int
  heads: int

  @nn.compact
  def __call__(self, x, train=False):
    n, height, width, c = x.shape
    p, rows, columns = self.patch, height // self.patch, width // self.patch
    # Patches row by row, so that tokens can be laid out as a map again.
    x = x.reshape(n, rows, p, columns, p, c).transpose(0, 1, 3, 2, 4, 5)
    x = layers.Dense(self.width)(x.reshape(n, rows * columns, p * p * c))
    x += self.param('positions', layers.to_draw('normal', 0.02),
                    (rows * columns, self.width)).astype(x.dtype)
    features = []
    for _ in range(self.depth):
      x += self._attention(layers.LayerNorm()(x))
      hidden = layers.Dense(4 * self.width)(layers.LayerNorm()(x))
      # Exact, as PyTorch's; JAX's default is the tanh approximation.
      x += layers.Dense(self.width)(jax.nn.gelu(hidden, approximate=False))
      features.append(x.reshape(n, rows, columns, self.width))
    x = layers.LayerNorm()(x).mean(1)
    features.append(x[:, None, None])
    return layers.classify(x, self.classes), tuple(features)

  def _attention(self, x):
    n, tokens, width = x.shape
    # One product for q, k and v of all heads.
    x = layers.Dense(3 * width)(x)
    q, k, v = jnp.moveaxis(
        x.reshape(n, tokens, 3, self.heads, width // self.heads), 2, 0)
    scores = jnp.einsum('nqhd,nkhd->nhqk', q, k) / math.sqrt(q.shape[-1])
    out = jnp.einsum('nhqk,nkhd->nqhd', jax.nn.softmax(scores), v)
    return layers.Dense(width)(out.reshape(n, tokens, width))


def vit(shape: tuple[int, ...], classes: int, *, patch: int = 4,
        width: int = 128, depth: int = 4, heads: int = 4) -> nn.Module:
  """A checked `ViT` for images of `shape` (height, width, channels).

  Raises:
    UserError: a setting under 1; a patch that does not divide the sides, or
      heads that do not divide the width.
  """
  layers.check_positive(patch=patch, width=width, depth=depth, heads=heads)
  if shape[0] % patch or shape[1] % patch:
    side = math.gcd(*shape[:2])
    fitting = ', '.join(str(p) for p in range(1, side + 1) if not side % p)
    raise UserError(f'patch {patch} does not divide {shape[0]}x{shape[1]} '
                    f'images; choose from {fitting}')
  if width % heads:
    raise UserError(f'heads {heads} do not divide width {width}; '
                    'take a divisor')
  return ViT(classes, patch, width, depth, heads)
