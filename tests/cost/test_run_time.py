"""How long a run takes: said, and asked about above a day."""

import io
import json

import pytest
import small
import toy

from dasm_jax import main
from dasm_jax.cost import dry_run, machine, run_time
from dasm_jax.distill import run
from dasm_jax.errors import UserError
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.training import real_networks

LONG, SHORT = 2 * run_time.DAY, run_time.DAY / 2


class Terminal(io.StringIO):
  """A stream that says that it is one."""

  def isatty(self):
    """Whether it is a terminal."""
    return True


@pytest.mark.parametrize('environ, streams, count, attended', [
    ({}, [Terminal(), Terminal()], 1, True),
    ({}, [Terminal(), Terminal()], 2, False),
    ({}, [Terminal(), io.StringIO()], 1, False),
    ({}, [None, Terminal()], 1, False),
    ({'SLURM_JOB_ID': '7'}, [Terminal(), Terminal()], 1, False),
    ({'KUBERNETES_SERVICE_HOST': 'k'}, [Terminal(), Terminal()], 1, False)])
def test_who_could_answer(environ, streams, count, attended):
  assert run_time.is_attended(environ, streams, count) == attended


def test_nobody_answers_by_a_closed_stream():
  closed = Terminal()
  closed.close()
  assert not run_time.is_attended({}, [closed], 1)


@pytest.mark.parametrize('seconds', [SHORT, LONG])
@pytest.mark.parametrize('new', [True, False])
@pytest.mark.parametrize('ask', ['auto', 'always', 'never'])
@pytest.mark.parametrize('attended', [True, False])
@pytest.mark.parametrize('yes', [True, False])
def test_who_is_asked(seconds, new, ask, attended, yes):
  asked = run_time.must_ask(
      seconds, new, run_time.Asking(ask, attended, yes))
  # Nobody who goes on, has said yes, or whose run is short.
  assert asked == (seconds == LONG and new and not yes and (
      ask == 'always' or (ask == 'auto' and attended)))


@pytest.fixture(scope='module', name='long')
def _long():
  return dry_run.outline(small.tiny('dm', method__steps=10 ** 9))


def test_a_long_run_is_refused_in_one_line_with_the_ways_out(long):
  asking = run_time.Asking('auto', True, False, lambda: '--config=x.py:short')
  with pytest.raises(UserError, match='this run takes about .*d') as error:
    run_time.check(long, None, True, asking)
  for words in ('--yes', '--config.run.ask=never', '--config=x.py:short'):
    assert words in str(error.value)
  assert '\n' not in str(error.value) and error.value.code == 2


def test_a_long_run_that_is_not_asked_about_says_its_time(long):
  said = run_time.check(long, None, True, run_time.Asking(yes=True))
  assert said.startswith('time      about ') and 'd' in said.split()[2]


def test_a_short_run_is_not_measured():
  said = run_time.check(dry_run.outline(small.tiny('dm')), None, True,
                        run_time.Asking('always'))
  assert 'less than a minute' in said


def test_experts_that_are_there_take_no_time(tmp_path):
  experiment = dry_run.outline(small.tiny(
      'mtt', method__last_epoch=1, experts__number=80, experts__epochs=10 ** 6,
      experts__dir=str(tmp_path)))
  home = workdirs.Workdir(tmp_path / 'run')
  # Measured once: others use this machine as well.
  here = machine.this_machine(2e10)
  def seconds():
    return run_time.run_seconds(experiment, home, lambda each: here)
  whole = seconds()
  for k in range(40):
    (tmp_path / f'expert_{k:04d}.bin').touch()
  half = seconds()
  for k in range(40, 80):
    (tmp_path / f'expert_{k:04d}.bin').touch()
  # What is left besides the experts takes no minute.
  rest = seconds()
  assert rest < run_time.MINUTE < half < whole
  assert half - rest == pytest.approx((whole - rest) / 2)


def test_judges_that_are_there_take_no_time(tmp_path):
  experiment = dry_run.outline(small.tiny(
      'herding', method__steps=0, coreset__epochs=10 ** 6))
  home = workdirs.Workdir(tmp_path / 'run')
  here = machine.this_machine(2e10)
  def seconds():
    return run_time.run_seconds(experiment, home, lambda each: here)
  assert seconds() > run_time.MINUTE
  place, *_ = real_networks.places(experiment, home.experts)
  (place.folder / '0').mkdir(parents=True)
  assert seconds() < run_time.MINUTE


def test_a_run_that_is_refused_leaves_nothing(tmp_path):
  seen, c = [], small.tiny('dm')

  def refuse(experiment, home, new):
    seen.append((experiment.config.method.name, str(home), new))
    raise UserError('too long')
  for _ in range(2):
    with pytest.raises(UserError, match='too long'):
      run.run(c, tmp_path / 'run', estimate=refuse)
    assert not (tmp_path / 'run').exists()
  assert seen == 2 * [('dm', str(tmp_path / 'run'), True)]


def test_a_run_that_goes_on_is_not_new(tmp_path):
  c, found = small.tiny('dm'), []
  workdirs.claim(tmp_path, json.loads(c.to_json()))

  def note(experiment, home, new):
    del experiment, home
    found.append(new)
    raise UserError('enough')
  with pytest.raises(UserError, match='enough'):
    run.run(c, tmp_path, estimate=note)
  assert found == [False]


@pytest.mark.parametrize('given, shorter', [
    ('configs/mnist.py', '--config=configs/mnist.py:schedule=short'),
    ('configs/mnist.py:ipc=1,schedule=published',
     '--config=configs/mnist.py:ipc=1,schedule=short'),
    ('configs/mnist.py:schedule=short', ''), ('configs/digits.py:ipc=1', '')])
def test_the_way_to_a_shorter_run(given, shorter, monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  assert main.shorter_config(given) == shorter
