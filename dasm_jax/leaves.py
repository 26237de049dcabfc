"""Trees of jax arrays as lists of host arrays, and back.

Typed random keys become their words; everything else keeps its dtype.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np


def host(tree):
  """The leaves of a tree as numpy arrays."""
  dtypes = [x.dtype for x in jax.tree.leaves(jax.eval_shape(_plain, tree))]
  return [np.asarray(leaf, dtype) for leaf, dtype in zip(
      jax.tree.leaves(_plain(tree)), dtypes, strict=True)]


def blank(like):
  """Zeros in the place of `host(like)`, of no memory."""
  return [np.broadcast_to(np.zeros((), x.dtype), x.shape)
          for x in jax.tree.leaves(jax.eval_shape(_plain, like))]


def wrap(like, arrays):
  """Host arrays as a tree like `like` of jax arrays; the inverse of `host`."""
  likes, treedef = jax.tree.flatten(like)
  return jax.tree.unflatten(treedef, [
      jax.random.wrap_key_data(jnp.array(array), impl=_impl(x))
      if _is_key(x) else jnp.array(array)
      for x, array in zip(likes, arrays, strict=True)])


def specs(tree):
  """`[[path, dtype, shape], ...]` of a tree, as JSON returns it."""
  tree = jax.eval_shape(lambda x: x, tree)
  return [[jax.tree_util.keystr(path), str(x.dtype), list(x.shape)]
          for path, x in jax.tree_util.tree_leaves_with_path(tree)]


def digest(arrays):
  """sha256 of dtypes, shapes and contents, as hexadecimal digits."""
  sha = hashlib.sha256()
  for array in arrays:
    sha.update(f'{array.dtype}{array.shape}'.encode())
    sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return sha.hexdigest()


def _plain(tree):
  return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x,
                      tree)


def _is_key(x):
  return hasattr(x, 'dtype') and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _impl(x):
  seen = []
  jax.eval_shape(lambda key: seen.append(jax.random.key_impl(key)), x)
  return seen[0]
