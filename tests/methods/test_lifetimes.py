"""CAFE's dynamic loops against loops in Python, and that they end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax.methods import inner_network, matching
from dasm_jax.pipeline import source as sources
from dasm_jax.training import scoring

pytestmark = pytest.mark.usefixtures('quick_compiler')
NOTHING = inner_network.Surroundings(None, None, None, None)
WATCH = inner_network.AccuracyWatch(images=1, window=4, rest=.04, move=.03)
KEY = jax.random.key(0)


def slowly(table, watch, sweeps, passes, steps):
  """`[(new network, passes so far)]` of each sweep, as the paper tells it."""
  at, seen, out, new = 0, [], [], True
  for _ in range(steps):
    if new:
      seen = []
    began = new
    seen.append(table[at])
    last = seen[-watch.window:]
    flat = len(last) == watch.window and max(last) - min(last) < watch.rest
    new = flat or len(seen) >= sweeps
    inner = []
    while not new and len(inner) < passes:
      last = inner[-watch.window:]
      if len(last) == watch.window and max(last) - min(last) > watch.move:
        break
      at += 1  # another pass of training
      inner.append(table[at])
    out.append((began, at))
  return out


def another_pass(carry, around, key):
  """A trainer whose network is how often it was trained."""
  at, opt_state = carry
  return at + 1, opt_state


def quickly(table, watch, sweeps, passes, steps):
  table = jnp.asarray(table, jnp.float32)
  life = inner_network.watched_lifetime(
      watch, sweeps, passes, another_pass, lambda at, *_: table[at])
  def sweep(carry, step):
    at, memory = carry
    new = life.over(memory, step)
    (at, _), memory = life.train((at, ()), memory, NOTHING, KEY, step)
    return (at, memory), (new, at)
  _, out = jax.jit(lambda: jax.lax.scan(
      sweep, (jnp.int32(0), life.init()), jnp.arange(steps)))()
  return [(bool(new), int(at)) for new, at in zip(*out, strict=True)]


def accuracies(kind):
  rng = np.random.default_rng(3)
  if kind == 'still':
    return np.full(999, .5)
  if kind == 'moving':
    return rng.uniform(size=999)
  steps = rng.normal(size=999) * np.repeat(rng.uniform(0, .02, 111), 9)
  return .5 + np.cumsum(steps)


@pytest.mark.parametrize('kind', ['still', 'moving', 'mixed'])
def test_loops_end_as_told(kind):
  table, steps = accuracies(kind), 40
  found = quickly(table, WATCH, 7, 9, steps)
  assert found == slowly(table, WATCH, 7, 9, steps)
  began = [i for i, (new, _) in enumerate(found) if new]
  passes = set(np.diff([0] + [at for _, at in found]).tolist())
  # Where nothing moves training would go on for ever, and where all does the
  # network would live for ever.
  if kind == 'still':
    assert began == list(range(0, 40, 4)) and passes == {0, 9}
  if kind == 'moving':
    assert began == list(range(0, 40, 7)) and passes == {0, 4}
  if kind == 'mixed':
    assert len(passes) > 3 and len(set(np.diff(began))) > 1


def test_counted():
  life = inner_network.fixed_lifetime(3, another_pass)
  at, trained = jnp.int32(0), []
  for step in range(7):
    assert bool(life.over((), step)) == (step in (0, 3, 6))
    (at, _), _ = life.train((at, ()), (), NOTHING, KEY, jnp.int32(step))
    trained.append(int(at))
  assert trained == [1, 2, 2, 3, 4, 4, 5]


def test_accuracy_is_that_of_all_images():
  # Twelve images a class, all of them asked for: chance plays no part.
  network, data = toy.network(), toy.source()
  pool = toy.windows(data)
  variables = network.init(KEY)
  got = jax.jit(inner_network.watched_accuracy(network, 12))(variables, data,
                                                             pool, KEY)
  want = jax.jit(lambda v: scoring.accuracy(network, v, data))(variables)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert sources.class_count(data) == 3


def test_rate_falls_at_each_drop():
  made = matching.Settings(
      *[None] * len(matching.Settings._fields))._replace(
          lr=.8, drops=(6, 8, 9), decay=.5)
  np.testing.assert_allclose(
      [matching.image_rate(made, jnp.int32(step)) for step in range(10)],
      [.8] * 6 + [.4, .4, .2, .1], rtol=1e-6)
  assert matching.image_rate(made._replace(drops=()), jnp.int32(9)) == .8


def test_networks_of_no_training_on_real_images_stay_as_they_begin():
  made = toy.toy('idc', net_steps=0, augment='', net_augment='', limit=2)
  step = jax.jit(toy.sweep(made.method))
  first, _ = step(made.state, made.data, made.pool, made.key)
  second, _ = step(first, made.data, made.pool, made.key)
  toy.leaves_equal(first.variables, second.variables)
  assert abs(first.syn.images - second.syn.images).max() > 0
