r"""What compilers make of our programs for chips that are not here.

  python tests/benchmarks/aot.py [--target=h100|v5e|v5e:2x4] [--only=NAME,…]
                                 [--json]

Compiles the inner programs at published shapes ahead of time, for a described
chip, and counts in what comes out: kernels (and how many of them in loops),
loops and branches that the host decides, FLOPs of convolutions and products as
they are run and as the maths needs them, bytes written, temporaries, and for a
TPU the time that its compiler estimates. Beside it the least time that any
program could take: by arithmetic (useful FLOPs at the chip's peak) and by
traffic (its arguments and results at the bandwidth). Of a sweep also what a
device is said to need by `--dry_run`, beside what the compiler gives it. On
several chips (v5e:2x4) classes, samples and networks are split as in a run, and
all numbers are those of one chip. Nothing here is a time on a chip.

Needs the wheels of the extra `aot` and no chip: pip install 'dasm-jax[aot]'.
--forms=xla compiles with XLA's own derivatives of convolutions instead of ours.
--text=DIR keeps the optimised programs.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import math
import os
import pathlib
import sys
import time
from typing import NamedTuple

# Before JAX: no chip is looked for. Without one to tune on, Triton finds no
# tiling for the thin products of `decode`.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['TPU_SKIP_MDS_QUERY'] = '1'
# Nobody takes a chip here: several may compile at once.
os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''), '--xla_gpu_enable_triton_gemm=false',
    '--xla_gpu_autotune_level=0'])

import hlo_counts  # noqa: E402  (after the environment is set)
import inner  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from dasm_jax import difficulty  # noqa: E402
from dasm_jax.config import files  # noqa: E402
from dasm_jax.cost import dry_run, estimate, machine  # noqa: E402
from dasm_jax.distill import setup  # noqa: E402
from dasm_jax.methods import trajectory  # noqa: E402
from dasm_jax.models import fast_conv, flops  # noqa: E402
from dasm_jax.pipeline import source as sources  # noqa: E402
from dasm_jax.runtime import devices  # noqa: E402
from dasm_jax.training import packing, train_step  # noqa: E402
from dasm_jax.types import Batch, Synthetic, Window  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]

# ---- Chips

# What XLA asks of a GPU before it compiles for it.
H100 = '''
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 12 minor: 9 }
dnn_version_info { major: 9 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
'''


class Chip(NamedTuple):
  """What programs are compiled for.

  target: a `devices.Target`. peak: FLOP/s of products as this program runs them
  by default (TF32 on an H100, bfloat16 on a TPU). bandwidth: bytes/s. clock: of
  a TPU's estimated cycles, or None. devices: `() -> list`, described.
  """
  target: devices.Target
  peak: float
  bandwidth: float
  clock: float | None
  devices: object


def _gpu(description):
  spec = importlib.util.find_spec('jax_plugins.xla_cuda12')
  if spec is None:
    sys.exit("error: no jax_plugins.xla_cuda12 here; pip install "
             "'dasm-jax[aot]'")
  library = (pathlib.Path(spec.submodule_search_locations[0])
             / 'xla_cuda_plugin.so')
  # JAX looks for plug-ins by itself, and leaves this one where it finds no
  # driver.
  jax.devices()
  from jax._src import xla_bridge
  if 'cuda' not in xla_bridge._backend_factories:
    xla_bridge.register_plugin('cuda', library_path=str(library))
  return topologies.get_topology_desc(
      '', platform='cuda', target_config=description,
      topology='1x1x1').devices


def _tpu(shape):
  if importlib.util.find_spec('libtpu') is None:
    sys.exit("error: no libtpu here; pip install 'dasm-jax[aot]'")
  return topologies.get_topology_desc(shape, 'tpu').devices


CHIPS = {
    'h100': Chip(devices.Target('gpu', 80 * 2 ** 30, 1), 494.7e12, 3.35e12,
                 None, lambda: _gpu(H100)),
    # Of four that lie together, as this compiler knows no fewer, one is used.
    'v5e': Chip(devices.Target('tpu', 16 * 2 ** 30, 1), 197e12, 819e9, 1.5e9,
                lambda: _tpu('v5e:2x2')),
    'v5e:2x4': Chip(devices.Target('tpu', 16 * 2 ** 30, 8), 197e12, 819e9,
                    1.5e9, lambda: _tpu('v5e:2x4'))}


# ---- Programs


class Program(NamedTuple):
  """An inner program at its published shapes.

  function: what is compiled. arguments: of shapes alone. axes: a prefix of
  them, 0 what devices share out, None what each has; None: of one device.
  results: the same of what it returns. experiment: of a sweep, else None.
  """
  function: object
  arguments: tuple
  axes: tuple | None = None
  results: object = 0
  experiment: object = None


def _shape(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def _key():
  return jax.eval_shape(lambda: jax.random.key(0))


def experiment_of(given, **entries):
  """The `Experiment` of a published job, of one segment."""
  c = files.load(str(ROOT / 'configs' / given))
  c.segments.number = 1
  c.update_from_flattened_dict(entries)
  return dry_run.outline(c)


def sweep(given, **entries):
  """One sweep of a method, a `Program`."""
  experiment = experiment_of(given, **entries)
  (segment,) = experiment.plan
  phase = experiment.phases(segment)[0]
  many = devices.count() > 1
  method = setup.build_method(experiment, phase, devices.AXIS if many else None)
  k, all_classes = len(experiment.rows(phase)), experiment.classes
  image = experiment.shape
  # Classes that are shared out fill each device; of trajectories none are.
  rows = devices.padded(k) if jax.tree.leaves(method.axes) else k
  syn = Synthetic(_shape(rows, phase.width, *image),
                  _shape(rows, phase.width, all_classes), _shape())
  k = devices.padded(k)
  state = jax.eval_shape(method.init, _key(), syn)
  n = len(experiment.dataset.train.labels)
  def window(classes):
    return Window(_shape(classes, -(-n // all_classes), dtype=jnp.int32),
                  _shape(classes, dtype=jnp.int32))
  data = _pairs(experiment) if 'starts' in experiment.config.method else (
      sources.Source(
          _shape(n, math.prod(image), dtype=jnp.uint8),
          _shape(n, dtype=jnp.int32), window(all_classes), _shape(image[-1]),
          _shape(image[-1]), like=_shape(*image, dtype=jnp.uint8)))
  windows = sources.ClassWindows(
      _shape(k, dtype=jnp.int32), _shape(k), window(k), window(k),
      Batch(_shape(k, 0, *image), _shape(k, 0, all_classes)))

  if many:
    # What is shared out is told of the state as it is.
    return Program(
        functools.partial(devices.sweep, method),
        (state, data, windows, _key()), (method.axes, None, 0, None),
        (method.axes, None), experiment)
  pack, run = inner.sweep(method, state)
  return Program(run, (jax.eval_shape(pack, state), data, windows, _key()),
                 experiment=experiment)


def _pairs(experiment):
  weights = jax.eval_shape(experiment.network.init, jax.random.key(0)).params
  size = sum(x.size for x in jax.tree.leaves(weights))
  rows = _shape(experiment.config.method.starts, size)
  return trajectory.Pairs(rows, rows, _shape(dtype=jnp.int32))


def network_training():
  """An epoch of a network on 10,000 real images, as experts are trained."""
  experiment = experiment_of('cifar10.py:method=dsa,ipc=10')
  batch = Batch(_shape(10_000, *experiment.shape), _shape(10_000, 10))
  return _epoch(experiment, batch, None)


def evaluation():
  """An epoch of five networks at once on IDC's set of ten images a class."""
  experiment = experiment_of('cifar10.py:method=idc,ipc=10')
  count = 10 * setup.decoded_count(experiment, 10, training=True)
  batch = Batch(_shape(count, *experiment.shape), _shape(count, 10))
  return _epoch(experiment, batch, 5)


def _epoch(experiment, batch, networks):
  run, start = inner.epoch(experiment, networks)
  if networks is None:
    return Program(run, (_key(), batch, jax.eval_shape(start, _key())))
  networks = devices.padded(networks)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), networks))
  return Program(run, (keys, batch, jax.eval_shape(start, keys)), (0, None, 0))


def difficulty_scores():
  """Gradient norms of 256 images, one by one."""
  experiment = experiment_of('cifar10.py:method=idc,ipc=10')
  variables = jax.eval_shape(experiment.network.init, jax.random.key(0))
  n = devices.padded(256)
  return Program(functools.partial(
      difficulty.gradient_norms, train_step.loss_fn(experiment.network)), (
          variables, Batch(_shape(n, *experiment.shape), _shape(n, 10))),
                 (None, 0))


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


def compiled(name, chip, form='ours'):
  """`(compiled, useful FLOPs, seconds, bytes said)` of one of `PROGRAMS`."""
  with devices.building_for(chip.target), forms(form):
    program = PROGRAMS[name]()
    function, placed = placed_on(program, chip)
    useful = hlo_counts.useful_flops(function, *placed)
    began = time.perf_counter()
    found = jax.jit(function).trace(*placed).lower().compile()
    took = time.perf_counter() - began
    return found, useful, took, predicted(program.experiment, chip)


def placed_on(program, chip):
  """A program's function and arguments on the devices of a chip."""
  where = chip.devices()[:chip.target.devices]
  if len(where) == 1:
    specs = jax.tree.map(lambda _: None, program.arguments)
    one = jax.sharding.SingleDeviceSharding(where[0])
    return program.function, _placed(program.arguments, specs, lambda _: one)
  # As pmap does it, which takes no devices that are not there.
  mesh = Mesh(np.array(where), (devices.AXIS,))
  def specs(axes):
    return jax.tree.map(
        lambda axis: PartitionSpec() if axis is None else PartitionSpec(
            devices.AXIS), axes, is_leaf=lambda x: x is None)
  function = jax.shard_map(
      program.function, mesh=mesh, in_specs=specs(program.axes),
      out_specs=specs(program.results), check_vma=False)
  return function, _placed(
      program.arguments, specs(program.axes),
      lambda spec: NamedSharding(mesh, spec or PartitionSpec()))


def _placed(arguments, specs, sharding):
  """Shapes with the sharding that a prefix of specs gives them."""
  def place(spec, tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding(spec)), tree)
  return jax.tree.map(
      place, specs, arguments, is_leaf=lambda x: x is None or isinstance(
          x, PartitionSpec))


def predicted(experiment, chip):
  """Bytes of a device that a sweep takes, as `--dry_run` has it, or None."""
  if experiment is None:
    return None
  kind, memory, count = chip.target
  machine_ = machine.Machine(kind, kind, count, chip.peak, memory)
  works = estimate.phase_work(experiment, machine_)['distillation']
  once = flops.forward_cost(experiment.network, experiment.shape)
  found = estimate.device_memory(experiment, works, once, machine_)
  # No sweep is given test images, and no student real ones: they lie beside.
  test = len(experiment.dataset.test.labels) * (
      math.prod(experiment.shape) + 3 * packing.FLOAT)
  beside = found['data'] if 'starts' in experiment.config.method else test
  return sum(found.values()) - beside


def row(name, target, form='ours', folder=None):
  """What is printed of one of `PROGRAMS`, a dict."""
  chip = CHIPS[target]
  program, useful, seconds, said = compiled(name, chip, form)
  text, memory = program.as_text(), program.memory_analysis()
  if folder:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.{target}.{form}.hlo').write_text(text)
  counts = hlo_counts.count(text)
  outside = memory.argument_size_in_bytes + memory.output_size_in_bytes
  run = counts.convolution_flops + counts.product_flops
  return {
      'program': name, 'target': target, 'forms': form,
      'convolution_flops': run, 'useful_flops': useful,
      'ratio': run / useful, 'kernels': int(counts.kernels),
      'in_loops': int(counts.in_loops),
      'conditionals': int(counts.conditionals),
      'collectives': int(counts.collectives), 'bytes': int(counts.written),
      'temporary_bytes': memory.temp_size_in_bytes,
      'device_bytes': outside + memory.temp_size_in_bytes,
      'predicted_bytes': said,
      'seconds': counts.cycles / chip.clock if chip.clock else None,
      'arithmetic_seconds': useful / chip.peak,
      'traffic_seconds': outside / chip.bandwidth,
      'compile_seconds': seconds}


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
          f'{"" if took is None else format(1e3 * took, ".2f"):>8}'
          f'{best:9.3f}{found["compile_seconds"]:8.0f}s')


def main():
  """Prints the table, or one JSON object a line."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--target', default='h100', choices=sorted(CHIPS))
  parser.add_argument('--only')
  parser.add_argument('--forms', default='ours', choices=('ours', 'xla'))
  parser.add_argument('--text', type=pathlib.Path)
  parser.add_argument('--json', action='store_true')
  given = parser.parse_args()
  alone = CHIPS[given.target].target.devices == 1
  known = [name for name in PROGRAMS if alone or name not in ALONE]
  names = given.only.split(',') if given.only else known
  unknown = set(names) - set(known)
  if unknown:
    sys.exit(f'error: unknown program {", ".join(sorted(unknown))}; choose '
             f'from {", ".join(known)}')
  if not given.json:
    print(f'{given.target}, jax {jax.__version__}, not run on any chip\n{HEAD}')
  for name in names:
    found = row(name, given.target, given.forms, given.text)
    print(json.dumps(found) if given.json else line(found), flush=True)


if __name__ == '__main__':
  main()
