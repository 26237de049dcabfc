r"""Distils a data set: python -m dasm_jax.main --config=configs/digits.py

The same command again goes on where it stopped. The config file takes
arguments (--config=configs/mnist.py:ipc=10,method=idc,segments=2), and every
entry can be set: --config.method.steps=500. Results are in --workdir.
"""

import gc
import hashlib
import importlib.util
import json
import logging as std_logging
import os
import pathlib
import re
import shutil
import signal
import sys
import textwrap

from absl import app, flags, logging
from ml_collections import config_flags

from dasm_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with arguments after a colon.',
    lock_config=True)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where results and checkpoints go; '
    'runs/<config file, its arguments, entries set> if not given.')
_COORDINATOR = flags.DEFINE_string(
    'coordinator', '', 'host:port of the first of several processes, where the '
    'cluster does not tell.')
_PROCESSES = flags.DEFINE_integer('processes', 0, 'How many there are.')
_PROCESS_ID = flags.DEFINE_integer('process_id', -1, 'Which this is, from 0.')
# Programs that were compiled once are read from here.
_CACHE = os.path.join('~', '.cache', 'dasm_jax', 'xla')

_PROFILE = flags.DEFINE_boolean(
    'profile', False, 'Leave a trace of the second chunk in WORKDIR/profile.')
_DRY_RUN = flags.DEFINE_boolean(
    'dry_run', False, 'Only say what the job would take: memory, disk, hours.')
_YES = flags.DEFINE_boolean(
    'yes', False, 'Begin a run that takes more than a day.')
_MACHINE = flags.DEFINE_string(
    'machine', '', 'With --dry_run: the machine to tell of, if not this one, '
    'as BACKEND:DEVICES:GB:TFLOPS of one device, such as tpu:8:32:275.')


class _Plain(std_logging.Formatter):
  """`warning: what happened`, as everything else that is said."""

  def format(self, record):
    return f'{record.levelname.lower()}: {record.getMessage()}'


def parse(argv):
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
    if {'--help', '-h', '-help', '--helpfull'} & set(argv):
      _help(files)
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
      way = (f'a config is given by --config={rest[1]}' if '.py' in rest[1]
             else 'entries are set by --config.name=value')
      raise UserError(f'unexpected argument {rest[1]!r}; {way}')
    if not files:
      raise UserError('--config is missing; try '
                      '--config=configs/digits.py')
    return rest
  except UserError as error:
    _fail(error)
  except (flags.Error, ValueError, TypeError) as error:
    _fail((str(error).strip() or type(error).__name__).splitlines()[0])


def _help(files):
  """Prints flags and every entry with its value, and leaves."""
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of `--help | head`
  from dasm_jax import config
  from dasm_jax.config import schema
  from dasm_jax.runtime import entries
  tree = (_tree(files[-1].removeprefix('--config=')) if files
          else config.defaults())
  width = shutil.get_terminal_size().columns
  print('\n'.join([
      __doc__, *(textwrap.fill(f'--{name}: {flags.FLAGS[name].help}', width,
                               subsequent_indent='  ')
                 for name in ('workdir', 'dry_run', 'machine', 'yes', 'profile',
                              'coordinator', 'processes', 'process_id')),
      '\nEntries, with the values of the --config given, else the defaults:\n',
      *entries.help_lines(
          config.entries(tree), schema.ENTRIES, width)]))
  sys.exit(0)


def _check_entries(given, argv):
  """Refuses a missing file, wrong arguments and unknown entries, by name."""
  from dasm_jax import config
  tree = _tree(given)
  for argument in argv:
    match = re.match(r'--?config\.([\w.]+)', argument)
    problem = match and config.difference(match[1], tree)
    if problem:
      raise UserError(problem)


def _tree(given):
  """What a config file says, given as `path:arguments`."""
  path, _, arguments = given.partition(':')
  if not (path.endswith('.py') and pathlib.Path(path).is_file()):
    near = sorted(str(p) for p in pathlib.Path(path).parent.glob('*.py'))
    raise UserError(f'no config file {path!r}; ' + (
        f'there are {", ".join(near)}' if near else
        'give the path of a .py file, such as configs/digits.py'))
  spec = importlib.util.spec_from_file_location('dasm_config', path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise UserError(f'config file {path!r} is not Python: {error.msg}, line '
                    f'{error.lineno}') from error
  if not hasattr(module, 'get_config'):
    raise UserError(f'config file {path!r} has no get_config(arguments); see '
                    'configs/digits.py')
  return module.get_config(arguments)


def shorter_config(given):
  """`--config=…` with the short schedule, where a config has one; else ''."""
  path, _, arguments = given.partition(':')
  parts = [part for part in arguments.split(',')
           if part and part.partition('=')[0] != 'schedule']
  short = f'{path}:{",".join([*parts, "schedule=short"])}'
  try:
    return f'--config={short}' * (_tree(short) != _tree(given))
  except Exception:  # it has no such argument; it is the user's own
    return ''


def _fail(error, code=2):
  print(f'error: {error}', file=sys.stderr, flush=True)
  if 'jax' in sys.modules:
    from dasm_jax.runtime import processes
    processes.leave(code)
  sys.exit(code)


def default_workdir(given, entries=()):
  """runs/<config file, its arguments, the entries set>: `runs/mnist-ipc=1`.

  entries: `name=value`, as given on the command line. A long name is cut and
  ends in a hash of the whole.
  """
  path, _, arguments = given.partition(':')
  name = '-'.join(filter(None, [pathlib.Path(path).stem, arguments, *entries]))
  # A slash in an argument must not begin another directory.
  name = re.sub(r'[^\w=.,-]', '_', name)
  if len(name) > 120:
    name = f'{name[:107]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}'
  return os.path.join('runs', name)


def _entries(argv):
  """`a.b=1` of each `--config.a.b=1` that may not change within a workdir."""
  from dasm_jax.distill.run import FREE_ENTRIES
  # Entries that may change must not make another workdir: the same run goes on.
  found = [re.match(r'--?config\.(.*)', argument) for argument in argv]
  texts = [match[1] for match in found if match]
  return [text for text in texts if not any(
      f'{text.partition("=")[0]}.'.startswith(f'{free}.')
      for free in FREE_ENTRIES)]


def main(argv):
  """Runs the experiment of the flags."""
  del argv
  logging.set_verbosity(logging.WARNING)  # JAX and orbax tell their life
  logging.get_absl_handler().setFormatter(_Plain())
  # Tracing makes millions of objects that stay: looking through them after
  # every 700 new ones took 9 % of a short run.
  gc.set_threshold(100_000)
  import jax

  from dasm_jax.cost import dry_run, machine, run_time
  from dasm_jax.distill import run
  from dasm_jax.runtime import preemption, processes
  from dasm_jax.runtime import workdir as workdirs
  # A cache that the user has named stays.
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser(_CACHE))
  given = flags.FLAGS['config'].config_filename
  workdir = _WORKDIR.value or default_workdir(given, _entries(sys.argv[1:]))
  try:
    # A dry run joins no other processes: it needs no more than this one.
    named = machine.parse_machine(_MACHINE.value) if _MACHINE.value else None
    if _DRY_RUN.value:
      signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of `--dry_run | head`
      workdirs.check_config(workdir, json.loads(_CONFIG.value.to_json()),
                            run.FREE_ENTRIES)
      dry_run.dry_run(_CONFIG.value, workdir, named)
    elif named:
      raise UserError(f'--machine={_MACHINE.value} is for --dry_run; set both')
    else:
      processes.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value)
      asking = run_time.Asking(
          _CONFIG.value.run.ask, run_time.is_attended(
              os.environ, run_time.terminals(), processes.count()),
          _YES.value, lambda: shorter_config(given))
      run.run(_CONFIG.value, workdir, _PROFILE.value, estimate=(
          lambda *found: run_time.check(*found, asking)))
  except UserError as error:
    _fail(error, error.code)
  except preemption.Stopped as stopped:
    print(f'\n{stopped}', file=sys.stderr)
    sys.exit(stopped.code)
  except KeyboardInterrupt:  # before a run hears of it
    _fail('stopped before there was anything to save', 130)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
