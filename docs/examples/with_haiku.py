"""Gradients and features of a haiku network, and what makes images hard."""

import haiku as hk
import jax
import jax.numpy as jnp

from dasm_jax import coresets, data, difficulty, losses, objectives
from dasm_jax.types import Batch, Synthetic


def network(images):
  x = jax.nn.relu(hk.Conv2D(8, 3)(images))
  return hk.Linear(10)(hk.Flatten()(x)), x


net = hk.without_apply_rng(hk.transform(network))


def loss_fn(params, batch):
  return losses.cross_entropy(
      net.apply(params, batch.images)[0], batch.labels)


digits = data.load('digits').train
rows = coresets.random(digits.labels, 16, 10)             # [classes, 16]
real = Batch(jnp.asarray(digits.images[rows], 'float32') / 255,
             jnp.broadcast_to(jnp.eye(10)[:, None], (10, 16, 10)))
syn = Synthetic(real.images[:, :1], real.labels[:, :1], jnp.float32(0.01))
params = net.init(jax.random.PRNGKey(0), real.images[0])  # old keys do, too
key = jax.random.PRNGKey(1)
gradients = objectives.per_class(objectives.gradient_matching(loss_fn))
features = objectives.per_class(objectives.feature_matching(
    lambda params, images: net.apply(params, images)[1:]))
for name, match in (('gradients', gradients), ('features', features)):
  value, metrics = jax.jit(match)(syn, params, real, key)
  print(f'haiku: distance of {name} {value:.3f}')
one = jax.tree.map(lambda x: x[3], real)                  # the class 3, flat
hard = difficulty.gradient_norms(loss_fn, params, one)    # [16]
print(f'hardest image of class 3: {int(hard.argmax())}')
