"""Methods as rows of settings, and what settings cannot be."""

from dasm_jax import coresets
from dasm_jax.errors import UserError, unknown


def class_work(c, matched_):
  """(kind, images) of one class in one sweep."""
  return {
      'gradient': [('gradient', c.get('batch')), ('second', matched_)],
      # The stage before has gradients of both, see
      # `objectives.contrastive_matching`.
      'contrast': [('gradient', c.get('batch')), ('gradient', matched_),
                   ('second', matched_)],
      'feature': [('forward', c.get('batch')), ('inward', matched_)],
      # Two stages look at the real and one at the synthetic images.
      'discriminate': [('forward', 2 * c.get('batch')), ('forward', matched_),
                       ('inward', matched_)],
      'statistics': [('forward', matched_), ('inward', matched_)]}[c.match]

DSA = 'color_crop_cutout_flip_scale_rotate'

# Entries of every gradient- or feature-matching method, and of every one that
# matches trajectories: what a method does not say below, it takes from here.
GRADIENT = dict(
    first_block=0, last_block=0, alone_networks=0, alone_sweeps=0, batch=64,
    limit=0, lr=0.1, lr_per_image=False, momentum=0.5, steps=1000, inner=100,
    warmup=0, per_class_steps=False, augment='', augment_mode='single',
    train_on='synthetic', net_steps=32, net_lr=0.01, net_momentum=0.0,
    net_weight_decay=0.0, net_batch=256, net_augment='', net_cutmix=0.0)
TRAJECTORY = dict(
    match='trajectory', frozen=False, image_factor=1.0, student_steps=30,
    expert_epochs=2, first_epoch=0, start_last_epoch=-1, last_epoch=19,
    expand=0, batch_syn=0, starts=1, lr=100.0, momentum=0.5, lr_start=0.01,
    lr_lr=1e-5, lr_label=0.0, label_momentum=0.9, average=0.0, skip_above=0.0,
    assign=False, steps=5000, augment=DSA, augment_mode='mtt')

# Of methods whose network is renewed: how many are trained before and kept, of
# which each new one is; none: each is drawn as it is initialised.
PRETRAINED = dict(pretrained=0, pretrained_epochs=5)

# What makes a method itself. Rates, lengths and batch sizes are a matter of
# the data set: `configs` holds the published ones.
METHODS = {
    'dc': dict(
        PRETRAINED, match='gradient', distance='layerwise_cosine',
        parameters='kernels'),
    'dsa': dict(
        PRETRAINED, match='gradient', distance='layerwise_cosine',
        parameters='kernels', augment=DSA, net_augment=DSA),
    'dsac': dict(
        PRETRAINED, match='contrast', distance='layerwise_cosine',
        parameters='kernels', augment=DSA, net_augment=DSA, alone_networks=250,
        alone_sweeps=10),
    'dm': dict(
        PRETRAINED, match='feature', distance='mse', first_block=-1,
        last_block=-1, parameters='kernels', augment=DSA, inner=1, net_steps=0,
        lr=1.0),
    'cafe': dict(
        match='discriminate', distance='mse', parameters='kernels',
        weights=(1.0, 1.0, 0.1), discrimination=0.01, drops=(0.6, 0.8, 0.9),
        decay=0.5, watch_images=128, watch_window=10, watch_rest=0.04,
        watch_move=0.03, inner=100, net_steps=100),
    'sre2l': dict(
        match='statistics', augment='flip_crop', augment_mode='idc',
        train_on='real', statistics=0.01, first_layer=10.0, teach=20,
        relabel=True, temperature=20.0, label_views=0, net_lr=0.05,
        net_momentum=0.9, net_weight_decay=5e-4, net_steps=100, net_batch=128,
        net_augment='flip_crop'),
    'idc': dict(
        PRETRAINED, match='gradient', distance='mse', parameters='convolutions',
        limit=128, augment='color_crop_cutout', augment_mode='idc',
        per_class_steps=True,
        lr_per_image=True, train_on='real', net_augment='color_crop',
        net_cutmix=0.5, net_momentum=0.9, net_weight_decay=5e-4, net_batch=64),
    'mtt': TRAJECTORY,
    'ftd': {**TRAJECTORY, 'average': 0.9995},
    'tesla': {**TRAJECTORY, 'frozen': True, 'image_factor': 0.5,
              'steps': 10_000},
    'datm': {**TRAJECTORY, 'lr_label': 2.0, 'skip_above': 1.0,
             'steps': 10_000},
    # Coresets: real images that no step moves. What they begin as is chosen
    # by `syn.init`, of DASM's windows or (the others) of everything.
    **{name: dict(match='none', steps=0, batch=1, net_steps=0)
       for name in ('aligned', *coresets.CORESETS)},
}
FAMILIES = ('contrast', 'discriminate', 'feature', 'gradient', 'none',
            'statistics', 'trajectory')
TRAIN_ON = ('real', 'synthetic')


def settings_of(method):
  """Every entry of `config.method` for the method of that name.

  Raises:
    UserError: an unknown method.
  """
  if method not in METHODS:
    raise unknown('method', method, METHODS)
  row = METHODS[method]
  if row['match'] != 'trajectory':
    row = {**GRADIENT, **row}
  return {'name': method, **row}


LEAST_VALUES = dict(
    batch=1, inner=1, net_batch=1, limit=0, warmup=0, net_steps=0,
    alone_networks=0, alone_sweeps=0, watch_images=0, watch_window=2, teach=1,
    label_views=0, pretrained=0, pretrained_epochs=1, student_steps=1,
    expert_epochs=1, first_epoch=0, batch_syn=0, starts=1, expand=0,
    lr_label=0, skip_above=0)
POSITIVE = 'lr', 'net_lr', 'lr_start', 'lr_lr', 'temperature'
MOMENTA = 'momentum', 'net_momentum', 'label_momentum', 'average'


def check_method(c):
  """Raises `UserError` for settings of a method that cannot work."""
  if c.match not in FAMILIES:
    raise unknown('match', c.match, FAMILIES)
  _check_same_family(c)
  for name in c:
    if name in LEAST_VALUES and c[name] < LEAST_VALUES[name]:
      raise UserError(f'--config.method.{name}={c[name]} must be at least '
                      f'{LEAST_VALUES[name]}')
    if name in POSITIVE and c[name] <= 0:
      raise UserError(f'--config.method.{name}={c[name]} must be positive')
    if name in MOMENTA and not 0 <= c[name] < 1:
      raise UserError(f'--config.method.{name}={c[name]} must be at least 0 '
                      'and less than 1')
  if c.match == 'none' and c.steps:
    raise UserError(f'--config.method.steps={c.steps}, but {c.name} matches '
                    'nothing; set 0')
  if c.match != 'none' and c.steps < 1:
    raise UserError(f'--config.method.steps={c.steps} must be at least 1')
  for share in c.get('drops', ()):
    if not 0 <= share <= 1:
      raise UserError(f'--config.method.drops={c.drops} are shares of the '
                      'steps, from 0 to 1')
  if c.get('assign') and c.lr_label:
    raise UserError('--config.method.assign and .lr_label are two ways to have '
                    'soft labels; set --config.method.lr_label=0')
  if 'weights' in c and not c.weights:
    raise UserError('--config.method.weights=() must have at least one')
  if c.get('train_on', 'real') not in TRAIN_ON:
    raise unknown('train_on', c.train_on, TRAIN_ON)


def _check_same_family(c):
  """A flag may change what is matched only within a method's settings."""
  if c.name not in METHODS:
    raise unknown('method', c.name, METHODS)
  fitting = [name for name, row in METHODS.items() if row['match'] == c.match]
  if not any(METHODS[name].keys() <= set(c.keys()) for name in fitting):
    raise UserError(f'--config.method.match={c.match} has settings that method '
                    f'{c.name} has not; take method={" or ".join(fitting)}')
  if (c.match == 'none') != (METHODS[c.name]['match'] == 'none') or (
      not METHODS[c.name].keys() <= set(c.keys())):
    raise UserError(f'--config.method.name={c.name} changes the name alone; '
                    f'ask for --config=FILE.py:method={c.name}')


def classes_apart(c):
  """Whether each class is learned by itself, so that others may wait.

  So it is where each is matched alone, by networks that no synthetic image
  trains.
  """
  return c.match in ('gradient', 'feature') and (
      c.train_on == 'real' or not c.net_steps)


def check_experts(c, experts):
  """Raises `UserError` where a method asks for epochs that experts lack.

  Args:
    c: of the method.
    experts: of its experts, `config.expert_settings`.
  """
  if not c.first_epoch <= c.last_epoch:
    raise UserError(
        f'--config.method.first_epoch={c.first_epoch} is after .last_epoch='
        f'{c.last_epoch}; lower it')
  needed = c.last_epoch + c.expert_epochs
  if needed > experts.epochs:
    raise UserError(
        f'--config.method.last_epoch={c.last_epoch} and .expert_epochs='
        f'{c.expert_epochs} need experts of {needed} epochs, but --config.'
        f'experts.epochs={experts.epochs}; raise it or lower them')
  for name in ('number', 'epochs', 'batch', 'at_once'):
    if experts[name] < 1:
      raise UserError(f'--config.experts.{name}={experts[name]} must be at '
                      'least 1')
  for name in ('rho', 'alpha', 'weight_decay'):
    if experts[name] < 0:
      raise UserError(f'--config.experts.{name}={experts[name]} must not be '
                      'negative')
