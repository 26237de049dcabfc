"""Networks by name, as pure functions."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dasm_jax import shapes, streams
from dasm_jax.errors import UserError, unknown
from dasm_jax.models import convnet, densenet, layers, lenet, resnet, vgg, vit
from dasm_jax.types import Network, Variables

MODELS = {
    'alexnet': vgg.alexnet,
    'convnet': convnet.convnet,
    'densenet': densenet.densenet,
    'lenet': lenet.lenet,
    'mlp': lenet.mlp,
    'resnet': resnet.resnet,
    'resnet18': resnet.resnet18,
    'resnet18_ap': resnet.resnet18_ap,
    'resnet_ap': resnet.resnet_ap,
    'vgg11': vgg.vgg11,
    'vit': vit.vit,
}


# What networks compute in.
DTYPES = {'float32': None, 'bfloat16': jnp.bfloat16}


def build(name: str, *, shape: tuple[int, ...], classes: int,
          dtype: str = 'float32', **settings: Any) -> Network:
  """The network called `name` as a `Network` of pure functions.

  Args:
    name: a key of `MODELS`.
    shape: (height, width, channels) of the images it reads.
    classes: number of outputs.
    dtype: `float32`, or `bfloat16`: convolutions and activations are in that;
      parameters, norms, logits, what comes out and all gradients in float32.
    **settings: the model's own (depth, width, norm, …), see `settings_of`.

  Returns:
    A `Network`.

  Raises:
    UserError: an unknown name or setting, or settings that do not fit.
  """
  if dtype not in DTYPES:
    raise unknown('dtype of networks', dtype, DTYPES)
  known = settings_of(name)
  for setting in settings:
    if setting not in known:
      raise unknown(f'setting of network {name}', setting, known)
  # Values of another type fail somewhere within the model.
  try:
    module = MODELS[name](shape, classes, **settings)
  except TypeError as error:
    raise UserError(f'network {name}: {error}') from None
  return pure(module, shape, DTYPES[dtype])


def settings_of(name: str) -> dict[str, Any]:
  """The settings that the network called `name` takes, with their defaults.

  Args:
    name: a key of `MODELS`.

  Returns:
    `{setting: default}`.

  Raises:
    UserError: an unknown name.
  """
  if name not in MODELS:
    raise unknown('network', name, MODELS)
  # What a model takes by keyword alone are its settings.
  parameters = inspect.signature(MODELS[name]).parameters.values()
  return {x.name: x.default for x in parameters if x.kind == x.KEYWORD_ONLY}


def pure(module: nn.Module, shape: tuple[int, ...], dtype: Any = None
         ) -> Network:
  """A linen module returning `(logits, features)` as a `Network`.

  `features` has what each block puts out, `[n, height, width, channels]`, at
  least one; `layers.classify` reads the last. Norms are those of `layers`: they
  sow the `moments` that SRe2L reads. It may sow `maps`, its blocks before they
  are pooled.

  Args:
    module: the module, whose `__call__` takes images and `train`.
    shape: of one image that it reads.
    dtype: what it reads images in; None is their own. What comes out of it is
      float32 at least.

  Returns:
    A `Network`.
  """

  # As one program where nobody else compiles it: the images are blank, and what
  # comes out of them is thrown away.
  @jax.jit
  def start(key):
    theirs, *ours = jax.random.split(key, 1 + len(layers.DRAWS))
    variables = module.init(theirs, jnp.zeros((1, *shape)))
    return Variables(layers.filled(variables['params'], ours),
                     variables.get('batch_stats', {}))

  def init(key):
    return start(streams.typed(key))

  # Layers cast their parameters to the type of what they read, so that the
  # images decide for the whole network.
  def narrow(images):
    shapes.check_images('a network', images, 1 + len(shape))
    return images if dtype is None else images.astype(dtype)

  def wide(tree):
    return tree if dtype is None else jax.tree.map(layers.wide, tree)

  def run(variables, images, train):
    images = narrow(images)
    tree = {'params': variables.params}
    if variables.stats:
      tree['batch_stats'] = variables.stats
    # Without batch norm training is as anything else.
    if not (train and variables.stats):
      return wide(module.apply(tree, images)), variables.stats
    out, new = module.apply(tree, images, train=True, mutable=['batch_stats'])
    return wide(out), new['batch_stats']

  def apply(variables, images, train=False):
    (logits, _), stats = run(variables, images, train)
    return logits, stats

  def features(variables, images, train=False):
    return run(variables, images, train)[0][1]

  def embed(variables, images, train=False):
    last = features(variables, images, train)[-1]
    return last.reshape(len(last), -1)

  def noted(variables, images, train=False):
    tree = {'params': variables.params}
    if variables.stats:
      tree['batch_stats'] = variables.stats
    # Layers sow only where this collection may change.
    changing = ['intermediates'] + ['batch_stats'] * bool(
        train and variables.stats)
    out, seen = module.apply(
        tree, narrow(images), train=train, mutable=changing)
    return wide((out, seen.get('intermediates', {})))

  def maps(variables, images, train=False):
    (_, blocks), seen = noted(variables, images, train)
    return (*seen['maps'], blocks[-1]) if 'maps' in seen else blocks

  def moments(variables, images):
    (logits, _), seen = noted(variables, images)
    return logits, {layer: seen[layer]['moments'][0]
                    for layer in variables.stats}

  return Network(init, apply, features, embed, maps, moments)


def count(variables: Variables) -> int:
  """Number of trained parameters.

  Args:
    variables: `Variables`.

  Returns:
    An int.
  """
  return sum(leaf.size for leaf in jax.tree.leaves(variables.params))


def normalises_batches(network: Network) -> bool:
  """True if the network has batch norm: what it gives depends on the batch.

  Args:
    network: a `Network`.

  Returns:
    A bool.
  """
  stats = jax.eval_shape(network.init, jax.random.key(0)).stats
  return bool(jax.tree.leaves(stats))
