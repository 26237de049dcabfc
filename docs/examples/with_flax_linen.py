"""Gradients of a flax linen network of your own, matched with SDC."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from dasm_jax import coresets, data, losses, objectives
from dasm_jax.types import Batch, Synthetic


class Net(nn.Module):
  @nn.compact
  def __call__(self, images):
    x = nn.relu(nn.Conv(8, (3, 3))(images))
    return nn.Dense(10)(x.reshape(len(x), -1))


def loss_fn(params, batch):
  return losses.cross_entropy(Net().apply(params, batch.images), batch.labels)


digits = data.load('digits').train
rows = coresets.random(digits.labels, 16, 10)             # [classes, 16]
real = Batch(jnp.asarray(digits.images[rows], 'float32') / 255,
             jnp.broadcast_to(jnp.eye(10)[:, None], (10, 16, 10)))
syn = Synthetic(real.images[:, :1], real.labels[:, :1], jnp.float32(0.01))
match = objectives.gradient_matching(loss_fn)
match = objectives.per_class(objectives.sdc(match, loss_fn, weight=0.002))

@jax.jit
def step(syn, key):
  params = Net().init(key, real.images[0])  # a fresh network
  loss, slope = jax.value_and_grad(lambda *x: match(*x)[0])(
      syn, params, real, key)
  return syn._replace(images=syn.images - 0.05 * slope.images), loss

for number in range(20):
  syn, loss = step(syn, jax.random.key(number))
print(f'linen: loss {loss:.2f}, a set of {syn.images.shape}')
