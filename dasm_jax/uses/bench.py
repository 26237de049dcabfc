"""What the commands of the uses share: a set, its data, rows that are kept."""

import contextlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from dasm_jax.evaluate import comparison, flags, row_file, subjects
from dasm_jax.runtime import cli, text
from dasm_jax.runtime.logging import Terminal
from dasm_jax.training import ensemble, resumable


class Bench(NamedTuple):
  """A set, and what is measured of it.

  subject: a `subjects.Subject`. whole: the `comparison.Comparison` of all its
  classes by its own network. settings: of that. path: where rows are kept, or
  None. keeper: of networks in training, or None. screen: a `Terminal`. rows:
  how many there will be. done: a list of those that are measured.
  """
  subject: subjects.Subject
  whole: comparison.Comparison
  settings: dict
  path: Any
  keeper: Any
  screen: Terminal
  rows: int
  done: list

  def identity(self, of, **told):
    """What tells a row from others, as JSON gives it back.

    of: `set`, or another of `Comparison.trained`, which is the same for every
    set of the same data.
    """
    subject = self.subject
    return json.loads(json.dumps({
        'of': of, 'seed': self.whole.seed, 'data': subject.data,
        'digest': subject.digest if of == 'set' else None,
        # A real subset is no file: it is told by how it was chosen.
        'name': subject.name if of == 'set' else None, **told}))

  def measured(self, what, networks, measure):
    """A row as it was kept, or of what `measure()` returns, `[networks]`.

    what: of `identity`. Raises `preemption.Stopped` if asked to stop.
    """
    row = row_file.find(self.path, what, networks)
    if row is None:
      row_file.check_writable(self.path)
      row = row_file.save(self.path, what, measure())
    self.done.append(row)
    self.screen.wipe()
    resumable.stop_if_asked(self.keeper, self._saved())
    return row

  def trained(self, what, recipe, network, train, count):
    """Networks that are kept until what is done with them is done.

    Args:
      what: of `identity`; recipe: a `recipes.Recipe`; network: a `Network`.
      train: `(start, seen) -> Variables`, see `resumable.train_networks`.
      count: of networks.

    Returns:
      A context of `Variables` `[count, …]`.
    """
    report = comparison.row_reporter(
        self.screen, len(self.done) + 1, self.rows, recipe, self._saved())
    group = resumable.Group('row', range(count), lambda k: (
        ensemble.state_shapes(network, recipe, k)))
    return comparison.kept_row(train, what, self.keeper, group, report)

  def _saved(self):
    return f'{text.plural(len(self.done), "row")} of {self.rows}'


@contextlib.contextmanager
def opened(options, name, rows: Callable):
  """Yields the `Bench` that the flags of a command ask for.

  Args:
    options: parsed arguments: those of `flags.add_set`.
    name: of the file of rows.
    rows: `Subject -> int`, how many there will be; what it raises comes before
      anything is trained.
  """
  screen = Terminal()
  path = row_file.path_of(options.out, options.set, name)
  with row_file.said_if_lost(path):
    subject = subjects.asked_for(options, say=screen.say)
    set_ = subject.set
    recipe = subjects.recipe_for(set_, options.epochs)
    (settings, network), = subjects.networks_for(
        [set_.network['name']], set_).values()
    whole = subjects.comparison_of(
        subject, recipe, options.networks, options.seed)(network)
    count = rows(subject)
    screen.say(f'{options.set}: {set_.card["method"]} on '
               f'{subject.dataset.name}, {text.plural(set_.ipc, "image")} a '
               f'class; '
               f'{text.plural(recipe.epochs, "epoch")} of recipe '
               f'{set_.recipe_name}, seed {options.seed}')
    if path is None:
      screen.say('the rows are kept nowhere: --out=FILE.json keeps them')
    with comparison.keeper_beside(path, screen) as keeper:
      yield Bench(subject, whole, settings, path, keeper, screen, count, [])
    if path:
      screen.say(f'see {path}')


def parser_of(name, text, rows):
  """The parser of a use's command.

  Args:
    name: of its module; text: what it does.
    rows: the name of its file of rows.
  """
  parser = cli.Parser(f'uses.{name}', text)
  flags.add_set(parser, rows)
  return parser


def entry_points(parser, run):
  """`main` and `command` of a use's module.

  Args:
    parser: makes it; run: takes parsed arguments.
  """
  def main(argv=None):
    """The command; returns its exit status."""
    return cli.run_command(lambda: run(parser().parse_args(argv)),
                           'the same command goes on')

  def command():
    """The whole program, as its script calls it."""
    cli.exit_process(main())
  return main, command
