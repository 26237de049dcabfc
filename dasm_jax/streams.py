"""Streams of random numbers: what each is for, all in one place.

A key or a seed of one purpose begins with the number of its stream, so that it
never is that of another purpose.
"""

import enum

import jax
import numpy as np

# JAX makes a key of the lower 32 bits: of two larger seeds, 2**32 apart, the
# runs would be the same.
LARGEST_SEED = 2 ** 32 - 1


class Stream(enum.IntEnum):
  """What random numbers of a run are for."""
  FIRST_IMAGES = 1     # which real images a segment begins with
  RANDOM_SUBSETS = 2   # which real images a set is compared with
  MEASURED_IMAGES = 3  # which real images are measured beside a set
  SWEEPS = 4           # of a segment: draws, inner networks, augmentation
  FIRST_STATE = 5      # inner networks that a segment's state begins with
  NOISE = 6            # images that begin as noise
  EXPERT_STARTS = 7    # experts and epochs that students start from
  WINDOWS = 8          # random parts of a class
  PROBES = 9           # networks that judge difficulty
  CHOOSERS = 10        # networks that choose coresets
  EXPERTS = 11         # each expert, by its number
  DIAGNOSED = 12       # networks that tell how hard a set is
  REFERENCE = 13       # real images whose mean gradient images are held against
  CROPS = 14           # crops of real images, and the teacher that chooses them
  JUDGES = 18          # networks on all real images that judge test images
  # Saved sets are trained by these: they stay what they were in version 0.1.
  EVALUATION = 2 ** 20
  SOFT_LABELS = 2 ** 21


def key(seed, stream, *numbers):
  """The key of a stream.

  Args:
    seed: a whole number, which may be traced, or a key.
    stream: a `Stream`.
    *numbers: such as of a segment, each a stream of its own.
  """
  # Folded in one by one, the stream first: a sum of the numbers could be that
  # of another purpose.
  found = seed if jax.dtypes.issubdtype(
      getattr(seed, 'dtype', np.int64), jax.dtypes.prng_key) else (
          jax.random.key(seed))
  for number in (int(stream), *numbers):
    found = jax.random.fold_in(found, number)
  return found


def seed(number, stream, *numbers):
  """The same for NumPy: what `numpy.random.default_rng` takes."""
  return [int(number), int(stream), *map(int, numbers)]
