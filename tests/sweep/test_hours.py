"""What a sweep would take: networks that cells share are counted once."""

import pytest
import toy

from dasm_jax.cost import machine
from dasm_jax.sweep import hours, plan, work

GIVEN = str(toy.ROOT / 'configs' / 'digits.py')


@pytest.fixture(name='seconds')
def _seconds(tmp_path, monkeypatch):
  monkeypatch.setattr(
      machine, 'measure_machine', lambda: machine.this_machine(2e10))

  def of(arms, seeds=1):
    asked = plan.Asked(GIVEN, {}, plan.parse_arms(arms), [3], seeds)
    return hours.say_hours(
        work.Sweep(tmp_path, asked.arms, plan.cells(asked),
                   [plan.Length('epochs', 1)]), lambda line: None)
  return of


def long(name, arm, epochs=20_000):
  """An arm whose shared networks train for so long that all else is little."""
  group = 'experts' if arm.startswith('mtt') else 'coreset'
  return f'{name}@{arm}:{group}.epochs={epochs}'


@pytest.mark.parametrize('one, other', [
    ('herding', 'k_means'), ('mtt', 'mtt:sdc.ratio=.1')])
def test_networks_that_cells_share_are_counted_once(one, other, seconds):
  alone = seconds(long('a', one))
  assert seconds(f'{long("a", one)},{long("b", other)}') < 1.1 * alone
  # Those of other epochs are others.
  assert seconds(f'{long("a", one)},{long("b", other, 10_000)}') > 1.4 * alone


@pytest.mark.parametrize('first, second, times', [
    ('ccfs', 'herding', 1), ('herding', 'ccfs', 2)])
def test_judges_with_a_history_serve_those_who_ask_for_none(
    first, second, times, seconds):
  both = seconds(f'{long("a", first)},{long("b", second)}')
  assert both == pytest.approx(
      seconds(long('a', 'ccfs')) + (times - 1) * seconds(long('b', 'herding')),
      rel=.1)


def test_every_seed_has_judges_of_its_own(seconds):
  herding, mtt = long('a', 'herding'), long('a', 'mtt')
  assert seconds(herding, 2) > 1.9 * seconds(herding)
  assert seconds(mtt, 2) < 1.1 * seconds(mtt)
