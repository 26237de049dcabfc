"""Types values into entries: each is taken, or refused in one line by its name.

  python tests/fuzz.py                  every entry, once
  python tests/fuzz.py --all            every entry of every method and network
  python tests/fuzz.py --only=method.   entries whose names have it
  python tests/fuzz.py --runs=20        then runs so many of what was accepted

All happens in this process, as the command has it: the text is read, the
configuration checked, the data read and the experiment built. Prints the counts
and what is wrong, and exits with status 1 if anything is: a traceback, more
than one line, or a line that does not name the flag.
"""

import argparse
import collections
import pathlib
import random
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from dasm_jax import config as configs  # noqa: E402
from dasm_jax.config import files, overrides, schema, validate  # noqa: E402
from dasm_jax.distill import setup  # noqa: E402
from dasm_jax.errors import UserError  # noqa: E402

DIGITS = str(pathlib.Path(__file__).parents[1] / 'configs' / 'digits.py')
# Between them they have every entry that there is; the first has most.
ARGUMENTS = (
    '', 'method=dc', 'method=dm', 'method=dsac', 'method=cafe', 'method=sre2l',
    'method=mtt', 'method=ftd', 'method=tesla', 'method=datm', 'method=herding',
    'method=dm,network=mlp', 'method=dm,network=vit', 'network=resnet',
    'network=resnet_ap', 'network=densenet', 'network=lenet', 'network=alexnet')
# What a network asks of images that are 8x8.
SIZES = {'lenet': '32', 'alexnet': '32', 'resnet': '32', 'densenet': '16'}
TYPED = {
    bool: ('true', 'False', '', 'maybe', '2', '-1', 'nan', '1,2'),
    int: ('-1', '0', '1', '1000000', '1000000000', '2147483648',
          '9223372036854775808', 'nan', '', '1,2',
          '3.5'),
    float: ('-1', '0', '1', '-0.5', '1e-30', '1e39', 'nan', 'inf', '', 'abc',
            '(1,)'),
    tuple: ('()', '1', '-1', 'abc', '(1,"a")', '1e400', '[1,[2]]', '1,2,3',
            '{}', '(' * 300),
    str: ('', 'abc', '-1', 'nan', 'a_b', '1,2', '(1, 2)', 'é\n', '/no/where',
          'x' * 5000),
}
GROUP = ('', 'dm', '1', '{}', "{'name': 'dm'}")
# Seconds of work, for --runs.
TINY = {
    'network.width': 4, 'network.depth': 1, 'method.steps': 2, 'syn.ipc': 2,
    'method.inner': 2, 'method.net_steps': 1, 'method.batch': 4,
    'method.teach': 1, 'method.student_steps': 2, 'method.last_epoch': 1,
    'method.expert_epochs': 1, 'method.watch_images': 4,
    'method.augment': 'flip', 'method.net_augment': 'flip',
    'segments.probes': 1, 'segments.probe_epochs': 1,
    'coreset.epochs': 1, 'experts.number': 1,
    'experts.epochs': 2, 'eval.epochs': 1, 'eval.networks': 1, 'run.chunk': 1}


def load(arguments):
  """The configuration of digits with these arguments."""
  config = files.load(f'{DIGITS}:{arguments}')
  network = arguments.partition('network=')[2]
  if network in SIZES:
    overrides.apply(config, {'dataset.size': SIZES[network]}, DIGITS)
  return config


def is_text(name):
  """Whether an entry takes any text, as far as its type goes."""
  entry = schema.ENTRIES.get(name)
  return entry is None or isinstance(entry.default, str) or (
      name in ('network.variant', 'network.stem'))


def values(name, config):
  """The texts that are typed into an entry, or a group."""
  found = configs.entry(name, config)
  if found is None:
    return GROUP
  _, kind = found
  choices = [*map(str, getattr(schema.ENTRIES[name], 'choices', ()))]
  # Of names that there are the first and the last.
  return tuple(dict.fromkeys((*TYPED[kind], *choices[:1], *choices[-1:])))


def cases(everything=False, only=''):
  """Yields `(arguments, dotted name, text)`."""
  seen = set()
  for arguments in ARGUMENTS:
    config = load(arguments)
    groups = [name for name in config if name in schema.GROUPS or (
        name == 'method')]
    for name in (*dict(configs.entries(config)), *groups):
      if only in name and (everything or name not in seen):
        seen.add(name)
        for text in values(name, config):
          yield arguments, name, text


def outcome(arguments, name, text):
  """`(kind, line)` of a value: accepted, refused, unnamed, or traceback."""
  try:
    config = load(arguments)
    overrides.apply(config, {name: text}, DIGITS)
    validate.check(config)
    setup.build(config).close()
  except UserError as error:
    line = str(error)
    wanted = f'--config.{name}'
    return ('refused' if wanted in line and '\n' not in repr(line) and
            len(line.splitlines()) == 1 else 'unnamed'), line
  except Exception as error:
    return 'traceback', f'{type(error).__name__}: {error}'
  return 'accepted', ''


def run_outcome(arguments, name, text, seconds=60):
  """As `outcome`, of the command; what still runs after a while is accepted."""
  config = load(arguments)
  entries = {'dataset.size': str(config.dataset.size)} | {
      key: str(value) for key, value in TINY.items()
      if configs.difference(key, config) is None}
  if 'dir' not in name:
    entries |= {name: text}
  with tempfile.TemporaryDirectory() as folder:
    try:
      done = subprocess.run(
          [sys.executable, '-m', 'dasm_jax.main',
           f'--config={DIGITS}:{arguments}', f'--workdir={folder}/run',
           *(f'--config.{key}={value}' for key, value in entries.items())],
          cwd=folder, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
      return 'accepted', f'still runs after {seconds} s'
    lines = done.stderr.splitlines()
    if done.returncode == 2 and len(lines) == 1:
      # A run that got on the way may not end so.
      begun = (pathlib.Path(folder) / 'run').exists()
      return 'late' if begun else 'refused', lines[0]
  last = lines[-1] if lines else ''
  return 'traceback' if done.returncode else 'accepted', (
      f'status {done.returncode}: {last}' if done.returncode else '')


def main():
  """The command."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--all', action='store_true')
  parser.add_argument('--only', default='')
  parser.add_argument('--runs', type=int, default=0)
  parser.add_argument('--seed', type=int, default=0,
                      help='of which are run')
  options = parser.parse_args()
  counts, bad, good, begun = collections.Counter(), 0, [], time.time()
  for case in cases(options.all, options.only):
    kind, line = outcome(*case)
    counts[kind] += 1
    if kind == 'accepted':
      good.append(case)
    elif kind != 'refused':
      bad += 1
      print(f'{kind:9} {case[0]} {case[1]}={case[2][:60]!r}: {line[:300]}',
            flush=True)
  many, names = counts.total(), len({
      name for _, name, _ in cases(options.all, options.only)})
  print(f'{many} values of {names} entries and groups in '
        f'{time.time() - begun:.0f} s: ' + ', '.join(
            f'{count} {kind}' for kind, count in counts.most_common()))
  random.Random(options.seed).shuffle(good)
  for case in good[:options.runs]:
    kind, line = run_outcome(*case)
    counts[f'run {kind}'] += 1
    print(f'run {kind:9} {case[0]} {case[1]}={case[2][:60]!r} {line[:300]}',
          flush=True)
    bad += kind in ('traceback', 'late')
  return int(bad > 0)


if __name__ == '__main__':
  sys.exit(main())
