"""Gradient norms and losses over a network's age: against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax import losses
from dasm_jax.diagnose import ageing
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import recipes, train_step
from dasm_jax.types import Batch

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEYS = jax.random.split(jax.random.key(1), 2)
RECIPE = recipes.recipe(1, lr=.1, batch=12, momentum=.5)


@pytest.fixture(scope='module')
def grown():
  """Right and wrong labels: `{ages: [set][SCORES, ages, networks, n]}`."""
  network, data = toy.network(), toy.source()
  right = sources.take(data, jnp.arange(0, 36, 4))
  wrong = right._replace(labels=jnp.roll(right.labels, 1, axis=1))
  given = devices.replicate(data), devices.replicate([right, wrong])
  run = ageing.difficulty_by_age(network, RECIPE)
  return network, right, {
      ages: run(KEYS, *given, ages) for ages in ((0, 2, 40), (40,))}


def test_scores_of_fresh_networks_against_a_loop(grown):
  network, right, found = grown
  loss = train_step.loss_fn(network)
  @jax.jit
  def both(variables, image, label):
    value, slope = jax.value_and_grad(loss)(
        variables, Batch(image[None], label[None]))
    return losses.tree_norm(slope.params), value
  for i, key in enumerate(KEYS):
    variables = jax.jit(network.init)(jax.random.split(key)[0])
    want = [both(variables, *one) for one in zip(*right, strict=True)]
    np.testing.assert_allclose(
        found[0, 2, 40][0][:, 0, i].T, want, rtol=1e-4)


def test_an_age_is_that_many_steps_however_often_one_looks(grown):
  whole, once = (found[0] for found in grown[2].values())
  assert whole.shape == (2, 3, 2, 9) and once.shape == (2, 1, 2, 9)
  np.testing.assert_allclose(whole[:, -1], once[:, 0], rtol=1e-3, atol=1e-6)


def test_wrong_labels_grow_harder_right_ones_easier(grown):
  for score in range(len(ageing.SCORES)):
    right, wrong = (x[score].mean((1, 2)) for x in grown[2][0, 2, 40])
    assert right[-1] < .7 * right[0] and wrong[-1] > 1.3 * wrong[0]
