"""Entries as a command line sets them."""

import pytest

from dasm_jax import config
from dasm_jax.config import overrides
from dasm_jax.errors import UserError


def test_texts_are_read_by_the_type_of_the_entry():
  c = config.defaults('cafe')
  overrides.apply(c, {
      'method.steps': '5', 'method.lr': '2', 'method.drops': '.5,1',
      'method.weights': '1', 'method.lr_per_image': None, 'eval.lr': '1e-3',
      'dataset.name': 'digits'} | {})
  assert (c.method.steps, c.method.lr, c.method.drops, c.method.weights) == (
      5, 2., (.5, 1.), (1.,))
  assert (c.method.lr_per_image, c.eval.lr, c.dataset.name) == (
      True, 1e-3, 'digits')


def test_an_empty_entry_takes_numbers_of_any_kind():
  c = config.defaults()
  for text, value in (('(1, 0, .5)', (1., 0., .5)), ('5,95', (5, 95)),
                      ('', ())):
    overrides.apply(c, {'segments.shares': text})
    assert c.segments.shares == value
  with pytest.raises(UserError, match=r'shares=a must be .* such as 1,2$'):
    overrides.apply(c, {'segments.shares': 'a'})


def test_what_is_none_has_a_type_of_its_own_in_each_configuration():
  one, other = (config.defaults('dm') for _ in range(2))
  for c in (one, other):
    config.set_network(c, 'resnet')
  overrides.apply(one, {'network.variant': 'cifar'})
  assert (one.network.variant, other.network.variant) == ('cifar', None)


@pytest.mark.parametrize('name, text, words', [
    ('method.name', 'dm', 'ask for --config=a.py:ipc=1,method=dm'),
    ('network.name', 'mlp', 'ask for --config=a.py:ipc=1,method=idc,network='),
    ('method.name', 'x', "method.name 'x'; choose from"),
    ('method', 'dm', 'a group of entries; ask for --config=a.py:ipc=1,method'),
    ('dataset', "{'name': 'x'}", 'one by one, such as --config.dataset.'),
    ('seed', None, 'has no value; write --config.seed=0'),
    ('syn.ipx', '1', 'did you mean --config.syn.ipc')])
def test_what_says_nothing_is_refused(name, text, words):
  with pytest.raises(UserError) as caught:
    overrides.apply(config.defaults(), {name: text}, 'a.py:ipc=1,method=idc')
  assert words in str(caught.value)


def test_a_label_that_says_what_is_so_is_fine():
  c = config.defaults('idc')
  overrides.apply(c, {'method.name': 'idc'})
  assert c.method.name == 'idc'
