"""Every entry has a meaning, and every meaning an entry."""

from dasm_jax import checks, config, meanings, models
from dasm_jax.methods import table


def entries():
  """Of all methods and networks."""
  found = {name for method in table.METHODS
           for name, _ in config.entries(config.defaults(method))}
  return found | {f'network.{name}' for network in models.MODELS
                  for name in models.settings_of(network)}


def test_meanings_are_of_the_entries_that_there_are():
  assert set(meanings.MEANINGS) == entries()
  assert set(meanings.CHOICES) <= entries()
  for name, value in config.entries(config.defaults('mtt')):
    if name in checks.CHOICES:
      assert value in checks.CHOICES[name]


def test_lines_of_help_fit_the_terminal_and_tell_choices():
  given = [('syn.labels', 'hard'), ('dataset.name', 'x' * 30),
           ('network.mine', 3)]
  assert list(meanings.lines(given, 60)) == [
      '  --config.syn.labels=hard          class numbers, or soft',
      '                                    ones from experts:',
      '                                    experts, hard',
      f'  --config.dataset.name={"x" * 30}',
      '                                    a data set, a directory,',
      '                                    or folder:PATH',
      '  --config.network.mine=3']
