"""What README and docs show works as it stands there."""

import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image

import dasm_jax
from dasm_jax import config
from dasm_jax.config import files, options, overrides, validate
from dasm_jax.convert import __main__ as convert
from dasm_jax.diagnose import __main__ as diagnose
from dasm_jax.distill import results, setup
from dasm_jax.evaluate import __main__ as evaluate
from dasm_jax.evaluate import saved_set
from dasm_jax.runtime import cli
from dasm_jax.sweep import __main__ as sweep
from dasm_jax.types import Synthetic
from dasm_jax.uses import continual, membership, search

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
PAGES = README + ''.join(
    page.read_text() for folder in ('docs', 'launch')
    for page in sorted((ROOT / folder).rglob('*.md')))
INSTALLING = (ROOT / 'docs' / 'installing.md').read_text()
# Lines of the shell, those that go on joined.
COMMANDS = sorted({
    line.partition(' #')[0].strip()
    for block in re.findall(r'```sh\n(.*?)```', PAGES, re.DOTALL)
    for line in block.replace('\\\n', ' ').split('\n')
    if 'python -m dasm_jax' in line})


def example(word):
  """The names that the Python example with `word` in it leaves."""
  blocks = re.findall(r'```python\n(.*?)```', PAGES, re.DOTALL)
  (code,) = [block for block in blocks if word in block]
  names = {}
  exec(compile(code, word, 'exec'), names)  # noqa: S102
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
  # Links are held by the next test.
  text = re.sub(r'\]\([^)]*\)', '', PAGES)
  for name in set(re.findall(
      r'(?:configs|docs|launch|tests)/[\w/]+\.(?:py|sh|sbatch|yaml|md)|'
      r'[A-Z]+\.md', text)):
    assert (ROOT / name).exists() or (ROOT / 'docs' / name).exists(), name


def test_links_lead_somewhere():
  pages = [*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md'),
           *(ROOT / 'launch').glob('*.md')]
  seen = 0
  for page in pages:
    text = re.sub('```.*?```|`[^`]*`', '', page.read_text(), flags=re.DOTALL)
    for target in re.findall(r'\]\(([^)#\s]+)[^)]*\)', text):
      if '://' not in target:
        assert (page.parent / target).exists(), (page.name, target)
        seen += 1
  assert seen > 50


def test_every_entry_it_names_exists():
  trees = [config.defaults(method)
           for method in ('idc', 'mtt', 'sre2l', 'cafe')]
  for path in set(re.findall(r'--config\.([\w.]+)=', PAGES)):
    assert None in [config.difference(path, tree) for tree in trees], path


def test_commands_are_there():
  for word in ('main', 'evaluate', 'sweep', 'diagnose', 'convert',
               'uses.continual', 'uses.membership', 'uses.search'):
    assert any(f'dasm_jax.{word} ' in line for line in COMMANDS), word


@pytest.mark.parametrize('line', COMMANDS)
def test_a_command_is_taken(line, monkeypatch, tmp_path):
  monkeypatch.chdir(ROOT)
  for number in range(2):  # the folder of the examples
    (tmp_path / f'class{number}').mkdir()
    Image.new('RGB', (9, 9)).save(tmp_path / f'class{number}' / 'a.png')
  words = shlex.split(line.replace('folder:photos', f'folder:{tmp_path}'))
  # What a cluster's tool starts is one word of its own command.
  words = shlex.split(words[-1]) if 'python' not in words else words
  module = words[words.index('-m') + 1].removeprefix('dasm_jax.')
  words = words[words.index('-m') + 2:]
  given, texts, rest = cli.split_config(words)
  if given:
    c = files.load(given[-1])
    if module == 'main':
      overrides.apply(c, texts, given[-1])
      validate.check(c)
  if module != 'main':
    # Ends the process where an argument is not known.
    command = {'evaluate': evaluate, 'sweep': sweep, 'diagnose': diagnose,
               'convert': convert, 'uses.continual': continual,
               'uses.membership': membership, 'uses.search': search}[module]
    command._parser().parse_args(rest)


def test_options_are_those_of_the_program():
  # python -m dasm_jax.config.options > docs/options.md
  assert (ROOT / 'docs' / 'options.md').read_text() == options.markdown()


def test_readme_is_short():
  assert README.count('\n') <= 200


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
  done = subprocess.run(
      [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet',
       f'--site-dir={tmp_path}'], cwd=ROOT, capture_output=True, text=True,
      timeout=600)
  assert done.returncode == 0, done.stdout + done.stderr
  page = (tmp_path / 'api' / 'losses' / 'index.html').read_text()
  assert 'layerwise_cosine' in page and 'Returns' in page
  assert (tmp_path / 'results' / 'index.html').exists()


def test_a_config_of_ones_own_is_as_it_is_shown(tmp_path):
  (code,) = re.findall(r'```python\n(.*?)```', INSTALLING, re.DOTALL)
  (tmp_path / 'photos.py').write_text(code)
  c = files.load(f'{tmp_path / "photos.py"}:ipc=3')
  assert c.dataset.name == 'folder:photos' and c.syn.ipc == 3


def test_what_is_installed_is_as_it_is_told():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  assert set(re.findall(r"'\.\[(\w+)\]'", INSTALLING)) == set(
      project['optional-dependencies'])
  assert set(re.findall(r'^\| `(dasm-jax\S*)`', INSTALLING, re.M)) == set(
      project['scripts'])
  python = project['requires-python'].removeprefix('>=')
  assert f'Python {python} or newer' in INSTALLING


def test_the_version_to_cite_is_that_of_the_program():
  assert f'\nversion: {dasm_jax.__version__}\n' in (
      ROOT / 'CITATION.cff').read_text()
