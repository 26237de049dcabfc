"""Networks by name, as pure functions."""

import jax
import jax.numpy as jnp

from dasm_jax.errors import UserError, unknown
from dasm_jax.models.convnet import convnet
from dasm_jax.types import Network, Variables

MODELS = {'convnet': convnet}


def build(name, *, shape, classes, **settings):
  """The network called `name` as a `Network` of pure functions.

  Args:
    name: a key of `MODELS`.
    shape: (height, width, channels) of the images it reads.
    classes: number of outputs.
    **settings: the model's own (depth, width, norm, …).

  Raises:
    UserError: an unknown name or setting, or settings that do not fit.
  """
  if name not in MODELS:
    raise unknown('network', name, MODELS)
  try:
    module = MODELS[name](shape, classes, **settings)
  except TypeError as error:
    raise UserError(f'network {name}: {error}') from None
  return pure(module, shape)


def pure(module, shape):
  """A linen module returning `(logits, features)` as a `Network`."""

  def init(key):
    variables = module.init(key, jnp.zeros((1, *shape)))
    return Variables(variables['params'], variables.get('batch_stats', {}))

  def run(variables, images, train):
    tree = {'params': variables.params}
    if variables.stats:
      tree['batch_stats'] = variables.stats
    if not (train and variables.stats):
      return module.apply(tree, images), variables.stats
    out, new = module.apply(tree, images, train=True, mutable=['batch_stats'])
    return out, new['batch_stats']

  def apply(variables, images, train=False):
    (logits, _), stats = run(variables, images, train)
    return logits, stats

  def features(variables, images, train=False):
    return run(variables, images, train)[0][1]

  return Network(init, apply, features)


def count(variables):
  """Number of trained parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(variables.params))
