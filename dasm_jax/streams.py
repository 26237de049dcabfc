"""Streams of random numbers: what each is for, all in one place.

A key or a seed of one purpose begins with the number of its stream, so that it
never is that of another purpose.
"""

import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dasm_jax.errors import UserError

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
  ARCHITECTURES = 15   # which architectures a search looks at
  JUDGES = 18          # networks on all real images that judge test images
  SHOWN_IMAGES = 19    # which real images a page shows
  # Saved sets are trained by these: they stay what they were in version 0.1.
  EVALUATION = 2 ** 20
  SOFT_LABELS = 2 ** 21


def key(seed: ArrayLike, stream: Stream, *numbers: ArrayLike) -> jax.Array:
  """The key of a stream.

  Args:
    seed: a whole number, which may be traced, or a key.
    stream: a `Stream`.
    *numbers: such as of a segment, each a stream of its own.

  Returns:
    A key of `jax.random.key`.
  """
  # Folded in one by one, the stream first: a sum of the numbers could be that
  # of another purpose. A seed is a number, an old key a row of them.
  found = typed(seed) if is_typed(seed) or np.ndim(seed) else (
      jax.random.key(seed))
  for number in (int(stream), *numbers):
    found = jax.random.fold_in(found, number)
  return found


def is_typed(key: Any) -> bool:
  """Whether it is a key of `jax.random.key`, or an array of such.

  Args:
    key: anything.

  Returns:
    A bool.
  """
  return jnp.issubdtype(getattr(key, 'dtype', np.int64), jax.dtypes.prng_key)


def typed(key: Any) -> jax.Array:
  """A key of either kind as one of `jax.random.key`.

  Args:
    key: a key or an array of them `[…]`; of `jax.random.PRNGKey`, which are
      uint32 numbers `[…, 2]`, too.

  Returns:
    Keys `[…]` that draw the same numbers.

  Raises:
    UserError: it is no key.
  """
  if is_typed(key):
    return key
  if getattr(key, 'dtype', None) == np.uint32 and np.ndim(key):
    try:
      return jax.random.wrap_key_data(jnp.asarray(key))
    except (TypeError, ValueError):
      pass  # of another kind of random numbers than is set
  raise UserError(f'a key is wanted, and {_shown(key)} is none; '
                  'jax.random.key(0) makes one')


def _shown(key):
  return (f'an array of {key.dtype}{list(np.shape(key))}'
          if hasattr(key, 'dtype') else repr(key)[:40])


def seed(number: int, stream: Stream, *numbers: int) -> list[int]:
  """The same for NumPy: what `numpy.random.default_rng` takes.

  Args:
    number: a whole number.
    stream: a `Stream`.
    *numbers: as of `key`.

  Returns:
    A list of ints.
  """
  return [int(number), int(stream), *map(int, numbers)]


# ---- What several random numbers are made of
# A draw from a key is some hundred operations: a quarter of a second of
# compiling, and a kernel or two of a GPU. So one draw serves many numbers.


def whole(u: ArrayLike, low: ArrayLike, high: ArrayLike) -> jax.Array:
  """Draws from [0, 1) as whole numbers of `low` to `high - 1`.

  Args:
    u: an array `[…]` of float32, as `jax.random.uniform` has them: multiples of
      2**-23, so that `high - low` should be far less than 2**23.
    low, high: whole numbers, or arrays of them like `u`.

  Returns:
    `[…]` int32.
  """
  return low + jnp.floor(u * (jnp.asarray(high) - low)).astype(jnp.int32)


def permutation(key: jax.Array, n: int) -> jax.Array:
  """A random order of `n` things by one sort, where JAX's takes two or more.

  Args:
    key: a key.
    n: how many.

  Returns:
    `[n]` int32. Of two that draw the same 32 bits, which is to be expected once
    among 93,000, the first stays first.
  """
  return jnp.argsort(jax.random.bits(key, (n,)))
