"""Gradient norms over a network's age: against a loop, and as a command."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

from dasm_jax import config, diagnose, losses
from dasm_jax.distill import figures, results, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import saved_set
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import recipes, train_step
from dasm_jax.types import Batch, Synthetic

pytestmark = pytest.mark.usefixtures('quick_compiler')
KEYS = jax.random.split(jax.random.key(1), 2)
RECIPE = recipes.recipe(1, lr=.1, batch=12, momentum=.5)


@pytest.fixture(scope='module')
def grown():
  """Norms of right and wrong labels: `{ages: [sets, ages, networks]}`."""
  network, data = toy.network(), toy.source()
  right = sources.take(data, jnp.arange(0, 36, 4))
  wrong = right._replace(labels=jnp.roll(right.labels, 1, axis=1))
  given = devices.replicate(data), devices.replicate([right, wrong])
  run = diagnose.norms_by_age(network, RECIPE)
  return network, right, {
      ages: run(KEYS, *given, ages) for ages in ((0, 2, 40), (40,))}


def test_norms_of_fresh_networks_against_a_loop(grown):
  network, right, found = grown
  loss = train_step.loss_fn(network)
  @jax.jit
  def norm(variables, image, label):
    slope = jax.grad(loss)(variables, Batch(image[None], label[None]))
    return losses.tree_norm(slope.params)
  for i, key in enumerate(KEYS):
    variables = jax.jit(network.init)(jax.random.split(key)[0])
    want = np.mean([norm(variables, *one) for one in zip(*right, strict=True)])
    np.testing.assert_allclose(found[0, 2, 40][0, 0, i], want, rtol=1e-4)


def test_an_age_is_that_many_steps_however_often_one_looks(grown):
  whole, once = grown[2].values()
  assert whole.shape == (2, 3, 2) and once.shape == (2, 1, 2)
  np.testing.assert_allclose(whole[:, -1], once[:, 0], rtol=1e-4)


def test_wrong_labels_grow_harder_right_ones_easier(grown):
  right, wrong = grown[2][0, 2, 40].mean(-1)
  assert right[-1] < .7 * right[0] and wrong[-1] > 1.3 * wrong[0]


def save(path, ipc=2, space='pixels', seed=0, **entries):
  """A saved set of digits that no run has made."""
  c = config.defaults('idc')
  c.dataset.name, c.syn.ipc, c.seed = 'digits', ipc, seed
  c.network.depth, c.network.width, c.syn.space = 2, 4, space
  c.syn.factor, c.segments.number, c.method.batch = 2, 1, 8
  c.eval.recipe, c.eval.augment = 'dc', ''
  c.update_from_flattened_dict(entries)
  experiment = setup.build(c)
  labels = np.broadcast_to(np.eye(10)[:, None], (10, ipc, 10))
  images = np.random.default_rng(seed).uniform(size=(10, ipc, 8, 8, 1))
  syn = Synthetic(jnp.asarray(images, jnp.float32), jnp.asarray(labels), .01)
  path.parent.mkdir(parents=True, exist_ok=True)
  saved_set.save(path, syn, experiment.codec, experiment.dataset.class_names,
                 results.card(experiment, syn, {}))
  return syn


def test_a_set_is_read_as_it_was_saved(tmp_path):
  syn = save(tmp_path / 'a' / 'synthetic.npz')
  found = saved_set.load(tmp_path / 'a')
  toy.leaves_equal(found.syn[:2], syn[:2])
  assert (found.codec.space, found.codec.factor) == ('pixels', 2)
  assert found.network['width'] == 4 and found.recipe.restart
  assert diagnose.origin(found)['name'] == 'digits'


@pytest.mark.slow
def test_command(tmp_path, capsys):
  save(tmp_path / 'a' / 'synthetic.npz')
  save(tmp_path / 'b' / 'other.npz', seed=1)
  # As many real images as the sets decode to: one program measures all.
  assert 0 == diagnose.main([
      f'--set={tmp_path / "a"},{tmp_path / "b" / "other.npz"}', '--ages=3,0',
      '--networks=2', '--real=80', f'--out={tmp_path / "c"}'])
  said = capsys.readouterr().out
  assert 'age' in said and 'other' in said and 'diagnose.png' in said
  found = json.loads((tmp_path / 'c' / 'diagnose.json').read_text())
  assert found['ages'] == [0, 3] and found['data']['name'] == 'digits'
  assert list(found['lines']) == ['a', 'other', 'real']
  for line in found['lines'].values():
    assert np.shape(line['networks']) == (2, 2)
    np.testing.assert_allclose(line['mean'], np.mean(line['networks'], 1))
    assert min(line['mean']) > 0
  assert found['lines']['other']['ipc'] == 2
  with Image.open(tmp_path / 'c' / 'diagnose.png') as image:
    assert image.width > 600


def test_curves(tmp_path):
  lines = {'one': (np.arange(3.), np.ones(3)), 'real': (np.ones(3), [0.] * 3)}
  for name, x in {'a': (0, 1, 100), 'b': (5, 50, 60), 'c': (0,)}.items():
    shown = {key: (mean[:len(x)], std[:len(x)])
             for key, (mean, std) in lines.items()}
    figures.line_plot(x, shown, tmp_path / f'{name}.png', 'x', 'y')
    with Image.open(tmp_path / f'{name}.png') as image:
      page = np.asarray(image.convert('RGB')).astype(int)
    # Blue (the first line) and the dark dashes of the real one are there.
    assert (abs(page - (0x1f, 0x77, 0xb4)).sum(-1) < 30).sum() > 30


@pytest.mark.parametrize('entries, what', [
    ({'dataset.name': 'mnist'}, 'data'), ({'network.width': 5}, 'network')])
def test_sets_that_cannot_be_compared(entries, what, tmp_path):
  save(tmp_path / 'a.npz')
  one = saved_set.load(tmp_path / 'a.npz')
  dataset = entries.get('dataset.name', 'digits')
  network = one.network | {'width': entries.get('network.width', 4)}
  other = one._replace(network=network, data=one.data | {'name': dataset})
  with pytest.raises(UserError, match=f"'a' and 'b' differ in their {what}"):
    diagnose.agree({'a': one, 'b': other})
  diagnose.agree({'a': one, 'b': one})


def test_names():
  assert diagnose.names_of(['x/a', 'y/b/synthetic.npz', 'c.npz']) == [
      'a', 'b', 'c']
  assert diagnose.names_of(['x/a', 'y/a', 'real']) == ['x/a', 'y/a', 'real']
  with pytest.raises(UserError, match='names one twice'):
    diagnose.names_of(['x/a', 'x/a'])


def test_labels_are_short_while_they_differ(tmp_path):
  save(tmp_path / 'a.npz')
  one = saved_set.load(tmp_path / 'a.npz')
  def labels(*names):
    values = {name: np.ones((2, 1)) for name in (*names, 'real')}
    table = diagnose.write(
        {name: one for name in names}, names, (0, 1), values, tmp_path)
    return [row.split()[0] for row in table.split('\n')[2:]]
  long = 'digits-ipc=2-method.steps=100-network.width=8'
  want = 'digits-ipc=2-metho…work.width=8'
  assert labels('a', long) == ['a', want, 'real']
  same = [long, long.replace('steps=100', 'steps=999')]
  assert labels(*same) == [*same, 'real']


MISTAKES = {
    '': '--set', '--set=nowhere': "'nowhere'", '--set=x --ages=1,b': "'b'",
    '--set=x --networks=0': "'0'", '--set=README.md': 'README.md',
    '--set=x --sets=y': '--sets=y', '--set=x --seed=-1': '-1'}


@pytest.mark.parametrize('text', MISTAKES)
def test_mistake_is_one_line(text, capsys):
  assert diagnose.main(text.split()) == 2
  said = capsys.readouterr()
  assert not said.out
  assert said.err.startswith('error: ') and said.err.count('\n') == 1
  assert MISTAKES[text] in said.err


def test_out_that_cannot_be(tmp_path, capsys):
  save(tmp_path / 'a.npz')
  assert diagnose.main([f'--set={tmp_path / "a.npz"}',
                        f'--out={tmp_path / "a.npz"}']) == 2
  assert 'choose another' in capsys.readouterr().err


def test_help_needs_no_backend():
  done = subprocess.run(
      [sys.executable, '-m', 'dasm_jax.diagnose', '--help'], text=True,
      cwd=toy.ROOT, timeout=120, capture_output=True,
      env=toy.environment(JAX_PLATFORMS='nothing'))
  assert done.returncode == 0 and not done.stderr
  for name in ('--set', '--ages', '--networks'):
    assert name in done.stdout
