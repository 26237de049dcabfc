"""Entries as a command line sets them."""

import pytest
import toy

from dasm_jax import config
from dasm_jax.config import files, overrides
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


@pytest.mark.parametrize('given, texts, way', [
    ('cifar10.py:method=mtt', {'syn.ipc': '50'}, 'method=mtt,ipc=50'),
    ('cifar10.py:ipc=1,method=dc', {'syn.ipc': '0x32'}, 'method=dc,ipc=50'),
    ('cifar10.py:method=dm', {'syn.ipc': '100', 'segments.number': '1'},
     'method=dm,ipc=100,segments=1'),
    ('svhn.py:ipc=1', {'syn.factor': '1'}, 'ipc=1,factor=1'),
    ('imagenet.py', {'dataset.size': '64'}, 'size=64')])
def test_a_value_that_the_file_has_other_entries_for(given, texts, way):
  given = str(toy.ROOT / 'configs' / given)
  with pytest.raises(UserError) as caught:
    overrides.apply(files.load(given), texts, given)
  text = str(caught.value)
  assert text.endswith(f'ask for --config={given.split(":")[0]}:{way}')
  assert 'would change that alone' in text and '\n' not in text
  # As it is asked for there, the same flags say nothing else.
  given = text.split('--config=')[-1]
  overrides.apply(files.load(given), texts, given)


@pytest.mark.parametrize('given, texts', [
    ('digits.py:method=mtt', {'syn.ipc': '5', 'segments.number': '1'}),
    ('cifar10.py:method=mtt', {'syn.ipc': '10'}),
    ('mnist.py', {'dataset.size': '64'}),  # it takes none
    ('cifar10.py:method=dc', {'syn.ipc': '50', 'method.inner': '9',
                              'method.steps': '9', 'method.net_steps': '9'})])
def test_a_value_that_changes_nothing_else_is_free(given, texts):
  given = str(toy.ROOT / 'configs' / given)
  c = files.load(given)
  overrides.apply(c, texts, given)
  for name, text in texts.items():
    assert config.entry(name, c)[0] == int(text)


def test_a_file_of_ones_own_without_such_an_argument_is_free(tmp_path):
  path = tmp_path / 'own.py'
  path.write_text('from dasm_jax import config\n'
                  'def get_config(text):\n  return config.defaults("mtt")\n')
  c = files.load(str(path))
  overrides.apply(c, {'syn.ipc': '50'}, str(path))
  assert c.syn.ipc == 50
