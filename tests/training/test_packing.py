"""How many classes are matched at once: what was asked for, or what fits."""

import numpy as np
import pytest
import small
import toy

from dasm_jax.cost import dry_run
from dasm_jax.distill import setup
from dasm_jax.errors import UserError
from dasm_jax.runtime import devices
from dasm_jax.training import packing

CPU = packing.DeviceSplit(1, 'cpu', 10 ** 12)
CHIP = CPU._replace(backend='gpu')


def number(split, method='dc', **changes):
  experiment = dry_run.outline(small.tiny(method, **changes))
  return setup.classes_together(
      experiment, experiment.plan[0], experiment.classes, split)


@pytest.mark.parametrize('wanted, cpu, chip', [
    ('auto', 1, 10), ('yes', 10, 10), ('no', 1, 1), ('4', 4, 4),
    ('400', 10, 10)])
def test_what_is_asked_for(wanted, cpu, chip):
  assert number(CPU, run__batched=wanted) == cpu
  assert number(CHIP, run__batched=wanted) == chip


@pytest.mark.parametrize('method', ['dc', 'dsac', 'idc', 'dm', 'cafe', 'sre2l'])
def test_as_many_as_fit(method):
  changes = {'method__teach': 1} if method == 'sre2l' else {}
  experiment = dry_run.outline(small.tiny(method, **changes))
  first = experiment.plan[0]
  room = setup.class_bytes(experiment, first) / packing.MEMORY_SHARE
  for times, wanted in ((0.1, 1), (1.5, 1), (3.5, 3), (99, 10)):
    split = CHIP._replace(memory=int(times * room))
    assert setup.classes_together(experiment, first, 10, split) == wanted


def test_larger_steps_go_in_smaller_groups():
  experiment = dry_run.outline(small.tiny())
  each = setup.class_bytes(
      experiment, experiment.plan[0]) / packing.MEMORY_SHARE
  room = CHIP._replace(memory=int(4.5 * each))
  some = number(room)
  assert some == 4
  assert number(room, network__dtype='bfloat16') > some
  assert number(room, network__width=16) < some
  assert number(room, syn__factor=2, syn__ipc=6) < some
  assert number(room, syn__ipc=6, segments__match='union') <= some


@pytest.mark.parametrize('wanted', ['0', '-1', 'all', '1.5', ''])
def test_no_such_group(wanted):
  for entry in ('run__batched', 'eval__together'):
    with pytest.raises(UserError, match=f'={wanted} is neither of auto'):
      dry_run.outline(small.tiny(**{entry: wanted}))


def test_networks_that_fit_are_trained_at_once():
  given = toy.network(), (8, 8, 1)
  def trained(memory, batch=64):
    return packing.networks_together(*given, batch,
                                     CHIP._replace(memory=memory))
  assert packing.networks_together(*given, 64, CPU) == 1
  assert trained(1) == 1 < trained(10 ** 7) < trained(10 ** 8)
  assert trained(10 ** 8, 1024) < trained(10 ** 8)


def test_a_spread_takes_as_many_as_fit():
  """However many at once, the results are the same; it asks what fits."""
  data, network = devices.replicate(toy.source(classes=4)), toy.network()
  recipe, took = toy.recipes.recipe(1, batch=8), []
  items = np.arange(11.)  # on eight devices
  def one(item, data):
    return item * data.images.shape[0]
  def spread(one, together):
    took.append(together)
    return devices.spread(one, together=together)
  each = next(memory for memory in range(0, 10 ** 7, 1000) if (
      packing.networks_together(network, (8, 8, 1), 8,
                                CHIP._replace(memory=memory)) == 2)) / 2
  for fits in (1, 2, 9):
    run = packing.spread_networks(
        one, network, recipe, None, spread,
        CHIP._replace(memory=int((fits + .5) * each)))
    np.testing.assert_allclose(run(items, data), 48 * items)
    np.testing.assert_allclose(run(items, data), 48 * items)
  np.testing.assert_allclose(packing.spread_networks(
      one, network, recipe, 4, spread)(items, data), 48 * items)
  # On this machine's CPU, one.
  packing.spread_networks(one, network, recipe, how=spread)(items, data)
  assert took == [1, 2, 9, 4, 1]


def test_the_group_reaches_the_method():
  experiment = dry_run.outline(small.tiny(run__batched='3'))
  found = setup.method_options(experiment, experiment.plan[0])
  assert found.batched == 2  # ten classes on eight devices: two on each
