"""Work of a device in images of its network, and the memory that it takes."""

from typing import NamedTuple


class Kind(NamedTuple):
  """passes: forward passes that an image's work equals.

  kept: how often an image's feature maps are in memory at once.
  """
  passes: float
  kept: float


# In forward passes, measured on ConvNet-3 (XLA's count of FLOPs: 0.10, 0.30,
# 0.70, 0.79 GFLOP an image): parameter gradient; its derivative in the image;
# in image and weights, a step back through a student.
GRADIENT, SECOND, BACK = 3.0, 7.0, 7.9
# Kept: fitted to the temporaries of the programs in tests/benchmarks/steps.py.
KINDS = {
    'forward': Kind(1, 2),
    'inward': Kind(2, 4),           # features, and their gradient in the image
    'gradient': Kind(GRADIENT, 4),
    'norms': Kind(GRADIENT, 4),     # of each image alone
    'second': Kind(GRADIENT + SECOND, 8),
    'student': Kind(GRADIENT + BACK, 8),
}


FLOAT = 4  # bytes
TREES = 4  # of parameters: themselves, momentum, gradient, change


class Work(NamedTuple):
  """`images` on one device, `at_once` of them in memory; `kind` in `KINDS`.

  calls: how often a program of the network begins, one after the other.
  trees: copies of the network's parameters that are alive meanwhile.
  """
  kind: str
  images: float
  at_once: int
  calls: float
  trees: int = TREES


def activations(one, once, half=False):
  """Bytes of a `Work`'s largest step: feature maps, and trees of weights.

  half: whether the maps take two bytes a number.
  """
  maps = one.at_once * KINDS[one.kind].kept * once.maps
  return int(FLOAT * (maps * (0.5 if half else 1)
                      + one.trees * once.parameters))


class Split(NamedTuple):
  """How work is divided.

  devices: their number. turns: a CPU takes items in turn. memory: bytes of one.
  """
  devices: int
  turns: bool
  memory: int

  def share(self, n):
    """Of n items, those of the busiest device."""
    return -(-n // self.devices)

  def together(self, n):
    """Of n items on a device, those that it has in memory at once."""
    return 1 if self.turns else n


def split(machine):
  """The `Split` of a `machine.Machine`."""
  return Split(machine.devices, machine.backend == 'cpu', machine.memory)
