"""Soft labels of every epoch: who gave them has nothing to learn from them."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
import toy

from dasm_jax.cost import estimate
from dasm_jax.distill import results, run, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import __main__, saved_set, subjects
from dasm_jax.models import flops
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import ensemble, recipes, soft_labels, train_step
from dasm_jax.types import SoftLabelled, Synthetic

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEY = jax.random.key(0)
# Every draw there is: a short last batch, augmentation, CutMix.
RECIPE = recipes.recipe(3, lr=.5, momentum=.5, weight_decay=0., batch=5,
                        strategy='flip_crop', mode='idc', cutmix=.8, extra=1)


def stacked(*trees):
  return jax.tree.map(lambda *x: jnp.stack(x), *trees)


@pytest.fixture(scope='module')
def teacher():
  """`(network, its variables, batch of 12 images)`."""
  network = toy.network()
  batch = sources.take(toy.source(), jnp.arange(12) * 3)
  return network, network.init(KEY), batch


def moved(network, variables, labelled, recipe=RECIPE):
  """How far a network that is the teacher walks; a key that is not the seed."""
  after, loss = jax.jit(lambda labelled: ensemble.fit(
      network, recipe, jax.random.key(7), labelled, variables))(labelled)
  assert np.isfinite(loss)
  return max(float(abs(a - b).max()) for a, b in zip(
      jax.tree.leaves(after.params), jax.tree.leaves(variables.params),
      strict=True))


@pytest.mark.slow
def test_a_teacher_learns_nothing_from_its_own_labels(teacher):
  network, variables, batch = teacher
  labelled = soft_labels.teacher_labels(
      network, RECIPE, stacked(variables), batch, 3, 2.)
  logits = labelled.logits
  assert logits.shape == (4, 12, 3) and logits.dtype == jnp.float16
  rest = moved(network, variables, labelled)  # float16 has rounded them
  assert rest < 1e-3
  # Any other draw has other labels.
  other = moved(network, variables, labelled._replace(seed=jnp.uint32(4)))
  assert other > 30 * rest
  # So has another epoch.
  turned = labelled._replace(logits=jnp.roll(logits, 1, axis=0))
  assert moved(network, variables, turned) > 30 * rest
  # More epochs than have labels begin again with the first.
  assert moved(network, variables, labelled, RECIPE._replace(epochs=7)) < 1e-3


@pytest.mark.parametrize('squared', [False, True])
def test_loss_is_that_of_the_temperature(teacher, squared):
  """KL of both over T, up to the entropy: its slope by hand."""
  network, variables, batch = teacher
  recipe = recipes.recipe(1, lr=.1, momentum=0., weight_decay=0., batch=12,
                          squared=squared)
  given = jnp.asarray(np.random.default_rng(0).normal(size=(1, 12, 3)) * 4,
                      jnp.float16)
  labelled = SoftLabelled(*batch, given, jnp.uint32(0), jnp.float32(5))
  after, _ = jax.jit(lambda labelled: ensemble.fit(
      network, recipe, KEY, labelled, variables))(labelled)
  def loss(params):
    logits = network.apply(variables._replace(params=params), batch.images)[0]
    p = jax.nn.softmax(given[0].astype('float32') / 5)
    return (p * (jnp.log(p) - jax.nn.log_softmax(logits / 5))).sum(-1).mean()
  slope = jax.jit(jax.grad(loss))(variables.params)
  rate = .1 * (25 if squared else 1)
  want = jax.tree.map(lambda p, g: p - rate * g, variables.params, slope)
  toy.leaves_close(after.params, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_several_teachers_give_their_mean(teacher):
  network, one, batch = teacher
  two = network.init(jax.random.key(1))
  def logits(*teachers):
    return np.asarray(soft_labels.teacher_labels(
        network, RECIPE, stacked(*teachers), batch, 3, 2.).logits, np.float32)
  np.testing.assert_allclose(
      logits(one, two), (logits(one) + logits(two)) / 2, atol=2e-3)


def test_adamw_and_cosine():
  recipe = recipes.sre2l_recipe(4, batch=8, matrices=False)
  rates, restart = recipes.rates(recipe)
  np.testing.assert_allclose(rates, 1e-3 * np.array(
      [1, .5 + 2 ** .5 / 4, .5, .5 - 2 ** .5 / 4]))
  assert not restart.any()
  mine = train_step.recipe_optimizer(recipe)
  theirs = optax.adamw(.1, weight_decay=.01)
  params = {'w': jnp.array([1., -2., 3.])}
  a, b = params, params
  s, t = mine.init(a), theirs.init(b)
  for k in range(3):
    slope = {'w': jnp.array([.5, k - 1., 2.])}
    change, s = mine.update(slope, s, a)
    a = jax.tree.map(lambda p, c: p - .1 * c, a, change)
    change, t = theirs.update(slope, t, b)
    b = optax.apply_updates(b, change)
  toy.leaves_close(a, b, rtol=1e-5)
  with pytest.raises(UserError, match="optimizer 'lion'; choose from adamw"):
    recipes.recipe(1, optimizer='lion')


CHANGES = small.PLAIN | dict(
    method__steps=4, method__teach=2, method__net_steps=2,
    method__net_batch=32, network__width=8, eval__epochs=3, eval__networks=2,
    eval__batch=7)


@pytest.mark.long
@pytest.mark.slow
def test_whole_run_and_its_set(tmp_path, capsys):
  """Both segments' teachers label; the saved set measures as the run did."""
  c = small.tiny('sre2l', **CHANGES)
  found = run.run(c, tmp_path / 'run')
  assert found['label_kind'] == 'told'
  assert found['bytes']['labels'] == 2 * 3 * 20 * 10  # epochs, images, classes
  experiment = setup.build(c)
  disk = estimate.disk_bytes(experiment, flops.forward_cost(
      experiment.network, experiment.shape))
  assert disk['labels'] == found['bytes']['labels']
  one = subjects.saved_subject(tmp_path / 'run')
  assert one.set.logits.shape == (3, 20, 10)
  assert abs(one.set.logits).max() > 0
  assert np.isin(one.set.syn.labels, (0, 1)).all()  # hard in themselves
  assert __main__.main([f'--set={tmp_path / "run"}', '--networks=2']) == 0
  rows = json.loads((tmp_path / 'run/evaluation.json').read_text())['rows']
  for row, name in zip(rows, ('synthetic', 'random'), strict=True):
    assert row['networks'] == found['accuracy'][name]['networks']
  assert '2.5 kB with labels' in capsys.readouterr().out  # 8x8 pixels each
  # Teachers stay, and another run may take one.
  files = sorted(path.name for path in (tmp_path / 'run').glob('teacher_*'))
  assert files == ['teacher_1.npz', 'teacher_2.npz']
  c = small.tiny('sre2l', **CHANGES, segments__number=1,
                 method__teacher=str(tmp_path / 'run/teacher_2.npz'))
  again = run.run(c, small.measured(tmp_path / 'again'))
  assert again['label_kind'] == 'told'
  one, two = (dict(np.load(tmp_path / name)) for name in (
      'run/teacher_2.npz', 'again/teacher_1.npz'))
  assert one.keys() == two.keys()
  assert all((one[name] == two[name]).all() for name in one)
  # Without them a set has soft labels, one an image.
  c = small.tiny('sre2l', **CHANGES, method__relabel=False,
                 segments__number=1)
  plain = run.run(c, small.measured(tmp_path / 'plain'))
  assert plain['label_kind'] == 'soft'
  assert plain['bytes']['labels'] == 2 * 20 * 10
  _refuses_other_logits(tmp_path)


def _refuses_other_logits(tmp_path):
  with np.load(tmp_path / 'run' / 'synthetic.npz') as file:
    arrays = dict(file)
  for told, text in ((arrays['told'][:, :7], 'for 20 images and 10 classes'),
                     (arrays['told'][..., :9], '(3, 20, 9)'), (None, "'told'")):
    bad = arrays | {'told': told} if told is not None else {
        k: v for k, v in arrays.items() if k != 'told'}
    np.savez(tmp_path / 'bad.npz', **bad)
    with pytest.raises(UserError) as error:
      saved_set.load(tmp_path / 'bad.npz')
    assert text in str(error.value)


def test_a_set_without_teachers_is_itself():
  experiment = setup.build(small.tiny('dc'))
  soft = np.random.default_rng(0).dirichlet(np.ones(10), (10, 2))
  syn = Synthetic(jnp.zeros((10, 2, 8, 8, 1)), jnp.asarray(soft, 'f4'), 0.)
  done = [types.SimpleNamespace(state=types.SimpleNamespace(teacher=None))]
  found = results.evaluation_set(experiment, syn, done)
  assert not isinstance(found, SoftLabelled)
  assert found.images.shape == (20, 8, 8, 1)
  # As whoever loads the set will train on them: saved in half precision.
  half = soft.reshape(20, 10).astype(np.float16).astype(np.float32)
  np.testing.assert_array_equal(found.labels, half / half.sum(1, keepdims=True))
  assert devices.count() == 8  # told by epochs, split over all of them
