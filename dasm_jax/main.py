r"""Distils a data set: python -m dasm_jax.main --config=digits

The same command again goes on where it stopped. --config is the name of a
config or the path of a file, and takes arguments: --config=mnist:ipc=10,
--config=configs/mnist.py:ipc=10,method=idc,segments=2. Every entry can be set:
--config.method.steps=500. Results are in --workdir.
"""

import contextlib
import gc
import hashlib
import logging as std_logging
import os
import pathlib
import re
import shutil
import signal
import sys
import textwrap
import traceback
from typing import NamedTuple

from absl import app, flags, logging

from dasm_jax.errors import UserError
from dasm_jax.runtime import environment

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where results and checkpoints go; '
    'runs/<config file, its arguments, entries set> if not given.')
_COORDINATOR = flags.DEFINE_string(
    'coordinator', '', 'host:port of the first of several processes, where the '
    'cluster does not tell.')
_PROCESSES = flags.DEFINE_integer('processes', 0, 'How many there are.')
_PROCESS_ID = flags.DEFINE_integer('process_id', -1, 'Which this is, from 0.')
_PROFILE = flags.DEFINE_boolean(
    'profile', False, 'Leave a trace of the second chunk in WORKDIR/profile.')
_DRY_RUN = flags.DEFINE_boolean(
    'dry_run', False, 'Only say what the job would take: memory, disk, hours.')
_YES = flags.DEFINE_boolean(
    'yes', False, 'Begin a run that takes more than a day.')
_MACHINE = flags.DEFINE_string(
    'machine', '', 'With --dry_run: the machine to tell of, if not this one, '
    'as BACKEND:DEVICES:GB:TFLOPS of one device, such as tpu:8:32:275, or as '
    'CHIP:DEVICES, such as h100 or v5e:8.')
_COMPILE = flags.DEFINE_boolean(
    'compile', False, "With --dry_run and a chip: ask the chip's compiler, "
    'which takes minutes and needs no chip (the extra `aot`).')


class _Plain(std_logging.Formatter):
  """`warning: what happened`, as everything else that is said."""

  def format(self, record):
    return f'{record.levelname.lower()}: {record.getMessage()}'


class Command(NamedTuple):
  """What a command line asks for.

  given: the config file and its arguments, `path:arguments`.
  texts: the entries that it sets, `{dotted name: text}`.
  config: what the file says, with these.
  """
  given: str
  texts: dict
  config: object


def parse(argv):
  """The `Command` of a line; every mistake is one line and exit status 2."""
  environment.open_streams()
  try:
    return read(argv)
  except UserError as error:
    _fail(error)
  except (flags.Error, ValueError, TypeError) as error:
    _fail(str(error).strip() or type(error).__name__)


def read(argv):
  """The `Command` of a line; other flags are in `flags.FLAGS` then.

  Raises:
    UserError, or what absl has for its flags.
  """
  try:
    words = flags.FLAGS.read_flags_from_files(argv[1:])
  except (OSError, ValueError, flags.Error) as error:
    text = str(error).removeprefix('ERROR:: ')  # of absl
    raise UserError(f'--flagfile: {text}') from error
  if {'--version', '-version'} & {*words}:
    print(environment.version_line())
    sys.exit(0)
  from dasm_jax.runtime import cli
  files, texts, words = cli.split_config(words)
  given = files[-1] if files else ''
  config = None
  if files:
    from dasm_jax.config import files as config_files
    from dasm_jax.config import overrides
    config = config_files.load(given)
    overrides.apply(config, texts, given)
  if {'--help', '-h', '-help', '--helpfull'} & set(words):
    _help(config)
  try:
    rest = flags.FLAGS([argv[0], *words])
  except flags.UnrecognizedFlagError as error:
    raise UserError(_about_flag(error, config, given)) from error
  if len(rest) > 1:
    way = (f'a config is given by --config={rest[1]}' if _is_config(rest[1])
           else 'entries are set by --config.name=value; quote paths that have '
           'spaces')
    raise UserError(f'unexpected argument {rest[1]!r}; {way}')
  if not files:
    raise UserError('--config is missing; try --config=digits')
  for name in ('workdir', 'machine', 'coordinator'):
    # As of an unset $VARIABLE: the default is not what was meant.
    if flags.FLAGS[name].present and not flags.FLAGS[name].value:
      raise UserError(f'--{name}= is empty; give it a value, or leave it out')
  return Command(given, texts, config)


def _is_config(word):
  """Whether what stands alone on a command line names a config."""
  from dasm_jax.config import files
  return '.py' in word or word.partition(':')[0] in files.names()


def _about_flag(error, config, given):
  """What is said of a flag that there is none of: perhaps it is an entry."""
  import difflib

  from dasm_jax import config as configs
  from dasm_jax.config import schema
  name, text = error.flagname, str(error)
  names = [*schema.ENTRIES] if config is None else [
      one for one, _ in configs.entries(config)]
  arguments = [*schema.LABELS.values(), *schema.ARGUMENTS.values()]
  fitting = [f'--config.{one}' for one in names
             if f'.{one}'.endswith(f'.{name}')]
  if name in arguments:
    fitting.insert(0, f'--config={given.partition(":")[0] or "FILE.py"}:{name}')
  if not fitting and 'Did you mean' not in text:
    lasts = {one.split('.')[-1] for one in names}
    fitting = [f'--config.{one}' for last in difflib.get_close_matches(
        name.split('.')[-1], lasts, 1) for one in names
        if one.split('.')[-1] == last]
  if not fitting:
    return text
  return (f'there is no flag --{name}; did you mean '
          f'{" or ".join(f"{one}=…" for one in fitting[:4])}?')


def _help(config):
  """Prints flags and every entry with its value, and leaves."""
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of `--help | head`
  from dasm_jax import config as configs
  from dasm_jax.config import files, schema
  from dasm_jax.runtime import cli, entries
  width = shutil.get_terminal_size().columns
  print('\n'.join([
      cli.as_called(__doc__, 'main'),
      textwrap.fill('--config: a .py file, or one of '
                    f'{", ".join(files.names())}', width,
                    subsequent_indent='  '),
      *(textwrap.fill(f'--{name}: {flags.FLAGS[name].help}', width,
                      subsequent_indent='  ')
        for name in ('workdir', 'dry_run', 'machine', 'compile', 'yes',
                     'profile', 'coordinator', 'processes', 'process_id')),
      textwrap.fill('--version: says the version, and those of JAX and NumPy',
                    width, subsequent_indent='  '),
      '\nEntries, with the values of the --config given, else the defaults:\n',
      *entries.help_lines(
          configs.entries(config or configs.defaults()), schema.ENTRIES,
          width)]))
  sys.exit(0)


def shorter_config(given):
  """`--config=…` with the short schedule, where a config has one; else ''."""
  from dasm_jax.config import files as config_files
  path, _, arguments = given.partition(':')
  parts = [part for part in arguments.split(',')
           if part and part.partition('=')[0] != 'schedule']
  short = f'{path}:{",".join([*parts, "schedule=short"])}'
  try:
    return f'--config={short}' * (
        config_files.load(short) != config_files.load(given))
  except Exception:  # it has no such argument; it is the user's own
    return ''


def _fail(error, code=2):
  line = ' '.join(str(error).splitlines())  # whatever was typed
  print(f'error: {line}', file=sys.stderr, flush=True)
  if 'jax' in sys.modules:
    from dasm_jax.runtime import preemption, processes
    preemption.ignore_interrupts()
    # Where JAX finds no device there are no others.
    with contextlib.suppress(RuntimeError, AssertionError):
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


def _lasting(texts):
  """`a.b=1` of each entry set that may not change within a workdir."""
  from dasm_jax.distill.run import FREE_ENTRIES
  # Entries that may change must not make another workdir: the same run goes on.
  return [name if text is None else f'{name}={text}'
          for name, text in texts.items() if not any(
              f'{name}.'.startswith(f'{free}.') for free in FREE_ENTRIES)]


def main(command):
  """Runs the experiment of a `Command` and the flags."""
  logging.set_verbosity(logging.WARNING)  # JAX and orbax tell their life
  logging.get_absl_handler().setFormatter(_Plain())
  # Tracing makes millions of objects that stay: looking through them after
  # every 700 new ones took 9 % of a short run.
  gc.set_threshold(100_000)
  if _COMPILE.value:
    environment.leave_accelerators()
  from dasm_jax.cost import dry_run, machine, run_time
  from dasm_jax.distill import run
  from dasm_jax.runtime import cli, paths, preemption, processes
  environment.use_single_precision()
  environment.keep_programs()
  try:
    workdir = _WORKDIR.value or default_workdir(
        command.given, _lasting(command.texts))
    if not paths.is_remote(workdir):
      workdir = environment.expand(workdir, '--workdir')
    # A dry run joins no other processes: it needs no more than this one.
    named = machine.parse_machine(_MACHINE.value) if _MACHINE.value else None
    if _COMPILE.value and not (_DRY_RUN.value and named):
      raise UserError('--compile is for --dry_run and a --machine that is not '
                      'here, such as --machine=h100; set all three')
    if _DRY_RUN.value:
      signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of `--dry_run | head`
      run.check_workdir(command.config, workdir)
      environment.check_devices()
      dry_run.dry_run(
          command.config, workdir, named, compile_it=_COMPILE.value)
    elif named:
      raise UserError(f'--machine={_MACHINE.value} is for --dry_run; set both')
    else:
      processes.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value)
      asking = run_time.Asking(
          command.config.run.ask, run_time.is_attended(
              os.environ, run_time.terminals(), processes.count()),
          _YES.value, lambda: shorter_config(command.given))
      run.run(
          command.config, workdir, _PROFILE.value, command=cli.as_typed('main'),
          estimate=lambda *found: run_time.check(*found, asking))
    preemption.ignore_interrupts()
  except UserError as error:
    _fail(error, error.code)
  except preemption.Stopped as stopped:
    preemption.ignore_interrupts()
    print(f'\n{stopped}', file=sys.stderr)
    sys.exit(stopped.code)
  except KeyboardInterrupt:  # before a run hears of it
    _fail('stopped before there was anything to save', 130)
  except Exception as error:
    lost = processes.lost_text(error)
    if lost:
      _fail(lost, processes.ABORTED)
    if processes.count() > 1:  # to end with the status of this, not of others
      traceback.print_exc()
      processes.leave(1)
    raise


def command():
  """The whole program, as `dasm-jax` calls it."""
  app.run(main, flags_parser=parse)


if __name__ == '__main__':
  command()
