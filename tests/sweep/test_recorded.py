"""The measurements in docs/sweeps/ are those that the program would make."""

import json
import pathlib

import numpy as np
import pytest
import toy

from dasm_jax import segments
from dasm_jax.sweep import measure, plan, work

FOLDER = toy.ROOT / 'docs' / 'sweeps' / 'cifar10_16'


GIVEN = {'dataset.holdout': '0.2', 'eval.networks': '3'}
SMALL = 'configs/cifar10.py:schedule=short,factor=1', {
    'dataset.size': '16', **GIVEN}


def cells():
  """Of the command that docs/sweeps/README.md shows."""
  return plan.cells(plan.Asked(
      *SMALL, plan.read_arms(FOLDER / 'core.arms'), [10, 50, 200, 500], 3))


def read_all(arms, config, ipc, seeds):
  """`{(arm, ipc, seed): accuracy}` of all files beside `FOLDER / arms`."""
  path = FOLDER / arms
  sweep = work.Sweep(path.parent, [], plan.cells(plan.Asked(
      *config, plan.read_arms(path), ipc, seeds)), [plan.Length('epochs', 0)])
  read = {(cell.arm.name, cell.ipc, cell.seed): values['mean']
          for cell in sweep.cells for _, values in sweep.read(cell) if values}
  # None is of another configuration, or of an arm that is not told.
  assert len(read) == len([*path.parent.rglob('*.json')])
  return read


def test_recorded_measurements_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  sweep = work.Sweep(FOLDER, [], cells(), [plan.Length('epochs', 0)])
  read = [values for cell in sweep.cells for _, values in sweep.read(cell)]
  files = list(pathlib.Path(FOLDER, 'results').rglob('*.json'))
  assert len(files) == sum(values is not None for values in read) >= 8
  for values in filter(None, read):
    assert .2 < values['mean'] < .7 and len(values['networks']) == 3


def test_those_of_digits_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  read = read_all('../digits/sweep.arms', ('configs/digits.py', {}),
                  [1, 3, 10], 5)
  # Where ten images are enough one segment is best, of all seeds together.
  def mean(name):
    return sum(read[name, 10, seed] for seed in range(5)) / 5
  assert mean('idc') > mean('dasm') + .003 > mean('frontier') + .01
  assert mean('dasm') > mean('herding') + .005 > mean('random') + .01


def test_those_of_factor_2_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  read = read_all('../cifar10_32_factor2/ipc10.arms', (
      'configs/cifar10.py:schedule=short', GIVEN), [10, 50], 2)
  assert len(read) >= 18
  # What IDC's default number of segments rests on.
  for ipc, seed in ((10, 0), (10, 1), (50, 0), (50, 1)):
    assert read['dasm5', ipc, seed] - read['idc', ipc, seed] > .025
  # By networks that begin as the judges matching adds at 50, too.
  assert read['dasm_by_judges_05', 50, 0] - read['frontier_packed', 50, 0] > .01


def test_those_of_factor_2_on_the_test_split_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  read = read_all('../cifar10_32_test/ipc10/sweep.arms', (
      'configs/cifar10.py:schedule=short', {'eval.networks': '3'}), [10], 3)
  # Each seed by itself: above its base, and above its images left real.
  for seed in range(3):
    dasm = read['dasm5_2', 10, seed]
    assert dasm - read['idc_2', 10, seed] > .024
    assert dasm - read['frontier_packed', 10, seed] > .012
    assert dasm - read['random_packed', 10, seed] > .08
    # By networks that begin as the judges.
    dasm = read['dasm_judges', 10, seed]
    assert dasm - read['idc_judges', 10, seed] > .04
    assert dasm - read['idc_2', 10, seed] > .06
    assert dasm - read['frontier_packed', 10, seed] > .04


def test_those_of_50_images_on_the_test_split_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  read = read_all('../cifar10_32_test/ipc50/sweep.arms', (
      'configs/cifar10.py:schedule=short', {'eval.networks': '3'}), [50], 3)
  for seed in range(3):
    dasm = read['dasm_judges_05', 50, seed]
    assert dasm - read['idc_05', 50, seed] > .04
    assert dasm - read['frontier_packed', 50, seed] > .015


def test_those_of_penalties_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  read = read_all('../cifar10_16_sdc/sdc.arms', SMALL, [10], 2)
  assert len(read) >= 20
  # What RESULTS.md says: at a tenth of the matching's gradient nothing.
  for name in ('norm', 'loss', 'el2n', 'margin', 'fisher'):
    gains = [read[f'dm_{name}', 10, seed] - read['dm', 10, seed]
             for seed in (0, 1)]
    assert max(map(abs, gains)) < .006


def test_those_of_rates_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  read = read_all('../cifar10_16_rates/rates.arms', SMALL, [10, 50, 200], 1)
  assert len(read) >= 11
  # Each size has another rate at which plain IDC is best.
  assert read['idc_05', 10, 0] > read['idc_01', 10, 0] + .02
  assert read['idc_05', 200, 0] < read['idc_01', 200, 0] - .01


def test_those_of_unions_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  read = read_all('../cifar10_16_union/union.arms', SMALL, [10, 50], 2)
  assert len(read) >= 14
  # What `segments.match=auto` rests on: at ten images above one segment and
  # above the images left real, in each seed.
  for seed in (0, 1):
    union = read['dasm05_union', 10, seed]
    assert union - read['idc05', 10, seed] > .01
    assert union - read['frontier', 10, seed] > .01
  assert read['dasm05_union', 10, 0] - read['dasm05', 10, 0] > .01
  assert read['dasm05_union', 50, 0] < .5
  # Why DM and DSA have segments as early as IDC.
  assert read['dm5_union', 10, 0] - read['dm', 10, 0] > .06
  assert read['dsa5', 10, 0] - read['dsa', 10, 0] > .01


def test_those_of_trained_networks_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  read = read_all('../cifar10_16_trained/trained.arms', SMALL, [10, 50, 200], 2)
  for seed in (0, 1):
    frontier = read['frontier', 50, seed]
    assert read['idc5_old', 50, seed] - frontier > .015
    assert read['idc5_old_e10', 50, seed] - frontier > .02
    assert read['idc5_old_e10', 50, seed] - read['idc_old_e10', 50, seed] > .03
    union = read['idc5_old_05_union', 10, seed]
    assert union - read['frontier', 10, seed] > .03
    assert union - read['idc_old_05', 10, seed] > .005
    assert (read['idc5_trained_05_e10_union', 10, seed]
            - read['idc_trained_05_e10', 10, seed]) > .01
  assert read['idc5_old_e10', 200, 0] - read['frontier', 200, 0] > .01
  assert read['idc5_trained_e20', 50, 0] > read['idc5_old_e10', 50, 0]


def test_those_of_networks_that_begin_as_judges_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  read = read_all('../cifar10_16_judges/judges.arms', SMALL, [10, 50, 200, 500],
                  2)
  # What IDC's `method.begin` rests on, and that the windows make it.
  for seed in (0, 1):
    dasm = read['dasm_by_judges_01', 50, seed]
    assert dasm - read['idc_by_judges_01', 50, seed] > .025
    assert dasm - read['ccfs', 50, seed] > .01
    assert read['dasm_by_judges_ccfs_01', 50, seed] - read[
        'ccfs', 50, seed] > .01
    assert read['dasm_by_judges_05', 10, seed] > read[
        'idc_by_judges_05', 10, seed]
  assert (read['dasm_by_judges_01_x5', 50, 0]
          - read['idc_by_judges_01_x5', 50, 0]) > .025
  assert abs(read['dasm_by_judges_01', 200, 0] - read['ccfs', 200, 0]) < .005
  # By judges that know more, CCFS's networks too, it is above it; not at 500,
  # and not worth their time at 10.
  for seed in (0, 1):
    for ipc, least in ((50, .014), (200, .002)):
      dasm = read['dasm_by_judges_01_e30', ipc, seed]
      assert dasm - read['ccfs_e30', ipc, seed] > least
      assert dasm - read['frontier_e30', ipc, seed] > 2 * least
      if (name := ('dasm_by_judges_01', ipc, seed)) in read:
        assert dasm > read[name]
    assert read['dasm_by_judges_05_e30', 10, seed] < read[
        'dasm_by_judges_05', 10, seed]
  dasm, frontier, ccfs = (read[f'{name}_e30', 500, 0] for name in (
      'dasm_by_judges_01', 'frontier', 'ccfs'))
  assert 0 < dasm - frontier < .005 < ccfs - frontier
  assert abs(read['dasm_by_judges_ccfs_01_e30', 500, 0] - ccfs) < .002


@pytest.mark.parametrize('ipc', [10, 50, 200])
def test_those_of_the_test_split_are_taken(ipc, monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  config = SMALL[0], {'dataset.size': '16', 'eval.networks': '3'}
  read = read_all(f'../cifar10_16_test/ipc{ipc}/sweep.arms', config, [ipc], 3)
  # What README says, each seed by itself: above plain IDC and the same images
  # left real; by networks from noise from 50 on level with these.
  for seed in range(3):
    dasm, same, idc, frontier = (read[name, ipc, seed] for name in (
        'dasm_judges', 'idc_judges', 'idc', 'frontier'))
    assert dasm - idc > .025 and dasm - frontier > .001
    assert dasm - same > (0 if ipc == 10 else .02)
    if ipc < 200:
      assert dasm - frontier > .02
    if ipc == 50:
      assert dasm - read['ccfs', ipc, seed] > .017
  for seed in range(3):
    dasm, idc, frontier, random = (read[name, ipc, seed] for name in (
        'dasm_union' if ipc == 10 else 'dasm', 'idc', 'frontier', 'random'))
    assert dasm - idc > (.001 if ipc == 10 else .025)
    assert dasm - random > .03
    assert dasm - frontier > .01 if ipc == 10 else abs(dasm - frontier) < .015
    if ipc == 10:
      assert read['dasm_dm', ipc, seed] - read['dm', ipc, seed] > .025


ARMS = 'random', 'frontier', 'idc', 'idc_judges', 'dasm_judges'


@pytest.mark.parametrize('folder, ipc, arms', [
    ('cifar10_16_test', 10, ARMS), ('cifar10_16_test', 50, ARMS),
    ('cifar10_16_test', 200, ARMS),
    ('cifar10_32_test', 10, ('random_packed', 'frontier_packed', 'idc_2',
                             'idc_judges', 'dasm_judges'))])
def test_what_pages_say_is_what_the_files_tell(folder, ipc, arms):
  told = []
  for arm in arms:
    files = sorted((FOLDER.parent / folder / f'ipc{ipc}' / 'results').glob(
        f'{arm}_ipc{ipc}_seed*/*.json'))
    means = [100 * json.loads(path.read_text())['mean'] for path in files]
    assert len(means) == 3, arm
    told.append(f'{np.mean(means):.1f} ± {np.std(means, ddof=1):.1f}')
  def shown(page):
    # Of the whole page, as several tables have rows of one size.
    lines = (toy.ROOT / page).read_text().replace('*', '').split('\n')
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines
            if line.startswith('|')]
  assert any(row[1:] == [str(ipc), *told] for row in shown('README.md'))
  if folder == 'cifar10_16_test':
    assert [str(ipc), *told] in shown('docs/dasm.md')
  # There an arm is a row, and a size a column.
  assert {*told} <= {cell for row in shown('RESULTS.md') for cell in row}


def test_those_of_500_images_on_the_test_split_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  config = SMALL[0], {'dataset.size': '16', 'eval.networks': '3'}
  read = read_all('../cifar10_16_test/ipc500/sweep.arms', config, [500], 3)
  dasm, idc, frontier, ccfs, random = (read[name, 500, 0] for name in (
      'dasm_judges', 'idc', 'frontier', 'ccfs', 'random'))
  assert dasm - idc > .01 and dasm - random > .01
  # There matching adds nothing to what is chosen, and little is left to gain.
  assert 0 < read['full', None, 0] - dasm < .015
  assert abs(dasm - frontier) < .004 and abs(dasm - ccfs) < .004


def test_those_of_other_arms_are_taken(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  read = read_all('../cifar10_16_more/more.arms', SMALL, [10, 50, 200], 3)
  assert len(read) >= 8
  assert read['dm5', 50, 0] - read['dm1', 50, 0] > .05
  # An order that no finished segment has a say in gains nothing.
  for name in ('static', 'parts', 'everything', 'reversed'):
    assert read['half', 50, 0] - read[name, 50, 0] > .04
  assert read['el2n', 200, 0] < read['window', 200, 0] < read['ccfs', 200, 0]


def test_an_entry_that_was_not_known_had_its_default(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  cell = cells()[-1]
  old = json.loads(json.dumps(cell.settings))
  assert old['segments'].pop('moving') == 1
  assert not plan.different(old, cell.settings)
  cell.config.segments.moving = .5
  assert 'segments.moving' in plan.different(old, cell.settings)
  del old['segments']
  assert 'segments' in plan.different(old, cell.settings)


def test_segments_by_default_are_as_many_as_they_were(monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  cell, = (x for x in cells() if x.name == 'dasm_002_ipc50_seed0')
  old = json.loads(json.dumps(cell.settings))
  assert old['segments']['number'] == 5
  old['segments']['number'] = 0  # as files had it before
  assert not plan.different(old, cell.settings)
  # Another default, such as a later version may have, is another number.
  monkeypatch.setattr(segments, 'default_count', lambda *_: 1)
  assert 'segments.number' in plan.different(old, json.loads(json.dumps(
      {**cell.settings, 'segments': {**old['segments'], 'number': 5}})))


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  cell, = (x for x in cells() if x.name == 'random_ipc200_seed0')
  (one,) = plan.measurements(cell, [plan.Length('epochs', 0)])
  path = tmp_path / one.path
  path.parent.mkdir(parents=True)
  path.write_text((FOLDER / 'results' / one.path).read_text())
  assert measure.read(path, one)
  other = one._replace(cell=one.cell._replace(ipc=one.cell.ipc + 1))
  with pytest.raises(Exception, match='of another configuration: ipc'):
    measure.read(path, other)
