"""Checks of `models_*`: networks and their gradients (README 4.1)."""

import functools

import jax
import layout
import numpy as np
from golden_files import GoldenError
from golden_nets import NORMS, SETTINGS, Net, Stored

from dasm_jax import losses

META = {'config': dict, 'modes': list, 'num_classes': int,
        'params': ('stored', 'recipe')}
CONVNET = {**SETTINGS, 'channel': int, 'im_size': list, 'num_classes': int}
DC = {'channel': int, 'num_classes': int}
RESNET = {'dataset': ('cifar10', 'imagenet'), 'depth': int, 'norm_type': NORMS,
          'num_classes': int, 'size': int, 'width': (int, float)}
DENSENET = {'block': ('Bottleneck',), 'growth_rate': int, 'nblocks': list,
            'num_classes': int, 'reduction': (int, float)}
MODES = ('train', 'eval')

# DC's networks by the function that the file names, with our settings.
FUNCTIONS = {
    'alexnet': ('alexnet', {'norm': 'none'}),
    'alexnet_bn': ('alexnet', {'norm': 'batch'}),
    'lenet': ('lenet', {}),
    'lenet_gray': ('lenet', {}),
    'mlp': ('mlp', {}),
    'mlp_gray': ('mlp', {}),
    'resnet18_ap_bn': ('resnet18_ap', {'norm': 'batch'}),
    'resnet18_ap_in': ('resnet18_ap', {'norm': 'instance'}),
    'resnet18_bn': ('resnet18', {'norm': 'batch'}),
    'resnet18_in': ('resnet18', {'norm': 'instance'}),
    'vgg11': ('vgg11', {'norm': 'instance'}),
    'vgg11_bn': ('vgg11', {'norm': 'batch'}),
}
RESNETS = {'models.resnet.ResNet': 'resnet',
           'models.resnet_ap.ResNetAP': 'resnet_ap'}

# Of logits, losses and features; of gradients; of those in the images.
SMALL = ('value', 'gradient', 'gradient')
DEEP = ('deep', 'deep_gradient', 'deep_image')


def check(golden):
  """`models_*_convnet*`: a ConvNet."""
  meta = golden.settings(META)
  config = golden.settings(CONVNET, meta['config'])
  net = Net(golden, (config['channel'], *config['im_size']),
            config['num_classes'], config)
  _check_modes(golden, net, meta, SMALL)


def check_dc(golden):
  """`models_dc_*`: the other networks of DC."""
  meta = golden.settings(META)
  function = meta['function'].removeprefix('networks (').removesuffix(')')
  if function not in FUNCTIONS:
    raise GoldenError(f'{golden.name}: unknown function {function!r}')
  name, settings = FUNCTIONS[function]
  _check_net(golden, meta, DC, name, **settings)


def check_resnet(golden):
  """`models_idc_resnet*`: IDC's ResNet and ResNet-AP."""
  meta = golden.settings(META)
  config = golden.settings(RESNET, meta['config'])
  name = RESNETS.get(meta['function'])
  if name is None:
    raise GoldenError(f'{golden.name}: unknown function {meta["function"]!r}')
  if golden['in/x'].shape[2:] != (config['size'],) * 2:
    raise GoldenError(f'{golden.name}: size {config["size"]} is not that of x')
  _check_net(golden, meta, RESNET, name, depth=config['depth'],
             norm=NORMS[config['norm_type']], widen=config.get('width', 1.0),
             variant=config['dataset'].removesuffix('10'))


def check_densenet(golden):
  """`models_idc_densenet*`: IDC's DenseNet."""
  meta = golden.settings(META)
  config = golden.settings(DENSENET, meta['config'])
  _check_net(golden, meta, DENSENET, 'densenet', growth=config['growth_rate'],
             blocks=config['nblocks'], reduction=config.get('reduction', 0.5))


def _check_net(golden, meta, known, name, **settings):
  config = golden.settings(known, meta['config'])
  shape = golden['in/x'].shape[1:]
  if shape[0] != config.get('channel', 3):
    raise GoldenError(f'{golden.name}: x has {shape[0]} channels')
  net = Stored(golden, shape, config['num_classes'], name, **settings)
  _check_modes(golden, net, meta, SMALL if name in ('lenet', 'mlp') else DEEP)


def _check_modes(golden, net, meta, kinds):
  """Logits, features, loss and gradients, in each mode."""
  for mode in meta['modes']:
    if mode not in MODES:
      raise GoldenError(f'{golden.name}: unknown mode {mode!r}')
    prefix = f'{mode}/' if golden.outputs(f'{mode}/logits') else ''
    _check_mode(golden, net, meta['num_classes'], mode == 'train', prefix,
                kinds)


def _check_mode(golden, net, classes, train, prefix, kinds):
  def forward(params, images, labels):
    variables = net.variables._replace(params=params)
    logits, stats = net.network.apply(variables, images, train=train)
    return losses.cross_entropy(logits, labels), (logits, stats)

  images = golden.images('in/x')
  run = golden.jit(jax.value_and_grad(forward, (0, 1), has_aux=True))
  (loss, (logits, stats)), (slope, slope_x) = run(
      net.variables.params, images,
      golden.onehot(golden['in/labels'], classes))
  features = golden.jit(functools.partial(net.network.features, train=train))(
      net.variables, images)
  value, gradient, image = kinds
  golden.check(prefix + 'logits', logits, value)
  golden.check(prefix + 'loss', loss, value)
  golden.check(prefix + 'features', layout.flat(features[-1]), value)
  _check_features(golden, prefix, (*features, logits), value)
  golden.check(prefix + 'grad_x', layout.nchw(slope_x), image)
  if isinstance(net, Net):
    net.check_params(prefix + 'grad/', slope, train=train)
  sizes = [np.linalg.norm(net.layout.theirs(slope, name).ravel())
           for name in net.names]
  golden.check(prefix + 'grad_param_norms', np.array(sizes), gradient)
  if train:
    net.check_buffers(prefix + 'buffer_after/', stats, value)


def _check_features(golden, prefix, features, kind):
  """Means over height and width, where the file has them; logits come last."""
  for k, feature in enumerate(features):
    mean = np.asarray(feature)
    mean = mean.mean((1, 2)) if mean.ndim == 4 else mean
    for key in (f'{prefix}feature{k}_mean', f'{prefix}feature{k}'):
      if golden.outputs(key):
        golden.check(key, mean, kind)
