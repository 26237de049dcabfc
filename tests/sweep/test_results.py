"""The numbers of the table, by hand; the figure and the page."""

import math

import pytest

from dasm_jax.sweep import plan, results, work

EPOCHS, STEPS = plan.Length('epochs', 9), plan.Length('steps', 20)


def row(arm, ipc, values, of=None, length=EPOCHS):
  return results.Row(arm, ipc, of, length, 9, 18, 'idc', values,
                     2 if arm == 'dm' else None)


def test_means_and_deviations():
  one = row('a', 1, {0: [.1, .3], 1: [.4, .4]})
  assert one.mean == pytest.approx(.3)
  assert one.over_networks == pytest.approx(math.sqrt((.02 + 0) / 2))
  assert one.over_seeds == pytest.approx(math.sqrt(2 * .1 ** 2))
  assert one.error == one.over_seeds and one.networks == 2
  single = row('a', 1, {0: [.1]})
  assert math.isnan(single.over_networks) and math.isnan(single.over_seeds)
  assert row('a', 1, {0: [.1, .3]}).error == pytest.approx(math.sqrt(.02))


def test_differences():
  a = row('a', 1, {0: [.5, .5], 1: [.7, .7], 2: [.6, .6]})
  b = row('b', 1, {0: [.4, .4], 1: [.5, .5], 2: [.6, .6], 3: [.9, .9]})
  # Of the pairs of seeds: .1, .2, 0, whose standard deviation is .1.
  mean, error = results.difference(a, b)
  assert mean == pytest.approx(.1) and error == pytest.approx(.1 / 3 ** .5)
  # Of one seed by networks: variances .02 and .0008, two networks each.
  mean, error = results.difference(row('a', 1, {0: [.1, .3]}),
                                   row('b', 1, {0: [.10, .14]}))
  assert mean == pytest.approx(.08)
  assert error == pytest.approx(math.sqrt(.02 / 2 + .0008 / 2))
  assert math.isnan(results.difference(row('a', 1, {0: [.1]}), a)[1])


ROWS = [row('random', 2, {0: [.2, .4]}), row('idc', 2, {0: [.5, .5]}),
        row('idc', 2, {0: [.4, .4]}, of=4), row('dm', 2, {0: [.6, .6]}),
        row('full', None, {0: [.9, .9]}),
        row('idc', 2, {0: [.3, .3]}, length=STEPS)]
MARKS = results.Marks('random', 'idc')


def test_what_is_compared_with_what():
  found = {(one.arm, one.of, one.length.kind): (random, first)
           for one, random, first in results.compared(ROWS, MARKS)}
  gap = found['dm', None, 'epochs']
  assert gap[0][0] == pytest.approx(.3) and gap[1] == pytest.approx((.1, 0))
  # With the whole set of its size, not with the prefix of a larger one.
  assert found['idc', None, 'epochs'][1] is None
  assert found['idc', 4, 'epochs'][0][0] == pytest.approx(.1)
  for nobody in (('random', None, 'epochs'), ('full', None, 'epochs'),
                 ('idc', None, 'steps')):
    assert found[nobody] == (None, None)


def test_tables():
  lines = results.as_csv(ROWS, MARKS).split('\n')
  assert lines[0].endswith('- random,error of - random,- idc,error of - idc')
  assert lines[1] == ('random,2,,,9 epochs,9,18,idc,30.000,14.142,2,,1,,,,')
  assert lines[3].startswith(
      'idc,2,4,,9 epochs,9,18,idc,40.000,0.000,2,,1,10.0')
  assert lines[5] == 'full,all,,,9 epochs,9,18,idc,90.000,0.000,2,,1,,,,'
  shown = results.as_markdown(ROWS, MARKS).split('\n')
  assert shown[5] == ('| dm | 2 | 2 | recipe | 9 | 18 | 60.00 | 0.00 |  | '
                      '1 x 2 | +30.00 ± 10.00 | +10.00 ± 0.00 |')
  assert shown[4].startswith('| idc | 2 of 4 |')
  assert '20 steps' in shown[7]
  bare = results.as_csv(ROWS, results.Marks(None, None))
  assert bare.startswith(','.join(results.HEAD) + '\n')
  # Of sets of one size equal epochs are equal steps.
  assert 'measures all at equal steps' not in results.text_table(
      ROWS[:4], MARKS)
  longer = row('dm', 8, {0: [.6, .6]})._replace(steps=72)
  assert '--steps=72 measures all' in results.text_table(
      [*ROWS[:4], longer], MARKS)
  said = results.text_table([*ROWS, longer], MARKS)
  assert '--steps=72' not in said
  assert '+30.00 ± 10.00' in said and 'seeds x networks' in said


def test_order():
  names = ['idc', 'random', 'dm', 'full']
  found = results.order(ROWS[::-1], names)
  assert [(one.arm, one.of, one.length.kind) for one in found] == [
      ('idc', None, 'epochs'), ('idc', 4, 'epochs'), ('random', None, 'epochs'),
      ('dm', None, 'epochs'), ('full', None, 'epochs'), ('idc', None, 'steps')]


def test_curves():
  rows = [*ROWS, row('idc', 4, {0: [.7, .7]}), row('idc', 8, {0: [.8, .8]})]
  (title, lines, levels), (other, few, none) = results.figure_panels(rows)
  assert (title, other) == ('equal epochs', 'about 20 steps') and not none
  assert levels == {'full': 90}
  x, y, error = lines['idc']
  assert x == [2, 4, 8] and y == pytest.approx([50, 70, 80]) and not sum(error)
  # The prefixes of a run end with its whole set.
  assert lines['idc, prefixes of 4'][0] == [2, 4]
  assert lines['idc, prefixes of 4'][1] == pytest.approx([40, 70])
  assert few == {'idc': ([2], [30], [0])}
  panels = results.length_panels(rows)
  assert [panel[0] for panel in panels] == [
      '2 images a class', '4 images a class', '8 images a class']
  assert set(panels[0][1]) == {'random', 'idc', 'dm', 'full'}


def test_files(tmp_path):
  # A cell of a base that has what the page tells.
  text = 'random,idc:segments=2,full'
  asked = plan.Asked('configs/digits.py', {}, plan.parse_arms(text), [2])
  cells = plan.cells(asked)
  sweep = work.Sweep(tmp_path, asked.arms, cells, [EPOCHS, STEPS])
  found = []
  for cell in cells:
    for one in plan.measurements(cell, [EPOCHS, STEPS]):
      found.append((one, {'epochs': 9, 'steps': 20, 'recipe': 'idc',
                          'networks': [.5, .75]}))
  assert results.write(sweep, [(one, None) for one, _ in found]) == (
      'nothing is measured yet')
  assert not list(tmp_path.iterdir())
  said = results.write(sweep, [*found[:-1], (found[-1][0], None)],
                       ['full_seed0 is under way elsewhere'])
  assert '62.50' in said
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      'figure.png', 'lengths.png', 'report.html', 'table.csv', 'table.md']
  page = (tmp_path / 'report.html').read_text()
  for word in ('idc segments=2', 'full_seed0 is under way elsewhere', '5 of 6',
               '62.50', 'data:image/png'):
    assert word in page, word
  assert page.count('<img') == 2
