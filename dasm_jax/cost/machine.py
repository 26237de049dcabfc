"""What a machine can do: this one, measured in a second, or one described."""

import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax.cost.chips import CHIPS
from dasm_jax.errors import UserError
from dasm_jax.runtime import devices


class Machine(NamedTuple):
  """`devices` devices that are alike.

  backend: `cpu`, `gpu`, `tpu`. kind: its name, or that in `chips.CHIPS`.
  speed: FLOP/s of a float32 matrix product on one of them.
  memory: bytes of one of them.
  """
  backend: str
  kind: str
  devices: int
  speed: float
  memory: int


def measure_machine(least=0.4):
  """This `Machine`, measured for `least` seconds and a little."""
  backend = jax.default_backend()
  return this_machine(max(
      matmul_speed(n, least) for n in SIDES.get(backend, LARGE)))


def this_machine(speed):
  """This `Machine` at a speed; virtual CPU devices share what there is.

  speed: FLOP/s of a product that all cores work on.
  """
  backend, count = jax.default_backend(), devices.count()
  share = count if backend == 'cpu' else 1
  return Machine(backend, jax.local_devices()[0].device_kind, count,
                 speed / share, devices.memory() // share)


def parse_machine(text):
  """The `Machine` of a text.

  `CHIP` or `CHIP:DEVICES`, of `chips.CHIPS`, such as `h100:8`; or
  `BACKEND:DEVICES:GB:TFLOPS`, memory and speed (of a matrix product) of one
  device, such as `tpu:8:32:275`.

  Raises:
    UserError: a text of another form.
  """
  name, *numbers = text.split(':')
  try:
    if name in CHIPS and len(numbers) < 2:
      chip, count = CHIPS[name], int(numbers[0]) if numbers else 1
      if count < 1:
        raise ValueError
      return Machine(chip.backend, name, count, chip.peak, chip.memory)
    count, gigabytes, speed = int(numbers[0]), *map(float, numbers[1:])
    if name not in BACKENDS or not 0 < min(count, gigabytes, speed) or (
        not math.isfinite(gigabytes * speed)):
      raise ValueError
  except (ValueError, IndexError):
    raise UserError(
        f'--machine={text} is not BACKEND:DEVICES:GB:TFLOPS, memory and speed '
        'of one device, such as tpu:8:32:275 or gpu:1:80:400 (backends: '
        f'{", ".join(BACKENDS)}), nor CHIP:DEVICES, such as h100:8 (chips: '
        f'{", ".join(CHIPS)})') from None
  return Machine(name, text, count, speed * 1e12, int(gigabytes * 1e9))


BACKENDS = 'cpu', 'gpu', 'tpu'

# Sides of the products. The small one is done in a millisecond, within what a
# shared machine gives at a time; a machine of many cores needs the large one.
SIDES = {'cpu': (384, 1024)}
LARGE = (8192,)


def matmul_speed(n, least=0.4):
  """FLOP/s of a float32 matrix product of side n, the best of `least` seconds.

  Accelerators take JAX's default precision, as training does there.
  """
  a = jax.random.normal(jax.random.key(0), (n, n))
  f = jax.jit(jnp.matmul)
  jax.block_until_ready(f(a, a))
  # The best, not the mean: other work on the machine only makes it slower.
  best, end = float('inf'), time.perf_counter() + least
  while time.perf_counter() < end:
    best = min(best, *call_seconds(lambda: f(a, a), 5))
  return 2 * n ** 3 / best


def call_seconds(call, runs):
  """Sorted seconds of `runs` blocked calls."""
  times = []
  for _ in range(runs):
    start = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  return sorted(times)
