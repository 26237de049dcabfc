"""The network of a fixture: ours, with the file's weights."""

import jax
import layout
import numpy as np
from golden_files import GoldenError, Settings

from dasm_jax import models
from dasm_jax.models import layers

NORMS = {'instancenorm': 'instance', 'batchnorm': 'batch', 'none': 'none',
         'groupnorm': 'group', 'layernorm': 'layer', 'instance': 'instance',
         'batch': 'batch', 'group': 'group', 'layer': 'layer'}
POOLINGS = {'avgpooling': 'avg', 'maxpooling': 'max', 'none': 'none',
            'avg': 'avg', 'max': 'max'}
ACTIVATIONS = ('relu', 'leakyrelu', 'sigmoid', 'swish')
# How files describe a ConvNet, also as `net_depth`, …; some leave out what is
# the default.
SETTINGS = {'depth': int, 'width': int, 'norm': NORMS, 'act': ACTIVATIONS,
            'pooling': POOLINGS, 'pool': POOLINGS}
SETTINGS |= {f'net_{key}': known for key, known in SETTINGS.items()}


class Stored:
  """A network of ours with a file's weights, and the way back to its names.

  Args:
    golden: a `Golden` with `param/*` (or `recipe/*`) and `buffer/*`.
    shape: `(C, H, W)` of the images.
    classes: number of outputs.
    name: of `models.MODELS`.
    weights: prefix of the weights' keys.
    **settings: of that network.
  """

  def __init__(self, golden, shape, classes, name, weights='param/',
               **settings):
    params, buffers = _stored(golden, weights)
    self.golden, self.names = golden, list(params)
    self.buffers = list(buffers)
    channels, height, width = shape
    self.shape = (height, width, channels)
    self.network = models.build(name, shape=self.shape, classes=classes,
                                **settings)
    own, features = self._shapes()
    self.layout = layout.Layout(
        {name: x.shape for name, x in params.items()},
        [self.shape, *(x.shape[1:] for x in features)])
    self.variables = self.layout.variables(params, buffers, golden.dtype)
    self._compare_shapes(own)

  def _shapes(self):
    images = np.zeros((1, *self.shape), np.float32)
    def build(key):
      variables = self.network.init(key)
      return variables, self.network.features(variables, images)
    return jax.eval_shape(build, jax.random.key(0))

  def _compare_shapes(self, own):
    own, given = (jax.tree.map(lambda x: x.shape, tree)
                  for tree in (own, self.variables))
    if own != given:
      raise GoldenError(f'{self.golden.name}: weights {given} do not fit our '
                        f'network {own}')

  def check_buffers(self, prefix, stats, kind='value'):
    """Compares the running statistics, name by name."""
    for name in self.buffers:
      self.golden.check(prefix + name, self.layout.buffer(stats, name), kind)


class Net(Stored):
  """The same for a ConvNet, with `settings` of `SETTINGS`."""

  def __init__(self, golden, shape, classes, settings, weights='param/'):
    settings = Settings({key.removeprefix('net_'): value
                         for key, value in settings.items()})
    self.norm = _norm(settings, *_stored(golden, weights))
    self.depth, self.width = settings['depth'], settings['width']
    pooling = settings.get('pooling', settings.get('pool', 'avgpooling'))
    # The references pad the first convolution by 3 for one channel.
    super().__init__(
        golden, shape, classes, 'convnet', weights, depth=self.depth,
        width=self.width, norm=self.norm,
        activation=settings.get('act', 'relu'),
        pooling=POOLINGS[pooling],
        first_padding=3 if shape[0] == 1 else 1)

  def zero(self, name, train=True):
    """True if the gradient of `name` is 0 but for rounding.

    A constant added to a channel is taken off by the norm that follows.
    """
    alone = self.norm == 'instance' or (self.norm == 'batch' and train) or (
        self.norm == 'group' and self.width == layers.GROUPS)
    return (alone and name.endswith('.bias')
            and self.layout.kind(name) == 'Conv')

  def check_params(self, prefix, tree, kind='gradient', train=True,
                   scales=None, terms=1):
    """Compares a tree of parameters, gradients or moments, name by name.

    `scales` are the gradients that say how large a zero may be; in a moment
    the rounding of as many gradients adds up as it has `terms`.
    """
    weights = tree if scales is None else scales
    largest = max(np.max(np.abs(self.layout.theirs(weights, name)))
                  for name in self.names if name.endswith('.weight'))
    for name in self.names:
      absolute = terms * 1e-6 * largest if self.zero(name, train) else None
      self.golden.check(prefix + name, self.layout.theirs(tree, name), kind,
                        absolute)


def _norm(settings, params, buffers):
  if 'norm' in settings:
    return NORMS[settings['norm']]
  if buffers:
    return 'batch'
  ndims = {x.ndim for name, x in params.items() if name.endswith('.weight')}
  return 'layer' if 3 in ndims else 'instance' if 1 in ndims else 'none'


def _stored(golden, weights):
  """Parameters in order and buffers, stored or by recipe (README 2)."""
  params, buffers = golden.under(weights), golden.under('buffer/')
  if 'recipe/names' in golden:
    recipe = golden.under('recipe/')
    for i, name in enumerate(recipe['names']):
      x = _draw(recipe, i)
      (buffers if recipe['is_buffer'][i] else params)[str(name)] = x
      if not np.isclose(recipe['sum'][i], x.astype(np.float64).sum()):
        raise GoldenError(f'{golden.name}: checksum of {name}')
  names = [str(name) for name in golden['param_names']]
  if sorted(names) != sorted(params):
    raise GoldenError(f'{golden.name}: param_names are not the parameters')
  return {name: params[name] for name in names}, buffers


def _draw(recipe, i):
  shape = [side for side in recipe['shapes'][i] if side >= 0]
  z = np.random.RandomState(recipe['seed'][i]).standard_normal(shape)
  z = np.abs(z) if recipe['abs'][i] else z
  return (recipe['mean'][i] + recipe['std'][i] * z).astype(np.float32)
