"""No library for networks at all: a loss is a function of a pytree."""

import jax
import jax.numpy as jnp

from dasm_jax import losses, objectives
from dasm_jax.types import Batch, Synthetic


def loss_fn(params, batch):
  hidden = jnp.tanh(batch.images @ params['first'])
  return losses.cross_entropy(hidden @ params['second'], batch.labels)


def start(key):
  first, second = jax.random.split(key)
  return {'first': jax.random.normal(first, (2, 16)),
          'second': jax.random.normal(second, (16, 3)) / 4}


# Points around three corners of a triangle; any shape of a sample will do.
angles = jnp.arange(3) * 2 * jnp.pi / 3
corners = jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)
cloud = 0.3 * jax.random.normal(jax.random.key(0), (3, 50, 2))
labels = jnp.broadcast_to(jnp.eye(3)[:, None], (3, 50, 3))
real = Batch(corners[:, None] + cloud, labels)
syn = Synthetic(jnp.zeros((3, 1, 2)), labels[:, :1], jnp.float32(0.1))
match = objectives.per_class(
    objectives.gradient_matching(loss_fn, losses.mse))
step = jax.jit(jax.value_and_grad(match, has_aux=True))

for number in range(300):
  params = start(jax.random.key(number))
  (loss, _), slope = step(syn, params, real, jax.random.key(number))
  syn = syn._replace(images=syn.images - 0.1 * slope.images)
apart = jnp.abs(syn.images[:, 0] - corners).max()
print(f'one point a class, {apart:.2f} from the corners at most')
