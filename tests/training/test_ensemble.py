"""Networks trained some epochs a call: as `ensemble.fit` alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import ensemble, recipes
from dasm_jax.types import SoftLabelled

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick_compiler')]

NETWORK = toy.network()
KEYS = jax.random.split(jax.random.key(0), 3)
RECIPES = {
    'dc': recipes.dc_recipe(4, lr=.05, batch=8, strategy='crop'),
    'idc': recipes.idc_recipe(6, lr=.05, batch=5, strategy='crop', cutmix=.5),
    'adamw': recipes.recipe(5, lr=1e-3, batch=36, optimizer='adamw',
                            cosine=True)}


def batch():
  return sources.take(toy.source(), jnp.arange(0, 36, 2))


# One epoch a call, however fast it is; all after the first in one call, however
# slow they are.
SLOW, QUICK = {'call_seconds': 1e-9}, {'call_seconds': 1e9}


def listener():
  """A hook that keeps `(done, TrainState, losses)`, and what it keeps."""
  found = []
  def seen(done, state, loss):
    found.append((done, state(), np.asarray(loss())))
  return seen, found


@pytest.mark.parametrize('name', RECIPES)
def test_as_alone_however_it_is_cut(name):
  recipe, data = RECIPES[name], batch()
  quick, run = (ensemble.train_on_set(NETWORK, recipe, **how)
                for how in (QUICK, SLOW))
  everywhere, length = devices.replicate(data), recipe.epochs + recipe.extra
  seen, few = listener()
  whole = quick(KEYS, everywhere, seen=seen)
  assert [done for done, *_ in few] == [1, length]
  seen, many = listener()
  toy.leaves_equal(run(KEYS, everywhere, seen=seen), whole)
  assert [done for done, *_ in many] == [*range(1, length + 1)]
  assert [state.done for _, state, _ in many] == [*range(1, length + 1)]
  # From where they stood after two epochs.
  seen, rest = listener()
  toy.leaves_equal(run(KEYS, everywhere, many[1][1], seen), whole)
  assert [done for done, *_ in rest] == [*range(3, length + 1)]
  np.testing.assert_array_equal(rest[-1][2], few[-1][2])
  alone = jax.jit(lambda key: ensemble.fit(NETWORK, recipe, key, data))
  for number, key in enumerate(KEYS):
    variables, loss = alone(key)
    toy.leaves_close(jax.tree.map(lambda x: x[number], whole), variables,  # noqa: B023
                     1e-3, 1e-4)
    np.testing.assert_allclose(few[-1][2][number], loss, 1e-3, 1e-4)


def test_each_has_its_subset():
  recipe, data = RECIPES['dc'], toy.source()
  subsets = np.array([[0, 12, 24, 1], [5, 13, 30, 6], [7, 20, 35, 8]])
  got = ensemble.train_on_subsets(NETWORK, recipe, **SLOW)(
      (KEYS, jnp.asarray(subsets)), devices.replicate(data))
  for number, subset in enumerate(subsets):
    alone, _ = jax.jit(lambda key, rows: ensemble.fit(
        NETWORK, recipe, key, sources.take(data, rows)))(
            KEYS[number], jnp.asarray(subset))
    toy.leaves_close(jax.tree.map(lambda x: x[number], got), alone,  # noqa: B023
                     1e-3, 1e-4)


def test_soft_labels_of_an_epoch_are_its_own():
  """Teachers' logits go by the epoch, wherever a call begins."""
  data, recipe = batch(), RECIPES['idc']
  logits = jax.random.normal(jax.random.key(1), (2, 18, 3)).astype(jnp.float16)
  taught = SoftLabelled(*data, logits, jnp.uint32(5), jnp.float32(4.))
  got = ensemble.train_on_set(NETWORK, recipe, **SLOW)(
      KEYS, devices.replicate(taught))
  alone, _ = jax.jit(lambda key: ensemble.fit(NETWORK, recipe, key, taught))(
      KEYS[1])
  toy.leaves_close(jax.tree.map(lambda x: x[1], got), alone, 1e-3, 1e-4)


def test_shapes_of_a_state():
  network = toy.network(norm='batch')
  for recipe in RECIPES.values():
    seen, found = listener()
    ensemble.train_on_set(network, recipe, **QUICK)(
        KEYS, devices.replicate(batch()), seen=seen)
    want, got = ensemble.state_shapes(network, recipe, 3), found[0][1]
    def shapes(tree):
      return jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(want.variables) == shapes(got.variables)
    assert shapes(want.opt_state) == shapes(got.opt_state)


def test_nothing_is_compiled_twice():
  run = ensemble.train_on_set(NETWORK, RECIPES['dc'], **SLOW)
  data = devices.replicate(batch())
  seen, found = listener()
  start = []
  run(KEYS, data, seen=lambda done, state, loss: start.append(state()))
  run(KEYS, data, start[1])
  with toy.compilations() as names:
    run(KEYS, data, start[0], seen)
    run(KEYS, data, start[2], seen)
  assert [done for done, *_ in found] == [2, 3, 4, 5, 4, 5]
  assert names == []
