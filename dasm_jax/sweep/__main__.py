r"""Accuracy against images a class, of several methods: the figure of DASM.

  python -m dasm_jax.sweep --config=digits \
      --methods=random,idc,frontier --ipc=1,2 --workdir=runs/sweep

An arm is a method (distilling or a coreset), `full` (all real images), or a
variant: METHOD:key=value:key=value with arguments of the config file and
entries: idc:segments=5, idc:factor=2:segments.window=frontier; NAME@METHOD:…
names it. --config.NAME=VALUE sets an entry of all arms. `random` alone has
other images for each network, as in every run's evaluation.

Each arm, number of images and seed is an ordinary run, in WORKDIR/runs. Its set
is measured by fresh networks of the config's network and recipe, as the config
says them without an arm: at equal epochs, and at equal steps (--steps). The
same command goes on where it stopped, several may share the folder, and what
is done costs nothing. Leaves table.csv, table.md, figure.png and report.html,
and with --diagnose a folder diagnose/ with those of the sets.
"""

import gc
import pathlib
import sys

from dasm_jax.errors import UserError
from dasm_jax.runtime import cli, environment
from dasm_jax.runtime.text import plural


def _parser():
  parser = cli.Parser('sweep', __doc__)
  add = parser.add_argument
  add('--config', metavar='NAME', help='a config or the path of a file, as of '
      'dasm_jax.main, with arguments for all arms: cifar10:schedule=short')
  add('--methods', default='', metavar='ARMS', help='joined by commas')
  add('--arms', default='', metavar='FILE', help='more of them, one a line, as '
      'NAME: METHOD key=value …')
  add('--ipc', default='', metavar='NUMBERS', help='images a class, joined by '
      'commas')
  add('--seeds', type=cli.int_at_least(1, 1000), default=1, metavar='N',
      help='sets of each, from the seed of the config on (default 1)')
  add('--epochs', default='0', metavar='NUMBERS', help='lengths of training, '
      'by commas; 0, that of the config (default); none leaves them out; '
      'an arm full:epochs=20 has its own')
  add('--steps', default='', metavar='NUMBERS', help='lengths in steps: the '
      'recipe at as many epochs as come nearest, one at least')
  add('--prefixes', action='store_true', help='measure the first segments of '
      'each set, too: smaller sets of the same run')
  add('--workdir', default='', metavar='PATH', help='the folder; runs/sweep-'
      'CONFIG if not given')
  add('--diagnose', action='store_true', help='measure how hard and how '
      'diverse the sets of the first seed are, as dasm_jax.diagnose does; '
      'trains networks on each once more')
  add('--dry_run', action='store_true', help='only say the cells, which are '
      'done, and the hours that the others take')
  add('--show', action='store_true', help='only make table and page of what is '
      'there')
  return parser


def main(argv=None):
  """The command; returns its exit status."""
  words = sys.argv[1:] if argv is None else argv
  return cli.run_command(lambda: run(words), 'the same command goes on', True)


def run(words):
  """Does what a command line says.

  Raises:
    UserError: whatever the user can mend; cells that failed.
    Unavailable: others are still at some cells.
    preemption.Stopped: by Ctrl-C or SIGTERM, after a save.
  """
  given, texts, words = cli.split_config(words)
  options = _parser().parse_args(words)
  if not given:
    raise UserError('--config is missing; try --config=digits')
  environment.keep_programs()
  # Tracing makes millions of objects that stay.
  gc.set_threshold(100_000)
  # Only now: --help needs no JAX.
  from dasm_jax.runtime import preemption
  from dasm_jax.runtime.logging import Terminal
  from dasm_jax.sweep import diagnosed, hours, plan, results, work
  arms = plan.parse_arms(options.methods)
  if options.arms:
    arms += plan.read_arms(environment.expand(options.arms, '--arms'))
  lengths = _lengths(options, plan.Length)
  folder = _folder(options.workdir, given[-1])
  asked = plan.Asked(given[-1], texts, arms,
                     _numbers('--ipc', options.ipc, 1), options.seeds)
  sweep = work.Sweep(folder, arms, plan.cells(asked, options.prefixes, print),
                     lengths, options.prefixes, cli.as_typed('sweep'))
  sweep.check()
  if options.dry_run:
    hours.say_hours(sweep, print)
    if options.diagnose:
      print('note      networks of --diagnose are not counted')
    return
  work.open_folder(sweep)
  screen, outcome = Terminal(), work.Outcome({}, [])
  if not options.show:
    # Else every cell would fail alike.
    environment.check_devices()
    with preemption.catch_signals() as stopping:
      outcome = work.do(sweep, screen, stopping)
    if options.diagnose:
      diagnosed.measure(sweep, screen)
  table, found = work.write_results(sweep, outcome, results.write)
  screen.say(table)
  missing = sum(values is None for _, values in found)
  if options.show and missing:
    screen.say(f'note      {plural(missing, "measurement")} not there; the '
               'same command without --show makes them')
  screen.say(f'see {folder}/{results.PAGE}, {results.FIGURE}, '
             f'{results.TABLE}.csv there')
  work.check_whole(outcome)


def _numbers(option, text, least):
  """The numbers of a list, in their order, each once.

  Raises:
    UserError: an empty list, or what is no number of at least `least`.
  """
  found = []
  for word in filter(None, text.split(',')):
    if not word.strip().isdecimal() or not least <= int(word[:30]) < 10 ** 9:
      raise UserError(f'{option}={text}: {word!r} is no whole number of at '
                      f'least {least}')
    found.append(int(word))
  if not found:
    raise UserError(f'{option} is empty; give numbers, such as {option}=1,10')
  return list(dict.fromkeys(found))


def _lengths(options, length):
  """The lengths that are asked for, epochs first."""
  found = []
  if options.epochs != 'none':
    found += [length('epochs', n)
              for n in _numbers('--epochs', options.epochs, 0)]
  if options.steps:
    found += [length('steps', n) for n in _numbers('--steps', options.steps, 1)]
  if not found:
    raise UserError('--epochs=none leaves no length of training; give --steps='
                    '500,2000, say')
  return found


def _folder(text, given):
  """The folder of a sweep."""
  if '://' in text:
    raise UserError(f'--workdir={text} must be a directory here, or one that '
                    'machines share')
  if text:
    folder = pathlib.Path(environment.expand(text, '--workdir'))
    if folder.exists() and not folder.is_dir():
      raise UserError(f'--workdir={text} is a file; choose a directory')
    return folder
  stem = pathlib.Path(given.split(':')[0]).stem
  return pathlib.Path('runs') / f'sweep-{stem}'


def command():
  """The whole program, as `dasm-jax-sweep` calls it."""
  cli.exit_process(main())


if __name__ == '__main__':
  command()
