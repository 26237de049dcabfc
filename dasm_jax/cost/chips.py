"""Chips that are described, not here: what `--machine=h100:8` names.

Their compilers run anywhere (the wheels of the extra `aot`); see `compiled`.
Nothing here takes or looks for a device.
"""

import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.experimental import topologies

from dasm_jax.errors import UserError

# What XLA asks of a GPU before it compiles for it.
_H100 = '''
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
# Of a TPU's chips as they lie together: fewer than four no compiler knows.
_SLICES = {1: '2x2', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8',
           128: '8x16', 256: '16x16'}


# Else its library asks the network what it runs on, and complains of what it
# finds; and nobody takes a chip here, so that several may compile at once.
_NO_TPU = {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
           'TPU_ACCELERATOR_TYPE': 'v5litepod-4', 'TPU_WORKER_ID': '0',
           'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_STDERR_LOG_LEVEL': '3',
           'TPU_MIN_LOG_LEVEL': '3'}


class Chip(NamedTuple):
  """One device, as its maker describes it.

  backend: `gpu` or `tpu`. memory: bytes. peak: FLOP/s of products as this
  program runs them by default (TF32 on an H100, bfloat16 on a TPU). bandwidth:
  bytes/s. clock: of a TPU's estimated cycles, or None. launch: seconds that a
  kernel costs besides. devices: `count -> list`, described.
  """
  backend: str
  memory: int
  peak: float
  bandwidth: float
  clock: float | None
  launch: float
  devices: Callable[[int], list]


def _gpus(count):
  spec = importlib.util.find_spec('jax_plugins.xla_cuda12') if (
      importlib.util.find_spec('jax_plugins')) else None
  if spec is None:
    raise _missing('jax_plugins.xla_cuda12')
  # JAX looks for plug-ins by itself, and leaves this one where it finds no
  # driver.
  jax.devices('cpu')
  from jax._src import xla_bridge
  if 'cuda' not in xla_bridge._backend_factories:
    xla_bridge.register_plugin('cuda', library_path=str(
        pathlib.Path(spec.submodule_search_locations[0])
        / 'xla_cuda_plugin.so'))
  return topologies.get_topology_desc(
      '', platform='cuda', target_config=_H100,
      topology=f'1x1x{count}').devices


def _tpus(count):
  if importlib.util.find_spec('libtpu') is None:
    raise _missing('libtpu')
  if count not in _SLICES:
    raise UserError(f'--machine=v5e:{count}: compilers know slices of '
                    f'{", ".join(map(str, _SLICES))} chips')
  for name, value in _NO_TPU.items():
    os.environ.setdefault(name, value)
  # It ends the process at a flag of another backend; JAX has read them.
  jax.devices('cpu')
  os.environ.pop('XLA_FLAGS', None)
  return topologies.get_topology_desc(
      f'v5e:{_SLICES[count]}', 'tpu').devices


def _missing(module):
  return UserError(f"no compiler for this chip here ({module}); pip install "
                   "'dasm-jax[aot]'")


CHIPS = {
    'h100': Chip('gpu', 80 * 2 ** 30, 494.7e12, 3.35e12, None, 5e-6, _gpus),
    'v5e': Chip('tpu', 16 * 2 ** 30, 197e12, 819e9, 1.5e9, 0, _tpus)}
