r"""What compilers make of our programs for chips that are not here.

  python tests/benchmarks/aot.py [--target=h100|v5e|v5e:2x4] [--only=NAME,…]
                                 [--json]

Compiles the inner programs at published shapes ahead of time, for a described
chip, and counts in what comes out: kernels (and how many of them in loops),
loops and branches that the host decides, FLOPs of convolutions and products as
they are run and as the maths needs them, bytes written, temporaries, and the
time: of a TPU as its compiler estimates it, of a GPU by these counts. Beside it
the least time that any program could take: by arithmetic (useful FLOPs at the
chip's peak) and by traffic (its arguments and results at the bandwidth). Of a
sweep also what a device is said to need by `--dry_run`, beside what the
compiler gives it. On several chips (v5e:2x4) classes, samples and networks are
split as in a run, and all numbers are those of one chip. Nothing here is a time
on a chip. Of a job of one's own `--dry_run --machine=h100 --compile` says it.

Needs the wheels of the extra `aot` and no chip: pip install 'dasm-jax[aot]'.
--forms=xla compiles with XLA's own derivatives of convolutions instead of ours.
--text=DIR keeps the optimised programs.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import sys
from typing import NamedTuple

# Before JAX: no chip is looked for.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'

import jax  # noqa: E402  (after the environment is set)

from dasm_jax import difficulty  # noqa: E402
from dasm_jax.config import files  # noqa: E402
from dasm_jax.cost import (  # noqa: E402
    chips,
    compiled,
    dry_run,
    estimate,
    machine,
    programs,
)
from dasm_jax.distill import setup  # noqa: E402
from dasm_jax.errors import UserError  # noqa: E402
from dasm_jax.models import fast_conv, flops  # noqa: E402
from dasm_jax.runtime import devices  # noqa: E402
from dasm_jax.training import train_step  # noqa: E402
from dasm_jax.types import Batch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Target(NamedTuple):
  """What programs are compiled for: `count` of a `chips.CHIPS`."""
  chip: str
  count: int

  @property
  def machine(self):
    """As `--dry_run --machine` has it."""
    return machine.parse_machine(f'{self.chip}:{self.count}')


TARGETS = {'h100': Target('h100', 1), 'v5e': Target('v5e', 1),
           'v5e:2x4': Target('v5e', 8)}


# ---- Programs


def experiment_of(given, **entries):
  """The `Experiment` of a published job, of one segment."""
  c = files.load(str(ROOT / 'configs' / given))
  c.segments.number = 1
  c.update_from_flattened_dict(entries)
  return dry_run.outline(c)


def sweep(given, **entries):
  """`(Program, Experiment)` of one sweep of a method."""
  experiment = experiment_of(given, **entries)
  (segment,) = experiment.plan
  return programs.sweep(
      experiment, experiment.phases(segment)[0]), experiment


def network_training():
  """An epoch of a network on 10,000 real images, as experts are trained."""
  experiment = experiment_of('cifar10.py:method=dsa,ipc=10')
  return programs.epoch(experiment, 10_000, None), None


def evaluation():
  """An epoch of five networks at once on IDC's set of ten images a class."""
  experiment = experiment_of('cifar10.py:method=idc,ipc=10')
  count = 10 * setup.decoded_count(experiment, 10, training=True)
  return programs.epoch(experiment, count, 5), None


def difficulty_scores():
  """Gradient norms of 256 images, one by one."""
  experiment = experiment_of('cifar10.py:method=idc,ipc=10')
  variables = jax.eval_shape(experiment.network.init, jax.random.key(0))
  n, shape = devices.padded(256), programs.shape
  return programs.Program(functools.partial(
      difficulty.gradient_norms, train_step.loss_fn(experiment.network)), (
          variables, Batch(shape(n, *experiment.shape), shape(n, 10))),
                          (None, 0)), None


PROGRAMS = {
    'idc_sweep': lambda: sweep('cifar10.py:method=idc,ipc=10'),
    'idc_matching': lambda: sweep('cifar10.py:method=idc,ipc=10',
                                  **{'method.net_steps': 0}),
    'dc_matching': lambda: sweep('cifar10.py:method=dc,ipc=10',
                                 **{'method.net_steps': 0}),
    'dsa_matching': lambda: sweep('cifar10.py:method=dsa,ipc=10',
                                  **{'method.net_steps': 0}),
    'dm_sweep': lambda: sweep('cifar10.py:method=dm,ipc=10'),
    'cafe_sweep': lambda: sweep('cifar10.py:method=cafe,ipc=10'),
    'mtt_step': lambda: sweep('cifar10.py:method=mtt,ipc=10'),
    'tesla_step': lambda: sweep('cifar10.py:method=tesla,ipc=10'),
    'network_training': network_training,
    'evaluation': evaluation,
    'difficulty_scores': difficulty_scores,
    'imagenet_sweep': lambda: sweep('imagenet.py:ipc=10',
                                    **{'method.warmup': 0})}
ALONE = 'network_training',  # of one network, on one device


# ---- Rows


@contextlib.contextmanager
def forms(name):
  """Within, convolutions have our derivatives (`ours`) or XLA's (`xla`)."""
  ours = fast_conv._convolution
  if name == 'xla':
    fast_conv._convolution = lambda images, kernel, padding, unfold: (
        fast_conv._lax(images, kernel, padding))
  try:
    yield
  finally:
    fast_conv._convolution = ours


def predicted(experiment, machine_):
  """Bytes of a device that a sweep takes, as `--dry_run` counts it, or None."""
  if experiment is None:
    return None
  works = estimate.phase_work(experiment, machine_)['distillation']
  once = flops.forward_cost(experiment.network, experiment.shape)
  found = estimate.device_memory(experiment, works, once, machine_)
  return sum(found.values()) - compiled.beside(
      experiment, 'distillation', machine_)


def row(name, target, form='ours', folder=None):
  """What is printed of one of `PROGRAMS`, a dict."""
  chip, machine_ = chips.CHIPS[TARGETS[target].chip], TARGETS[target].machine
  made = []

  def make():
    program, experiment = PROGRAMS[name]()
    made.append(experiment)
    return program
  with forms(form):
    found = compiled.compile_for(make, chip, machine_.devices)
  if folder:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.{target}.{form}.hlo').write_text(found.text)
  counts = found.counts
  return {
      'program': name, 'target': target, 'forms': form,
      'convolution_flops': counts.flops, 'useful_flops': found.useful,
      'ratio': counts.flops / found.useful, 'kernels': int(counts.kernels),
      'in_loops': int(counts.in_loops),
      'conditionals': int(counts.conditionals),
      'collectives': int(counts.collectives), 'bytes': int(counts.written),
      'temporary_bytes': found.temporary,
      'device_bytes': found.device_bytes,
      'predicted_bytes': predicted(made[0], machine_),
      'seconds': found.seconds(chip),
      'arithmetic_seconds': found.useful / chip.peak,
      'traffic_seconds': found.outside / chip.bandwidth,
      'compile_seconds': found.compile_seconds}


HEAD = (f'{"program":18}{"GFLOP run":>11}{"useful":>9}{"ratio":>7}'
        f'{"kernels":>9}{"in loops":>10}{"host":>6}{"exchanged":>11}{"GB":>7}'
        f'{"temp MB":>9}{"all MB":>8}{"said MB":>9}{"ms":>8}{"at best":>9}'
        f'{"compile":>9}')


def line(found):
  """A row as a line below `HEAD`."""
  best = 1e3 * max(found['arithmetic_seconds'], found['traffic_seconds'])
  took, said = found['seconds'], found['predicted_bytes']
  return (f'{found["program"]:18}{found["convolution_flops"] / 1e9:11.1f}'
          f'{found["useful_flops"] / 1e9:9.1f}{found["ratio"]:7.2f}'
          f'{found["kernels"]:9}{found["in_loops"]:10}'
          f'{found["conditionals"]:6}{found["collectives"]:11}'
          f'{found["bytes"] / 1e9:7.2f}{found["temporary_bytes"] / 1e6:9.0f}'
          f'{found["device_bytes"] / 1e6:8.0f}'
          f'{"" if said is None else format(said / 1e6, ".0f"):>9}'
          f'{1e3 * took:8.2f}'
          f'{best:9.3f}{found["compile_seconds"]:8.0f}s')


def main():
  """Prints the table, or one JSON object a line."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--target', default='h100', choices=sorted(TARGETS))
  parser.add_argument('--only')
  parser.add_argument('--forms', default='ours', choices=('ours', 'xla'))
  parser.add_argument('--text', type=pathlib.Path)
  parser.add_argument('--json', action='store_true')
  given = parser.parse_args()
  alone = TARGETS[given.target].count == 1
  known = [name for name in PROGRAMS if alone or name not in ALONE]
  names = given.only.split(',') if given.only else known
  unknown = set(names) - set(known)
  if unknown:
    sys.exit(f'error: unknown program {", ".join(sorted(unknown))}; choose '
             f'from {", ".join(known)}')
  if not given.json:
    print(f'{given.target}, jax {jax.__version__}, not run on any chip\n{HEAD}')
  for name in names:
    try:
      found = row(name, given.target, given.forms, given.text)
    except UserError as error:
      sys.exit(f'error: {error}')
    print(json.dumps(found) if given.json else line(found), flush=True)


if __name__ == '__main__':
  main()
