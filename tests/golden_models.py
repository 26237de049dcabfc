"""Checks of `models_dc_convnet*`, `models_idc_convnet*` (README 4.1)."""

import jax
import layout
import numpy as np
from golden_files import GoldenError
from golden_nets import ACTIVATIONS, NORMS, POOLINGS, Net

from dasm_jax import losses

META = {'config': dict, 'modes': list, 'num_classes': int,
        'params': ('stored', 'recipe')}
CONFIG = {'channel': int, 'im_size': list, 'net_act': ACTIVATIONS,
          'net_depth': int, 'net_norm': NORMS, 'net_pooling': POOLINGS,
          'net_width': int, 'num_classes': int}
MODES = ('train', 'eval')


def check(golden):
  """Logits, features, loss and gradients of a ConvNet, in each mode."""
  meta = golden.settings(META)
  config = golden.settings(CONFIG, meta['config'])
  settings = {key[4:]: value for key, value in config.items()
              if key.startswith('net_')}
  net = Net(golden, (config['channel'], *config['im_size']),
            config['num_classes'], settings)
  for mode in meta['modes']:
    if mode not in MODES:
      raise GoldenError(f'{golden.name}: unknown mode {mode!r}')
    prefix = f'{mode}/' if golden.outputs(f'{mode}/logits') else ''
    _check_mode(golden, net, config['num_classes'], mode == 'train', prefix)


def _check_mode(golden, net, classes, train, prefix):
  def forward(params, images, labels):
    variables = net.variables._replace(params=params)
    logits, stats = net.network.apply(variables, images, train=train)
    features = net.network.features(variables, images, train=train)
    return losses.cross_entropy(logits, labels), (logits, stats, features)

  run = golden.jit(jax.value_and_grad(forward, (0, 1), has_aux=True))
  (loss, (logits, stats, features)), (slope, slope_x) = run(
      net.variables.params, golden.images('in/x'),
      golden.onehot(golden['in/labels'], classes))
  golden.check(prefix + 'logits', logits)
  golden.check(prefix + 'loss', loss)
  golden.check(prefix + 'features', layout.flat(features[-1]))
  for k, feature in enumerate(features):
    key = f'{prefix}feature{k}_mean'
    if golden.outputs(key):
      golden.check(key, np.asarray(feature).mean((1, 2)))
  golden.check(prefix + 'grad_x', layout.nchw(slope_x), 'gradient')
  net.check_params(prefix + 'grad/', slope, train=train)
  sizes = [np.linalg.norm(net.layout.theirs(slope, name).ravel())
           for name in net.names]
  golden.check(prefix + 'grad_param_norms', np.array(sizes), 'gradient')
  if train:
    net.check_buffers(prefix + 'buffer_after/', stats)
