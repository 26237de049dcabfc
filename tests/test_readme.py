"""What the README shows works as it stands there."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / 'README.md').read_text()


def test_the_python_example_runs():
  (code,) = re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)
  names = {}
  exec(compile(code, 'README.md', 'exec'), names)  # noqa: S102
  assert names['norms'].shape == (15,)
  assert names['gradients'].images.shape == names['syn'].images.shape
  assert float(abs(names['gradients'].images).max()) > 0


def test_every_file_it_names_exists():
  for name in set(re.findall(
      r'(?:configs|launch|tests)/[\w/]+\.(?:py|sh)|[A-Z]+\.md', TEXT)):
    assert (ROOT / name).exists(), name


def test_every_entry_it_names_exists():
  from dasm_jax import config
  tree = config.defaults()
  for path in set(re.findall(r'--config\.([\w.]+)=', TEXT)):
    assert config.difference(path, tree) is None


@pytest.mark.parametrize('script', sorted(
    p.name for p in (ROOT / 'launch').glob('*.sh')))
def test_scripts_parse(script):
  subprocess.run(['bash', '-n', ROOT / 'launch' / script], check=True)
