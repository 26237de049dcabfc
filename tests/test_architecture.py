"""What importing costs, and which module may know what."""

import ast
import json
import pathlib
import re
import subprocess
import sys

import pytest
import toy

# Who may import whom, from left to right; those of one group do not know each
# other.
ORDER = '''
errors <- types streams shapes <- runtime
<- losses transforms models data segments coresets <- difficulty synthetic crops
<- objectives pipeline <- training <- methods saved <- config <- foreign
<- evaluate <- distill <- cost <- main diagnose convert uses <- sweep
<- __main__
'''
RANK = {name: rank for rank, group in enumerate(ORDER.split('<-'))
        for name in group.split()}
ROOT = toy.ROOT / 'dasm_jax'


def sources(folder=''):
  return {path.relative_to(ROOT): path.read_text()
          for path in sorted((ROOT / folder).rglob('*.py'))}


def package(path):
  """`a` of `a.py` and of `a/b.py`; the root itself is none."""
  return pathlib.PurePath(path).parts[0].removesuffix('.py')


def imported(text):
  """Packages of ours that a module imports, wherever it does."""
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.ImportFrom) and node.module == 'dasm_jax':
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom | ast.Import):
      names = ([node.module] if isinstance(node, ast.ImportFrom)
               else [alias.name for alias in node.names])
      for name in names:
        if name.startswith('dasm_jax.'):
          yield name.split('.')[1]


def test_imports_point_one_way():
  for path, text in sources().items():
    if (mine := package(path)) != '__init__':
      for other in set(imported(text)) - {mine}:
        assert RANK[other] < RANK[mine], f'{path} imports {other}'


@pytest.mark.parametrize('words, known', [
    ('ConfigDict|ml_collections', {'config', 'main'}),
    (r'pmap\(|shard_map|device_put|NamedSharding|Mesh\(', {'runtime/devices'}),
    (r'config_flags|import (app|flags)\b', {'main', '__main__'})])
def test_who_may_know_what(words, known):
  found = {str(path.with_suffix('')) for path, text in sources().items()
           if re.search(words, text)}
  assert found
  for name in found:
    assert name in known or name.split('/')[0] in known, name


def test_reading_data_needs_no_jax():
  for path, text in sources('data').items():
    assert not re.search(r'^\s*(import|from) (jax|flax|optax)\b', text,
                         re.MULTILINE), path
  assert 'jax' not in loaded('from dasm_jax import data')


def test_functions_take_eight_parameters_at_most():
  found = set()
  for path, text in sources().items():
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        a = node.args
        count = sum(arg.arg not in ('self', 'cls') for arg in (
            *a.posonlyargs, *a.args, *a.kwonlyargs))
        count += bool(a.vararg) + bool(a.kwarg)
        if count > 8:
          found.add(f'{path}:{node.name}')
  assert not found


# ---- What is loaded


HEAVY = ('orbax', 'tensorflow_datasets', 'tensorflow', 'grain',
         'ml_collections', 'tensorboardX', 'matplotlib', 'sklearn', 'PIL')


def loaded(code):
  done = subprocess.run(
      [sys.executable, '-c', f'import json, sys; {code}; '
       'print(json.dumps(list(sys.modules)))'], check=True, text=True,
      cwd=toy.ROOT, env=toy.environment(), stdout=subprocess.PIPE)
  return set(json.loads(done.stdout))


def test_importing_the_package_loads_nothing():
  assert 'jax' not in loaded('import dasm_jax')
  assert 'jax' not in loaded('from dasm_jax import errors, segments')


@pytest.mark.parametrize('names', [
    'losses, difficulty, objectives, segments',
    'methods, models, evaluate, card, load'])
def test_formulas_load_nothing_heavy(names):
  modules = loaded(f'from dasm_jax import {names}')
  assert 'jax' in modules and not modules & set(HEAVY)


@pytest.mark.slow
def test_all_that_the_package_names_is_there():
  loaded('import dasm_jax; [getattr(dasm_jax, name) for name in dir(dasm_jax)]')
