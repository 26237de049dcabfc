"""Cells one after the other: claimed, failed, left to others, kept."""

import contextlib
import io
import json

import pytest
import toy

from dasm_jax.errors import Unavailable, UserError
from dasm_jax.runtime import preemption
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.runtime.logging import Terminal
from dasm_jax.sweep import measure, plan, work

GIVEN = str(toy.ROOT / 'configs' / 'digits.py')


def sweep(folder, text='random,herding', **texts):
  asked = plan.Asked(GIVEN, {name.replace('__', '.'): value
                             for name, value in texts.items()},
                     plan.parse_arms(text), [1, 2])
  return work.Sweep(folder, asked.arms, plan.cells(asked),
                    [plan.Length('epochs', 3)])


class Action(list):
  """Notes the cells that it is given; fails as it is told."""

  def __init__(self, **errors):
    super().__init__()
    self.errors = errors

  def __call__(self, sweep, cell, places, screen, stopping):
    self.append(cell.name)
    if cell.name in self.errors:
      raise self.errors[cell.name]


def do(sweep, action):
  said = io.StringIO()
  outcome = work.do(sweep, Terminal(said), preemption.StopFlag(), action)
  return outcome, said.getvalue()


def test_a_cell_that_fails_stops_no_other(tmp_path):
  action = Action(random_ipc1_seed0=UserError('no number; try less'),
                  herding_ipc1_seed0=RuntimeError('out of\nmemory'))
  outcome, said = do(sweep(tmp_path), action)
  assert action == ['random_ipc1_seed0', 'random_ipc2_seed0',
                    'herding_ipc1_seed0', 'herding_ipc2_seed0']
  assert said.split('\n')[:-1] == [
      'failed: random_ipc1_seed0: no number; try less',
      'failed: herding_ipc1_seed0: RuntimeError: out of memory (see '
      f'{tmp_path}/failures/herding_ipc1_seed0.txt)']
  assert 'Traceback' in (
      tmp_path / 'failures' / 'herding_ipc1_seed0.txt').read_text()
  with pytest.raises(work.Failed, match='2 cells failed, the first r') as told:
    work.check_whole(outcome)
  assert told.value.code == 1


def test_a_stop_ends_it(tmp_path):
  action = Action(random_ipc2_seed0=preemption.Stopped('saved', 75))
  with pytest.raises(preemption.Stopped):
    do(sweep(tmp_path), action)
  assert len(action) == 2


def test_cells_of_others_are_left_to_them(tmp_path):
  mine, action = sweep(tmp_path), Action(
      herding_ipc2_seed0=workdirs.InUse('in use by process 1'))
  with work.claimed(mine, 'random_ipc1_seed0'):
    outcome, said = do(mine, action)
  # Those that were taken are asked for again before it ends.
  assert action == ['random_ipc2_seed0', 'herding_ipc1_seed0',
                    'herding_ipc2_seed0', 'herding_ipc2_seed0']
  assert outcome.elsewhere == ['random_ipc1_seed0', 'herding_ipc2_seed0']
  assert not said and not outcome.failed
  with pytest.raises(Unavailable, match='2 cells still under way'):
    work.check_whole(outcome)
  assert do(mine, Action())[0] == work.Outcome({}, [])


def test_others_are_waited_for_where_they_end(tmp_path):
  mine = sweep(tmp_path)
  with contextlib.ExitStack() as held:
    held.enter_context(work.claimed(mine, 'random_ipc1_seed0'))
    action = Action()

    def then(sweep, cell, *rest):
      action(sweep, cell, *rest)
      held.close()  # the other one has ended meanwhile
    outcome, _ = do(mine, then)
  assert action[-1] == 'random_ipc1_seed0' and outcome == work.Outcome({}, [])


def kept(mine):
  """The first measurement, written."""
  one = mine.measurements(mine.cells[0])[0]
  facts = {'epochs': 3, 'steps': 3, 'images': 10, 'recipe': 'idc'}
  measure.write(mine.result(one), one, facts, [.25, .75], 1.5)
  return one


@pytest.mark.parametrize('arm', ['random', 'full'])
def test_networks_in_training_are_of_one_configuration(
    arm, tmp_path, monkeypatch):
  """Those of a baseline, too, which has no run that would refuse another."""
  told = []
  def measured(compared, name, identity, *rest):
    told.append(json.dumps(identity, sort_keys=True))
    raise preemption.Stopped('saved', 75)
  monkeypatch.setattr(work.comparison, 'measure_row', measured)
  for changes in ({}, {}, {'eval__lr': '.03'}, {'eval__augment': 'flip'}):
    mine = sweep(tmp_path, arm, **changes)
    with pytest.raises(preemption.Stopped):
      do(mine, work.do_cell)
  assert told[0] == told[1] and len(set(told)) == 3


def test_measurements_are_kept(tmp_path):
  mine = sweep(tmp_path)
  one = kept(mine)
  found = measure.read(mine.result(one), one)
  assert found['mean'] == .5 and found['networks'] == [.25, .75]
  assert (found['arm'], found['ipc'], found['seed']) == ('random', 1, 0)
  mine.check()
  assert [values is None for cell in mine.cells
          for _, values in mine.read(cell)] == [False, True, True, True]


def test_another_configuration_is_refused(tmp_path):
  one = kept(sweep(tmp_path))
  path = sweep(tmp_path).result(one)
  before = path.read_bytes()
  with pytest.raises(UserError, match='random_ipc1_seed0.*another '
                     r'configuration: measured.network.width \(32 there, 4 '
                     r'here\); name the arm.*--workdir'):
    sweep(tmp_path, network__width='4').check()
  assert path.read_bytes() == before
  # Another length, or another number of networks, is a measurement of its own.
  sweep(tmp_path, eval__networks='2', eval__epochs='4').check()


def test_runs_of_another_configuration_are_refused(tmp_path):
  mine = sweep(tmp_path, 'herding')
  cell = mine.cells[0]
  mine.run_folder(cell).mkdir(parents=True)
  workdirs.claim(mine.run_folder(cell), json.loads(cell.config.to_json()))
  mine.check()
  with pytest.raises(UserError, match='holds a run of another.*coreset.epochs'):
    sweep(tmp_path, 'herding', coreset__epochs='4').check()


def test_a_damaged_result_is_made_again(tmp_path, caplog):
  mine = sweep(tmp_path)
  one = kept(mine)
  mine.result(one).write_text(mine.result(one).read_text().replace('.25', '.3'))
  assert measure.read(mine.result(one), one) is None
  assert 'set aside' in caplog.text
