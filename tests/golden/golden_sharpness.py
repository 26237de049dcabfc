"""Checks of `ftd_*`: the sharpness-aware step, and the average (README 4.9)."""

import jax
import layout
from golden_nets import SETTINGS, Net

from dasm_jax.training import sam, train_step
from dasm_jax.types import Batch

STEP = {**SETTINGS, 'nclass': int, 'shape': list, 'batch': int, 'steps': int,
        'rho': (int, float), 'alpha': (int, float), 'adaptive': (True, False),
        'lr': (int, float), 'mom': (int, float), 'l2': (int, float)}
AVERAGE = {'decay': (int, float)}


def check_step(golden):
  """`ftd_*`: GSAM or SAM, step by step, and the first one's insides."""
  meta = golden.settings(STEP)
  net = Net(golden, meta['shape'], meta['nclass'], meta)
  whole = Batch(golden.images('in/x'),
                golden.onehot(golden['in/labels'], meta['nclass']))
  tx = train_step.sgd(meta['mom'], meta['l2'])
  rho, alpha, adaptive = (meta[name] for name in ('rho', 'alpha', 'adaptive'))
  step = sam.sam_step(rho, alpha, adaptive)

  @golden.jit
  def inside(variables, batch):
    def slope(params):
      return train_step.batch_gradient(
          net.network, variables._replace(params=params), batch)
    params = variables.params
    _, here = slope(params)
    up = sam.climb(params, here, rho, adaptive)
    _, there = slope(up)
    final = sam.surrogate(here, there, alpha)
    return {'grad_clean': here, 'params_perturbed': up,
            'grad_perturbed': there, 'grad_final': final,
            }, sam.gradient_size(params, here, adaptive)

  @golden.jit
  def run(variables, whole):
    def one(carry, batch):
      variables, _ = carry
      logits, _ = net.network.apply(variables, batch.images, train=True)
      *carry, loss = step(net.network, tx, *carry, batch, meta['lr'])
      return tuple(carry), (carry[0], loss, logits)
    return jax.lax.scan(one, (variables, tx.init(variables.params)), whole)[1]

  trees, size = inside(net.variables, jax.tree.map(lambda x: x[0], whole))
  golden.check('step0/grad_norm', size)
  for name, tree in trees.items():
    net.check_params(f'step0/{name}/', tree)
  path, values, logits = run(net.variables, whole)
  for t in range(meta['steps']):
    golden.check(f'step{t}/loss', values[t], 'unrolled')
    golden.check(f'step{t}/logits', logits[t], 'unrolled')
    at = jax.tree.map(lambda x, t=t: x[t], path)
    net.check_params(f'step{t}/param_after/', at.params, 'unrolled')
    net.check_buffers(f'step{t}/buffer_after/', at.stats, 'unrolled')


def check_average(golden):
  """`ftd_ema`: the average of images over updates, from the first on."""
  meta = golden.settings(AVERAGE)
  images = golden.images('in/x')

  @golden.jit
  def run(images):
    def one(mean, new):
      mean = sam.moving_average(mean, new, meta['decay'])
      return mean, mean
    return jax.lax.scan(one, images[0], images[1:])[1]
  golden.check('ema', layout.nchw(run(images)))
