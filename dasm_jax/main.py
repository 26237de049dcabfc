r"""Distils a data set: python -m dasm_jax.main --config=configs/digits.py

The same command again goes on where it stopped. The config file takes
arguments (--config=configs/mnist.py:ipc=10,method=idc,segments=2), and every
entry can be set: --config.method.steps=500. Results are in --workdir.
"""

import importlib.util
import os
import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from dasm_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with arguments after a colon.',
    lock_config=True)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where results and checkpoints go; '
    'runs/<config file and its arguments> if not given.')


def _parse(argv):
  """Parses flags; every mistake is one line and exit status 2."""
  try:
    # ml_collections wants the file before its entries, and reads sys.argv.
    if '--config' in argv[1:-1]:
      at = argv.index('--config')
      argv = [*argv[:at], f'--config={argv[at + 1]}', *argv[at + 2:]]
    files = [a for a in argv[1:] if a.startswith('--config=')]
    argv = [argv[0], *files, *(a for a in argv[1:] if a not in files)]
    sys.argv = argv
    if files:
      _check_entries(files[-1].removeprefix('--config='), argv)
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
      raise UserError(f'unexpected argument {rest[1]!r}; entries are set by '
                      '--config.name=value')
    if not files and '--help' not in ''.join(argv):
      raise UserError('--config is missing; try '
                      '--config=configs/digits.py')
    return rest
  except UserError as error:
    _fail(error)
  except (flags.Error, ValueError, TypeError) as error:
    _fail(str(error).strip().splitlines()[0])


def _check_entries(given, argv):
  """Refuses a missing file, wrong arguments and unknown entries, by name."""
  from dasm_jax import config
  path, _, arguments = given.partition(':')
  if not pathlib.Path(path).is_file():
    near = sorted(str(p) for p in pathlib.Path(path).parent.glob('*.py'))
    raise UserError(f'no config file {path!r}; ' + (
        f'there are {", ".join(near)}' if near else
        'give the path of a .py file, such as configs/digits.py'))
  spec = importlib.util.spec_from_file_location('dasm_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  tree = module.get_config(arguments)
  for argument in argv:
    match = re.match(r'--?config\.([\w.]+)', argument)
    problem = match and config.difference(match[1], tree)
    if problem:
      raise UserError(problem)


def _fail(error):
  print(f'error: {error}', file=sys.stderr)
  sys.exit(2)


def default_workdir(given):
  """runs/<name of the config file>, with its arguments: `runs/mnist-ipc=1`."""
  path, _, arguments = given.partition(':')
  name = '-'.join(filter(None, [pathlib.Path(path).stem, arguments]))
  return os.path.join('runs', re.sub(r'[^\w=.,-]', '_', name))


def main(argv):
  """Runs the job of the flags."""
  del argv
  logging.set_verbosity(logging.WARNING)  # JAX and orbax tell their life
  from dasm_jax import run, stop
  given = flags.FLAGS['config'].config_filename
  workdir = _WORKDIR.value or default_workdir(given)
  try:
    run.run(_CONFIG.value, workdir)
  except UserError as error:
    _fail(error)
  except stop.Stopped as stopped:
    print(f'\n{stopped}', file=sys.stderr)
    sys.exit(stopped.code)


if __name__ == '__main__':
  app.run(main, flags_parser=_parse)
