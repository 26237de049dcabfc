"""ViT against its formula, in numpy."""

import math

import golden_files
import jax
import numpy as np

from dasm_jax import models


def by_hand(p, x, patch, heads):
  """The docstring's formula in numpy, patch by patch and head by head."""
  def linear(name, z):
    return z @ p[name]['kernel'] + p[name]['bias']
  def norm(name, z):
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(
        z.var(-1, keepdims=True) + 1e-5)
    return z * p[name]['scale'] + p[name]['bias']
  rows, columns = (side // patch for side in x.shape[:2])
  z = linear('Dense_0', np.array([
      x[i * patch:(i + 1) * patch, j * patch:(j + 1) * patch].ravel()
      for i in range(rows) for j in range(columns)])) + p['positions']
  q, k, v = np.split(linear('Dense_1', norm('LayerNorm_0', z)), 3, -1)
  size, out = q.shape[1] // heads, []
  for h in range(heads):
    a, b, c = (y[:, h * size:(h + 1) * size] for y in (q, k, v))
    weights = np.exp(a @ b.T / math.sqrt(size))
    out.append(weights / weights.sum(-1, keepdims=True) @ c)
  z = z + linear('Dense_2', np.concatenate(out, -1))
  hidden = linear('Dense_3', norm('LayerNorm_1', z))
  gelu = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
  z = z + linear('Dense_4', gelu)
  mean = norm('LayerNorm_2', z).mean(0)
  return linear('Dense_5', mean), mean


def test_formula():
  network = models.build('vit', shape=(4, 6, 2), classes=3, patch=2, width=6,
                         depth=1, heads=2)
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape),
                             jax.eval_shape(network.init, jax.random.key(0)))
    x = rng.normal(size=(4, 6, 2))
    logits, mean = by_hand(variables.params, x, 2, 2)
    got = jax.jit(lambda *given: (
        network.apply(*given)[0][0], network.embed(*given)[0]),
                  compiler_options=golden_files.ORDERS[0])(variables, x[None])
    np.testing.assert_allclose(got[0], logits, rtol=1e-9)
    np.testing.assert_allclose(got[1], mean, rtol=1e-9)
