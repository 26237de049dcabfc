"""How long a run takes and what memory it needs, from shapes alone.

  seconds = sum over all work of images * passes * effort / (speed * share)
            + launches of an accelerator
  effort  = DONE * FLOPs + VALUE * numbers made, of one image's forward pass

FLOPs are those of products and convolutions, the numbers those that all
operations make; both are counted in the traced network. `workload` lists the
images, the table `RATES` says what a machine makes of them.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import config, synthetic
from dasm_jax.cost import workload
from dasm_jax.distill import setup
from dasm_jax.methods import registry
from dasm_jax.pipeline import loading
from dasm_jax.training import expert_store, packing
from dasm_jax.types import Synthetic


class Rates(NamedTuple):
  """What a backend makes of the speed of its matrix product.

  value: FLOPs of the product in whose time an operation makes one number.
  launch: seconds that a kernel costs besides. shares: of the speed, by kind of
  work; what is not named takes `share`. done: of the FLOPs that a network has
  by definition, how many are.
  """
  value: float
  launch: float
  share: float
  shares: dict
  done: float = 1.0

  def at(self, kind):
    """Share of the product's speed that work of a kind reaches."""
    return self.shares.get(kind, self.share)


RATES = {
    # Fitted to single steps on one core (ConvNets of width 32 and 128, images
    # of 28x28 and 32x32, CPU seconds; tests/benchmarks/cost_steps.py). Of 36
    # products of a 3x3 kernel `models.winograd` does 16.
    'cpu': Rates(36, 0, 1.05, {'forward': 0.85, 'norms': 0.75, 'student': 0.87},
                 done=0.4),
    # Not measured: by what is compiled (tests/benchmarks/aot.py). Of an H100
    # the bytes that IDC's and DM's programs move at its bandwidth, and their
    # kernels, one in eight operations, at 5 microseconds each; half of the
    # product's speed is assumed.
    'gpu': Rates(60, 5e-6 / 8, 0.5, {}),
    # Of a v5e the seconds that its compiler estimates for IDC; forward passes
    # as in DM, most of which is augmentation.
    'tpu': Rates(85, 2e-6 / 8, 1.0, {'forward': 0.3})}


def rates_of(backend):
  """The `Rates` of a backend; of unknown ones, those of a GPU."""
  return RATES.get(backend, RATES['gpu'])


def phase_work(experiment, machine):
  """`{phase: [Work]}` on a `machine.Machine`, in the order of a run.

  A phase that has nothing to do is left out.
  """
  split = packing.split_of(machine)
  found = {'experts': workload.expert_work(experiment, split),
           'judges': workload.judge_work(experiment, split),
           'segments': [], 'distillation': [],
           'evaluation': workload.evaluation_work(experiment, split)}
  for segment in experiment.plan:
    found['segments'] += workload.segment_start_work(experiment, segment, split)
    found['distillation'] += workload.sweep_work(experiment, segment, split)
  return {phase: works for phase, works in found.items() if works}


def work_seconds(works, once, machine):
  """How long a list of `Work` takes, compilation not included.

  once: the `ForwardCost` of the network.
  """
  return sum(_one_work_seconds(one, once, machine) for one in works)


def _one_work_seconds(one, once, machine):
  known, kind = rates_of(machine.backend), packing.PASS_KINDS[one.kind]
  effort = known.done * once.flops + known.value * once.values
  launches = one.calls * kind.passes * once.operations * known.launch
  return launches + one.images * kind.passes * effort / (
      machine.speed * known.at(one.kind))


def device_memory(experiment, works, once, machine):
  """`{what: bytes}` on the busiest device, of all that a list of works needs.

  data: real images, labels, windows. state: of a segment, before and after a
  chunk. frozen: finished images. rows: of experts. networks: that others
  begin as. activations: of the largest step, with its copies of parameters.
  """
  of = _activations(experiment, once, machine.backend)
  found = {'data': data_bytes(experiment, machine.memory, machine.devices),
           'state': _state_bytes(experiment, machine.devices), 'frozen': 0,
           'rows': 0, 'networks': 0, 'activations': max(map(of, works))}
  # The last segment has the most finished ones before it.
  last = experiment.plan[-1]
  found['frozen'] = last.slots.start * _stored_bytes(
      experiment, machine.devices)
  # Of networks that others begin as all are on the device; of experts the rows
  # of one call, where each start has one to begin from and one to reach.
  c, trained = experiment.config, config.expert_settings(experiment.config)
  if trained is not None:
    what, rows = ('networks', trained.number) if 'last' in trained else (
        'rows', 2 * c.run.chunk * c.method.starts)
    found[what] = rows * once.parameters * packing.FLOAT
  if config.begins_as_judges(experiment.config):
    found['networks'] = (experiment.config.coreset.networks * once.parameters
                         * packing.FLOAT)
  return found


def widest(experiment, phases_, once, backend):
  """Which of some `phases` has the step with the most activations."""
  of = _activations(experiment, once, backend)
  return max(phases_, key=lambda phase: max(map(of, phases_[phase])))


def _activations(experiment, once, backend):
  """`Work -> bytes` of a step in an experiment's precision."""
  return functools.partial(
      packing.activations, once=once, backend=backend,
      half=experiment.config.network.dtype != 'float32')


def data_bytes(experiment, memory, devices):
  """Of all real images that lie on a device.

  uint8, or float32 if whitened, and the matrix then; indices of the classes.
  Arguments are those of `images_held`.
  """
  splits, whitened = (
      (experiment.dataset.train, experiment.dataset.test),
      experiment.config.dataset.zca > 0)
  pixels = math.prod(experiment.shape)
  images = sum(images_held(experiment, split, memory, devices)
               for split in ('train', 'test'))
  # Every row of a window is padded to the largest class.
  indices = sum(
      experiment.classes * np.bincount(x.labels, minlength=1).max()
      for x in splits)
  matrix = pixels ** 2 if whitened else 0
  return int(images * pixels * (packing.FLOAT if whitened else 1)
             + packing.FLOAT * (images + 2 * indices + matrix))


def images_held(experiment, split, memory, devices):
  """How many real images lie on a device: all, or those read for two calls.

  Args:
    experiment: an `Experiment`.
    split: `train` or `test`, which is streamed only where it is large.
    memory: bytes of a device; devices: how many.
  """
  dataset = experiment.dataset
  images = len(getattr(dataset, split).labels)
  streamed = loading.streams(experiment.config, dataset, memory) and (
      split == 'train' or loading.streams_tests(dataset, memory))
  return min(images, _read_at_once(experiment, devices)) if streamed else images


def _read_at_once(experiment, devices):
  """Those of one call and of the next, of one sweep at least."""
  buffer = experiment.config.run.buffer_mb * 2 ** 20
  return 2 * max(buffer // math.prod(experiment.shape), _looked_at(experiment),
                 _of_experts(experiment, devices))


def _looked_at(experiment):
  """Real images that a sweep looks at; a warm-up comes in smaller pieces."""
  m = experiment.config.method
  if registry.family_of(m).experts:  # which are trained a batch at a time
    return 0
  trained = m.net_steps * m.net_batch if m.train_on == 'real' else 0
  return experiment.classes * m.batch + trained


def _of_experts(experiment, devices):
  """Real images that experts of one process are trained on at a time."""
  c = config.expert_settings(experiment.config)
  return 0 if c is None else c.batch * min(c.number, c.at_once * devices)


def _filled(experiment):
  """Classes that the largest phase fills."""
  return max(len(experiment.rows(phase))
             for phase in experiment.phases(experiment.plan[0]))


def _stored_bytes(experiment, devices):
  """Bytes of one stored image of each class, and its labels, on a device."""
  classes = -(-_filled(experiment) // devices)
  return classes * (math.prod(experiment.shape)
                    + experiment.classes) * packing.FLOAT


def _state_bytes(experiment, devices):
  """Images with their optimizer and networks with theirs, in and out.

  Of the first segment, which no other is wider than.
  """
  method, classes = (
      setup.build_method(experiment, experiment.plan[0]), _filled(experiment))
  images = jax.ShapeDtypeStruct(
      (classes, experiment.plan[0].width, *experiment.shape), jnp.float32)
  labels = jax.ShapeDtypeStruct(
      (*images.shape[:2], experiment.classes), jnp.float32)
  state = jax.eval_shape(method.init, jax.random.key(0), Synthetic(
      images, labels, jax.ShapeDtypeStruct((), jnp.float32)))

  def size(axis, tree):
    whole = sum(math.prod(x.shape) * x.dtype.itemsize
                for x in jax.tree.leaves(tree))
    return whole if axis is None else whole * -(-classes // devices) // classes
  return 2 * sum(jax.tree.leaves(jax.tree.map(
      size, method.axes, state, is_leaf=lambda x: x is None)))


def disk_bytes(experiment, once):
  """`{'experts': bytes, 'set': bytes, 'labels': bytes}`.

  Those of the set as `synthetic.storage_bytes` counts them.
  """
  c, found, trained = (
      experiment.config, {}, config.expert_settings(experiment.config))
  if trained is not None:
    found['experts'] = trained.number * expert_store.ExpertStore(
        None, trained.number, trained.epochs, once.parameters, trained.dtype,
        'last' in trained).bytes
  soft = (registry.family_of(c.method) is registry.SRE2L
          or c.syn.labels != 'hard'
          or c.method.get('lr_label', 0) > 0 or c.method.get('assign', False))
  kind, told = 'soft' if soft else 'hard', ()
  if c.method.get('relabel'):
    kind, told = 'told', (
        experiment.recipe.epochs + experiment.recipe.extra,
        experiment.classes * setup.decoded_count(
            experiment, c.syn.ipc, training=True),
        experiment.classes)
  size = synthetic.storage_bytes(
      (experiment.classes, c.syn.ipc, *experiment.shape), kind, told)
  return found | {'set': size['images'], 'labels': size['labels']}
