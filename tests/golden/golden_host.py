"""Checks of what the host computes: `zca_*`, `ddranking_*`, forgetting.

README 4.11-4.13. All but whitening is float64 in either precision.
"""

import layout
import numpy as np

from dasm_jax import coresets
from dasm_jax.evaluate import dd_ranking
from dasm_jax.transforms import zca

ZCA = {'dim': int, 'eps': (int, float), 'n_fit': int, 'unbiased': (True,)}


def check_forgetting(golden):
  """`selection_forgetting`: events, first epochs and the score, exactly."""
  golden.settings({})
  correct = golden['in/correct']
  known = coresets.learning_history(correct)
  golden.equal('forgetting_events', known.events, 'exact')
  golden.equal('first_learned_epoch', known.first, 'exact')
  _equal_flags(golden, 'never_learned', known.never)
  _equal_flags(golden, 'unforgettable', known.unforgettable)
  golden.equal('count_with_never_learned_as_T', coresets.forgetting_events(
      correct),
               'exact')


def _equal_flags(golden, key, flags):
  # Subtracting bools is an error in NumPy.
  golden.arrays[key] = golden.arrays[key].astype(int)
  golden.equal(key, flags.astype(int), 'exact')


def check_ranking(golden):
  """`ddranking_scores`: from fractions, and the formula from percentages."""
  golden.settings({})
  for unit in ('fraction', 'percent'):
    given = golden.under(f'in/{unit}/')
    out = _ranking(given, percent=unit == 'percent')
    for key, value in out.items():
      golden.check(f'{unit}/{key}', value)


def _ranking(given, percent):
  lrs, ars = (_lrs, _ars) if percent else (dd_ranking.lrs, dd_ranking.ars)
  out, weight = {}, given['weight']
  out['hlr'] = dd_ranking.hlr(given['full_hard'], given['syn_hard'])
  for kind in ('hard', 'soft'):
    gain = dd_ranking.ior(given[f'syn_{kind}'], given[f'random_{kind}'])
    out[f'ior_{kind}'] = gain
    out[f'lrs_{kind}'] = lrs(out['hlr'], gain, weight)
  for kind in ('aug', 'noaug'):
    out[f'{kind}_score'] = dd_ranking.ior(given[f'syn_{kind}'],
                                          given[f'random_{kind}'])
  out['ars'] = ars(out['aug_score'], out['noaug_score'], weight)
  return out


# Ours refuse percentages; what theirs makes of them is the same formula.
def _lrs(lag, gain, weight):
  return dd_ranking.normalised(weight * gain - (1 - weight) * lag)


def _ars(augmented, plain, weight):
  return dd_ranking.normalised(weight * augmented + (1 - weight) * plain)


def check_zca(golden):
  """`zca_*`: the fit, whitening, and its inverse."""
  meta = golden.settings(ZCA)
  images = layout.nhwc(golden['in/x_fit'])
  assert images.shape[0] == meta['n_fit'], golden.name
  assert images[0].size == meta['dim'], golden.name
  fitted = zca.fit(images, meta['eps'])
  # Theirs in C, H, W order: the position of each feature in ours.
  order = layout.nchw(np.arange(meta['dim']).reshape(images.shape[1:])).ravel()
  golden.check('mean', fitted.mean[order][None])
  golden.check('transform', fitted.matrix[np.ix_(order, order)])
  golden.check('transform_inv', fitted.inverse[np.ix_(order, order)])
  test = golden.images('in/x_test')
  whitened = golden.jit(zca.whiten)(fitted, test)
  assert whitened.dtype == golden.dtype
  golden.check('whitened_test', layout.nchw(whitened))
  golden.check('inverse_of_whitened_test', layout.nchw(
      golden.jit(zca.colour)(fitted, whitened)))
  golden.check('whitened_fit', layout.nchw(zca.whiten(
      fitted, golden.images('in/x_fit'))))
