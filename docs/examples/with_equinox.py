"""Gradients of an equinox network, whose layout is that of PyTorch."""

import equinox as eqx
import jax
import jax.numpy as jnp

from dasm_jax import coresets, data, losses, objectives
from dasm_jax.types import Batch, Synthetic


def network(key):
  first, second = jax.random.split(key)
  return eqx.nn.Sequential([
      eqx.nn.Conv2d(1, 8, 3, padding=1, key=first), eqx.nn.Lambda(jax.nn.relu),
      eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(8 * 64, 10, key=second)])


def loss_fn(params, batch):
  net = eqx.combine(params, static)
  images = jnp.moveaxis(batch.images, -1, 1)              # to [n, c, h, w]
  return losses.cross_entropy(jax.vmap(net)(images), batch.labels)


digits = data.load('digits').train
rows = coresets.random(digits.labels, 16, 10)             # [classes, 16]
real = Batch(jnp.asarray(digits.images[rows], 'float32') / 255,
             jnp.broadcast_to(jnp.eye(10)[:, None], (10, 16, 10)))
syn = Synthetic(real.images[:, :1], real.labels[:, :1], jnp.float32(0.01))
# Output units are the first axis here, and biases are [channels, 1, 1].
match = objectives.per_class(
    objectives.gradient_matching(loss_fn, layout='OIHW'))
step = jax.jit(jax.value_and_grad(match, has_aux=True))

for number in range(20):
  params, static = eqx.partition(network(jax.random.key(number)), eqx.is_array)
  (loss, _), slope = step(syn, params, real, jax.random.key(number))
  syn = syn._replace(images=syn.images - 0.05 * slope.images)
print(f'equinox: loss {loss:.2f}, a set of {syn.images.shape}')
