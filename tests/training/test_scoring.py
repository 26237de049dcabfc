"""Coresets by networks: against networks trained one by one, and as a run."""

import contextlib

import jax
import jax.numpy as jnp
import kill
import numpy as np
import pytest
import small
import toy

from dasm_jax import coresets
from dasm_jax.config import defaults
from dasm_jax.distill import run, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import saved_set
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices, preemption
from dasm_jax.training import ensemble, recipes, scoring, train_step

NETWORK = toy.network(depth=1, width=3)
RECIPE = recipes.recipe(7, lr=.05, batch=12, drops=(3,), extra=1)
KEYS = jax.random.split(jax.random.key(0), 2)

pytestmark = pytest.mark.usefixtures('quick_compiler')


@pytest.mark.slow
def test_history_against_epochs_one_by_one():
  """Each goes on from the weights and the momentum of the one before."""
  data = toy.source()
  variables, history = scoring.train_choosers(NETWORK, RECIPE, 3, history=True)(
      KEYS, devices.replicate(data))
  assert history.shape == (2, 3, 36) and history.dtype == bool
  recipe = recipes.recipe(1, lr=.05, batch=12)
  whole = jnp.arange(36)
  step = jax.jit(lambda key, state: ensemble.fit_epochs(
      NETWORK, recipe, key, sources.take(data, whole), state, 1)[0])
  right = jax.jit(lambda v: train_step.is_correct(NETWORK, v, data, whole))
  for number, key in enumerate(KEYS):
    start, rest = jax.random.split(key)
    mine = ensemble.state_from(recipe, NETWORK.init(start))
    for epoch, key in enumerate(jax.random.split(rest, 3)):
      mine = step(key, mine._replace(done=0))
      differing = (right(mine.variables) > .5) != history[number, epoch]
      assert differing.sum() <= 1  # rounding may flip one
    toy.leaves_close(
        mine.variables,
        jax.tree.map(lambda x: x[number], variables),  # noqa: B023
        1e-3, 1e-4)
  assert history.any() and not history.all()


def test_features_side_by_side():
  data = toy.source()
  variables = jax.jit(jax.vmap(NETWORK.init))(KEYS)
  got = scoring.embeddings(NETWORK, block=7)(  # 36 is no multiple of it
      *devices.replicate((variables, data)))
  images = sources.take(data, jnp.arange(36)).images
  embed = jax.jit(lambda i: NETWORK.embed(
      jax.tree.map(lambda x: x[i], variables), images))
  want = [embed(0), embed(1)]
  np.testing.assert_allclose(got, np.concatenate(want, -1), 1e-4, 1e-5)


@pytest.fixture(scope='module')
def wanted():
  """What coresets ask for, by what they need, of two networks."""
  data = devices.replicate(toy.source())
  networks, history = scoring.train_choosers(
      NETWORK, RECIPE, 2, history=True)(KEYS, data)
  networks = devices.replicate(networks)
  return {None: None, 'history': history,
          'features': scoring.embeddings(NETWORK)(networks, data),
          **{need: scoring.difficulty_scores(NETWORK, score)(
              networks, data).scores
             for need, score in (('scores', 'loss'), ('el2n', 'el2n'))}}


@pytest.mark.slow
@pytest.mark.parametrize('name', coresets.CORESETS)
def test_each_gets_what_it_asks_for(name, wanted):
  heard, data = [], devices.replicate(toy.source())
  need = coresets.CORESETS[name].needs
  learned = scoring.train_choosers(NETWORK, RECIPE, 2, need == 'history')(
      KEYS, data, lambda *_: heard.append(name)) if need else None
  got = scoring.selection_values(name, NETWORK, 'loss')(learned, data)
  want = wanted[need]
  if want is None:
    assert got is None and not heard
  else:
    np.testing.assert_array_equal(got, want)
    assert len(heard) == 2  # a piece an epoch


@pytest.mark.slow
def test_what_coresets_ask_for_has_its_shape(wanted):
  assert wanted['features'].shape[0] == 36 and wanted['features'].ndim == 2
  assert wanted['scores'].shape == wanted['el2n'].shape == (36,)
  assert wanted['history'].shape == (2, 2, 36)
  assert {row.needs for row in coresets.CORESETS.values()} == {*wanted}


def tiny(method, **entries):
  c = defaults(method)
  c.dataset.name, c.network.depth, c.syn.ipc = 'digits', 2, 3
  c.update_from_flattened_dict({
      name: value for name, value in kill.TINY.items()
      if not name.startswith('method')} | {'coreset.epochs': 1} | entries)
  return c


@pytest.mark.slow
def test_a_coreset_is_a_run(tmp_path):
  config = tiny('k_center')
  found = run.run(config, small.measured(tmp_path))
  assert len(found['segments']) == 1 and found['window'] == 'everything'
  for name in ('images.png', 'windows.png', 'images_1.png', 'window_1.png',
               'report.html', 'results.json', 'metrics.jsonl'):
    assert (tmp_path / name).exists(), name
  said = (tmp_path / 'log.txt').read_text()
  assert 'choosing by k_center' in said and 'to train for 1 epoch ' in said
  assert 'selected - random: +100' in said
  experiment = setup.build(config)
  labels = experiment.dataset.train.labels
  with np.load(tmp_path / 'synthetic.npz') as file:
    got, space = np.rint(255 * file['images']), str(file['space'])
  assert space == 'pixels'
  # Whoever is picked is real, and begins with the first of the class.
  for c in range(10):
    own = experiment.dataset.train.images[labels == c]
    hits = (got[c][:, None] == own).all((2, 3, 4))
    assert hits.any(1).all() and hits[0, 0] and hits.any(0).sum() == 3
  # A second call finds it done; a third, without the end, the checkpoint.
  assert run.run(config, tmp_path) == found
  (tmp_path / 'results.json').unlink()
  run.run(config, tmp_path)
  assert (tmp_path / 'log.txt').read_text().count('choosing by') == 1
  with np.load(tmp_path / 'synthetic.npz') as file:
    np.testing.assert_array_equal(np.rint(255 * file['images']), got)


@pytest.mark.slow
def test_a_run_leaves_out_the_hardest(tmp_path):
  found = {}
  for method, factor in (('highest', 2), ('window', 2), ('window', 1)):
    workdir = small.measured(tmp_path / f'{method}_{factor}')
    run.run(tiny(method, **{'syn.factor': factor}), workdir)
    images = saved_set.load(workdir / 'synthetic.npz').syn.images
    found[method, factor] = {image.tobytes() for image in np.asarray(
        images).reshape(30, -1)}
    said = (workdir / 'log.txt').read_text()
    assert ('choosing by highest, without the hardest 70 %' in said
            ) == (method == 'window')
  assert not found['highest', 2] & found['window', 2]
  assert all(len(images) == 30 for images in found.values())


@pytest.mark.parametrize('method, entries, words', [
    ('random', {'syn.ipc': 200}, ['ipc=200', 'has 139', 'at most']),
    ('aligned', {'syn.ipc': 40, 'syn.factor': 2}, ['4 real ones', 'has 139']),
    ('herding', {'method.steps': 5}, ['steps=5', 'herding', 'set 0']),
    ('herding', {'coreset.skip': .2}, [
        'coreset.skip=0.2: ', 'which herding does not go by; set 0', 'el2n']),
    ('highest', {'coreset.skip': 1.}, ['coreset.skip=1.0', 'less than 1']),
    # 139 less 97, of which none is packed; .64 leaves the 50.
    ('window', {'syn.ipc': 50}, [
        'coreset.skip=0.7 of the 139 images', 'leaves 42', 'syn.ipc=50 of',
        'factor=1 takes 50; lower it, or skip at most 0.64']),
    ('ccs', {'syn.ipc': 25, 'syn.factor': 2}, [
        'skip=0.3', 'leaves 97', 'factor=2 takes 100; lower it'])])
def test_mistakes(method, entries, words, tmp_path):
  with pytest.raises(UserError) as caught:
    run.run(tiny(method, **entries), tmp_path / 'new')
  for word in words:
    assert word in str(caught.value)
  assert not (tmp_path / 'new').exists()


def test_a_set_that_is_damaged_is_left_again(tmp_path):
  c = tiny('random')
  run.run(c, small.measured(tmp_path / 'run'))
  path = tmp_path / 'run' / 'synthetic.npz'
  want = saved_set.load(path).syn.images
  for spoil in (lambda: path.write_bytes(path.read_bytes()[:900]), path.unlink):
    spoil()
    run.run(c, tmp_path / 'run')
    np.testing.assert_array_equal(saved_set.load(path).syn.images, want)


def test_a_signal_before_the_first_step_is_heard(tmp_path):
  c, workdir = tiny('random'), small.measured(tmp_path / 'run')
  # The last line of the description, before anything is built for it.
  with contextlib.redirect_stdout(small.Interrupting('workdir ')) as terminal:
    with pytest.raises(preemption.Stopped,
                       match='SIGTERM: saved segment 1, step 0'):
      run.run(c, workdir)
  assert not terminal.texts
  assert not (workdir / 'results.json').exists()
  assert run.run(c, tmp_path / 'run')['method'] == 'random'
