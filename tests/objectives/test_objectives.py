"""Objectives and their wrappers against loops and against each other."""

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from dasm_jax import difficulty, losses, objectives, synthetic
from dasm_jax.errors import UserError
from dasm_jax.types import Batch, Synthetic

RNG = np.random.default_rng(0)
PARAMS = {'w': jnp.asarray(RNG.normal(size=(12, 5)), 'float32'),
          'v': jnp.asarray(RNG.normal(size=(5, 3)), 'float32')}
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures('quick_compiler')


def logits_fn(params, images):
  flat = images.reshape(len(images), -1)
  return jnp.tanh(flat @ params['w']) @ params['v']


def loss_fn(params, batch):
  return losses.cross_entropy(logits_fn(params, batch.images), batch.labels)


def batch(n, seed=1, shape=(2, 2, 3)):
  rng = np.random.default_rng(seed)
  return Batch(jnp.asarray(rng.normal(size=(n, *shape)), 'float32'),
               jax.nn.one_hot(rng.integers(0, 3, n), 3))


def flat_syn(n, seed=2, shape=(2, 2, 3)):
  return Synthetic(*batch(n, seed, shape), jnp.float32(1))


MATCH = objectives.gradient_matching(loss_fn)
EYE = synthetic.codec((0., 0, 0), (1., 1, 1), space='normalised')


def test_gradient_matching():
  syn, real = flat_syn(2), batch(4)
  value, metrics = jax.jit(MATCH)(syn, PARAMS, real)
  slopes = [jax.grad(loss_fn)(PARAMS, Batch(x.images, x.labels))
            for x in (syn, real)]
  np.testing.assert_allclose(
      value, losses.layerwise_cosine(*slopes), rtol=1e-5)
  assert metrics == {'match/loss': value}
  only = objectives.gradient_matching(loss_fn, losses.mse, ndims=(1,))
  with pytest.raises(UserError, match=(  # there is no bias here
      r'shapes \[\(5, 3\), \(12, 5\)\] have none of \(1,\) dim.*ndims=None')):
    only(syn, PARAMS, real)
  # The real gradient is a constant: nothing flows into the real images.
  slope = jax.jit(jax.grad(lambda real: MATCH(syn, PARAMS, real)[0]))(real)
  assert not any(x.any() for x in jax.tree.leaves(slope))


def test_gradient_matching_in_the_layout_of_pytorch():
  def theirs(params, batch):
    return loss_fn(jax.tree.map(jnp.transpose, params), batch)
  syn, real = flat_syn(2), batch(4)
  moved = jax.tree.map(jnp.transpose, PARAMS)
  want = MATCH(syn, PARAMS, real)[0]
  match = objectives.gradient_matching(theirs, layout='OIHW')
  np.testing.assert_allclose(match(syn, moved, real)[0], want, rtol=1e-5)
  other = objectives.gradient_matching(theirs)
  assert abs(other(syn, moved, real)[0] - want) > .1
  with pytest.raises(UserError, match="layout 'torch'; choose from HWIO, OI"):
    objectives.gradient_matching(theirs, layout='torch')


def test_parameters_of_one_dimension_are_nothing_to_match():
  def scaled(params, batch):
    return losses.cross_entropy(
        batch.images.mean((1, 2)) * params['scale'], batch.labels)
  params = {'scale': jnp.ones(3)}
  match = objectives.gradient_matching(scaled)
  with pytest.raises(UserError, match='there is nothing to match') as error:
    match(flat_syn(2), params, batch(4))
  assert '\n' not in str(error.value)
  every = objectives.gradient_matching(scaled, ndims=None)
  assert every(flat_syn(2), params, batch(4))[0] > 0


def test_feature_matching():
  def features(params, images):
    one = images * params
    return one, one ** 2
  match = objectives.feature_matching(features, losses.mse, first=0, last=1)
  syn, real = flat_syn(2), batch(4)
  a, b = (np.asarray(2 * x.images) for x in (syn, real))
  want = ((a.mean(0) - b.mean(0)) ** 2).sum() + (
      ((a ** 2).mean(0) - (b ** 2).mean(0)) ** 2).sum()
  np.testing.assert_allclose(match(syn, 2.0, real)[0], want, rtol=1e-5)
  first = objectives.feature_matching(features, losses.mse)
  np.testing.assert_allclose(
      first(syn, 2.0, real)[0], ((a.mean(0) - b.mean(0)) ** 2).sum(), rtol=1e-5)


def test_blocks():
  features = tuple('abcd')
  for (first, last), want in (((0, -1), 'abcd'), ((-1, -1), 'd'),
                              ((1, None), 'b'), ((-3, 2), 'bc')):
    assert objectives.select_blocks(features, first, last) == list(want)
  for first, last in ((0, 4), (3, 1), (-5, -1)):
    with pytest.raises(UserError, match='the network has 4, from 0 to 3'):
      objectives.select_blocks(features, first, last)


REAL_SPLIT = objectives.gradient_matching(loss_fn, losses.mse, axis_name='d')


def test_split_real_batch_is_the_whole_one():
  syn, real = flat_syn(2), batch(16)
  whole = objectives.gradient_matching(loss_fn, losses.mse)
  def of(match):
    def run(real):
      return jax.value_and_grad(
          lambda s: match(s, PARAMS, real)[0])(syn)
    return run
  want = jax.jit(of(whole))(real)
  parts = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), real)
  got = jax.jit(jax.vmap(of(REAL_SPLIT), axis_name='d'))(parts)
  for device in (0, 7):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(x[device], y, rtol=2e-5, atol=1e-6)
  mesh = Mesh(np.array(jax.devices()), 'd')
  split = jax.shard_map(of(REAL_SPLIT), mesh=mesh, check_vma=False,
                        in_specs=PartitionSpec('d'), out_specs=PartitionSpec())
  for x, y in zip(jax.tree.leaves(jax.jit(split)(real)),
                  jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)
  # The mean of the parts' losses is something else.
  mean = jax.jit(jax.vmap(of(whole)))(parts)[0].mean()
  assert abs(mean - want[0]) > .1 * abs(want[0])


def class_major(classes=3, ipc=2):
  syn = flat_syn(classes * ipc)
  split = jax.tree.map(lambda x: x.reshape(classes, ipc, *x.shape[1:]),
                       (syn.images, syn.labels))
  real = jax.tree.map(lambda x: x.reshape(classes, 4, *x.shape[1:]),
                      batch(classes * 4))
  return Synthetic(*split, syn.lr), real


@pytest.mark.parametrize('batched, weights', [
    (False, [1., 0., 2.]), (True, [1., 0., 2.]), *lanes.slow_but((), [
        (2, [1., 0., 2.]), (9, None), (None, None)])])
def test_per_class_is_a_loop(batched, weights):
  syn, real = class_major()
  def noisy(syn, params, target, key):  # as if it drew something, and used lr
    value, metrics = MATCH(syn, params, target, key)
    return value * syn.lr + jax.random.normal(key) * syn.images.sum(), metrics
  given = None if weights is None else jnp.array(weights)
  lift = objectives.per_class(noisy, batched=batched)
  (value, metrics), slope = jax.jit(jax.value_and_grad(
      lambda s: lift(s, PARAMS, real, KEY, given), has_aux=True))(syn)
  def loop(syn):
    total, matched = 0, 0
    for c, weight in enumerate(weights or [1, 1, 1]):
      one = Synthetic(syn.images[c], syn.labels[c], syn.lr)
      target = Batch(real.images[c], real.labels[c])
      got, more = noisy(one, PARAMS, target, jax.random.fold_in(KEY, c))
      total, matched = total + weight * got, matched + (
          weight * more['match/loss'])
    return total, matched
  (want, matched), there = jax.jit(jax.value_and_grad(loop, has_aux=True))(syn)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  np.testing.assert_allclose(metrics['match/loss'], matched, rtol=1e-5)
  for x, y in zip(slope, there, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  # A factor outside passes through.
  double = jax.jit(jax.grad(
      lambda s: 2 * lift(s, PARAMS, real, KEY, given)[0]))(syn)
  np.testing.assert_allclose(double.images, 2 * slope.images, rtol=1e-5)


def test_per_class_takes_keys():
  syn, real = class_major()
  def draw(syn, params, target, key):
    return jax.random.normal(key) * syn.lr, {}
  keys = jax.random.split(KEY, 3)
  got, _ = objectives.per_class(draw)(syn, PARAMS, real, keys)
  np.testing.assert_allclose(
      got, sum(jax.random.normal(key) for key in keys), rtol=1e-6)


@pytest.mark.parametrize('penalty', lanes.slow(
    ('sample_square', 'batch_square', 'margin', 'fisher'),
    difficulty.PENALTIES))
def test_sdc_adds_difficulty(penalty):
  syn, real = flat_syn(3), batch(4)
  hard = difficulty.penalty(loss_fn, penalty, logits_fn)(
      PARAMS, Batch(*syn[:2]), jax.grad(loss_fn)(PARAMS, real))
  plain = MATCH(syn, PARAMS, real)[0]
  for weight in (.5, jnp.float32(.5)):
    value, metrics = objectives.sdc(
        MATCH, loss_fn, weight, penalty=penalty, logits_fn=logits_fn)(
            syn, PARAMS, real, KEY)
    np.testing.assert_allclose(value, plain + .5 * hard, rtol=1e-5)
    np.testing.assert_allclose(metrics['sdc/difficulty'], hard, rtol=1e-6)
    np.testing.assert_allclose(metrics['match/loss'], plain, rtol=1e-6)
  assert objectives.sdc(MATCH, loss_fn, 0, penalty=penalty,
                        logits_fn=logits_fn) is MATCH


def test_joined_is_the_mean_of_both():
  new, old, real = flat_syn(2, 5), batch(3, 6), batch(4)
  def value(frozen):
    return lambda images: objectives.joined(MATCH, EYE)(
        new._replace(images=images), PARAMS, (frozen, real), KEY)[0]
  both = Synthetic(jnp.concatenate([old.images, new.images]),
                   jnp.concatenate([old.labels, new.labels]), new.lr)
  want, slope = jax.jit(jax.value_and_grad(
      lambda images: MATCH(both._replace(images=images), PARAMS, real)[0]))(
          both.images)
  got, there = jax.jit(jax.value_and_grad(value(old)))(new.images)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_allclose(there, slope[3:], rtol=1e-4, atol=1e-6)
  none = jax.jit(jax.grad(lambda frozen: value(frozen)(new.images)))(old)
  assert not any(x.any() for x in jax.tree.leaves(none))


def seen(syn, params, target, key):
  """Hands on what it was given."""
  return jnp.float32(0), {'images': syn.images, 'labels': syn.labels}


def test_decoded_limit():
  syn = flat_syn(3, shape=(4, 4, 3))
  codec = EYE._replace(factor=2)
  every = synthetic.decode(codec, syn.images)
  labels = syn.labels[synthetic.decoded_from(codec, 3)]
  whole = objectives.decoded(seen, codec)(syn, None, None, KEY)[1]
  np.testing.assert_array_equal(whole['images'], every)
  np.testing.assert_array_equal(whole['labels'], labels)
  chosen = set()
  for key in jax.random.split(KEY, 5):
    some = objectives.decoded(seen, codec, limit=5)(syn, None, None, key)[1]
    rows = [int(np.argmax([np.allclose(x, y) for y in every]))
            for x in some['images']]
    assert len(set(rows)) == len(rows) == 5
    np.testing.assert_array_equal(some['labels'], labels[jnp.array(rows)])
    chosen |= set(rows)
  assert len(chosen) > 8


def test_augmented_treats_both_alike():
  def shift(key, images, shared):
    assert shared
    return images + jax.random.normal(key)
  syn, real = flat_syn(2), batch(4)
  def differences(syn, params, target, key):
    return jnp.float32(0), {'syn': syn.images, 'real': target.images}
  got = objectives.augmented(differences, shift)(syn, None, real, KEY)[1]
  moved = got['syn'] - syn.images
  np.testing.assert_allclose(moved, moved[0, 0, 0, 0], rtol=1e-4)
  np.testing.assert_allclose(got['real'] - real.images, moved[0, 0, 0, 0],
                             rtol=1e-4)
