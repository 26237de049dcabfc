"""Training: rates as published, epochs that cover, shares of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax import losses
from dasm_jax.errors import UserError
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import ensemble, recipes, scoring, train_step

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEY = jax.random.key(0)


def test_rates_of_dc():
  # Theirs: epochs 0 … 300 (301 of them); after epoch 151 a tenth, and a new
  # optimizer: the first of the lower rate is number 152.
  rate, restart = recipes.rates(recipes.dc_recipe(300))
  assert len(rate) == 301
  np.testing.assert_allclose(rate, [.01] * 152 + [.001] * 149)
  assert np.flatnonzero(restart).tolist() == [152]


def test_rates_of_idc():
  rate, restart = recipes.rates(recipes.idc_recipe(12))
  np.testing.assert_allclose(
      rate, [.01] * 8 + [.002] * 2 + [.0004] * 2, rtol=1e-6)
  assert not restart.any()
  assert len(recipes.rates(recipes.recipe(3))[0]) == 3


def test_rates_of_a_warm_up():
  # torch's: LinearLR from a hundredth over 2 epochs, then a cosine over 4.
  rate, restart = recipes.rates(recipes.recipe(6, lr=2., cosine=True, warmup=2))
  np.testing.assert_allclose(rate, [
      .02, 1.01, 2., 1 + .5 ** .5, 1., 1 - .5 ** .5])
  assert not restart.any()
  # What a step of a program asks is the same.
  traced = jax.jit(lambda at: recipes.cosine(at, 6, 2))(jnp.arange(6))
  np.testing.assert_allclose(2 * traced, rate, rtol=1e-6)


def test_rates_of_rded():
  # Half of a cosine: at epoch e of E (1 + cos(pi e / 2E)) / 2.
  recipe = recipes.rded_recipe(4)
  rate, restart = recipes.rates(recipe)
  np.testing.assert_allclose(rate, .001 * (1 + np.cos(
      np.pi * np.array([0, .125, .25, .375]))) / 2)
  assert rate[-1] > .0005 and not restart.any()
  assert (recipe.optimizer, recipe.weight_decay, recipe.cutmix) == (
      'adamw', .01, 1)
  assert recipe.matrices and not recipe.squared
  with pytest.raises(UserError, match='stretch=0.5 of a training recipe'):
    recipes.recipe(4, stretch=.5)


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
def test_what_decays(optimizer):
  params = {'kernel': jnp.ones((2, 2)), 'scale': jnp.ones(2)}
  still = jax.tree.map(jnp.zeros_like, params)
  for matrices in (False, True):
    tx = train_step.recipe_optimizer(recipes.recipe(
        1, optimizer=optimizer, weight_decay=.1, matrices=matrices))
    change, _ = tx.update(still, tx.init(params), params)
    assert change['kernel'].any()
    assert change['scale'].any() != matrices


@pytest.mark.parametrize('n, batch', [(10, 4), (8, 4), (3, 5), (7, 1)])
def test_epoch_covers_everything_once(n, batch):
  def do(carry, indices, key):
    often, sizes, keys, at = carry
    return (often.at[indices].add(1), sizes.at[at].set(len(indices)),
            keys.at[at].set(jax.random.key_data(key)[0]), at + 1)
  parts = -(-n // batch)
  start = (jnp.zeros(n, int), jnp.zeros(parts, int),
           jnp.zeros(parts, jnp.uint32), 0)
  run = jax.jit(lambda key: train_step.run_epoch(do, start, key, n, batch))
  often, sizes, keys, count = run(KEY)
  np.testing.assert_array_equal(often, 1)
  assert int(count) == parts and sorted(sizes, reverse=True) == list(sizes)
  assert sizes.tolist() == [batch] * (n // batch) + [n % batch] * (
      n % batch > 0)
  assert len(set(keys.tolist())) == parts


@pytest.mark.parametrize('n, batch, room, ahead', [
    (24, 4, 2 ** 20, 6), (24, 4, 4 * 8, 2), (22, 4, 4 * 8, 1), (14, 2, 7, 1)])
def test_batches_made_ahead_are_the_same(n, batch, room, ahead, monkeypatch):
  """All at once, some at a time, or one by one, as a CPU makes them."""
  monkeypatch.setattr(devices, 'AHEAD_BYTES', room)
  def make(indices, key):
    return (indices + jax.random.uniform(key, indices.shape),)
  def run(key):
    return train_step.run_epoch(
        lambda carry, some: .5 * carry + some.sum(), 0., key, n, batch, make)
  def text(key):
    return str(jax.make_jaxpr(lambda key: run(key))(key))
  want, alone = run(KEY), text(KEY)
  with devices.building_for(devices.Target('gpu', 2 ** 30)):
    np.testing.assert_allclose(run(KEY), want, 1e-6)
    assert (text(KEY) == alone) == (ahead == 1)
    assert f'f32[{ahead},{batch}]' in text(KEY) or ahead == 1


def test_networks_are_trained_the_same_on_batches_made_ahead():
  network = toy.network(norm='instance')
  batch = sources.take(toy.source(), jnp.arange(36))
  recipe = recipes.dc_recipe(2, strategy='color_crop_flip')._replace(batch=8)
  want = ensemble.fit(network, recipe, KEY, batch)
  with devices.building_for(devices.Target('gpu', 2 ** 30)):
    got = ensemble.fit(network, recipe, KEY, batch)
  for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(x, y, 2e-3, 1e-4)


def test_optimizer_is_pytorch_s():
  tx = train_step.sgd(0.9, 0.1)
  p, v = np.array([1., -2]), np.zeros(2)
  params, moments = jnp.asarray(p), tx.init(jnp.asarray(p))
  for step in range(3):
    g = np.array([.5, step])
    v = .9 * v + (g + .1 * p)
    p = p - .2 * v
    change, moments = tx.update(jnp.asarray(g), moments, params)
    params = params - .2 * change
    np.testing.assert_allclose(params, p, rtol=1e-6)


def fitted(recipe, data, **options):
  network = toy.network(norm='instance')
  batch = sources.take(data, jnp.arange(36))
  run = jax.jit(lambda key: ensemble.fit(network, recipe, key, batch,
                                         **options))
  return network, *run(KEY)


def test_fit_learns():
  data = toy.source()
  network, variables, loss = fitted(
      recipes.recipe(30, lr=.05, batch=10), data)
  assert loss < .3
  accuracy = jax.jit(lambda variables, chunk: scoring.accuracy(
      network, variables, data, chunk), static_argnums=1)
  assert accuracy(variables, 10) > .9
  fresh = jax.jit(network.init)(jax.random.key(3))
  assert accuracy(fresh, 10) < .8
  by_hand = np.mean(np.asarray(network.apply(fresh, sources.take(
      data, jnp.arange(36)).images)[0].argmax(-1)) == np.asarray(data.labels))
  np.testing.assert_allclose(accuracy(fresh, 7), by_hand)


@pytest.mark.slow
def test_restart_forgets_the_momentum():
  data = toy.source()
  options = dict(lr=.05, batch=36, drops=(1,), decay=1.0)
  ends = [fitted(recipes.recipe(2, restart=restart, **options), data)[1]
          for restart in (False, True)]
  one, two = (np.asarray(x.params['Dense_0']['kernel']) for x in ends)
  assert abs(one - two).max() > 1e-4


@pytest.mark.parametrize('size', [16, 6])  # 6 does not split: all do all
@pytest.mark.parametrize('norm', ['instance', 'batch'])
def test_shared_step_is_the_whole_one(size, norm):
  network = toy.network(norm=norm)
  tx = train_step.sgd()
  variables = jax.jit(network.init)(KEY)
  moments = tx.init(variables.params)
  batch = sources.take(toy.source(), jnp.arange(size) * 2)
  def step(axis_name):
    return train_step.sgd_step(network, tx, variables, moments, batch, .1,
                               axis_name)
  want = jax.jit(lambda: step(None))()
  got = jax.pmap(lambda _: step('d'), axis_name='d')(jnp.arange(8))
  for device in (0, 7):
    toy.leaves_close(jax.tree.map(lambda x: x[device], got), want,  # noqa: B023
                     rtol=1e-4, atol=1e-5)
  # Shares are shares: what a device sees is an eighth where it can be.
  share = train_step.device_share
  sizes = jax.vmap(lambda _: jnp.int32(share(batch, variables, 'd')),
                   axis_name='d')(jnp.arange(8))
  assert set(sizes.tolist()) == {2 if (size, norm) == (16, 'instance') else 0}
  assert devices.count() == 8


def test_statistics_get_no_gradient():
  network = toy.network(norm='batch')
  variables = jax.jit(network.init)(KEY)
  batch = sources.take(toy.source(), jnp.arange(6))
  slope = jax.jit(jax.grad(train_step.loss_fn(network)))(variables, batch)
  assert not any(x.any() for x in jax.tree.leaves(slope.stats))
  assert any(x.any() for x in jax.tree.leaves(slope.params))
  logits = train_step.logits_fn(network)(variables, batch.images)
  np.testing.assert_allclose(
      train_step.loss_fn(network)(variables, batch),
      losses.cross_entropy(logits, batch.labels), rtol=1e-5)


@pytest.mark.parametrize('options, words', [
    ({'epochs': 0}, 'epochs=0'), ({'batch': 0}, 'batch=0'),
    ({'lr': 0.}, 'lr=0.0'), ({'cutmix': 1.5}, 'cutmix=1.5.*from 0 to 1'),
    ({'mixup': -1.}, 'mixup=-1.0'), ({'warmup': -1}, 'warmup=-1'),
    ({'strategy': 'blur'}, "'blur'"), ({'mode': 'x'}, "mode 'x'")])
def test_impossible_recipes(options, words):
  with pytest.raises(UserError, match=words):
    recipes.recipe(**{'epochs': 1, **options})
