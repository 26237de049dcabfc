"""Methods by name: what each matches, and how its network moves."""

import functools

from dasm_jax import augment, coupled, losses, models, objectives, train
from dasm_jax.errors import UserError, unknown
from dasm_jax.methods import gradient, lives, statistics

# What makes a method itself. Rates, lengths and batch sizes are a matter of
# the data set: `configs` holds the published ones.
METHODS = {
    'dc': dict(
        match='gradient', distance='layerwise_cosine', parameters='kernels',
        augment='', augment_mode='single', per_class_steps=False,
        train_on='synthetic', net_augment='', net_cutmix=0.0),
    'dsa': dict(
        match='gradient', distance='layerwise_cosine', parameters='kernels',
        augment='color_crop_cutout_flip_scale_rotate', augment_mode='single',
        per_class_steps=False, train_on='synthetic',
        net_augment='color_crop_cutout_flip_scale_rotate', net_cutmix=0.0),
    'dsac': dict(
        match='contrast', distance='layerwise_cosine', parameters='kernels',
        augment='color_crop_cutout_flip_scale_rotate', augment_mode='single',
        per_class_steps=False, alone_networks=250, alone_sweeps=10,
        train_on='synthetic',
        net_augment='color_crop_cutout_flip_scale_rotate', net_cutmix=0.0),
    'dm': dict(
        match='feature', distance='mse', first_block=-1, last_block=-1,
        parameters='kernels', augment='color_crop_cutout_flip_scale_rotate',
        augment_mode='single', per_class_steps=False, train_on='synthetic',
        inner=1, net_steps=0, lr=1.0,
        net_augment='', net_cutmix=0.0),
    'cafe': dict(
        match='discriminate', distance='mse', parameters='kernels', augment='',
        augment_mode='single', per_class_steps=False, train_on='synthetic',
        weights=(1.0, 1.0, 0.1), discrimination=0.01, drops=(0.6, 0.8, 0.9),
        decay=0.5, watch_images=128, watch_window=10, watch_rest=0.04,
        watch_move=0.03, inner=100, net_steps=100,
        net_augment='', net_cutmix=0.0),
    'sre2l': dict(
        match='statistics', augment='flip_crop', augment_mode='idc',
        per_class_steps=False, train_on='real', statistics=0.01,
        first_layer=10.0, teach=20, label_views=0, net_lr=0.05,
        net_momentum=0.9, net_weight_decay=5e-4, net_steps=100, net_batch=128,
        net_augment='flip_crop', net_cutmix=0.0),
    'idc': dict(
        match='gradient', distance='mse', parameters='convolutions',
        augment='color_crop_cutout', augment_mode='idc', per_class_steps=True,
        train_on='real', net_augment='color_crop', net_cutmix=0.5),
}

# Which parameters a distance compares, by number of dimensions.
PARAMETERS = {
    'all': None,
    'kernels': objectives.KERNELS,
    'convolutions': (4,),
    'convolutions_linear': (4, 2),
    'convolutions_linear_bias': (4, 2, 1),
}
MATCHES = ('contrast', 'discriminate', 'feature', 'gradient', 'statistics')
TRAIN_ON = ('real', 'synthetic')


def build(network, classes, codec, c, correction, *, images, replay=0.0,
          union=False, steps=None, axis_name=None):
  """A `Method` from its settings.

  Args:
    network: a `Network`.
    classes: how many there are in all.
    codec: a `synthetic.Codec`.
    c: the settings, a mapping with attributes; see `config.defaults`.
    correction: a `gradient.Correction`.
    images: stored images a class inside the matching mean; with
      `c.lr_per_image` the rate is that of ten and proportional to it (IDC).
    replay, union: see `gradient.Settings`.
    steps: sweeps in all; None is `c.steps`.
    axis_name: mapped axis over which the classes are split.

  Raises:
    UserError: a name that is in no table, or an impossible value.
  """
  lr = c.lr * images / 10 if c.lr_per_image else c.lr
  momentum = c.momentum
  if c.per_class_steps:
    lr, momentum = gradient.equivalent(lr, momentum, classes)
  mode, steps = c.augment_mode, steps or c.steps
  augmentation = augment.build(c.augment, mode)
  net = train.recipe(
      1, lr=c.net_lr, momentum=c.net_momentum,
      weight_decay=c.net_weight_decay, batch=c.net_batch,
      strategy=c.net_augment, mode=mode, cutmix=c.net_cutmix)
  if c.match == 'statistics':
    return statistics.method(network, statistics.Settings(
        augment=augmentation, correction=correction, codec=codec,
        limit=c.limit or None, lr=lr, momentum=momentum, weight=c.statistics,
        first=c.first_layer, teach=c.teach, steps=steps, net_steps=c.net_steps,
        net=net, replay=replay, views=c.label_views), axis_name)
  watch = lives.Watch(c.watch_images, c.watch_window, c.watch_rest,
                      c.watch_move) if c.get('watch_images') else None
  settings = gradient.Settings(
      matching=matching(network, c), augment=augmentation,
      correction=correction, codec=codec, limit=c.limit or None,
      batch=c.batch, replay=replay, union=union, lr=lr, momentum=momentum,
      inner=c.inner, warmup=c.warmup, train_on=c.train_on, steps=c.net_steps,
      net=net, watch=watch, decay=c.get('decay', 1.0),
      drops=tuple(round(share * steps) for share in c.get('drops', ())))
  return gradient.method(network, settings, axis_name)


def matching(network, c):
  """The `coupled.Matching` that settings ask for."""
  if c.match not in MATCHES:
    raise unknown('match', c.match, MATCHES)
  distance = losses.distance(c.distance)
  if c.match == 'discriminate':
    return coupled.discriminative(network.maps, c.weights, c.discrimination)
  if c.match == 'feature':
    blocks = dict(first=c.first_block, last=c.last_block)
    if models.normalises_batches(network):  # in training, as published
      return coupled.batch_feature_matching(
          functools.partial(network.features, train=True), distance, **blocks)
    return coupled.plain(objectives.feature_matching(
        network.features, distance, **blocks))
  if c.parameters not in PARAMETERS:
    raise unknown('parameters', c.parameters, PARAMETERS)
  loss, ndims = train.loss_fn(network), PARAMETERS[c.parameters]
  if c.match == 'gradient':
    return coupled.plain(
        objectives.gradient_matching(loss, distance, ndims=ndims))
  def warm(step):
    return (step // c.inner < c.alone_networks) & (
        step % c.inner < c.alone_sweeps)
  return coupled.contrastive(loss, distance, ndims=ndims, warm=warm)


def check(c):
  """Raises `UserError` for settings of a method that cannot work."""
  if c.match not in MATCHES:
    raise unknown('match', c.match, MATCHES)
  if not any(row['match'] == c.match and row.keys() <= set(c.keys())
             for row in METHODS.values()):
    names = [name for name, row in METHODS.items() if row['match'] == c.match]
    raise UserError(f'--config.method.match={c.match} has settings that method '
                    f'{c.name} has not; take method={" or ".join(names)}')
  least = dict(batch=1, steps=1, inner=1, net_batch=1, limit=0, warmup=0,
               net_steps=0, alone_networks=0, alone_sweeps=0)
  least.update(watch_images=0, watch_window=2, teach=1, label_views=0)
  for name, low in least.items():
    if name in c and c[name] < low:
      raise UserError(f'--config.method.{name}={c[name]} must be at least '
                      f'{low}')
  for name in ('lr', 'net_lr'):
    if c[name] <= 0:
      raise UserError(f'--config.method.{name}={c[name]} must be positive')
  for name in ('momentum', 'net_momentum'):
    if not 0 <= c[name] < 1:
      raise UserError(f'--config.method.{name}={c[name]} must be at least 0 '
                      'and less than 1')
  for share in c.get('drops', ()):
    if not 0 <= share <= 1:
      raise UserError(f'--config.method.drops={c.drops} are shares of the '
                      'steps, from 0 to 1')
  if 'weights' in c and not c.weights:
    raise UserError('--config.method.weights=() must have at least one')
  if c.train_on not in TRAIN_ON:
    raise unknown('train_on', c.train_on, TRAIN_ON)


def images_per_step(c, classes, decoded, steps):
  """Images that pass through networks in one sweep of `steps`, on average.

  Of a network that trains until something moves: the most there can be.
  """
  images = min(decoded, c.limit or decoded)
  if c.match == 'statistics':
    return classes * images + c.teach * c.net_steps * c.net_batch / steps
  trained = c.net_steps * (
      c.net_batch if c.train_on == 'real' else classes * decoded)
  return classes * (c.batch + images) + trained
