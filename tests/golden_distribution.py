"""Checks of `dm_step*`, `cafe_step*` (README 4.4, 4.5)."""

from types import NoneType

import golden_matching
import jax
import layout
from golden_nets import SETTINGS, Net

from dasm_jax import coupled, objectives

KEY = jax.random.key(0)


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
    matching = coupled.batch_feature_matching(features, first=-1, last=-1)
    total = coupled.together(
        matching.objective, golden_matching.siamese(golden, meta))
  else:
    total = objectives.per_class(golden_matching.siamese(golden, meta)(
        objectives.feature_matching(net.network.features, first=-1, last=-1)))
  params = coupled.Point(net.variables, (), 0) if net.variables.stats else (
      net.variables)

  def value(images, params, target):
    return total(syn._replace(images=images), params, target, KEY)[0]

  loss, slope = golden.jit(jax.value_and_grad(value))(
      syn.images, params, target)
  golden.check('loss', loss)
  golden.check('grad_images_syn', layout.nchw(
      slope.reshape(-1, *slope.shape[2:])), 'gradient')
