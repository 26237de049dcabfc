"""How arms are typed, which cells they make, and for how long is trained."""

import pathlib

import pytest
import toy

from dasm_jax.errors import UserError
from dasm_jax.sweep import plan
from dasm_jax.training import recipes

GIVEN = str(toy.ROOT / 'configs' / 'digits.py')
ARMS = pathlib.Path(toy.ROOT / 'tests' / 'benchmarks' / 'methods.arms')


def asked(text='random,idc', ipcs=(2,), seeds=1, given='', **texts):
  return plan.Asked(GIVEN + given, {
      name.replace('__', '.'): value for name, value in texts.items()},
      plan.parse_arms(text), list(ipcs), seeds)


def test_arms_as_they_are_typed():
  arms = plan.parse_arms(
      'random,idc:segments=2:segments.window=hardest,'
      'geo@dm:segments.shares=5,5,10:sdc.ratio=.1,full:epochs=20')
  assert arms == [
      plan.Arm('random', 'random', {}, {}),
      plan.Arm('idc:segments=2:segments.window=hardest', 'idc',
               {'segments': '2'}, {'segments.window': 'hardest'}),
      plan.Arm('geo', 'dm', {},
               {'segments.shares': '5,5,10', 'sdc.ratio': '.1'}),
      plan.Arm('full:epochs=20', 'full', {'epochs': '20'}, {})]
  assert [arm.baseline for arm in arms] == [True, False, False, True]
  assert arms[1].file_name == 'idc_segments=2_segments.window=hardest'
  assert len(plan.parse_arm('x' * 300 + '@idc').file_name) == 100


def test_arms_of_a_file(tmp_path):
  path = tmp_path / 'arms'
  path.write_text('# of us\nrandom:\n\ngeo: dm segments.shares=5,5 segments=2'
                  '  # two\npacked: random syn.factor=2\n')
  first, geo, packed = plan.read_arms(path)
  assert first.baseline and first.name == 'random' and not packed.baseline
  assert geo == plan.Arm('geo', 'dm', {'segments': '2'},
                         {'segments.shares': '5,5'})
  assert plan.read_arms(path)[1].text == (
      'dm segments=2 segments.shares=5,5')
  with pytest.raises(UserError, match='nowhere.*an arm a line'):
    plan.read_arms(tmp_path / 'nowhere')


@pytest.mark.parametrize('text, words', [
    ('', 'no arms; give some'),
    ('idcc', "unknown method.*'idcc'.*choose from.*full.*idc"),
    ('@idc', 'no name before @; .* --arms=FILE'),
    ('idc:segments', "'segments' of arm.*not key=value"),
    ('idc:ipc=3', 'sets ipc, which the sweep does; give --ipc'),
    ('idc:eval.epochs=3', 'the same for all arms; give --config.eval.epochs=3'),
    ('idc:dataset.size=9', 'give --config.dataset.size=9'),
    ('idc:segments=1:segments=2', 'sets segments twice'),
    ('full:segments=2', 'only the length can be set: full:epochs=20'),
    ('full:epochs=0', 'only the length can be set'),
    ('idc,dc,IDC@idc', "arm 'idc' is there twice.*NAME@METHOD")])
def test_arms_that_are_none(text, words):
  with pytest.raises(UserError, match=words) as told:
    plan.check_arms(plan.parse_arms(text))
  assert '\n' not in str(told.value)


def test_cells():
  found = plan.cells(asked(
      'idc,full,random,herding', (3, 1), 2, given=':seed=5'))
  assert [cell.name for cell in found] == [
      'random_ipc1_seed5', 'random_ipc1_seed6', 'random_ipc3_seed5',
      'random_ipc3_seed6', 'idc_ipc3_seed5', 'herding_ipc3_seed5',
      'idc_ipc3_seed6', 'herding_ipc3_seed6', 'idc_ipc1_seed5',
      'herding_ipc1_seed5', 'idc_ipc1_seed6', 'herding_ipc1_seed6',
      'full_seed5']
  idc, herding = found[4:6]
  assert (idc.config.syn.ipc, idc.config.seed, idc.base.seed) == (3, 5, 5)
  assert idc.config.eval.networks == 0 and idc.base.eval.networks == 5
  assert herding.config.syn.init == 'herding' and found[0].config is None


def test_entries_of_all_arms():
  found = plan.cells(asked(
      'idc:method.batch=9,herding', method__steps='7', method__batch='8',
      eval__epochs='20', network__width='4'))
  idc, herding = (cell.config for cell in found)
  assert (idc.method.steps, idc.method.batch) == (7, 9)
  # Coresets have no steps; how long is measured is no matter of a run.
  assert herding.method.steps == 0
  assert idc.eval.epochs == 400 and found[0].base.eval.epochs == 20
  assert found[0].base.network.width == 4 == herding.network.width


@pytest.mark.parametrize('ask, words', [
    (asked(ipcs=(1, 200)), '--ipc=200 images a class, but class .* has 1'),
    (asked('herding:syn.factor=9', (2,)), "arm 'herding:syn.factor=9': .*"
     'syn.factor=9'),
    (asked(given=':ipc=3'), 'give --ipc=3'),
    (asked(seed='3'), '--config.seed is what the sweep sets; give --seeds'),
    (asked(method__stops='3'), 'did you mean --config.method.steps'),
    (asked('herding', experts__number='3'), 'no entry'),
    (asked(eval__networks='0'), 'measures nothing'),
    (asked('idc:segments.windov=all'), 'did you mean --config.segments.window'),
    (asked('idc:depth=3'), "unknown config argument 'depth'")])
def test_cells_that_cannot_be(ask, words):
  with pytest.raises(UserError, match=words) as told:
    plan.cells(ask)
  assert '\n' not in str(told.value)


def test_prefixes():
  said = []
  found = plan.cells(asked('random,idc:segments=3', (2, 4)), True, said.append)
  assert said == ['note      idc:segments=3 has 3 segments: left out at 2 '
                  'images a class']
  assert [cell.ipc for cell in found] == [2, 3, 4, 4]
  assert plan.prefix_sizes(found[-1]) == [2, 3]
  lengths = [plan.Length('epochs', 0), plan.Length('steps', 50)]
  assert [one.path for one in plan.measurements(found[-1], lengths, True)] == [
      'idc_segments=3_ipc4_seed0/' + name + '_networks5.json' for name in (
          'epochs400', 'steps50', 'first3_epochs400', 'first3_steps50',
          'first2_epochs400', 'first2_steps50')]
  assert len(plan.measurements(found[0], lengths, True)) == 2


def test_what_tells_cells_apart():
  one, same, other = (plan.cells(ask)[-1].settings for ask in (
      asked(), asked(dataset__workers='2', eval__epochs='9'),
      asked('random,idc:method.lr=3')))
  assert not plan.different(one, same)
  assert plan.different(one, other) == 'method.lr (0.005 there, 3.0 here)'
  # Random images are those of every method; the recipe that measures counts.
  random, recipe = (plan.cells(ask)[0].settings for ask in (
      asked(), asked(given=':method=dc')))
  assert 'measured.recipe ("idc" there, "dc" here)' in plan.different(
      random, recipe)


@pytest.mark.parametrize('length, images, epochs, steps', [
    (plan.Length('epochs', 7), 10, 7, 7),
    (plan.Length('steps', 7), 10, 7, 7),
    (plan.Length('steps', 100), 1000, 6, 96),
    (plan.Length('steps', 100), 100, 50, 100),
    (plan.Length('steps', 5), 1000, 1, 16)])
def test_lengths(length, images, epochs, steps):
  recipe = recipes.idc_recipe(1)
  assert length.epochs(images, recipe) == epochs
  assert plan.steps_of(epochs, images, recipe) == steps


def test_lengths_count_the_extra_epoch():
  recipe = recipes.dc_recipe(1)
  assert plan.Length('steps', 8).epochs(300, recipe) == 3  # and one more


def test_the_arms_of_the_benchmark():
  arms = plan.read_arms(ARMS)
  assert len(arms) == 46
  # Digits need no download; the others of a kind differ in segments and SDC.
  some = [arm for arm in arms if '+dasm+sdc' in arm.name]
  found = plan.cells(plan.Asked(GIVEN, {}, some, [2]))
  assert all(cell.config.sdc.fall == 1 for cell in found) and len(found) == 11
