"""Continual learning: orders, what is remembered, what is kept, the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved_digits
import toy

from dasm_jax import losses
from dasm_jax.evaluate import __main__ as evaluate
from dasm_jax.training import recipes, train_step
from dasm_jax.types import Batch, SoftLabelled, Variables
from dasm_jax.uses import continual

pytestmark = pytest.mark.usefixtures('quick_compiler')


def test_orders_are_those_of_the_programs():
  # The first classes of DM's first order of CIFAR-100 in steps of twenty.
  first = continual.class_steps(100, 5, 0)[0]
  assert first.tolist()[:8] == [26, 86, 2, 55, 75, 93, 16, 73]
  assert [len(x) for x in continual.class_steps(10, 4, 0)] == [3, 3, 2, 2]


def test_known_classes_stay_known():
  known = continual.known_after([np.array([2, 0]), np.array([1])], 4)
  assert known.tolist() == [[True, False, True, False],
                            [True, True, True, False]]


def test_a_part_has_the_images_of_known_classes_and_their_labels():
  images = jnp.arange(6.).reshape(6, 1, 1, 1)
  labels = jnp.repeat(jnp.array([[.5, .3, .2], [.1, .8, .1], [0, 0, 1.]]), 2, 0)
  known = np.array([True, False, True])
  part = continual.part_of(Batch(images, labels), known)
  assert part.images.ravel().tolist() == [0, 1, 4, 5]
  np.testing.assert_allclose(
      part.labels, [[5 / 7, 0, 2 / 7]] * 2 + [[0, 0, 1]] * 2, rtol=1e-6)
  soft = SoftLabelled(images, labels, jnp.zeros((4, 6, 3)), 0, 1.)
  logits = continual.part_of(soft, known).logits
  assert logits.shape == (4, 4, 3)
  np.testing.assert_array_equal(
      jax.nn.softmax(logits), np.broadcast_to([.5, 0, .5], (4, 4, 3)))


def test_what_is_kept_is_torchs_mean_times_the_classes():
  rng = np.random.default_rng(0)
  new, old = rng.normal(size=(2, 5, 3))
  def softened(x):
    e = np.exp(x / 2)
    return e / e.sum(-1, keepdims=True)
  p, q = softened(old), softened(new)
  # reduction='mean' is over images and classes.
  expected = (p * np.log(p / q)).mean() * 4 * 3
  np.testing.assert_allclose(continual.kept_loss(new, old), expected, rtol=1e-5)
  assert abs(float(continual.kept_loss(old, old))) < 1e-6


def linear(classes=3):
  """A network of one matrix, `[pixels, classes]`."""
  def apply(variables, images, train=False):
    del train
    return images.reshape(len(images), -1) @ variables.params, variables.stats
  return toy.network(classes)._replace(
      init=lambda key: Variables(
          jax.random.normal(key, (4, classes)), {}), apply=apply)


def test_a_step_is_one_of_the_sum_of_both_losses():
  network, rng = linear(), np.random.default_rng(1)
  batch = Batch(jnp.asarray(rng.normal(size=(6, 2, 2, 1))),
                jnp.eye(3)[jnp.array([0, 1, 0, 1, 1, 0])])
  carried = continual.carrying(network)
  variables = carried.init(jax.random.key(0))
  variables = variables._replace(stats=variables.stats._replace(
      before=network.init(jax.random.key(1))))
  tx = train_step.recipe_optimizer(recipes.RECIPES['dc'](
      1)._replace(momentum=0., weight_decay=0.))
  known, before = np.array([True, True, False]), np.array([True, False, False])

  def step(before):
    return continual.keeping_step(network, known, before)(
        carried, tx, variables, tx.init(variables.params), batch, .1)
  def hand(before):
    def loss(params):
      logits = batch.images.reshape(6, -1) @ params
      value = losses.cross_entropy(logits[:, :2], batch.labels[:, :2])
      old = batch.images.reshape(6, -1) @ variables.stats.before.params
      return value + (continual.kept_loss(logits[:, before], old[:, before])
                      if before.any() else 0.)
    return variables.params - .1 * jax.grad(loss)(variables.params)
  both = np.array([True, True, False])
  for which in (before & False, both):
    new, _, value = step(which)
    assert np.isfinite(value)
    np.testing.assert_allclose(new.params, hand(which), rtol=1e-5)
    toy.leaves_equal(new.stats.before, variables.stats.before)
  # Of one known class alone the answer cannot change.
  toy.leaves_close(step(before)[0].params, step(before & False)[0].params)
  assert abs(hand(both) - hand(before & False)).max() > 1e-3


def call(path, *words):
  return continual.main([f'--set={path}', '--networks=2', '--orders=1', *words])


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  root = tmp_path_factory.mktemp('continual')
  saved_digits.save(root / 'synthetic.npz', **{
      'eval.epochs': 3, 'network.depth': 1, 'syn.factor': 1})
  return root


@pytest.mark.slow
@pytest.mark.parametrize('protocol', continual.PROTOCOLS)
def test_command(workdir, capsys, protocol):
  words = '--steps=2', f'--protocol={protocol}'
  assert call(workdir, *words) == 0
  said = capsys.readouterr().out
  for word in ('classes known', '5', '10', 'random', f'protocol {protocol}',
               'order 1 of 1, set', 'continual.json'):
    assert word in said, word
  rows = [row for row in json.loads((workdir / 'continual.json').read_text())[
      'rows'] if row['protocol'] == protocol]
  # Random images of digits are learned, if not well, in three epochs.
  assert 'nan' not in said and max(row['mean'] for row in rows) > .15
  assert [(row['of'], len(row['known'][-1])) for row in rows] == [
      ('set', 5), ('set', 10), ('random', 5), ('random', 10)]
  assert (workdir / 'continual.png').stat().st_size > 5000
  assert not (workdir / 'continual.unfinished').exists()
  # Nothing is trained twice.
  before = (workdir / 'continual.json').read_bytes()
  assert call(workdir, *words) == 0
  assert (workdir / 'continual.json').read_bytes() == before
  if protocol == 'dm':
    # With all classes known it is the evaluation.
    evaluate.main([f'--set={workdir}', '--networks=2'])
    whole = json.loads((workdir / 'evaluation.json').read_text())['rows']
    for row, other in zip((rows[1], rows[3]), whole, strict=True):
      assert row['networks'] == other['networks']


@pytest.mark.slow
def test_a_lost_row_is_measured_as_it_was(workdir):
  words = '--steps=2', '--protocol=idc'
  assert call(workdir, *words) == 0
  path = workdir / 'continual.json'
  whole = json.loads(path.read_text())
  kept = [row for row in whole['rows'] if not (
      row['protocol'] == 'idc' and len(row['known']) == 2)]
  path.write_text(json.dumps({'rows': kept}))
  assert call(workdir, *words) == 0
  again = json.loads(path.read_text())['rows']
  for row in whole['rows']:
    assert row in again


@pytest.mark.parametrize('words, said', [
    (['--steps=11'], '--steps=11: there are 10 classes'),
    (['--protocol=icarl'], "choose from"),
    (['--steps=0'], "'0' is no whole number"),
    (['--orders=x'], "'x' is no whole number")])
def test_mistake_is_one_line(workdir, capsys, words, said):
  assert call(workdir, *words) == 2
  err = capsys.readouterr().err
  assert said in err and err.count('\n') == 1, err
