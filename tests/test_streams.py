"""Keys: streams of their own, and old keys wherever a key is taken."""

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
import toy

from dasm_jax import crops, objectives, streams, synthetic
from dasm_jax.errors import UserError
from dasm_jax.streams import Stream
from dasm_jax.training import ensemble, recipes, scoring, train_step
from dasm_jax.transforms import augment, photometric
from dasm_jax.types import Batch, Synthetic

pytestmark = pytest.mark.usefixtures('quick_compiler')
RNG = np.random.default_rng(0)
NEW, OLD = jax.random.key(7), jax.random.PRNGKey(7)
IMAGES = jnp.asarray(RNG.uniform(size=(3, 4, 8, 8, 1)), 'float32')
LABELS = jnp.broadcast_to(jnp.eye(3)[:, None], (3, 4, 3))
SYN = Synthetic(IMAGES, LABELS, jnp.float32(.1))
REAL = Batch(IMAGES[:, ::-1] ** 2, LABELS)
CODEC = synthetic.codec((.5,), (.3,), factor=2, shape=(8, 8, 1))


def flat(x):
  return Batch(*(y.reshape(-1, *y.shape[2:]) for y in (x.images, x.labels)))


def distance(syn, params, target, key=None):
  value = jnp.mean(jnp.square(syn.images.mean(0) - target.images.mean(0)))
  return value * params, {'match/loss': value}


def linear(params, batch):
  logits = batch.images.reshape(len(batch.images), -1) @ params
  return -jnp.mean(jnp.sum(batch.labels * jax.nn.log_softmax(logits), -1))


def wrapped(objective, syn=SYN, target=REAL, params=2.):
  lifted = objectives.per_class(objective)
  return lambda key: lifted(syn, params, target, key)


def of_trajectory(key):
  chase = objectives.trajectory_matching(linear, 2, batch=5)
  syn = SYN._replace(**flat(SYN)._asdict())
  return chase(syn, jnp.ones((64, 3)), jnp.zeros((64, 3)), key)


def of_gradient(key):
  run = objectives.image_gradient(
      objectives.difficulty_only(linear),
      objectives.class_by_class(objectives.gradient_matching(linear)),
      objectives.Correction(), lambda flat: objectives.augmented(
          flat, augment.build('crop_flip')))
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
  return run(SYN, jnp.ones((64, 3)), REAL, keys, jnp.ones(3), 0., 0)


SHORT = recipes.recipe(1, lr=.1, batch=5, strategy='flip', cutmix=.5)
NETWORK = toy.network(depth=1, width=2)


def pair(key):
  return jnp.stack([key, jax.random.split(key)[0]])


DOORS = {
    'streams.key': lambda key: jax.random.key_data(
        streams.key(key, Stream.PROBES, 3)),
    'per_class': wrapped(objectives.augmented(
        distance, augment.build('color_crop', 'dsa'))),
    'decoded': wrapped(objectives.decoded(distance, CODEC, 3)),
    'joined': wrapped(objectives.joined(distance, CODEC, 3),
                      target=(REAL, REAL)),
    'augmented': lambda key: objectives.augmented(
        distance, augment.build('crop'))(flat(SYN), 1., flat(REAL), key),
    'all_classes': lambda key: objectives.all_classes(
        lambda syn, params, target: syn.images.sum((1, 2, 3, 4)),
        lambda flat: objectives.augmented(flat, augment.build('crop')))(
            SYN, 1., REAL, key),
    'image_gradient': of_gradient,
    'trajectory': of_trajectory,
    'minibatches': lambda key: [run.indices for run in objectives.minibatches(
        key, 10, 4, 6)],
    'augment': lambda key: augment.build('crop_cutout_flip', 'idc')(
        key, IMAGES[0]),
    'cutmix': lambda key: augment.cutmix(key, flat(SYN), .9),
    'mixup': lambda key: augment.mixup(key, flat(SYN), .8),
    'draws': lambda key: augment.draws('rotate', key, 4, 8, 8),
    'boxes': lambda key: photometric.boxes(key, 4, 8, 8, .3),
    'noise': lambda key: synthetic.noise(key, CODEC, (3, 2)),
    'crops': lambda key: crops.random_boxes(key, 4, 8, 8),
    'network': NETWORK.init,
    'fit': lambda key: ensemble.fit(NETWORK, SHORT, key, flat(SYN)),
    'train_on_set': lambda key: ensemble.train_on_set(NETWORK, SHORT)(
        pair(key), flat(SYN)),
    'train_on_all': lambda key: ensemble.train_on_all(NETWORK, SHORT)(
        pair(key), toy.source()),
    'train_choosers': lambda key: scoring.train_choosers(
        NETWORK, SHORT, 1, True)(pair(key), toy.source()),
    'run_epoch': lambda key: train_step.run_epoch(
        lambda carry, at, key: carry + at.sum() * jax.random.uniform(key),
        0., key, 7, 3),
}


@pytest.mark.parametrize('name', lanes.slow([
    'train_on_set', 'train_on_all', 'train_choosers', 'image_gradient'], DOORS))
def test_old_keys_draw_what_new_ones_do(name):
  new, old, other = (jax.tree.leaves(DOORS[name](key)) for key in (
      NEW, OLD, jax.random.key(8)))
  for a, b in zip(new, old, strict=True):
    np.testing.assert_array_equal(a, b)
  # And what is compared depends on the key at all.
  assert any((np.asarray(a) != np.asarray(b)).any()
             for a, b in zip(new, other, strict=True))


@pytest.mark.slow
def test_methods_take_old_keys():
  made = toy.toy('dm')
  found = [jax.jit(toy.sweep(made.method))(
      made.method.init(key, made.state.syn), made.data, made.pool, key)
           for key in (NEW, OLD)]
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_array_equal(a, b)


def test_what_is_no_key_is_refused():
  for wrong in (0, None, np.zeros(2), jnp.zeros(3, jnp.uint32), 'key'):
    with pytest.raises(UserError, match=(
        r'is none; jax.random.key\(0\) makes one')) as error:
      streams.typed(wrong)
    assert '\n' not in str(error.value)
  keys = jax.random.split(OLD, 3)
  assert streams.typed(keys).shape == (3,)
  assert streams.typed(NEW) is NEW
  assert jax.jit(streams.typed)(keys).shape == (3,)


def test_streams_are_told_apart():
  made = {tuple(np.asarray(jax.random.key_data(streams.key(*numbers))))
          for numbers in ((0, Stream.PROBES), (1, Stream.PROBES),
                          (0, Stream.NOISE), (0, Stream.NOISE, 1))}
  assert len(made) == 4
