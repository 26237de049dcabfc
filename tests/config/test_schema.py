"""Every entry has a meaning, and every meaning an entry."""


from dasm_jax import config, models
from dasm_jax.config import schema, validate
from dasm_jax.methods import registry


def entries():
  """Of all methods and networks."""
  found = {name for method in registry.METHODS
           for name, _ in config.entries(config.defaults(method))}
  return found | {f'network.{name}' for network in models.MODELS
                  for name in models.settings_of(network)}


def test_meanings_are_of_the_entries_that_there_are():
  assert set(schema.MEANINGS) == entries()
  assert set(schema.CHOICES) <= entries()
  for name, value in config.entries(config.defaults('mtt')):
    if name in validate.CHOICES:
      assert value in validate.CHOICES[name]


def test_lines_of_help_fit_the_terminal_and_tell_choices():
  given = [('syn.labels', 'hard'), ('dataset.name', 'x' * 30),
           ('network.mine', 3)]
  assert list(schema.help_lines(given, 60)) == [
      '  --config.syn.labels=hard          class numbers, or soft',
      '                                    ones from experts:',
      '                                    experts, hard',
      f'  --config.dataset.name={"x" * 30}',
      '                                    a data set, a directory,',
      '                                    or folder:PATH',
      '  --config.network.mine=3']
