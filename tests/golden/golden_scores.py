"""Checks of `sdc_*`, `losses_*`, `selection_herding*` (README 4.10-4.14)."""

import re

import jax
import layout
import numpy as np
from golden_files import GoldenError
from golden_nets import SETTINGS, Net

from dasm_jax import coresets, difficulty, losses
from dasm_jax.training import train_step
from dasm_jax.types import Batch

PENALTIES = {'mean_sample_norm': 'sample_norm', 'batch_norm': 'batch_norm',
             'mean_sample_sqnorm': 'sample_square',
             'batch_sqnorm': 'batch_square'}
SDC = {**SETTINGS, 'lam': (int, float), 'n': int, 'nclass': int, 'shape': list,
       'soft': bool}
LOSSES = {'ddr_mse_gt': dict, 'temperature': (int, float)}
MSE_GT = {'ce_weight': (int, float), 'mse_weight': (int, float),
          'mse': ('mean over N*C',)}
SELECTION = {'ipc': int, 'nclass': int}


def check_sdc(golden):
  """`sdc_*`: scores of samples, penalties, and the loss with a penalty."""
  meta = golden.settings(SDC)
  net = Net(golden, meta['shape'], meta['nclass'], meta)
  loss_fn = train_step.loss_fn(net.network)
  logits_fn = train_step.logits_fn(net.network)
  labels = (golden.real('in/labels') if meta.get('soft')
            else golden.onehot(golden['in/labels'], meta['nclass']))
  weight = golden.real('in/lambda')

  def penalised(images, variables, name):
    hardness = difficulty.penalty(loss_fn, PENALTIES[name])
    return weight * hardness(variables, Batch(images, labels))

  def total(variables, images):
    return loss_fn(variables, Batch(images, labels)) + penalised(
        images, variables, 'mean_sample_norm')

  @golden.jit
  def run(variables, images):
    batch = Batch(images, labels)
    scores = {
        'grand': difficulty.gradient_norms(loss_fn, variables, batch),
        'el2n': difficulty.el2n(logits_fn, variables, batch),
        'losses': difficulty.sample_losses(loss_fn, variables, batch),
        'logits': logits_fn(variables, images)}
    penalties = {name: jax.value_and_grad(penalised)(images, variables, name)
                 for name in PENALTIES}
    return scores, penalties, jax.value_and_grad(total)(variables, images)

  scores, penalties, (value, slope) = run(net.variables, golden.images('in/x'))
  for name, score in scores.items():
    golden.check(name, score)
  for name, (own, gradient) in penalties.items():
    golden.check(f'reg/{name}/value', own)
    golden.check(f'reg/{name}/grad_x', layout.nchw(gradient), 'gradient')
  golden.check('total/value', value)
  net.check_params('total/grad_param/', slope.params, train=False)


def check_losses(golden):
  """`losses_*`: label losses and their gradients in logits and targets."""
  meta = golden.settings(LOSSES)
  parts = golden.settings(MSE_GT, meta['ddr_mse_gt'])
  logits, target = (golden.real(f'in/{k}') for k in ('logits', 'target_logits'))
  hard = golden.onehot(golden['in/hard'], logits.shape[-1])
  temperature = float(golden['in/temperature'])
  mse, ce = parts['mse_weight'], parts['ce_weight']
  known = {
      'ce_hard': lambda s, t: losses.cross_entropy(s, hard),
      'ce_probs': lambda s, t: losses.cross_entropy(
          s, golden.real('in/target_probs')),
      'datm_soft_ce': losses.soft_cross_entropy,
      'ddr_mse_gt': lambda s, t: mse * losses.mse_logits(
          s, t, hard, ce / mse),
      'kip_mse_half_sum_mean': lambda s, t: losses.half_square(
          s, golden.real('in/kip_labels')),
  }
  names = sorted({key.split('/')[1] for key in golden.arrays
                  if re.match('f(32|64)/', key)})
  chosen = {name: known.get(name) or _with_temperature(
      golden, name, temperature) for name in names}
  results = golden.jit(lambda s, t: {
      name: jax.value_and_grad(loss, (0, 1))(s, t)
      for name, loss in chosen.items()})(logits, target)
  for name, (value, slopes) in results.items():
    golden.check(f'{name}/value', value)
    for side, slope in zip(('logits', 'target'), slopes, strict=True):
      if golden.outputs(f'{name}/grad_{side}'):
        golden.check(f'{name}/grad_{side}', slope, 'gradient')
      elif np.any(slope):
        raise GoldenError(f'{golden.name}: {name}: a gradient in {side}')


def _with_temperature(golden, name, temperature):
  """`ddr_sce_T1.2`, or `_T_scaled`: the file's T, and T^2 times the loss."""
  match = re.fullmatch(r'ddr_(sce|kl)_T(_scaled|[\d.]+)', name)
  if not match:
    raise GoldenError(f'{golden.name}: unknown loss {name!r}')
  loss = {'sce': losses.soft_cross_entropy, 'kl': losses.kl}[match[1]]
  if match[2] == '_scaled':
    return lambda s, t: temperature ** 2 * loss(s, t, temperature)
  return lambda s, t: loss(s, t, float(match[2]))


def check_selection(golden):
  """`selection_herding*`: herding and k-center, exactly."""
  meta = golden.settings(SELECTION)
  features, labels = golden['in/features'], golden['in/labels']
  args = features, labels, meta['ipc'], meta['nclass']
  golden.check('herding_indices', coresets.herding(*args), 'exact')
  if golden.outputs('herding_indices_descending'):
    golden.check('herding_indices_descending',
                 coresets.herding(*args, descending=True), 'exact')
  for first in ('first', 'mean'):
    if not golden.outputs(f'kcenter_{first}_indices'):
      continue
    chosen = coresets.k_center(*args, first=first)
    golden.check(f'kcenter_{first}_indices', chosen, 'exact')
    if golden.outputs(f'kcenter_{first}_radius'):
      golden.check(f'kcenter_{first}_radius', coresets.covering_radius(
          features, labels, chosen))
  # Says that no choice above hangs on rounding.
  margin = golden['f64/herding_min_margin']
  if not margin > 1e-12:
    raise GoldenError(f'{golden.name}: a tie in herding, margin {margin}')
