"""Checks of `dm_step*`, `cafe_step*` (README 4.4, 4.5)."""

from types import NoneType

import golden_matching
import jax
import jax.numpy as jnp
import layout
from golden_nets import SETTINGS, Net

from dasm_jax import objectives
from dasm_jax.training import train_step

KEY = jax.random.key(0)
# From the pooled last block back to the first one.
WEIGHTS = {name: float for name in (
    'first_weight', 'second_weight', 'third_weight', 'fourth_weight')}
CAFE = {**SETTINGS, 'batch_real': int, 'ipc': int, 'num_classes': int,
        'weights': dict}
MIDDLE = ('third_block_pool', 'third_block_relu', 'second_block_relu',
          'first_block_relu')


def check_dm(golden):
  """`dm_step*`: means of the last features, class by class.

  With batch norm all classes are embedded in one batch.
  """
  meta = golden.settings({**golden_matching.META, 'dis_metric': (NoneType,)})
  net = Net(golden, golden['in/images_syn'].shape[1:], meta['num_classes'],
            golden.settings(SETTINGS, meta['net']))
  syn, target = golden_matching.sides(golden, meta)
  if net.variables.stats:
    def features(variables, images):
      return net.network.features(variables, images, True)
    matching = objectives.batch_feature_matching(features, first=-1, last=-1)
    total = objectives.all_classes(
        matching.at((), 0), golden_matching.siamese(golden, meta))
  else:
    total = objectives.per_class(golden_matching.siamese(golden, meta)(
        objectives.feature_matching(net.network.features, first=-1, last=-1)))

  def value(images, params, target):
    return total(syn._replace(images=images), params, target, KEY)[0]

  loss, slope = golden.jit(jax.value_and_grad(value))(
      syn.images, net.variables, target)
  golden.check('loss', loss)
  golden.check('grad_images_syn', layout.nchw(
      slope.reshape(-1, *slope.shape[2:])), 'gradient')


def check_cafe(golden):
  """`cafe_step*`: every block, and the discrimination by synthetic means."""
  meta = golden.settings(CAFE)
  weights = golden.settings({**WEIGHTS, 'inner_weight': float},
                            meta['weights'])
  net = Net(golden, golden['in/images_syn'].shape[1:], meta['num_classes'],
            meta)
  network = net.network
  syn, (target, _) = golden_matching.sides(golden, meta)
  matching = objectives.discriminative_matching(
      network.maps, [weights[name] for name in WEIGHTS],
      weights['inner_weight'])

  def run(images, variables, target):
    given = syn._replace(images=images)
    ones = jnp.ones(meta['num_classes'], golden.dtype)
    sums = objectives.sums_over_classes(
        matching, objectives.per_class, (given, variables, target, KEY, ones),
        0)
    loss, metrics = objectives.per_class(matching.at(sums, 0))(
        given, variables, target, KEY)
    middle = [objectives.per_class(objectives.feature_matching(
        network.maps, first=-1 - b))(given, variables, target, KEY)[0]
        for b in range(len(MIDDLE))]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), target)
    logits = network.embed(variables, flat.images) @ sums[0].T
    real = train_step.loss_fn(network)(variables, flat)
    return loss, (metrics, middle, logits, real)

  (loss, (metrics, middle, logits, real)), slope = golden.jit(
      jax.value_and_grad(run, has_aux=True))(
          syn.images, net.variables, target)
  golden.check('loss', loss + real)  # real: a constant that we leave out
  golden.check('loss_real', real)
  golden.check('loss_middle', metrics['match/middle'])
  golden.check('loss_output', loss - metrics['match/middle'])
  for name, value in zip(MIDDLE, middle, strict=True):
    golden.check(f'middle_unweighted/{name}', value)
  golden.check('feature_center_mse_sum', middle[0])
  golden.check('discrimination_logits', logits)
  golden.check('discrimination_ce_sum', metrics['match/discrimination'])
  golden.check('grad_images_syn', layout.nchw(
      slope.reshape(-1, *slope.shape[2:])), 'gradient')
