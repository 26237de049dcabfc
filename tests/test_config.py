"""Configurations: arguments, names, and entries that do not exist."""

import importlib.util

import pytest
import toy

from dasm_jax import config, job
from dasm_jax.errors import UserError

FILES = sorted(path.stem for path in (toy.ROOT / 'configs').glob('*.py'))


def load(name, text=''):
  spec = importlib.util.spec_from_file_location(
      name, toy.ROOT / 'configs' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(text)


def test_arguments_take_the_type_of_their_default():
  a = config.arguments('ipc=5,method=dc,fast=True,rate=1e-3', ipc=10,
                       method='idc', fast=False, rate=.5, seed=0)
  assert a.to_dict() == {'ipc': 5, 'method': 'dc', 'fast': True, 'rate': 1e-3,
                         'seed': 0}
  assert config.arguments('', ipc=1).ipc == 1
  assert config.arguments('fast=false', fast=True).fast is False


@pytest.mark.parametrize('text, words', [
    ('ipx=5', "config argument 'ipx'; choose from fast, ipc"),
    ('ipc=ten', "'ipc=ten' is not ipc=<int>; the default is 10"),
    ('ipc', "'ipc' is not ipc=<int>"),
    ('fast=yes', "'fast=yes' is not fast=<bool>")])
def test_wrong_arguments(text, words):
  with pytest.raises(UserError) as caught:
    config.arguments(text, ipc=10, fast=False)
  assert words in str(caught.value)


def test_difference():
  c = config.defaults('dc')
  assert config.difference('syn.ipc', c) is None
  assert config.difference('seed', c) is None
  text = config.difference('syn.ipx', c)
  assert "no entry 'ipx'" in text and 'did you mean --config.syn.ipc?' in text
  assert 'factor, formation' in text
  assert 'nothing below it' in config.difference('seed.x', c)
  assert "no entry 'sin'" in config.difference('sin.ipc', c)


def test_unknown_method():
  with pytest.raises(UserError, match="method 'mt'; choose from cafe, dc, "):
    config.defaults('mt')


@pytest.mark.parametrize('method', toy.METHODS)
@pytest.mark.parametrize('name', FILES)
def test_every_file_makes_a_possible_job(name, method):
  c = load(name, f'method={method},ipc=5,seed=3')
  assert (c.method.name, c.syn.ipc, c.seed) == (method, 5, 3)
  # Types are those of the defaults: a flag keeps an entry's type.
  for group, entries in config.defaults(method).to_dict().items():
    for key in entries if isinstance(entries, dict) else ():
      assert type(c[group][key]) is type(entries[key]), (group, key)
  if name == 'digits':  # the others' data may not be here
    job.check(c)
  with pytest.raises(UserError, match="config argument 'x'"):
    load(name, 'x=1')


def test_published_loops():
  # What the papers state; DC's come from ipc, the others' do not.
  for method, steps, inner, epochs in (
      ('dc', 10_000, 10, 300), ('dsac', 10_000, 10, 1000),
      ('dm', 20_000, 1, 1000), ('cafe', 20_000, 100, 600)):
    c = load('cifar10', f'method={method},ipc=10')
    assert (c.method.steps, c.method.inner, c.eval.epochs) == (
        steps, inner, epochs), method
    assert c.method.batch == 256
  cafe = load('cifar10', 'method=cafe')
  assert cafe.syn.init == 'noise' and cafe.method.decay == .5
  assert cafe.method.drops == (.6, .8, .9)  # 1200, 1600, 1800 of 2000
  assert load('cifar10', 'method=dm').method.lr == 1
  assert load('digits', 'method=dm').method.inner == 1
  sre2l = load('cifar10', 'method=sre2l')
  assert sre2l.network.norm == 'batch' and sre2l.syn.init == 'noise'
  # Moved by the last step that teaches, and by each one after it.
  assert sre2l.method.steps - sre2l.method.teach + 1 == 1000
