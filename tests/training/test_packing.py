"""How many classes are matched at once: what was asked for, or what fits."""

import numpy as np
import pytest
import small
import toy

from dasm_jax import methods
from dasm_jax.cost import dry_run
from dasm_jax.distill import setup
from dasm_jax.errors import UserError
from dasm_jax.runtime import devices
from dasm_jax.training import packing

CPU = packing.DeviceSplit(1, True, 10 ** 12)
CHIP = CPU._replace(turns=False)


def number(split, method='dc', **changes):
  job = dry_run.outline(small.tiny(method, **changes))
  return setup.classes_together(job, job.plan[0], job.classes, split)


@pytest.mark.parametrize('wanted, cpu, chip', [
    ('auto', 1, 10), ('yes', 10, 10), ('no', 1, 1), ('4', 4, 4),
    ('400', 10, 10)])
def test_what_is_asked_for(wanted, cpu, chip):
  assert number(CPU, run__batched=wanted) == cpu
  assert number(CHIP, run__batched=wanted) == chip


@pytest.mark.parametrize('method', ['dc', 'dsac', 'idc', 'dm', 'cafe', 'sre2l'])
def test_as_many_as_fit(method):
  changes = {'method__teach': 1} if method == 'sre2l' else {}
  job = dry_run.outline(small.tiny(method, **changes))
  room = setup._class_bytes(job, job.plan[0]) / packing.MEMORY_SHARE
  for times, wanted in ((0.1, 1), (1.5, 1), (3.5, 3), (99, 10)):
    split = CHIP._replace(memory=int(times * room))
    assert setup.classes_together(job, job.plan[0], 10, split) == wanted


def test_larger_steps_go_in_smaller_groups():
  job = dry_run.outline(small.tiny())
  each = setup._class_bytes(job, job.plan[0]) / packing.MEMORY_SHARE
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
  job = dry_run.outline(small.tiny())
  def trained(memory, batch=64):
    return packing.networks_together(job.network, job.shape, batch,
                                     CHIP._replace(memory=memory))
  assert packing.networks_together(job.network, job.shape, 64, CPU) == 1
  assert trained(1) == 1 < trained(10 ** 7) < trained(10 ** 8)
  assert trained(10 ** 8, 1024) < trained(10 ** 8)


def test_a_spread_takes_as_many_as_it_is_told(monkeypatch):
  """However many at once, the results are the same; it asks what fits."""
  data, asked = devices.replicate(toy.source(classes=4)), []
  recipe = toy.recipes.recipe(1, batch=8)
  items = np.arange(11.)  # on eight devices
  def one(item, data):
    return item * data.images.shape[0]
  for fits in (1, 2, 9):
    def fit(network, shape, batch, split, fits=fits):
      asked.append((shape, batch))
      return fits
    monkeypatch.setattr(packing, 'networks_together', fit)
    run = packing.spread_networks(one, None, recipe, None)
    np.testing.assert_allclose(run(items, data), 48 * items)
  assert asked == [((8, 8, 1), 8)] * 3


def test_the_group_reaches_the_method(monkeypatch):
  from dasm_jax.distill import setup
  job, seen = dry_run.outline(small.tiny(run__batched='3')), []
  monkeypatch.setattr(methods, 'build', lambda *_, batched, **__: seen.append(
      batched))
  setup.build_method(job, job.plan[0])
  assert seen == [2]  # ten classes on eight devices: two on each
