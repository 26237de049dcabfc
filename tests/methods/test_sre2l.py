"""SRe2L: the statistics by hand, the teacher's window, labels, draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax import methods, objectives, synthetic
from dasm_jax.errors import UserError
from dasm_jax.methods import registry, sre2l
from dasm_jax.training import soft_labels
from dasm_jax.transforms import zca
from dasm_jax.types import Synthetic, Window

pytestmark = pytest.mark.usefixtures('quick_compiler')
CLASSES, SLOTS = 3, 2


# ---- the formula, in NumPy


def convolved(x, kernel, bias):
  """3x3, padded by 1: `[n, h, w, c] -> [n, h, w, out]`."""
  _, height, width, _ = x.shape
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return bias + sum(
      x[:, i:i + height, j:j + width] @ kernel[i, j]
      for i in range(3) for j in range(3))


def by_hand(variables, images, labels, weight, first):
  """The loss of one batch and its part of the statistics, layer by layer."""
  params, stats = variables
  apart, x = 0, images
  for layer in range(2):
    conv, norm, seen = (params[f'Conv_{layer}'], params[f'Norm_{layer}'],
                        stats[f'Norm_{layer}'])
    x = convolved(x, conv['kernel'], conv['bias'])
    flat = x.reshape(-1, x.shape[-1])
    mean = flat.mean(0)
    variance = ((flat - mean) ** 2).mean(0)
    apart += (first if layer == 0 else 1) * (
        np.sqrt(((variance - seen['var']) ** 2).sum())
        + np.sqrt(((mean - seen['mean']) ** 2).sum()))
    x = (x - seen['mean']) / np.sqrt(seen['var'] + 1e-5)
    x = np.maximum(x * norm['scale'] + norm['bias'], 0)
    n, height, width, c = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, c).mean((2, 4))
  dense = params['Dense_0']
  logits = x.reshape(len(x), -1) @ dense['kernel'] + dense['bias']
  logits -= np.log(np.exp(logits).sum(1, keepdims=True))
  return -(labels * logits).sum(1).mean() + weight * apart, apart


def test_statistics_by_hand():
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    network = toy.network(norm='batch')
    variables = jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(.2, 1, x.shape) - .6 * (x.ndim > 1)),
        network.init(jax.random.key(0)))
    images = rng.normal(size=(CLASSES, SLOTS, 8, 8, 1))
    labels = jnp.broadcast_to(jnp.eye(3)[:, None], (CLASSES, SLOTS, 3))
    match = objectives.statistics_matching(network, .3, 10.)
    key = jax.random.key(0)

    def value(images):
      syn = Synthetic(images, labels, jnp.ones(()))
      given = syn, variables, None, key, jnp.ones(CLASSES)
      sums = objectives.sums_over_classes(
          match, objectives.per_class, given, 0)
      return objectives.per_class(match.at(sums, 0))(*given)

    run = jax.jit(jax.value_and_grad(value, has_aux=True))
    (got, metrics), slope = run(jnp.asarray(images))
    plain = jax.tree.map(np.asarray, variables)
    def slowly(images):
      # Slot j of every class is a batch of its own.
      return np.sum([by_hand(plain, images[:, j], np.eye(3), .3, 10.)
                     for j in range(SLOTS)], 0)
    want = slowly(images)
    np.testing.assert_allclose(got, want[0], rtol=1e-10)
    np.testing.assert_allclose(metrics['match/statistics'], want[1], rtol=1e-10)
    np.testing.assert_allclose(
        got, metrics['match/entropy'] + .3 * want[1], rtol=1e-10)
    for _ in range(3):
      way = rng.normal(size=images.shape)
      small = 1e-5 * way
      ratio = (slowly(images + small) - slowly(images - small))[0] / 2e-5
      np.testing.assert_allclose(np.vdot(slope, way), ratio, rtol=1e-6)


def test_no_distance_has_no_slope():
  # The root of nothing: 0, not NaN.
  sums = {'Norm_0': {'mean': jnp.ones((1, 2)), 'square': 2 * jnp.ones((1, 2))}}
  stats = {'Norm_0': {'mean': jnp.ones(2), 'var': jnp.ones(2)}}
  value, slope = jax.value_and_grad(objectives.statistics_distance)(sums, stats,
                                                                    1.0)
  assert value == 0 and not any(x.any() for x in jax.tree.leaves(slope))


# ---- the method


@functools.cache
def two_steps():
  """Two steps, the first of which teaches, compiled once."""
  made = toy.toy('sre2l', steps=2)
  return made, jax.jit(toy.sweep(made.method))


@pytest.mark.slow
def test_labels_are_the_teachers():
  made, step = two_steps()
  state, _ = step(made.state, made.data, made.pool, made.key)
  np.testing.assert_array_equal(state.syn.labels, made.state.syn.labels)
  last, metrics = step(state, made.data, made.pool, made.key)
  assert metrics['teacher/loss'] == 0  # it has learned enough
  toy.leaves_equal(last.variables, state.variables)
  logits, _ = toy.network(norm='batch').apply(
      last.variables, last.syn.images.reshape(-1, 8, 8, 1))
  want = jax.nn.softmax(logits).reshape(CLASSES, SLOTS, 3)
  np.testing.assert_allclose(last.syn.labels, want, atol=5e-4)
  # As float16 keeps them.
  np.testing.assert_array_equal(
      last.syn.labels, last.syn.labels.astype('float16').astype('float32'))
  assert abs(last.syn.labels - made.state.syn.labels).max() > .01


def test_labels_are_means_of_cells_and_views():
  class Mean:
    """Logits that are the mean of an image, and its double."""
    @staticmethod
    def apply(variables, images):
      mean = images.mean((1, 2, 3)) * variables
      return jnp.stack([mean, 2 * mean], 1), ()
  class Settings:
    codec = synthetic.codec((0.,), (1.,), space='normalised', factor=2)
    views = 0
    @staticmethod
    def augment(key, images, shared):
      assert not shared
      return images + jax.random.normal(key, images.shape[:1] + (1, 1, 1))
  images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4, 4, 1)),
                       'float32')
  syn = Synthetic(images, jnp.zeros((3, 2, 2)), jnp.float32(1))
  def run():
    return np.asarray(soft_labels.network_labels(Mean, Settings)(
        1.0, syn, toy.windows(toy.source()), jax.random.key(0)))
  cells = np.asarray(images).reshape(3, 2, 2, 2, 2, 2, 1).mean((3, 5, 6))
  second = 1 / (1 + np.exp(-cells.reshape(3, 2, 4)))
  plain = run()
  np.testing.assert_allclose(plain[..., 1], second.mean(-1), atol=1e-3)
  np.testing.assert_allclose(plain.sum(-1), 1, atol=1e-3)
  Settings.views = 3
  assert abs(run() - plain).max() > .01  # drawn anew for each view


@pytest.mark.slow
def test_teacher_sees_its_window():
  made, step = two_steps()
  rows, counts = made.data.everything
  half = Window(rows, counts // 2)
  pool = made.pool._replace(window=half)
  hidden = np.concatenate([row[6:12] for row in np.asarray(rows)])
  other = made.data._replace(images=made.data.images.at[hidden].set(0))
  one, two = (step(made.state, data, pool, made.key)[0].variables
              for data in (made.data, other))
  toy.leaves_equal(one, two)
  seen = made.data._replace(images=made.data.images.at[rows[0, :6]].set(0))
  three = step(made.state, seen, pool, made.key)[0].variables
  assert abs(three.stats['Norm_0']['mean']
             - one.stats['Norm_0']['mean']).max() > 1e-4


@pytest.mark.slow
def test_a_teacher_that_is_given_stays():
  made = toy.toy('sre2l', steps=2, teacher='there.npz', teach=7)
  step = jax.jit(toy.sweep(made.method))
  given = made.state.variables
  after, metrics = step(made.state, made.data, made.pool, made.key)
  toy.leaves_equal(after.variables, given)
  assert metrics['teacher/loss'] == 0
  assert abs(after.syn.images - made.state.syn.images).max() > 1e-3
  # Whoever is given moves them, and the first step at the full rate.
  other = made.state._replace(variables=jax.tree.map(
      lambda x: x * 1.5, given))
  assert abs(step(other, made.data, made.pool, made.key)[0].syn.images
             - after.syn.images).max() > 1e-3
  said = sre2l.describe(toy.settings('sre2l', teacher='x.npz', steps=9))
  assert said == ('images move in 9 steps over all segments, with the teacher '
                  'of x.npz')


@pytest.mark.slow
def test_one_draw_for_all_classes():
  # With alike images and labels that say nothing, alike draws move them alike.
  made, step = two_steps()
  syn = made.state.syn
  alike = syn._replace(images=jnp.broadcast_to(syn.images[:1], (3, 2, 8, 8, 1)),
                       labels=jnp.full((3, 2, 3), 1 / 3))
  for seed in range(3):
    after, _ = step(made.state._replace(syn=alike), made.data, made.pool,
                    jax.random.key(seed))
    moved = after.syn.images - alike.images
    np.testing.assert_allclose(moved[1:], moved[:2], atol=1e-5)
    assert abs(moved).max() > 1e-3


def test_pixels_stay_possible():
  codec = synthetic.codec((.5, .2), (.3, .1), space='normalised')
  images = jnp.array([-9., 9.])[:, None, None, None] * jnp.ones((2, 1, 1, 2))
  got = synthetic.clip_to_pixels(codec, images)
  np.testing.assert_allclose(
      got.reshape(2, 2), [[-5 / 3, -2], [5 / 3, 8]], rtol=1e-6)
  np.testing.assert_allclose(synthetic.clip_to_pixels(
      codec._replace(space='pixels'), images).reshape(2, 2), [[0, 0], [1, 1]])
  # Whitened ones are cut as pixels, too.
  real = np.random.default_rng(0).random((20, 2, 2, 1), np.float32)
  white = codec._replace(zca=zca.fit(real))
  got = synthetic.clip_to_pixels(white, 50 * zca.whiten(white.zca, real[:3]))
  back = zca.colour(white.zca, got)
  assert back.min() > -1e-4 and back.max() < 1 + 1e-4 and np.ptp(back) > .9
  kept = zca.whiten(white.zca, real[:3])
  np.testing.assert_allclose(synthetic.clip_to_pixels(white, kept), kept,
                             atol=1e-4)


def test_settings_that_cannot_work():
  with pytest.raises(UserError, match='network.norm=batch'):
    toy.toy('sre2l', norm='instance')
  with pytest.raises(UserError, match='teach=3, but a segment has 2 steps'):
    methods.build(
        toy.settings('sre2l', teach=3), toy.network(3, norm='batch'),
        methods.Options(3, synthetic.codec((.5,), (.3,)), 2, steps=2))
  with pytest.raises(UserError, match='method.teach=0 must be at least 1'):
    registry.check_method(toy.settings('sre2l', teach=0))
