"""What this machine can do, measured in a second."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import parallel


class Machine(NamedTuple):
  """`devices` devices that are alike.

  backend: `cpu`, `gpu`, `tpu`. kind: its name.
  speed: FLOP/s of a float32 matrix product on one of them.
  memory: bytes of one of them.
  """
  backend: str
  kind: str
  devices: int
  speed: float
  memory: int


def measure():
  """This `Machine`; virtual CPU devices share what there is."""
  backend, device = jax.default_backend(), jax.local_devices()[0]
  devices = parallel.count()
  share = devices if backend == 'cpu' else 1
  speed = max(product(n) for n in SIDES.get(backend, LARGE))
  return Machine(backend, device.device_kind, devices, speed / share,
                 parallel.memory() // share)


# Sides of the products. The small one is done in a millisecond, within what a
# shared machine gives at a time; a machine of many cores needs the large one.
SIDES = {'cpu': (384, 1024)}
LARGE = (8192,)


def product(n, least=0.4):
  """FLOP/s of a float32 matrix product of side n, the best of `least` seconds.

  Accelerators take JAX's default precision, as training does there.
  """
  a = jax.random.normal(jax.random.key(0), (n, n))
  f = jax.jit(jnp.matmul)
  jax.block_until_ready(f(a, a))
  best, end = float('inf'), time.perf_counter() + least
  while time.perf_counter() < end:
    best = min(best, *seconds(lambda: f(a, a), 5))
  return 2 * n ** 3 / best


def seconds(call, runs):
  """Sorted seconds of `runs` blocked calls."""
  times = []
  for _ in range(runs):
    start = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  return sorted(times)
