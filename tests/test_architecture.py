"""What importing costs, and which module may know what."""

import json
import re
import subprocess
import sys

import pytest
import toy

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


@pytest.mark.parametrize('names', [
    'losses, difficulty, objectives, segments',
    'methods, models, evaluate, card'])
def test_formulas_load_nothing_heavy(names):
  modules = loaded(f'from dasm_jax import {names}')
  assert 'jax' in modules and not modules & set(HEAVY)


def sources():
  return {str(path.relative_to(toy.ROOT / 'dasm_jax')): path.read_text()
          for path in (toy.ROOT / 'dasm_jax').rglob('*.py')}


def test_only_the_outermost_modules_know_config_dicts():
  found = {name for name, text in sources().items()
           if 'ConfigDict' in text or 'ml_collections' in text}
  assert found <= {'config.py', 'run.py', 'main.py'} and found


def test_only_parallel_knows_devices():
  words = re.compile(r'pmap\(|shard_map|device_put|NamedSharding|Mesh\(')
  found = {name for name, text in sources().items() if words.search(text)}
  assert found == {'parallel.py'}


# Each room may look only at those to its left.
ORDER = [
    {'errors', 'types', 'use'}, {'paths'},
    {'losses', 'resample', 'workdir', 'leaves', 'stop', 'pace', 'mixing',
     'blocks', 'forgetting', 'ranking', 'zca', 'photo', 'published', 'hosts',
     'hush', 'load', 'storage', 'commands', 'course', 'words', 'screen'},
    {'augment', 'coreset', 'segments', 'synthetic', 'difficulty', 'models',
     'source', 'data', 'pictures', 'report', 'checkpoint', 'descent',
     'mute', 'meters', 'mirror'},
    {'parallel', 'flops', 'recipes'}, {'groups'},
    {'objectives', 'train', 'trajectories', 'buffers', 'sharpness'},
    {'coupled', 'moments', 'batches'}, {'experts', 'machine'},
    {'methods'},
    {'real', 'intake', 'unfinished', 'fitting'},
    {'evaluate', 'ageing', 'lessons'},
    {'epochs', 'selection'},
    {'config', 'checks', 'job', 'imagenet', 'small_images', 'meanings'},
    {'card', 'school', 'work'}, {'answers', 'sweeps'},
    {'beginning', 'cost', 'outcome', 'feeding',
     'measuring', 'reading', 'supervise'}, {'distil'},
    {'dry_run', 'run', 'subject'}, {'assess', 'diagnose'},
    {'main', '__main__'}]


def test_imports_point_one_way():
  rank = {room: i for i, rooms in enumerate(ORDER) for room in rooms}
  for name, text in sources().items():
    room = name.split('/')[0].removesuffix('.py')
    if room == '__init__':
      continue
    assert room in rank, f'give {room} its place in ORDER'
    lines = re.findall(r'^from dasm_jax import \(([^)]*)\)|'
                       r'^from dasm_jax import ([^(\n]+)|'
                       r'^from dasm_jax\.(\w+)', text, re.MULTILINE)
    for several, names, one in lines:
      for other in re.split(r',\s*', (several or names or one).strip(' ,\n')):
        other = other.split(' as ')[0].strip()
        assert other == room or rank[other] <= rank[room], (name, other)
