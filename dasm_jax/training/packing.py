"""How much a device takes at once: memory and passes by kind of work.

A GPU waits where it has little to do at a time, and fails where it has too
much: it takes as many networks as fit. Others take one after the other, see
`devices.IN_TURN`.
"""

from typing import NamedTuple

from dasm_jax.errors import UserError
from dasm_jax.models import flops
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices


class PassKind(NamedTuple):
  """passes: forward passes that an image's work equals.

  cpu, gpu, tpu: how often an image's feature maps are in memory at once.
  Accelerators' compilers fuse more, but for students, whose batches are made
  ahead; a TPU keeps what a product reads in half precision.
  """
  passes: float
  cpu: float
  gpu: float
  tpu: float


# In forward passes, measured on ConvNet-3 (XLA's count of FLOPs: 0.10, 0.30,
# 0.70, 0.79 GFLOP an image): parameter gradient; its derivative in the image;
# in image and weights, a step back through a student.
GRADIENT, SECOND, BACK = 3.0, 7.0, 7.9
# Of a CPU: fitted to the temporaries of tests/benchmarks/cost_steps.py; else to
# those of aot.py for an H100 and v5e, all to a fifth.
PASS_KINDS = {
    'forward': PassKind(1, 1, 1, 0.8),
    # Features, and their gradient in the image.
    'inward': PassKind(2, 2, 2, 2),
    'gradient': PassKind(GRADIENT, 3, 2, 2),
    'norms': PassKind(GRADIENT, 4, 2, 2),     # of each image alone
    'second': PassKind(GRADIENT + SECOND, 5.2, 5.2, 4.4),
    'student': PassKind(GRADIENT + BACK, 5.6, 7, 3.7),
    # A student whose weights are not gone back through (TESLA): of a GPU's
    # unrolled steps several are there at once.
    'frozen': PassKind(GRADIENT + SECOND, 5.2, 7.9, 4.4),
}
# A TPU's vector memory, of a v5e: of maps that fit in there a share is outside,
# of larger ones all are, as compiled.
VECTOR_MEMORY = 2 ** 27
OUTSIDE = 0.25


FLOAT = 4  # bytes
TREES = 4  # of parameters: themselves, momentum, gradient, change


class Work(NamedTuple):
  """Images on one device that pass through networks.

  kind: in `PASS_KINDS`. images: how many, `at_once` of them in memory.
  calls: how often a program of the network begins, one after the other.
  trees: copies of the network's parameters that are alive meanwhile.
  """
  kind: str
  images: float
  at_once: int
  calls: float
  trees: int = TREES


def activations(one, once, backend='cpu', half=False):
  """Bytes of a `Work`'s largest step: feature maps, and trees of weights.

  half: whether the maps take two bytes a number.
  """
  kind = PASS_KINDS[one.kind]
  kept = {'cpu': kind.cpu, 'tpu': kind.tpu}.get(backend, kind.gpu)
  maps = FLOAT * one.at_once * kept * once.maps * (0.5 if half else 1)
  if backend == 'tpu' and maps <= VECTOR_MEMORY:
    maps *= OUTSIDE
  return int(maps + FLOAT * one.trees * once.parameters)


class DeviceSplit(NamedTuple):
  """How work is divided.

  devices: their number, of a backend. memory: bytes of one.
  """
  devices: int
  backend: str
  memory: int

  @property
  def turns(self):
    """Whether a device takes its items one after the other."""
    return self.backend in devices.IN_TURN

  def share(self, n):
    """Of n items, those of the busiest device."""
    return -(-n // self.devices)

  def together(self, n):
    """Of n items on a device, those that it has in memory at once."""
    return 1 if self.turns else n


def split_of(machine):
  """The `DeviceSplit` of a `machine.Machine`."""
  return DeviceSplit(machine.devices, machine.backend, machine.memory)


# ---- How many at once

# Of a device's memory; the estimate may be off by a factor of two.
MEMORY_SHARE = 0.3
TOGETHER_CHOICES = ('auto', 'yes', 'no')


def check_together(name, value):
  """The range of entries that say how many at once: a name, or a number."""
  if value not in TOGETHER_CHOICES and not (
      value.isdecimal() and int(value)):
    raise UserError(f'--config.{name}={value} is neither of '
                    f'{", ".join(TOGETHER_CHOICES)} nor a number, such as 4')


def resolve_together(wanted, most, fit):
  """What `wanted` means: a number from 1 to `most`.

  fit: `() -> number` that there is room for.
  """
  known = {'auto': fit, 'no': lambda: 1, 'yes': lambda: most}
  found = known[wanted]() if wanted in known else int(wanted)
  return min(max(int(found), 1), most)


def networks_together(network, shape, batch, split):
  """Of networks on a device, those that are trained at once.

  Args:
    network: a `Network`.
    shape: of its images.
    batch: images of a training step.
    split: a `packing.DeviceSplit`.

  Returns:
    A number, however many there are.
  """
  if split.turns:
    return 1
  once = flops.forward_cost(network, shape)
  each = activations(Work('gradient', 0, batch, 0), once, split.backend)
  return max(1, int(split.memory * MEMORY_SHARE / each))


def this_split():
  """The `packing.DeviceSplit` of this machine."""
  return DeviceSplit(devices.count(), devices.backend(), devices.memory())


def networks_together_here(network, recipe, shape):
  """How many networks of images of a shape a device trains at once."""
  return networks_together(network, shape, recipe.batch, this_split())


def spread_networks(one, network, recipe, together=None, how=devices.spread,
                    split=None):
  """`devices.spread` of networks, on a GPU as many at once as fit.

  The last argument has images. together: how many instead, if not None. how:
  `devices.spread_sharded`, where the networks are split over the devices
  already. split: a `DeviceSplit`, if not that of this machine.
  """
  # How many fit depends on the images, of which the first call tells.
  made = {}
  def call(items, *shared):
    size = together
    if size is None:
      size = networks_together(network, sources.image_shape(shared[-1]),
                               recipe.batch, split or this_split())
    if size not in made:
      made[size] = how(one, together=size)
    return made[size](items, *shared)
  return call
