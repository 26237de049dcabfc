"""Coresets by networks: against networks trained one by one, and as a run."""

import os
import signal

import jax
import jax.numpy as jnp
import kill
import numpy as np
import pytest
import small
import toy

from dasm_jax import coresets
from dasm_jax.config import defaults
from dasm_jax.distill import initialise, run, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import saved_set
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices, preemption
from dasm_jax.training import ensemble, recipes, scoring, train_step

NETWORK = toy.network(depth=1, width=3)
RECIPE = recipes.recipe(7, lr=.05, batch=12, drops=(3,), extra=1)
KEYS = jax.random.split(jax.random.key(0), 2)

pytestmark = pytest.mark.usefixtures('quick_compiler')


def test_history_against_epochs_one_by_one():
  data = toy.source()
  variables, history = scoring.train_choosers(NETWORK, RECIPE, 3, history=True)(
      KEYS, devices.replicate(data))
  assert history.shape == (2, 3, 36) and history.dtype == bool
  recipe = recipes.recipe(1, lr=.05, batch=12)
  whole = jnp.arange(36)
  step = jax.jit(lambda key, v: ensemble.fit(
      NETWORK, recipe, key, sources.take(data, whole), v)[0])
  right = jax.jit(lambda v: train_step.is_correct(NETWORK, v, data, whole))
  for number, key in enumerate(KEYS):
    start, rest = jax.random.split(key)
    mine = NETWORK.init(start)
    for epoch, key in enumerate(jax.random.split(rest, 3)):
      mine = step(key, mine)
      differing = (right(mine) > .5) != history[number, epoch]
      assert differing.sum() <= 1  # rounding may flip one
    toy.leaves_close(
        mine, jax.tree.map(lambda x: x[number], variables),  # noqa: B023
        1e-3, 1e-4)
  assert history.any() and not history.all()


def test_features_side_by_side(monkeypatch):
  monkeypatch.setattr(scoring, 'SCORING_BLOCK', 7)  # 36 is no multiple of it
  data = toy.source()
  variables = jax.vmap(NETWORK.init)(KEYS)
  got = scoring.embeddings(NETWORK)(*devices.replicate((variables, data)))
  images = sources.take(data, jnp.arange(36)).images
  embed = jax.jit(lambda i: NETWORK.embed(
      jax.tree.map(lambda x: x[i], variables), images))
  want = [embed(0), embed(1)]
  np.testing.assert_allclose(got, np.concatenate(want, -1), 1e-4, 1e-5)


@pytest.mark.parametrize('name', coresets.CORESETS)
def test_each_gets_what_it_asks_for(name, monkeypatch):
  asked = []
  def trained(network, recipe, epochs, history):
    asked.append((epochs, history))
    return lambda keys, *_: (jax.vmap(NETWORK.init)(keys), np.ones((2, 3, 36)))
  monkeypatch.setattr(scoring, 'train_choosers', trained)
  monkeypatch.setattr(scoring, 'difficulty_scores', lambda network, score: (
      lambda *_: (np.full(36, score), None)))
  monkeypatch.setattr(scoring, 'embeddings', lambda network: (
      lambda *_: np.zeros((36, 5))))
  got = scoring.selection_values(name, NETWORK, RECIPE, epochs=3, score='el2n')(
      KEYS, toy.source())
  need = coresets.CORESETS[name][0]
  assert asked == ([] if need is None else [(3, need == 'history')])
  shapes = {'features': (36, 5), 'scores': (36,), 'history': (2, 3, 36)}
  assert got is None if need is None else got.shape == shapes[need]
  if need == 'scores':
    assert got[0] == 'el2n'


def tiny(method, **entries):
  c = defaults(method)
  c.dataset.name, c.network.depth, c.syn.ipc = 'digits', 2, 3
  c.update_from_flattened_dict({
      name: value for name, value in kill.TINY.items()
      if not name.startswith('method')} | {'coreset.epochs': 1} | entries)
  return c


def test_a_coreset_is_a_run(tmp_path, monkeypatch):
  small.unmeasured(monkeypatch)
  # Their training is tested above, and waits for the compiler.
  monkeypatch.setattr(scoring, 'train_choosers', lambda network, *_: (
      lambda keys, *_: (jax.vmap(network.init)(keys), None)))
  config = tiny('k_center')
  found = run.run(config, tmp_path)
  assert found['segments'] == 1 and found['window'] == 'everything'
  for name in ('images.png', 'windows.png', 'images_1.png', 'window_1.png',
               'report.html', 'results.json', 'metrics.jsonl'):
    assert (tmp_path / name).exists(), name
  said = (tmp_path / 'log.txt').read_text()
  assert 'choosing by k_center; 1 network to train for 1 epoch ' in said
  assert 'selected - random: +100' in said
  job = setup.build(config)
  labels = job.dataset.train.labels
  with np.load(tmp_path / 'synthetic.npz') as file:
    got, space = np.rint(255 * file['images']), str(file['space'])
  assert space == 'pixels'
  # Whoever is picked is real, and begins with the first of the class.
  for c in range(10):
    own = job.dataset.train.images[labels == c]
    hits = (got[c][:, None] == own).all((2, 3, 4))
    assert hits.any(1).all() and hits[0, 0] and hits.any(0).sum() == 3
  # A second call finds it done; a third, without the end, the checkpoint.
  assert run.run(config, tmp_path) == found
  (tmp_path / 'results.json').unlink()
  monkeypatch.setattr(scoring, 'train_choosers', None)
  run.run(config, tmp_path)
  with np.load(tmp_path / 'synthetic.npz') as file:
    np.testing.assert_array_equal(np.rint(255 * file['images']), got)


@pytest.mark.parametrize('method, entries, words', [
    ('random', {'syn.ipc': 200}, ['ipc=200', 'has 139', 'at most']),
    ('aligned', {'syn.ipc': 40, 'syn.factor': 2}, ['4 real ones', 'has 139']),
    ('herding', {'method.steps': 5}, ['steps=5', 'herding', 'set 0'])])
def test_mistakes(method, entries, words, tmp_path):
  with pytest.raises(UserError) as caught:
    run.run(tiny(method, **entries), tmp_path / 'new')
  for word in words:
    assert word in str(caught.value)
  assert not (tmp_path / 'new').exists()


def test_a_set_that_is_damaged_is_left_again(tmp_path, monkeypatch):
  small.unmeasured(monkeypatch)
  c = tiny('random')
  run.run(c, tmp_path / 'run')
  path = tmp_path / 'run' / 'synthetic.npz'
  want = saved_set.load(path).syn.images
  for spoil in (lambda: path.write_bytes(path.read_bytes()[:900]), path.unlink):
    spoil()
    run.run(c, tmp_path / 'run')
    np.testing.assert_array_equal(saved_set.load(path).syn.images, want)


def test_a_signal_before_the_first_step_is_heard(tmp_path, monkeypatch):
  small.unmeasured(monkeypatch)
  c = tiny('random')
  start = initialise.start_images
  def told(*given):
    os.kill(os.getpid(), signal.SIGTERM)
    return start(*given)
  with monkeypatch.context() as during:
    during.setattr(initialise, 'start_images', told)
    with pytest.raises(preemption.Stopped,
                       match='SIGTERM: saved segment 1, step 0'):
      run.run(c, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'results.json').exists()
  assert run.run(c, tmp_path / 'run')['method'] == 'random'
