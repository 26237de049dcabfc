"""Cost against hand counts, and against what the program really makes."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from dasm_jax import models, synthetic
from dasm_jax.cost import dry_run, estimate, workload
from dasm_jax.cost.machine import Machine
from dasm_jax.distill import initialise, setup
from dasm_jax.models import flops
from dasm_jax.pipeline import loading
from dasm_jax.runtime import devices
from dasm_jax.training import expert_store, experts, packing, train_step
from dasm_jax.types import Batch, Synthetic

ONE = Machine('cpu', 'a core', 1, 1e9, 10 ** 9)
MANY = ONE._replace(devices=4)


# A phase that takes hardly any memory.
LITTLE = [packing.Work('forward', 1, 1, 1)]


def outline(method='dc', **changes):
  return dry_run.outline(small.tiny(method, **changes))


def passes(experiment, machine=ONE, phase='distillation'):
  """Forward passes of all images of a phase."""
  return sum(one.images * packing.PASS_KINDS[one.kind].passes
             for one in estimate.phase_work(experiment, machine).get(phase, []))


def memory(experiment, machine=ONE):
  """`{what: bytes}` of a device."""
  once = flops.forward_cost(experiment.network, experiment.shape)
  return estimate.device_memory(experiment, LITTLE, once, machine)


def test_one_layer_by_hand():
  network = models.build('convnet', shape=(5, 5, 3), classes=7, depth=1,
                         width=4, norm='none', pooling='none')
  once = flops.forward_cost(network, (5, 5, 3))
  kernel = 3 * 3 * 3 * 4
  assert once.flops == 2 * (25 * kernel + 100 * 7)
  assert once.maps == 25 * 4 + 7
  assert once.parameters == kernel + 4 + 100 * 7 + 7
  # Convolution, its bias and ReLU make 100 numbers each, the classifier 7.
  assert once.values >= 3 * 100 + 2 * 7


def test_half_precision_makes_as_many_numbers():
  one, other = (flops.forward_cost(
      models.build('convnet', shape=(8, 8, 3), classes=7, dtype=dtype),
      (8, 8, 3)) for dtype in ('float32', 'bfloat16'))
  assert one == other  # its casts are not counted


def test_loops_count_as_often_as_they_run():
  def five(x, w):
    return jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, w), None), x,
                        None, length=5)[0]
  once = flops.count_jaxpr(jax.make_jaxpr(five)(
      jnp.zeros((2, 3)), jnp.zeros((3, 3))).jaxpr)
  assert list(once[[0, 2, 3]]) == [5 * 2 * 2 * 3 * 3, 5 * 2 * 3, 5]


def test_seconds_by_hand():
  once = flops.ForwardCost(
      flops=1000, values=10, maps=5, operations=3, parameters=1)
  cpu = estimate.RATES['cpu']
  effort = cpu.done * 1000 + cpu.value * 10
  one = packing.Work('gradient', 8, 2, 4)
  assert estimate.work_seconds([one], once, ONE) == pytest.approx(
      8 * 3 * effort / 1e9 / cpu.at('gradient'))
  gpu = estimate.RATES['gpu']
  assert estimate.work_seconds([one, one], once, ONE._replace(
      backend='gpu')) == pytest.approx(2 * (
          8 * 3 * (1000 + gpu.value * 10) / (gpu.share * 1e9)
          + 4 * 3 * 3 * gpu.launch))


# Ten classes, 8 real images each, 2 synthetic ones; no training between.
STILL = dict(segments__number=1, method__steps=1, method__inner=1,
             method__net_steps=0)
BY_HAND = {
    'dc': 10 * (8 * 3 + 2 * 10), 'dsa': 10 * (8 * 3 + 2 * 10),
    'idc': 10 * (8 * 3 + 2 * 10), 'dsac': 10 * (8 * 3 + 2 * 3 + 2 * 10),
    'dm': 10 * (8 + 2 * 2)}


@pytest.mark.parametrize('method', BY_HAND)
def test_a_sweep_by_hand(method):
  assert passes(outline(method, **STILL)) == BY_HAND[method]
  harder = passes(outline(method, sdc__ratio=0.1, **STILL))
  assert harder == BY_HAND[method] + 10 * 2 * 10
  # One backward pass into the images; ten gradients and their derivatives.
  for penalty, each in {'loss': 2, 'influence': 10, 'fisher': 100}.items():
    assert passes(outline(method, sdc__ratio=0.1, sdc__penalty=penalty,
                          **STILL)) == BY_HAND[method] + 10 * 2 * each


def test_training_between_sweeps():
  # Two sweeps of a network of two, one training between them, of 2 passes.
  both = dict(segments__number=1, method__steps=2, method__inner=2)
  still = passes(outline(**both, method__net_steps=0))
  assert passes(outline(**both, method__net_steps=2)) == still + 2 * 20 * 3
  real = dict(both, method__train_on='real', method__net_batch=64)
  assert passes(outline(**real, method__net_steps=2)) == still + 2 * 64 * 3
  warm = dict(both, method__net_steps=0, method__warmup=5,
              method__net_batch=16)
  assert passes(outline(**warm)) == still + 5 * 16 * 3


def test_students_by_hand():
  c = dict(segments__number=1, method__steps=3, method__student_steps=4,
           method__last_epoch=1, experts__epochs=3, experts__number=2)
  assert passes(outline('mtt', **c)) == pytest.approx(3 * 4 * 20 * 10.9)
  assert passes(outline('mtt', **c, method__batch_syn=5)) == pytest.approx(
      3 * 4 * 5 * 10.9)
  assert passes(outline('tesla', **c)) == 3 * 4 * 20 * 10
  assert passes(outline('mtt', **c), phase='experts') == 2 * 3 * 1438 * 3
  assert passes(outline('ftd', **c, experts__rho=0.1), phase='experts') == (
      2 * 2 * 3 * 1438 * 3)
  # Networks that others begin as: of dc's, 2 of 3 epochs, the last one kept.
  first = outline(method__pretrained=2, method__pretrained_epochs=3)
  assert passes(first, phase='experts') == 2 * 3 * 1438 * 3
  once = flops.forward_cost(first.network, first.shape)
  assert estimate.disk_bytes(first, once)['experts'] == 2 * once.parameters * 4
  assert memory(first)['networks'] == 2 * once.parameters * 4
  four = dict(c, method__starts=4)
  one, many = (passes(outline('mtt', **four), x) for x in (ONE, MANY))
  assert one == 4 * many


def test_union_and_limit():
  plain = dict(STILL, segments__number=2, segments__match='new',
               method__steps=2, syn__ipc=4)
  assert passes(outline(**plain)) == 2 * BY_HAND['dc']
  union = dict(plain, segments__match='union')
  assert passes(outline(**union)) == 2 * BY_HAND['dc'] + 10 * 2 * 10
  assert passes(outline(**plain, method__limit=1)) == 2 * 10 * (8 * 3 + 10)
  assert passes(outline(**plain, syn__factor=2)) == 2 * 10 * (8 * 3 + 8 * 10)


def test_probes_and_evaluation_by_hand():
  c = dict(segments__probes=3, segments__probe_epochs=4, eval__recipe='idc',
           segments__window='aligned')
  # Three networks on the first segment's 10 images; all real ones scored,
  # by their loss, and classified.
  assert passes(outline(**c), phase='segments') == 3 * (4 * 10 * 3 + 2 * 1438)
  assert passes(outline(**c, segments__score='gradient_norm'),
                phase='segments') == 3 * (4 * 10 * 3 + 1438 + 1438 * 3)
  assert passes(outline(**c, segments__number=1), phase='segments') == 0
  # By the frontier besides: three networks, two epochs of the real images, and
  # their look at them; with what they forget a look after each epoch.
  front = c | dict(segments__window='frontier', coreset__networks=3,
                   coreset__epochs=2, segments__number=2)
  many = 3 * (4 * 10 * 3 + 2 * 1438) + 3 * 2 * 1438
  assert passes(outline(**front), phase='segments') == many
  assert passes(outline(**front), phase='judges') == 3 * 2 * 1438 * 3
  forgets = outline(**front, segments__order='forgetting')
  assert passes(forgets, phase='segments') == many
  assert passes(forgets, phase='judges') == 3 * 2 * 1438 * (3 + 1)
  # A third segment has probes of its own, and the order of before.
  assert passes(outline(**front | dict(segments__number=3, syn__ipc=3)),
                phase='segments') == many + 3 * (4 * 20 * 3 + 2 * 1438)
  # Two networks for two epochs on 20 images, then all tests, twice.
  assert passes(outline(**c), phase='evaluation') == 2 * 2 * (2 * 20 * 3 + 359)


def test_devices_divide_what_they_divide():
  # Ten classes on four devices: three on the busiest.
  assert passes(outline(**STILL), MANY) == BY_HAND['dc'] * 3 / 10
  trained = dict(segments__number=1, method__steps=2, method__inner=2,
                 method__net_steps=5)
  between = 5 * 20 * 3
  assert passes(outline(**trained), MANY) == 2 * BY_HAND['dc'] * .3 + between
  real = dict(trained, method__train_on='real', method__net_batch=64)
  assert passes(outline(**real), MANY) == 2 * BY_HAND['dc'] * .3 + 5 * 16 * 3
  odd = dict(real, method__net_batch=63)
  assert passes(outline(**odd), MANY) == 2 * BY_HAND['dc'] * .3 + 5 * 63 * 3
  # Networks while they are trained; 359 test images afterwards, twice.
  one, four = (passes(outline(eval__networks=8), machine, 'evaluation')
               for machine in (ONE, MANY))
  assert 4 * four == one + 2 * 8 * (4 * 90 - 359)


def test_accelerators_take_all_classes_at_once():
  gpu = ONE._replace(backend='gpu')
  one, all_ = (max(w.at_once for w in estimate.phase_work(
      outline(**STILL), m)['distillation']) for m in (ONE, gpu))
  assert all_ == 10 * one


@pytest.mark.parametrize('dtype', expert_store.DTYPES)
def test_experts_on_disk(dtype, tmp_path):
  experiment = outline('mtt', experts__number=2, experts__epochs=3,
                       experts__dtype=dtype, method__last_epoch=1)
  once = flops.forward_cost(experiment.network, experiment.shape)
  ravel, _ = experts.flat_parameters(experiment.network)
  row = np.zeros(jax.eval_shape(lambda key: ravel(
      experiment.network.init(key)), jax.random.key(0)).shape)
  buffer = expert_store.claim_store(tmp_path, {}, 2, 3, len(row), dtype)
  for k in range(2):
    writer = expert_store.ExpertWriter(buffer, k)
    for _ in range(3 + 1):
      writer.add(row)
    writer.finish()
  written = sum(path.stat().st_size for path in tmp_path.glob('expert_*.bin'))
  assert estimate.disk_bytes(experiment, once)['experts'] == written


@pytest.mark.parametrize('method, changes, kind', [
    ('dc', {}, 'hard'), ('sre2l', dict(teach=1, relabel=False), 'soft'),
    ('mtt', dict(last_epoch=1), 'hard'),
    ('rded', dict(relabel=False, steps=0), 'hard'),
    ('tesla', dict(last_epoch=1, assign=True), 'soft')])
def test_bytes_of_a_set(method, changes, kind):
  experiment = outline(
      method, **{f'method__{k}': v for k, v in changes.items()})
  labels = np.full((10, 2, 10), 0.1) if kind == 'soft' else np.broadcast_to(
      np.eye(10)[:, None], (10, 2, 10))
  size = synthetic.set_bytes(Synthetic(np.zeros((10, 2, 8, 8, 1)), labels, 0))
  found = estimate.disk_bytes(experiment, flops.forward_cost(experiment.network,
                                                       experiment.shape))
  found.pop('experts', None)
  assert found == {'set': size['images'], 'labels': size['labels']}
  assert found['labels'] == {'hard': 20, 'soft': 2 * 200}[kind]


class Begun(NamedTuple):
  """As much of a `setup.Run` as shapes ask for."""
  experiment: setup.Experiment
  key: jax.Array


@pytest.mark.parametrize('method', ['dc', 'sre2l', 'mtt', 'rded'])
def test_state_is_what_is_checkpointed(method):
  own = {'sre2l': {'method__teach': 1}, 'rded': {'method__steps': 0},
         'mtt': {'method__last_epoch': 1, 'experts__epochs': 3}}
  experiment = outline(method, segments__number=1, **own.get(method, {}))
  state = initialise.progress_shapes(
      Begun(experiment, jax.random.key(0)), experiment.plan[0]).state
  whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  assert memory(experiment)['state'] == 2 * whole


@pytest.mark.long
@pytest.mark.slow
def test_a_tpu_has_small_steps_in_its_vector_memory():
  once = flops.ForwardCost(10 ** 8, 200_000, 100_000, 100, 300_000)
  def of(images, kind='gradient', backend='tpu'):
    return packing.activations(
        packing.Work(kind, 1, images, 1, trees=1), once, backend)
  trees, maps = 4 * once.parameters, 4 * once.maps
  fitting = int(packing.VECTOR_MEMORY / (2 * maps))
  assert of(fitting) == pytest.approx(trees + maps * fitting / 2)
  assert of(fitting + 1) == pytest.approx(trees + 2 * maps * (fitting + 1))
  assert of(fitting, backend='gpu') == pytest.approx(trees + 2 * maps * fitting)
  assert of(10 ** 4, 'second') == pytest.approx(trees + 4.4 * maps * 10 ** 4)


@pytest.mark.parametrize('penalty, kind, times', [
    ('el2n', 'inward', 1), ('batch_norm', 'second', 1),
    ('fisher', 'second', 10)])
def test_a_student_s_penalty_is_counted_by_what_it_reads(penalty, kind, times):
  plain, penalised = (estimate.phase_work(outline(
      'mtt', sdc__ratio=ratio, sdc__penalty=penalty, method__last_epoch=1,
      experts__epochs=3), ONE)['distillation'] for ratio in (0., .1))
  added = [one for one in penalised if one not in plain]
  assert len(penalised) == 2 * len(plain)
  assert {one.kind for one in added} == {kind}
  assert sum(x.images for x in added) == times * sum(x.images for x in plain)


def test_a_norm_s_derivative_keeps_what_it_reads_of_all_images():
  made, plain = (outline('dc', syn__ipc=20, segments__number=1,
                         sdc__ratio=ratio) for ratio in (.1, 0.))
  one, = {*estimate.phase_work(made, ONE)['distillation']} - {
      *estimate.phase_work(plain, ONE)['distillation']}
  # Of twenty images a class, one class at a time; gradients of eight at once.
  assert one.at_once == 20 and one.trees == 4 + 3 * 8
  assert one.calls == made.config.method.steps * math.ceil(10 * 20 / 8)


def test_real_images_of_two_stages_are_not_in_memory_together():
  made = outline('cafe')
  works = estimate.phase_work(made, ONE)['distillation']
  real = made.config.method.batch
  at_once = [x.at_once for x in works if x.kind == 'forward']
  assert at_once.count(real) == 2 * len(made.plan) and 2 * real not in at_once


def test_activations_are_those_of_the_program():
  shape, size = (16, 16, 3), 32
  network = models.build('convnet', shape=shape, classes=10, width=8)
  variables = network.init(jax.random.key(0))
  batch = Batch(jnp.zeros((size, *shape)), jnp.zeros((size, 10)))
  step = jax.jit(jax.grad(train_step.loss_fn(network)))
  real = step.lower(variables, batch).compile().memory_analysis()
  step, once = packing.Work('gradient', size, size, 1), flops.forward_cost(
      network, shape)
  found = packing.activations(step, once)
  weights = step.trees * once.parameters * 4
  assert packing.activations(
      step, once, half=True) == (found + weights) / 2
  assert found / 2 < real.temp_size_in_bytes < 2 * found


def test_memory_of_real_images():
  plain = memory(outline())['data']
  assert plain > 1797 * 64
  more = memory(outline(dataset__zca=0.1))['data'] - plain
  assert more == 4 * (1797 * 64 + 64 ** 2) - 1797 * 64


def test_a_teacher_and_its_crops_by_hand():
  experiment = outline('rded', method__steps=0, coreset__epochs=3,
                       coreset__pool=20, coreset__crops=4)
  trained, looked = workload.segment_start_work(
      experiment, experiment.plan[0], packing.split_of(ONE))
  assert (trained.kind, trained.images) == ('gradient', 3 * 1438)
  assert (looked.kind, looked.images) == ('forward', 10 * 20 * 4)
  # Of a method that has no teacher they are those that choose.
  experiment = outline('dm', syn__init='rded', coreset__networks=2,
                       coreset__epochs=3, segments__window='everything')
  split = packing.split_of(ONE)
  (trained,), (looked,) = workload.judge_work(
      experiment, split), workload.segment_start_work(
          experiment, experiment.plan[0], split)
  assert (trained.kind, trained.images) == ('gradient', 2 * 3 * 1438)
  assert looked.images >= 5 * 1390  # pools of 300 are whole classes


def test_sweeps_of_a_selection_are_none():
  experiment = outline('random', method__steps=0, segments__number=1)
  assert workload.sweep_work(
      experiment, experiment.plan[0], packing.split_of(ONE)) == []


def test_streamed_images_take_their_buffers_alone():
  def saved(method, devices=1, **changes):
    never, always = (memory(outline(
        method, dataset__name='mnist', dataset__stream=stream,
        run__buffer_mb=1, **changes), ONE._replace(devices=devices))['data']
                     for stream in ('never', 'always'))
    return never - always
  kept = 2 * (2 ** 20 // 784)  # images of two calls
  assert saved('dc') == (60_000 - kept) * (784 + 4)
  # Ten thousand test images are too many for a tenth of less memory.
  assert loading.streams_tests(outline(dataset__name='mnist').dataset, 78e6)
  assert not loading.streams_tests(outline(dataset__name='mnist').dataset, 79e6)
  # Three devices with four experts each look at 12 batches at a time.
  assert saved('mtt', 3, experts__at_once=4, experts__batch=250) == (
      60_000 - 2 * 12 * 250) * (784 + 4)


def test_phases_hold_fewer_classes_and_train_a_network_each():
  given = dict(segments__number=1, method__steps=2, method__inner=2,
               method__net_steps=5, method__net_batch=64,
               method__train_on='real')
  whole, parts = outline(**given), outline(**given, syn__phases=3)
  assert passes(whole) == 2 * BY_HAND['dc'] + 5 * 64 * 3
  assert passes(parts) == 2 * BY_HAND['dc'] + 3 * 5 * 64 * 3
  found = [memory(x)['state'] for x in (whole, parts)]
  # Of ten classes four at most: 2 images, their momenta and labels each.
  assert found[0] - found[1] == 2 * 6 * 2 * (64 * 2 + 10) * 4


def test_a_network_costs_the_same_from_any_machine():
  def of():
    return flops.forward_cost(models.build(
        'convnet', shape=(8, 8, 1), classes=3, width=4, depth=2), (8, 8, 1))
  here = of()
  with devices.building_for(devices.Target('tpu', 2 ** 30)):
    assert of() == here


def test_gradients_of_single_images_are_as_many_as_the_machine_takes():
  experiment = outline(segments__number=2, segments__score='gradient_norm')
  at_once = {
      backend: max(one.at_once for one in workload.segment_start_work(
          experiment, experiment.plan[1],
          packing.split_of(ONE._replace(backend=backend)))
                   if one.kind == 'norms') for backend in ('cpu', 'gpu')}
  assert at_once == {'cpu': 8, 'gpu': 64}
