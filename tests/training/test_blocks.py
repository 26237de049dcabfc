"""Gradients block by block equal those of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax import losses
from dasm_jax.training import train_step
from dasm_jax.types import Batch

pytestmark = pytest.mark.usefixtures('quick_compiler')


@pytest.mark.parametrize('n, positions', [(7, 3), (6, 2), (5, 100)])
def test_blocks_are_the_whole(n, positions):
  network = toy.network()
  variables = jax.jit(network.init)(jax.random.key(0))
  images = jax.random.normal(jax.random.key(1), (n, 8, 8, 1))
  batch = Batch(images, jnp.eye(3)[jnp.arange(n) % 3])

  def loss(params, batch):
    logits, _ = network.apply(variables._replace(params=params), batch.images)
    return losses.cross_entropy(logits, batch.labels)

  want = jax.jit(jax.value_and_grad(loss))(variables.params, batch)
  block = positions * 64
  assert train_step.block_count(n, 64, block) == -(-n // positions)
  sizes = []
  def seen(params, batch):
    sizes.append(len(batch.images))
    return loss(params, batch)
  got = jax.jit(lambda params, batch: train_step.blocked_value_and_grad(
      seen, params, batch, block))(variables.params, batch)
  # No block larger than asked, though the last one is padded (7 as 3 x 3).
  assert sizes[-1] == min(n, positions)
  # A bias before a norm has gradient 0: what is there is the rounding of sums
  # of others, as large as theirs.
  largest = max(np.abs(x).max() for x in jax.tree.leaves(want[1]))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-6 * largest), got, want)


def test_accelerators_take_it_whole(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert train_step.block_count(10_000, 10_000) == 1
