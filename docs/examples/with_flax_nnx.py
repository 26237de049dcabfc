"""Gradients of a flax nnx network of your own, matched class by class."""

import jax
import jax.numpy as jnp
from flax import nnx

from dasm_jax import coresets, data, losses, objectives
from dasm_jax.types import Batch, Synthetic


class Net(nnx.Module):
  def __init__(self, rngs):
    self.conv = nnx.Conv(1, 8, (3, 3), rngs=rngs)
    self.out = nnx.Linear(8 * 64, 10, rngs=rngs)

  def __call__(self, images):
    return self.out(nnx.relu(self.conv(images)).reshape(len(images), -1))


def loss_fn(params, batch):
  return losses.cross_entropy(
      nnx.merge(graph, params)(batch.images), batch.labels)


digits = data.load('digits').train
rows = coresets.random(digits.labels, 16, 10)             # [classes, 16]
real = Batch(jnp.asarray(digits.images[rows], 'float32') / 255,
             jnp.broadcast_to(jnp.eye(10)[:, None], (10, 16, 10)))
syn = Synthetic(real.images[:, :1], real.labels[:, :1], jnp.float32(0.01))
match = objectives.per_class(objectives.gradient_matching(loss_fn))
step = jax.jit(jax.value_and_grad(match, has_aux=True))

for number in range(20):
  # What is differentiated is the state: a pytree of arrays.
  graph, params = nnx.split(Net(nnx.Rngs(number)))
  (loss, _), slope = step(syn, params, real, jax.random.key(number))
  syn = syn._replace(images=syn.images - 0.05 * slope.images)
print(f'nnx: loss {loss:.2f}, a set of {syn.images.shape}')
