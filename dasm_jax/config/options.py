"""The page of all entries: python -m dasm_jax.config.options > docs/options.md

Made from the tables that the help and the checks read.
"""

import re

from dasm_jax import config
from dasm_jax.config import schema
from dasm_jax.methods import registry

HEAD = '''# Options

Every entry of a configuration, made from the tables that the program checks
them by (`python -m dasm_jax.config.options`). Any can be set:
`--config.method.steps=500`. Config files set many of them by the method, the
data set and the images a class;
`python -m dasm_jax.main --config=configs/cifar10.py:method=dm --help` shows
their values. `ipc`, `factor`, `segments` and `size` are given as arguments,
since other entries go by them: `configs/cifar10.py:ipc=10,factor=1` (`size` of
`imagenet.py`, `imagenette.py` and `imagewoof.py`; elsewhere
`--config.dataset.size`). Where methods have defaults of their own these follow,
a method's name before its value; what coresets preset is left out.
'''
GROUPS = {
    'seed': 'Chance', 'dataset': 'Real data', 'method': 'The matching method',
    'syn': 'The synthetic set', 'segments': 'DASM', 'sdc': 'SDC',
    'network': 'The network that is matched', 'coreset': 'Coresets, and '
    'networks trained on real data', 'experts': 'Experts of trajectories',
    'eval': 'The evaluation', 'run': 'How it runs'}


def markdown():
  """The page, as Markdown."""
  parts = [HEAD]
  of_method = _by_method()
  for group, title in GROUPS.items():
    parts += [f'\n## {title}\n\n', '| entry | default | what it is |\n',
              '|---|---|---|\n']
    for name, entry in schema.ENTRIES.items():
      if name.split('.')[0] == group:
        parts.append(_row(name, entry, of_method.get(name)))
  return ''.join(parts)


def _by_method():
  """`{entry: ([(default, [methods that have it]), …], [methods without it])}`.

  Coresets are left out: they have entries of methods, which do nothing there.
  """
  found = {}
  for method in registry.METHODS:
    c = config.defaults(method)
    if registry.family_of(c.method).synthesises or c.method.get('relabel'):
      for name, value in config.entries(c):
        if name not in schema.LABELS and not name.startswith('network.'):
          found.setdefault(name, {}).setdefault(
              _shown(value), []).append(method)
  everyone = sum(found['method.match'].values(), [])
  return {name: (sorted(values.items(), key=lambda item: -len(item[1])), [
      method for method in everyone if method not in sum(values.values(), [])])
          for name, values in found.items()}


def _row(name, entry, of_method):
  default, meaning = _shown(entry.default), entry.meaning
  if entry.choices:
    meaning += ': ' + ', '.join(_shown(x) for x in sorted(
        map(str, entry.choices)))
  if of_method:
    # What most have stands first, by itself.
    ((default, methods), *others), without = of_method
    if others:
      default += ''.join(f'; {", ".join(names)} {value}'
                         for value, names in others)
    methods = methods + [name for _, names in others for name in names]
    if not name.startswith('method.'):
      without = []  # the group says whose it is
    known = {word.lower() for word in re.findall(r'\w+', meaning)}
    if len(without) > len(methods) and not known.issuperset(methods):
      meaning += f' ({", ".join(methods)})'
    elif without and len(without) <= len(methods):
      meaning += f' (not {", ".join(without)})'
  return f'| `{name}` | {default} | {meaning} |\n'


def _shown(value):
  # A bar would end the cell of the table.
  return 'empty' if value == '' else f'`{value}`'.replace('|', r'\|')


if __name__ == '__main__':
  print(markdown(), end='')
