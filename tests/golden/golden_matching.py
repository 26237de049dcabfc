"""Checks of `dc_*`, `dsa_step*` (README 4.2, 4.3)."""

from types import NoneType

import golden_augment
import jax
import jax.numpy as jnp
import layout
from golden_files import GoldenError
from golden_nets import SETTINGS, Net

from dasm_jax import losses, objectives
from dasm_jax.training import train_step
from dasm_jax.transforms import augment
from dasm_jax.types import Batch, Synthetic

# Their distances: ours, and the dimensions of the parameters it looks at.
DISTANCES = {'ours': (losses.layerwise_cosine, (2, 3, 4)),
             'mse': (losses.mse, None), 'cos': (losses.cosine, None)}
META = {'align_corners': (False, True), 'dis_metric': DISTANCES, 'ipc': int,
        'dsa_strategy': (str, NoneType), 'net': dict, 'num_classes': int}


def check_distance(golden):
  """`dc_match_loss*`: each distance between two lists of tensors."""
  golden.settings({})
  real, syn = (
      [jnp.asarray(layout.to_last(x), golden.dtype)
       for _, x in sorted(golden.under(f'in/gw_{side}/').items())]
      for side in ('real', 'syn'))
  numbers = sorted(golden.under('in/gw_syn/'))
  for name, (distance, ndims) in DISTANCES.items():
    def value(syn, real, distance=distance, ndims=ndims):
      return distance(losses.select(syn, ndims), losses.select(real, ndims))

    def all_of(syn, real, value=value):
      layers = [value([s], [r]) for s, r in zip(syn, real, strict=True)]
      return jax.value_and_grad(value)(syn, real), jnp.stack(
          [jnp.asarray(x, real[0].dtype) for x in layers])

    (loss, slopes), layers = golden.jit(all_of)(syn, real)
    golden.check(f'{name}/loss', loss)
    for number, slope in zip(numbers, slopes, strict=True):
      golden.check(f'{name}/grad_syn/{number}', layout.to_first(slope),
                   'gradient')
    if golden.outputs(f'{name}/per_layer'):
      golden.check(f'{name}/per_layer', layers)


def check_step(golden):
  """`dc_step*`, `dsa_step*`: gradient matching, the sum over the classes."""
  meta = golden.settings(META)
  net = Net(golden, golden['in/images_syn'].shape[1:], meta['num_classes'],
            golden.settings(SETTINGS, meta['net']))
  variables = _running(golden, net)
  loss_fn = train_step.loss_fn(net.network)
  distance, ndims = DISTANCES[meta['dis_metric']]
  matching = objectives.gradient_matching(loss_fn, distance, ndims=ndims)
  total = objectives.per_class(siamese(golden, meta)(matching))
  syn, target = sides(golden, meta)

  def value(images, variables, target):
    return total(syn._replace(images=images), variables, target,
                 jax.random.key(0))[0]

  loss, slope = golden.jit(jax.value_and_grad(value))(
      syn.images, variables, target)
  golden.check('loss', loss)
  golden.check('grad_images_syn', layout.nchw(
      slope.reshape(-1, *slope.shape[2:])), 'gradient')
  if any(golden.outputs(f'class0_gw_real/{name}') for name in net.names):
    first = jax.tree.map(lambda x: x[0], target[0])
    own = golden.jit(jax.grad(loss_fn))(variables, first)
    net.check_params('class0_gw_real/', own.params)


def _running(golden, net):
  """The weights, with running averages over the file's own real images."""
  if 'in/images_bn_stats' not in golden:
    return net.variables
  images = golden.images('in/images_bn_stats')
  stats = golden.jit(lambda variables, images: net.network.apply(
      variables, images, train=True)[1])(
          net.variables, images.reshape(-1, *images.shape[2:]))
  net.check_buffers('buffer_after/', stats)
  return net.variables._replace(stats=stats)


def sides(golden, meta):
  """`Synthetic`, and what `siamese` matches it with: a batch, class numbers."""
  classes, ipc = meta['num_classes'], meta['ipc']
  real, images = (golden.images(f'in/images_{x}') for x in ('real', 'syn'))
  def labels(n):
    return jnp.broadcast_to(jnp.eye(classes, dtype=golden.dtype)[:, None],
                            (classes, n, classes))
  syn = Synthetic(images.reshape(classes, ipc, *images.shape[1:]), labels(ipc),
                  jnp.ones((), golden.dtype))
  return syn, (Batch(real, labels(real.shape[1])), jnp.arange(classes))


def siamese(golden, meta):
  """A wrapper that applies the operation that was drawn for each class."""
  strategy = augment.parse(meta['dsa_strategy'] or '')
  branches = [_drawn(golden, meta, strategy, c)
              for c in range(meta['num_classes'])] if strategy else []

  def wrap(matching):
    def objective(syn, params, target, key):
      batch, index = target
      if not branches:
        return matching(syn, params, batch, key)
      def apply(key, images, shared):
        assert shared, 'both batches of a class get the same treatment'
        return jax.lax.switch(index, branches, images)
      return objectives.augmented(matching, apply)(syn, params, batch, key)
    return objective
  return wrap


def _drawn(golden, meta, strategy, c):
  op = str(golden[f'draw/class{c}/op'])
  if op not in strategy:
    raise GoldenError(f'{golden.name}: {op!r} was drawn of {strategy}')
  values = golden_augment.draws(golden, op, f'draw/class{c}/', True)
  return golden_augment.operation(op, values, meta['align_corners'])
