"""Entries of a configuration: what they allow, and the lines of the help."""

import pytest

from dasm_jax.errors import UserError
from dasm_jax.runtime import entries
from dasm_jax.runtime.entries import Entry


@pytest.mark.parametrize('allowed, good, bad, words', [
    (entries.at_least(2), (2, 9), (1, -3), 'must be at least 2'),
    (entries.positive, (1e-9, 3), (0, -1), 'must be positive'),
    (entries.not_negative, (0, 3), (-1e-9,), 'must not be negative'),
    (entries.share, (0, .5, 1), (-.1, 1.1), 'is a share, from 0 to 1'),
    (entries.below_one, (0, .99), (1, -.1), 'at least 0 and less than 1'),
    (entries.shares, ((), (0., 1.)), ((.5, 2.), (-1.,)), 'are shares'),
    (entries.not_empty, ((1,), 'x'), ((), ''), 'must have at least one')])
def test_ranges(allowed, good, bad, words):
  entry = Entry(None, range=allowed)
  for value in good:
    entries.check('a.b', value, entry)
  for value in bad:
    with pytest.raises(UserError, match=words) as caught:
      entries.check('a.b', value, entry)
    assert f'--config.a.b={value}' in str(caught.value)


def test_choices():
  entry = Entry('x', choices={'x': 1, 'y': 2})
  entries.check('a.b', 'y', entry)
  with pytest.raises(UserError, match="--config.a.b 'z'; choose from x, y"):
    entries.check('a.b', 'z', entry)
  entries.check('a.b', 'anything', Entry(None))


def test_lines_of_help_fit_the_terminal_and_tell_choices():
  table = {
      'syn.labels': Entry('hard', 'class numbers, or soft ones from experts',
                          choices=('hard', 'experts')),
      'dataset.name': Entry('', 'a data set, a directory, or folder:PATH')}
  given = [('syn.labels', 'hard'), ('dataset.name', 'x' * 30),
           ('network.mine', 3)]
  assert list(entries.help_lines(given, table, 60)) == [
      '  --config.syn.labels=hard          class numbers, or soft',
      '                                    ones from experts:',
      '                                    experts, hard',
      f'  --config.dataset.name={"x" * 30}',
      '                                    a data set, a directory,',
      '                                    or folder:PATH',
      '  --config.network.mine=3']
