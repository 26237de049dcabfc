"""Comparisons, scores and probes: against networks trained one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax import difficulty, streams
from dasm_jax.evaluate import comparison
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import ensemble, recipes, scoring, train_step

NETWORK = toy.network()
RECIPE = recipes.recipe(2, lr=.05, batch=8)
KEYS = jax.random.split(jax.random.key(0), 3)
OURS = np.arange(0, 36, 4)  # the images that stand for a distilled set
INIT = jax.jit(jax.vmap(NETWORK.init))


pytestmark = pytest.mark.usefixtures('quick_compiler')


@pytest.fixture(scope='module')
def sets():
  data = toy.source()
  return data, devices.replicate(data)


def one_by_one(network, recipe, batches, data):
  """The accuracy of each network, trained by itself on its batch."""
  run = jax.jit(lambda key, batch: ensemble.fit(network, recipe, key, batch)[0])
  right = jax.jit(lambda v: scoring.accuracy(network, v, data))
  keys = comparison.network_keys(7, len(batches))
  return [float(right(run(key, batch)))
          for key, batch in zip(keys, batches, strict=True)]


def comparison_of(sets, real_rate):
  """Three networks; the set is some images, trained on at a higher rate."""
  data, everywhere = sets
  batch = devices.replicate(sources.take(data, jnp.asarray(OURS)))
  return comparison.Comparison(
      network=NETWORK, networks=3, seed=7, batch=lambda: batch,
      recipe=RECIPE._replace(lr=.2), real_recipe=RECIPE._replace(lr=real_rate),
      ipc=3, data=everywhere, test=everywhere)


@pytest.mark.slow
@pytest.mark.parametrize('name, real_rate', [
    ('ours', .05), ('random', .05), ('full', .004)])
def test_accuracies_are_those_of_networks_alone(sets, name, real_rate):
  """Each by its own recipe: real images do not have a learned rate."""
  data, compared = sets[0], comparison_of(sets, real_rate)
  subsets = comparison.random_subsets(
      np.asarray(data.labels), 3, 3, 3,
      streams.seed(7, streams.Stream.RANDOM_SUBSETS))
  rows = {'ours': 3 * [OURS], 'full': 3 * [np.arange(36)],
          'random': subsets}[name]
  batches = [sources.take(data, jnp.asarray(row)) for row in rows]
  recipe = RECIPE._replace(lr=.2 if name == 'ours' else real_rate)
  want = one_by_one(NETWORK, recipe, batches, data)
  assert len(set(want)) > 1
  np.testing.assert_allclose(compared.accuracies(name), want, atol=1.5 / 36)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['ours', 'random', 'full'])
def test_some_of_the_networks_are_the_same_networks(sets, name):
  compared = comparison_of(sets, .01)
  np.testing.assert_array_equal(
      compared.accuracies(name, slice(1, 3), room=2),
      compared.accuracies(name)[1:])


def test_scores_are_means_over_probes(sets):
  data, everywhere = sets
  variables = INIT(KEYS)
  values, accuracy, _ = scoring.difficulty_scores(NETWORK, 'loss')(
      devices.replicate(variables), everywhere)
  whole = sources.take(data, jnp.arange(36))
  loss_of = jax.jit(lambda one: difficulty.sample_losses(
      train_step.loss_fn(NETWORK), one, whole))
  right = jax.jit(lambda one: train_step.is_correct(
      NETWORK, one, data, jnp.arange(36)))
  each, hits = [], []
  for i in range(3):
    one = jax.tree.map(lambda x: x[i], variables)  # noqa: B023
    each.append(loss_of(one))
    hits.append(right(one))
  np.testing.assert_allclose(values, np.mean(each, 0), rtol=1e-4)
  np.testing.assert_allclose(
      accuracy, np.mean(hits, 0).reshape(3, 12).mean(1), atol=1e-6)


def test_scores_of_more_images_than_a_block(sets):
  _, everywhere = sets
  variables = devices.replicate(INIT(KEYS[:1]))
  want, share, _ = scoring.difficulty_scores(NETWORK, 'el2n')(
      variables, everywhere)
  got, again, _ = scoring.difficulty_scores(NETWORK, 'el2n', block=7)(
      variables, everywhere)  # 36 is no multiple of it
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_allclose(again, share)


@pytest.mark.slow
def test_influence_is_on_real_images(sets):
  data, everywhere = sets
  variables = INIT(KEYS)
  values, *_ = scoring.difficulty_scores(NETWORK, 'influence')(
      devices.replicate(variables), everywhere)
  whole, loss = sources.take(data, jnp.arange(36)), train_step.loss_fn(NETWORK)
  each = []
  for i in range(3):
    one = jax.tree.map(lambda x: x[i], variables)  # noqa: B023
    reference = jax.grad(loss)(one, whole)  # 36 are fewer than are asked
    each.append(difficulty.influence(loss, one, whole, reference))
  np.testing.assert_allclose(values, np.mean(each, 0), rtol=1e-3, atol=1e-4)
  fewer, *_ = scoring.difficulty_scores(NETWORK, 'influence', references=5)(
      devices.replicate(variables), everywhere)
  assert not np.allclose(fewer, values, rtol=.05)


def test_running_averages_are_no_parameters(sets):
  data, everywhere = sets
  network = toy.network(norm='batch')
  variables = jax.jit(jax.vmap(network.init))(KEYS[:1])
  one = jax.tree.map(lambda x: x[0], variables)
  values, *_ = scoring.difficulty_scores(network, 'fisher')(
      devices.replicate(variables), everywhere)
  def logits(params, images):
    return network.apply(one._replace(params=params), images)[0]
  whole = sources.take(data, jnp.arange(36))
  np.testing.assert_allclose(values, jax.jit(lambda batch: difficulty.fisher(
      logits, one.params, batch))(whole), rtol=1e-4)


@pytest.mark.slow
def test_probes_learn(sets):
  data, everywhere = sets
  recipe = recipes.recipe(12, lr=.05, batch=12)
  batch = devices.replicate(sources.take(data, jnp.arange(36)))
  score = scoring.difficulty_scores(NETWORK, 'loss')
  start = score(devices.replicate(INIT(KEYS)), everywhere)
  for trained in (ensemble.train_on_set(NETWORK, recipe)(KEYS, batch),
                  scoring.train_choosers(NETWORK, recipe, 12)(
                      KEYS, everywhere)[0]):
    assert jax.tree.leaves(trained)[0].shape[0] == 3
    values, accuracy, right = score(devices.replicate(trained), everywhere)
    assert values.mean() < .7 * start[0].mean()
    assert accuracy.min() > .6
    np.testing.assert_allclose(right.mean(), accuracy.mean(), rtol=1e-5)


def test_random_subsets():
  labels = np.repeat([0, 1, 2], [5, 2, 9])
  got = comparison.random_subsets(labels, 3, 4, 6, [0, 2])
  assert got.shape == (6, 12)
  for row in got:
    np.testing.assert_array_equal(labels[row], np.repeat([0, 1, 2], 4))
    assert len(set(row[:4])) == len(set(row[8:])) == 4
    assert set(row[4:8]) == {5, 6}  # a small class repeats
  assert len({tuple(row) for row in got}) == 6
  np.testing.assert_array_equal(
      got, comparison.random_subsets(labels, 3, 4, 6, [0, 2]))
  assert (got != comparison.random_subsets(labels, 3, 4, 6, [1, 2])).any()


def test_summary():
  assert comparison.summary(np.array([.5, .7], 'f')) == {
      'mean': pytest.approx(.6), 'std': pytest.approx(.1),
      'networks': [pytest.approx(.5), pytest.approx(.7)]}
