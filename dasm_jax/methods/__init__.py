"""Methods by name: what each matches, and how its network moves."""

from dasm_jax import augment, coupled, experts, losses, objectives, train
from dasm_jax.errors import UserError, unknown
from dasm_jax.methods import gradient, trajectory

# Entries of a gradient- or feature-matching method, and of one that matches
# trajectories; what a method does not say below, it takes from here.
GRADIENT = dict(
    first_block=0, last_block=0, alone_networks=0, alone_sweeps=0, batch=64,
    limit=128, lr=0.1, lr_per_image=False, momentum=0.5, steps=1000, inner=100,
    warmup=0, net_steps=32, net_lr=0.01, net_momentum=0.0,
    net_weight_decay=0.0, net_batch=256)
TRAJECTORY = dict(
    match='trajectory', frozen=False, image_factor=1.0, student_steps=30,
    expert_epochs=2, first_epoch=0, start_last_epoch=-1, last_epoch=19,
    expand=0, batch_syn=0, starts=1, lr=100.0, momentum=0.5, lr_start=0.01,
    lr_lr=1e-5, lr_label=0.0, label_momentum=0.9, average=0.0, skip_above=0.0,
    steps=5000, augment='color_crop_cutout_flip_scale_rotate')

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
    'idc': dict(
        match='gradient', distance='mse', parameters='convolutions',
        augment='color_crop_cutout', augment_mode='idc', per_class_steps=True,
        lr_per_image=True, train_on='real', net_augment='color_crop',
        net_cutmix=0.5, net_momentum=0.9, net_weight_decay=5e-4, net_batch=64),
    'mtt': TRAJECTORY,
    'ftd': {**TRAJECTORY, 'average': 0.9995},
    'tesla': {**TRAJECTORY, 'frozen': True, 'image_factor': 0.5,
              'steps': 10_000},
    'datm': {**TRAJECTORY, 'lr_label': 2.0, 'skip_above': 1.0,
             'steps': 10_000},
}


def settings_of(method):
  """Every entry of `config.method` for the method of that name.

  Raises:
    UserError: an unknown method.
  """
  if method not in METHODS:
    raise unknown('method', method, METHODS)
  row = METHODS[method]
  if 'student_steps' not in row:
    row = {**GRADIENT, **row}
  return {'name': method, **row}


# Which parameters a distance compares, by number of dimensions.
PARAMETERS = {
    'all': None,
    'kernels': objectives.KERNELS,
    'convolutions': (4,),
    'convolutions_linear': (4, 2),
    'convolutions_linear_bias': (4, 2, 1),
}
MATCHES = ('contrast', 'feature', 'gradient')
TRAIN_ON = ('real', 'synthetic')


def build(network, classes, codec, c, correction, *, images, replay=0.0,
          union=False, axis_name=None):
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
    axis_name: mapped axis over which the classes are split.

  Raises:
    UserError: a name that is in no table, or an impossible value.
  """
  if 'student_steps' in c:
    return _trajectory(network, codec, c, correction, union, axis_name)
  lr = c.lr * images / 10 if c.lr_per_image else c.lr
  momentum = c.momentum
  if c.per_class_steps:
    lr, momentum = gradient.equivalent(lr, momentum, classes)
  mode = c.augment_mode
  settings = gradient.Settings(
      matching=matching(network, c), augment=augment.build(c.augment, mode),
      correction=correction, codec=codec, limit=c.limit or None,
      batch=c.batch, replay=replay, union=union, lr=lr, momentum=momentum,
      inner=c.inner, warmup=c.warmup, train_on=c.train_on, steps=c.net_steps,
      net=train.recipe(
          1, lr=c.net_lr, momentum=c.net_momentum,
          weight_decay=c.net_weight_decay, batch=c.net_batch,
          strategy=c.net_augment, mode=mode, cutmix=c.net_cutmix))
  return gradient.method(network, settings, axis_name)


def _trajectory(network, codec, c, correction, union, axis_name):
  plain = {name: c[name] for name in trajectory.Settings._fields if name in c}
  settings = trajectory.Settings(**{
      **plain, 'unravel': experts.flat(network)[1],
      'loss_fn': experts.loss_fn(network), 'batch': c.batch_syn,
      'augment': augment.build(c.augment, align_corners=True),
      'correction': correction, 'codec': codec, 'union': union})
  return trajectory.method(settings, axis_name)


def matching(network, c):
  """The `coupled.Matching` that settings ask for."""
  if c.match not in MATCHES:
    raise unknown('match', c.match, MATCHES)
  distance = losses.distance(c.distance)
  if c.match == 'feature':
    return coupled.plain(objectives.feature_matching(
        network.features, distance, first=c.first_block, last=c.last_block))
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


LEAST = dict(batch=1, steps=1, inner=1, net_batch=1, limit=0, warmup=0,
             net_steps=0, alone_networks=0, alone_sweeps=0, student_steps=1,
             expert_epochs=1, first_epoch=0, batch_syn=0, starts=1, expand=0,
             lr_label=0, skip_above=0)
POSITIVE = 'lr', 'net_lr', 'lr_start', 'lr_lr'
MOMENTA = 'momentum', 'net_momentum', 'label_momentum', 'average'


def check(c):
  """Raises `UserError` for settings of a method that cannot work."""
  for name in c:
    if name in LEAST and c[name] < LEAST[name]:
      raise UserError(f'--config.method.{name}={c[name]} must be at least '
                      f'{LEAST[name]}')
    if name in POSITIVE and c[name] <= 0:
      raise UserError(f'--config.method.{name}={c[name]} must be positive')
    if name in MOMENTA and not 0 <= c[name] < 1:
      raise UserError(f'--config.method.{name}={c[name]} must be at least 0 '
                      'and less than 1')
  if c.get('train_on', 'real') not in TRAIN_ON:
    raise unknown('train_on', c.train_on, TRAIN_ON)


def check_experts(c, experts_):
  """Raises `UserError` where a method asks for epochs that experts lack."""
  if not c.first_epoch <= c.last_epoch:
    raise UserError(
        f'--config.method.first_epoch={c.first_epoch} is after .last_epoch='
        f'{c.last_epoch}; lower it')
  needed = c.last_epoch + c.expert_epochs
  if needed > experts_.epochs:
    raise UserError(
        f'--config.method.last_epoch={c.last_epoch} and .expert_epochs='
        f'{c.expert_epochs} need experts of {needed} epochs, but --config.'
        f'experts.epochs={experts_.epochs}; raise it or lower them')
  for name in ('number', 'epochs', 'batch', 'at_once'):
    if experts_[name] < 1:
      raise UserError(f'--config.experts.{name}={experts_[name]} must be at '
                      'least 1')
  for name in ('rho', 'alpha', 'weight_decay'):
    if experts_[name] < 0:
      raise UserError(f'--config.experts.{name}={experts_[name]} must not be '
                      'negative')
