"""Networks trained some epochs a call: as `train.fit` alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax import fitting, meters, parallel, recipes, train
from dasm_jax import source as sources
from dasm_jax.types import Taught

pytestmark = pytest.mark.usefixtures('quick_compiler')

NETWORK = toy.network()
KEYS = jax.random.split(jax.random.key(0), 3)
RECIPES = {
    'dc': recipes.dc_recipe(4, lr=.05, batch=8, strategy='crop'),
    'idc': recipes.idc_recipe(6, lr=.05, batch=5, strategy='crop', cutmix=.5),
    'adamw': recipes.recipe(5, lr=1e-3, batch=36, optimizer='adamw',
                            cosine=True)}


def batch():
  return sources.take(toy.source(), jnp.arange(0, 36, 2))


@pytest.fixture
def slow(monkeypatch):
  """One epoch a call, however fast it is."""
  monkeypatch.setattr(meters, 'PATIENCE', 1e-9)


@pytest.fixture
def quick(monkeypatch):
  """All epochs after the first in one call, however slow they are."""
  monkeypatch.setattr(meters, 'PATIENCE', 1e9)


def told():
  """A hook that keeps `(done, Stand, losses)`, and what it keeps."""
  found = []
  def seen(done, stand, loss):
    found.append((done, stand(), np.asarray(loss())))
  return seen, found


@pytest.mark.parametrize('name', RECIPES)
def test_as_alone_however_it_is_cut(name, monkeypatch):
  recipe, data = RECIPES[name], batch()
  run, everywhere = fitting.on_set(NETWORK, recipe), parallel.replicate(data)
  length = recipe.epochs + recipe.extra
  monkeypatch.setattr(meters, 'PATIENCE', 1e9)
  seen, few = told()
  whole = run(KEYS, everywhere, seen=seen)
  assert [done for done, *_ in few] == [1, length]
  monkeypatch.setattr(meters, 'PATIENCE', 1e-9)
  seen, many = told()
  toy.leaves_equal(run(KEYS, everywhere, seen=seen), whole)
  assert [done for done, *_ in many] == [*range(1, length + 1)]
  assert [stand.done for _, stand, _ in many] == [*range(1, length + 1)]
  # From where they stood after two epochs.
  seen, rest = told()
  toy.leaves_equal(run(KEYS, everywhere, many[1][1], seen), whole)
  assert [done for done, *_ in rest] == [*range(3, length + 1)]
  np.testing.assert_array_equal(rest[-1][2], few[-1][2])
  alone = jax.jit(lambda key: train.fit(NETWORK, recipe, key, data))
  for number, key in enumerate(KEYS):
    variables, loss = alone(key)
    toy.leaves_close(jax.tree.map(lambda x: x[number], whole), variables,  # noqa: B023
                     1e-3, 1e-4)
    np.testing.assert_allclose(few[-1][2][number], loss, 1e-3, 1e-4)


def test_each_has_its_subset(slow):
  recipe, data = RECIPES['dc'], toy.source()
  subsets = np.array([[0, 12, 24, 1], [5, 13, 30, 6], [7, 20, 35, 8]])
  got = fitting.on_subsets(NETWORK, recipe)(
      (KEYS, jnp.asarray(subsets)), parallel.replicate(data))
  for number, subset in enumerate(subsets):
    alone, _ = jax.jit(lambda key, rows: train.fit(
        NETWORK, recipe, key, sources.take(data, rows)))(
            KEYS[number], jnp.asarray(subset))
    toy.leaves_close(jax.tree.map(lambda x: x[number], got), alone,  # noqa: B023
                     1e-3, 1e-4)


def test_a_taught_set_shows_what_it_showed(slow):
  """Lessons go by the epoch, wherever a call begins."""
  data, recipe = batch(), RECIPES['idc']
  logits = jax.random.normal(jax.random.key(1), (2, 18, 3)).astype(jnp.float16)
  taught = Taught(*data, logits, jnp.uint32(5), jnp.float32(4.))
  got = fitting.on_set(NETWORK, recipe)(KEYS, parallel.replicate(taught))
  alone, _ = jax.jit(lambda key: train.fit(NETWORK, recipe, key, taught))(
      KEYS[1])
  toy.leaves_close(jax.tree.map(lambda x: x[1], got), alone, 1e-3, 1e-4)


def test_shapes_of_a_stand(quick):
  network = toy.network(norm='batch')
  for recipe in RECIPES.values():
    seen, found = told()
    fitting.on_set(network, recipe)(KEYS, parallel.replicate(batch()),
                                    seen=seen)
    want = fitting.like(network, recipe, 3)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), want.variables) == (
        jax.tree.map(lambda x: (x.shape, x.dtype), found[0][1].variables))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), want.moments) == (
        jax.tree.map(lambda x: (x.shape, x.dtype), found[0][1].moments))


def test_nothing_is_compiled_twice(slow):
  run, data = fitting.on_set(NETWORK, RECIPES['dc']), parallel.replicate(
      batch())
  seen, found = told()
  start = []
  run(KEYS, data, seen=lambda done, stand, loss: start.append(stand()))
  with toy.compilations() as names:
    run(KEYS, data, start[0], seen)
    run(KEYS, data, start[2], seen)
  assert [done for done, *_ in found] == [2, 3, 4, 5, 4, 5]
  assert names == []
