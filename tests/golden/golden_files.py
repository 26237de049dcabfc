"""Golden fixtures: reading a file, comparing with it, leaving nothing out.

The folder is `GOLDEN_DIR` (default `tests/golden/fixtures`). Every setting
comes from the file; what is not known (a name, a setting, a key) fails, nothing
skips.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import layout
import numpy as np

# Relative to the largest entry, README section 3.
TOLERANCES = {
    64: {'value': 1e-9, 'gradient': 1e-8, 'unrolled': 1e-7, 'exact': 0,
         'image': 1e-9, 'zero': 1e-6, 'deep': 1e-9, 'deep_gradient': 1e-7,
         'deep_image': 1e-7},
    32: {'value': 1e-5, 'gradient': 1e-4, 'unrolled': 1e-4, 'exact': 0,
         'image': 1e-5, 'zero': 1e-6, 'deep': 1e-4, 'deep_gradient': 1e-4,
         'deep_image': 1e-3}}

# Ways to compile, which differ in the order and rounding of sums. The first
# takes a third of the time of the last: the programs are tiny and run once.
# JAX 0.12 has one kind of emitters only, and no option for it.
EMITTERS = 'xla_cpu_use_fusion_emitters' in os.environ.get('XLA_FLAGS', '')
ORDERS = ({'xla_backend_optimization_level': 0,
           'xla_cpu_use_fusion_emitters': False},
          {'xla_backend_optimization_level': 0,
           'xla_cpu_use_fusion_emitters': True},
          {'xla_cpu_use_fusion_emitters': True}) if EMITTERS else (
              {'xla_backend_optimization_level': 0}, {})



def quick(function):
  """Jitted for programs that run once."""
  return jax.jit(function, compiler_options=ORDERS[0])


# A way to round: compiler options, and a seed by which every image entry moves
# one float32 step up or down (None: none moves).
ROUNDINGS = ((ORDERS[0], None), (ORDERS[0], 0), (ORDERS[0], 1),
             *((order, None) for order in ORDERS[1:]))

# Settings that any file may state and that change nothing.
NOTES = {'repo': str, 'function': str, 'seed': int}


class GoldenError(AssertionError):
  """A fixture that the tests do not know, or that we do not reproduce."""


class DeviationError(GoldenError):
  """A number that is too far from the fixture's."""


def folder():
  """The folder of fixtures."""
  default = Path(__file__).parent / 'fixtures'
  return Path(os.environ.get('GOLDEN_DIR') or default)


def paths():
  """All fixtures of the folder, sorted.

  Raises:
    GoldenError: there are none, which would pass unseen.
  """
  found = sorted(folder().glob('*.npz'))
  if not found:
    raise GoldenError(f'no *.npz in GOLDEN_DIR {folder()}')
  return found


def group(path, groups):
  """The value in `groups` of the longest prefix that `path` begins with.

  Raises:
    GoldenError: no prefix fits.
  """
  return groups[prefix(path, groups)]


def prefix(path, groups):
  """The longest key of `groups` that `path` begins with; raises likewise."""
  fitting = [prefix for prefix in groups if path.stem.startswith(prefix)]
  if not fitting:
    raise GoldenError(f'{path.name}: unknown prefix; known are '
                      f'{", ".join(sorted(groups))}')
  return max(fitting, key=len)


class Settings(dict):
  """Settings of a file; asking for one it does not state is an error."""

  def __missing__(self, key):
    raise GoldenError(f'setting {key!r} is not stated')


class Golden:
  """One fixture in one precision; remembers what was read and compared.

  Args:
    path: of the file.
    bits: 64 compares with `f64/*`; 32 with `f32/*`, where the file has it.
    rounding: of `ROUNDINGS`.
  """

  def __init__(self, path, bits, rounding=ROUNDINGS[0]):
    with np.load(path, allow_pickle=False) as file:
      self.arrays = dict(file)
    self.name, self.bits = path.name, bits
    self.dtype = jnp.float64 if bits == 64 else jnp.float32
    self.meta = json.loads(str(self.arrays.pop('meta_json')))
    self.seen, self.worst = set(), {}
    self.options, self.seed = rounding

  def __contains__(self, key):
    return key in self.arrays

  def __getitem__(self, key):
    """The raw array called `key`."""
    if key not in self.arrays:
      raise GoldenError(f'{self.name}: there is no array {key!r}')
    self.seen.add(key)
    return self.arrays[key]

  def jit(self, function):
    """`jax.jit` with the options of this run."""
    return jax.jit(function, compiler_options=self.options)

  def real(self, key):
    """Floating-point input in the precision under test."""
    return jnp.asarray(self[key], self.dtype)

  def images(self, key):
    """Images `[..., C, H, W]` as ours in the precision under test."""
    x = layout.nhwc(self[key])
    if self.seed is not None:
      up = np.random.RandomState(self.seed).randint(2, size=x.shape)
      x = np.nextafter(x, np.where(up, np.inf, -np.inf).astype(x.dtype))
    return jnp.asarray(x, self.dtype)

  def onehot(self, labels, classes):
    """Labels of any shape as one-hot rows in the precision under test."""
    return jax.nn.one_hot(np.asarray(labels), classes, dtype=self.dtype)

  def under(self, prefix):
    """All arrays whose key begins with `prefix`, by the rest of the key."""
    return {key[len(prefix):]: self[key] for key in self.arrays
            if key.startswith(prefix)}

  def settings(self, known, meta=None):
    """The settings, checked: `known` maps each to its types or values."""
    meta = self.meta if meta is None else meta
    for key, value in meta.items():
      if key not in {**NOTES, **known}:
        raise GoldenError(f'{self.name}: unknown setting {key!r} ({value!r})')
      allowed = known.get(key, NOTES.get(key))
      fits = any(isinstance(value, x) if isinstance(x, type) else value == x
                 for x in ([allowed] if isinstance(allowed, type)
                           else allowed))
      if not fits:
        raise GoldenError(f'{self.name}: unknown value {value!r} of setting '
                          f'{key!r}; known: {allowed}')
    return Settings(meta)

  def outputs(self, key):
    """True if the file holds the output `key` in any precision."""
    return f'f64/{key}' in self.arrays or f'f32/{key}' in self.arrays

  def check(self, key, value, kind='value', absolute=None):
    """Compares with the output `key`.

    Args:
      key: without `f32/` or `f64/`.
      value: what we compute, in their layout.
      kind: of tolerance, relative to the largest entry.
      absolute: a deviation that is fine in any case.
    """
    own, other = (f'f{b}/{key}' for b in (self.bits, 96 - self.bits))
    if own in self.arrays:
      self.equal(own, value, kind, absolute)
    elif self.bits == 32 or kind == 'exact':
      self.equal(other, value, kind, absolute)

  def equal(self, key, value, kind='value', absolute=None):
    """Compares with the array `key` as it stands in the file."""
    expected, value = self[key], np.asarray(value)
    if value.shape != expected.shape:
      raise GoldenError(f'{self.name}: {key}: shape {value.shape}, not '
                        f'{expected.shape}')
    off = np.max(np.abs(value - expected), initial=0.0)
    scale = np.max(np.abs(expected), initial=0.0)
    limit = TOLERANCES[self.bits][kind] * scale
    limit = max(limit, absolute or 0.0)
    self.worst[key] = off / scale if scale else off
    if not off <= limit:
      raise DeviationError(f'{self.name}: {key}: off by {off:.3g} where '
                           f'the largest entry is {scale:.3g}, allowed '
                           f'{limit:.3g}')

  def finish(self):
    """Fails if the file holds an array that nobody looked at."""
    other = f'f{96 - self.bits}/'
    left = sorted(key for key in self.arrays
                  if key not in self.seen and not key.startswith(other))
    if left:
      raise GoldenError(f'{self.name}: nobody looked at {", ".join(left)}')
