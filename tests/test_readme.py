"""What the README shows works as it stands there."""

import pathlib
import re

import numpy as np
import pytest

from dasm_jax import config
from dasm_jax.distill import results, setup
from dasm_jax.evaluate import saved_set
from dasm_jax.types import Synthetic

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / 'README.md').read_text()
PAGES = TEXT + ''.join(
    page.read_text() for page in sorted((ROOT / 'launch').glob('*.md')))


def example(word):
  """The names that the Python example with `word` in it leaves."""
  blocks = re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)
  (code,) = [block for block in blocks if word in block]
  names = {}
  exec(compile(code, 'README.md', 'exec'), names)  # noqa: S102
  return names


@pytest.mark.usefixtures('quick_compiler')
def test_a_saved_set_is_trained_on(tmp_path, monkeypatch):
  c = config.defaults('dc')
  c.dataset.name, c.syn.ipc, c.eval.epochs = 'digits', 2, 2
  c.network.depth, c.network.width = 1, 2
  images = np.random.default_rng(0).uniform(size=(10, 2, 8, 8, 1))
  labels = np.broadcast_to(np.eye(10)[:, None], (10, 2, 10))
  workdir = tmp_path / 'runs' / 'digits'
  workdir.mkdir(parents=True)
  experiment, syn = setup.build(c), Synthetic(images, labels, 0)
  saved_set.save(workdir / 'synthetic.npz', syn, experiment.codec,
                 experiment.dataset.class_names,
                 results.card(experiment, syn, {}))
  monkeypatch.chdir(tmp_path)
  names = example('card.load')
  assert np.isfinite(names['loss'])
  got = names['predict'](np.zeros((3, 8, 8, 1), np.uint8))
  assert got.shape == (3,) and 0 <= int(got.min()) <= int(got.max()) < 10


def test_the_python_example_runs():
  names = example('objectives.sdc')
  assert names['norms'].shape == (15,)
  assert names['gradients'].images.shape == names['syn'].images.shape
  assert float(abs(names['gradients'].images).max()) > 0


def test_every_file_it_names_exists():
  # Of a link the target counts.
  text = re.sub(r'\[[^\]]*\]\(([^)]*)\)', r'\1', PAGES)
  for name in set(re.findall(
      r'(?:configs|docs|launch|tests)/[\w/]+\.(?:py|sh|sbatch|yaml|md)|'
      r'[A-Z]+\.md', text)):
    assert (ROOT / name).exists(), name


def test_every_entry_it_names_exists():
  trees = [config.defaults(method)
           for method in ('idc', 'mtt', 'sre2l', 'cafe')]
  for path in set(re.findall(r'--config\.([\w.]+)=', PAGES)):
    assert None in [config.difference(path, tree) for tree in trees], path
