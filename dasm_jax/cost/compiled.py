"""What a compiler makes of a job for a chip that is not here.

`--dry_run --machine=h100 --compile` compiles its largest sweep and an epoch of
its evaluation ahead of time and counts in what comes out: memory as it will be,
and the time that follows. Minutes, where the count by shapes takes a second.
"""

import math
import time
from typing import NamedTuple

import jax

from dasm_jax.cost import chips, estimate, hlo_counts, programs, workload
from dasm_jax.distill import setup
from dasm_jax.errors import UserError
from dasm_jax.runtime import devices, text
from dasm_jax.training import packing

# Without a GPU to tune on, Triton finds no tiling for the thin products of
# `decode`.
OPTIONS = {'gpu': {'xla_gpu_enable_triton_gemm': False,
                   'xla_gpu_autotune_level': 0}}
# Of a GPU's peak that convolutions reach: assumed, not measured.
SHARE = 0.5


# What a call of the program of a phase is.
CALLS = {'distillation': 'a sweep', 'evaluation': 'an epoch of the evaluation'}


class Compiled(NamedTuple):
  """An inner program for a `chips.Chip`.

  counts: a `hlo_counts.Counts`. useful: FLOPs that the maths needs.
  outside: bytes of arguments and results, temporary: of what is between, of one
  device. compile_seconds: that it took. text: of the optimised program.
  """
  counts: hlo_counts.Counts
  useful: float
  outside: int
  temporary: int
  compile_seconds: float
  text: str

  @property
  def device_bytes(self):
    """Bytes of a device while it runs."""
    return self.outside + self.temporary

  def seconds(self, chip):
    """How long a call takes.

    Of a TPU by its compiler's estimate. Of a GPU the longer one of arithmetic,
    at `SHARE` of the peak, and traffic, all that is written being read once;
    and the launches of its kernels.
    """
    if chip.clock:
      return self.counts.cycles / chip.clock
    counts = self.counts
    return counts.kernels * chip.launch + max(
        counts.flops / (SHARE * chip.peak), 2 * counts.written / chip.bandwidth)


def compile_for(make, chip, count):
  """What a compiler makes of a program.

  Args:
    make: `() -> programs.Program`; called where what is traced is for the chip.
    chip: a `chips.Chip`; count: how many share the program.

  Returns:
    A `Compiled`.

  Raises:
    UserError: its compiler is not here.
  """
  where = chip.devices(count)[:count]
  with devices.building_for(
      devices.Target(chip.backend, chip.memory, count)):
    function, arguments = devices.described(*make(), where)
    useful = hlo_counts.useful_flops(function, *arguments)
    began = time.perf_counter()
    found = jax.jit(function).trace(*arguments).lower().compile(
        OPTIONS.get(chip.backend))
    took = time.perf_counter() - began
  written, memory = found.as_text(), found.memory_analysis()
  return Compiled(
      hlo_counts.count(written), useful,
      memory.argument_size_in_bytes + memory.output_size_in_bytes,
      memory.temp_size_in_bytes, took, written)


# ---- Of a whole job


class Job(NamedTuple):
  """What a compiler says of a job, by phase: distillation, evaluation.

  programs: `{phase: Compiled}`. memory: `{phase: bytes}` of a device, with
  what lies beside the program. seconds: `{phase: seconds}`.
  """
  programs: dict
  memory: dict
  seconds: dict


def check(machine_):
  """Refuses a machine that no compiler here knows.

  Raises:
    UserError: with those that one does, or how to have it.
  """
  if machine_.kind not in chips.CHIPS:
    raise UserError(
        f'--compile: no compiler is known for --machine={machine_.kind}; '
        f'choose from {", ".join(chips.CHIPS)}, such as --machine=h100 or '
        'v5e:8')
  chips.CHIPS[machine_.kind].devices(machine_.devices)


def job(experiment, machine_, once, by_count):
  """Compiles the inner programs of an experiment.

  Args:
    experiment: an `Experiment`, of `dry_run.outline`.
    machine_: a `machine.Machine` that `check` let pass.
    once: the `ForwardCost` of its network.
    by_count: `{phase: seconds}` by shapes alone.

  Returns:
    A `Job`.
  """
  chip = chips.CHIPS[machine_.kind]
  made, split = Job({}, {}, {}), packing.split_of(machine_)

  def add(phase, make, works, calls=1):
    """works: what so many calls of the program are by count."""
    found = compile_for(make, chip, machine_.devices)
    # What else the phase does takes as much more or less as this does.
    ratio = calls * found.seconds(chip) / estimate.work_seconds(
        works, once, machine_)
    made.programs[phase] = found
    made.seconds[phase] = ratio * by_count[phase]
    made.memory[phase] = found.device_bytes + beside(
        experiment, phase, machine_)

  moved = [(segment, phase) for segment in experiment.plan
           for phase in experiment.phases(segment)
           if setup.segment_steps(experiment, segment)]
  if 'distillation' in by_count and moved:
    # Of several the largest: every other one fits where it does.
    segment, phase = max(
        moved, key=lambda x: len(experiment.rows(x[1])) * x[1].width)
    add('distillation',
        lambda: programs.sweep(experiment, phase),
        workload.sweep_work(experiment, segment, split),
        setup.segment_steps(experiment, segment)
        * len(experiment.phases(segment)))
  networks = experiment.config.eval.networks
  if networks:
    images = experiment.classes * setup.decoded_count(
        experiment, experiment.config.syn.ipc, training=True)
    add('evaluation', lambda: programs.epoch(experiment, images, networks),
        [workload.training_work(experiment, networks, 1, images,
                                experiment.recipe.batch, split)])
  return made


def beside(experiment, phase, machine_):
  """Bytes on a device that the program of a phase is not given.

  No sweep is given test images, and neither a student nor an epoch of the
  evaluation any real ones.
  """
  if phase == 'evaluation' or 'starts' in experiment.config.method:
    return estimate.data_bytes(
        experiment, machine_.memory, machine_.devices)
  pixels = math.prod(experiment.shape) + 3 * packing.FLOAT
  return pixels * estimate.images_held(
      experiment, 'test', machine_.memory, machine_.devices)


def lines(found, chip):
  """What is said of a `Job`, a line a phase."""
  for phase, program in found.programs.items():
    counts = program.counts
    yield (f'compiled  {CALLS[phase]} is {int(counts.kernels)} kernels, '
           f'{text.count(counts.flops)} FLOP '
           f'({counts.flops / program.useful:.2f} of what it needs), '
           f'{text.size(counts.written)} written, '
           f'{1e3 * program.seconds(chip):.3g} ms; '
           f'{text.size(found.memory[phase])} a device')
