"""Methods by name: one row each, and all that the program knows of them.

Sections: families (how a method is built), matches (what it matches), methods
(its settings), and what settings cannot be. To add a method: its formula in
`objectives`, a row in `MATCHES` if the formula is new, a row in `METHODS`, and
its published settings in `config`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from dasm_jax import (
  coresets,
  losses,
  models,
  objectives,
  segments,
  shapes,
  streams,
)
from dasm_jax.errors import UserError, unknown
from dasm_jax.methods import fixed, matching, sre2l, trajectory
from dasm_jax.methods.options import Options
from dasm_jax.methods.settings import DSA, ENTRIES, PARAMETERS, defaults
from dasm_jax.runtime import entries
from dasm_jax.training import train_step
from dasm_jax.types import Method, Network

# ---- Families


class Family(NamedTuple):
  """How methods of a kind are built, and what they are to the program.

  name: by which other parts have tables of their own, such as `cost`.
  build: `(network, c, matching, Options) -> Method`; `matching` is an
    `objectives.Matching`, or None.
  describe: `c -> str`, what a method does, in a line.
  images_per_step: `(c, classes, decoded, steps) -> number` of images that pass
    through networks in one sweep of `steps`, on average.
  experts: whether it matches experts, which are trained first.
  synthesises: whether its steps move images; coresets stay as they are.
  joins: whether new images can be matched in union with finished ones.
  first_moving_step: `c -> number` of the first step of a segment that does:
    those before it come on top of `method.steps`.
  """
  name: str
  build: Callable
  describe: Callable
  images_per_step: Callable
  experts: bool = False
  synthesises: bool = True
  joins: bool = False
  first_moving_step: Callable = lambda c: 0


MATCHING = Family('matching', matching.build, matching.describe,
                  matching.images_per_step, joins=True)
SRE2L = Family('sre2l', sre2l.build, sre2l.describe, sre2l.images_per_step,
               first_moving_step=sre2l.first_moving_step)
TRAJECTORY = Family('trajectory', trajectory.build, trajectory.describe,
                    trajectory.images_per_step, experts=True, joins=True)
CORESET = Family('coreset', fixed.build, fixed.describe, fixed.images_per_step,
                 synthesises=False)


# ---- What is matched


class Match(NamedTuple):
  """What a method matches.

  family: a `Family`.
  objective: `(network, c, alone) -> objectives.Matching`, or None where the
    family has its own; alone: see `Options`.
  work: `(c, decoded) -> [(kind, images)]`, of one class in one sweep that
    matches so many decoded images; kinds are those of `packing.PASS_KINDS`.
  apart: whether a class is matched without a look at the others.
  together: whether batch norm, where there is some, sees all classes at once.
  """
  family: Family
  objective: Callable | None = None
  work: Callable | None = None
  apart: bool = False
  together: bool = False


def _ndims(network, c):
  """The numbers of dimensions of the parameters whose gradients are compared.

  Raises:
    UserError: an unknown name, or no such parameters.
  """
  if c.parameters not in PARAMETERS:
    raise unknown('parameters', c.parameters, PARAMETERS)
  ndims = PARAMETERS[c.parameters]
  shapes = jax.eval_shape(network.init, jax.random.key(0)).params
  if not losses.select(shapes, ndims):
    raise UserError(f'--config.method.parameters={c.parameters} names none of '
                    'the network\'s parameters: there is nothing to match; '
                    'take kernels or all')
  return ndims


def _gradient(network, c, alone):
  del alone
  return objectives.class_by_class(objectives.gradient_matching(
      train_step.loss_fn(network), losses.distance(c.distance),
      ndims=_ndims(network, c)))


def _contrast(network, c, alone):
  # As DCC's program begins: the first networks match each class alone at first.
  def plain(step):
    swept = step % c.inner
    return (step - swept < alone) & (swept < c.alone_sweeps)
  return objectives.contrastive_matching(
      train_step.loss_fn(network), losses.distance(c.distance),
      ndims=_ndims(network, c), warm=plain)


def _feature(network, c, alone):
  del alone
  distance = losses.distance(c.distance)
  blocks = dict(first=c.first_block, last=c.last_block)
  # DM's program leaves its networks in training, so that batch norm normalises
  # by the batch; that must then hold all classes.
  if models.normalises_batches(network):
    return objectives.batch_feature_matching(
        functools.partial(network.features, train=True), distance, **blocks)
  return objectives.class_by_class(objectives.feature_matching(
      network.features, distance, **blocks))


def _discriminate(network, c, alone):
  del alone
  # `maps` are those before a block's pooling, at which CAFE looks.
  return objectives.discriminative_matching(
      network.maps, c.weights, c.discrimination)


def _statistics(network, c, alone):
  del alone
  return objectives.statistics_matching(network, c.statistics, c.first_layer)


# `work` is what the dry run counts and what `packing` makes room for.
MATCHES = {
    'gradient': Match(MATCHING, _gradient, lambda c, n: [
        ('gradient', c.batch), ('second', n)], apart=True),
    # The stage before has gradients of both, too.
    'contrast': Match(MATCHING, _contrast, lambda c, n: [
        ('gradient', c.batch), ('gradient', n), ('second', n)]),
    'feature': Match(MATCHING, _feature, lambda c, n: [
        ('forward', c.batch), ('inward', n)], apart=True, together=True),
    # Two stages look at the real and one at the synthetic images.
    'discriminate': Match(MATCHING, _discriminate, lambda c, n: [
        ('forward', c.batch), ('forward', c.batch), ('forward', n),
        ('inward', n)]),
    'statistics': Match(SRE2L, _statistics, lambda c, n: [
        ('forward', n), ('inward', n)]),
    'trajectory': Match(TRAJECTORY),
    'none': Match(CORESET),
}


# ---- Methods


class Spec(NamedTuple):
  """One method.

  settings: every entry of `config.method` with its default.
  presets: entries of other groups that it sets, `{dotted name: value}`.
  many: images a class from which it takes several segments by default.
  """
  settings: dict
  presets: dict = {}
  many: int = segments.MANY


# Entries that methods of a kind share.
_SWEEPS = defaults(
    'first_block', 'last_block', 'alone_share', 'alone_sweeps', 'batch',
    'limit', 'lr', 'lr_per_image', 'momentum', 'steps', 'inner', 'warmup',
    'per_class_steps', 'augment', 'augment_mode', 'train_on', 'net_steps',
    'net_lr', 'net_momentum', 'net_weight_decay', 'net_batch', 'net_augment',
    'net_cutmix')
_RENEWED = defaults('begin', 'pretrained', 'pretrained_epochs')
_STUDENTS = defaults(
    'frozen', 'image_factor', 'student_steps', 'expert_epochs', 'first_epoch',
    'start_last_epoch', 'last_epoch', 'expand', 'batch_syn', 'starts',
    'momentum', 'lr_start', 'lr_lr', 'lr_label', 'label_momentum', 'average',
    'skip_above', 'assign', match='trajectory', lr=100.0, steps=5000,
    augment=DSA, augment_mode='mtt')

# A student is trained on all that there is, and its rate is learned. SDC takes
# the norm of what its steps follow, the gradient of a whole minibatch.
_EXPERTS_PRESETS = {'segments.match': 'union', 'eval.lr': 0.0,
                    'sdc.penalty': 'batch_norm'}
_IDC_PRESETS = {'syn.space': 'pixels', 'eval.recipe': 'idc'}


def _matching(match, presets=None, renewed=True, many=segments.MANY,
              **settings):
  """A method whose inner network is begun anew every so many sweeps."""
  return Spec({**_SWEEPS, **(_RENEWED if renewed else {}), 'match': match,
               'parameters': 'kernels', **settings}, presets or {}, many)


def _trajectory(presets=None, **settings):
  return Spec({**_STUDENTS, **settings},
              {**_EXPERTS_PRESETS, **(presets or {})})


def _coreset(name, presets=None, skip=0.0):
  return Spec({**_SWEEPS, 'match': 'none', 'steps': 0, 'batch': 1,
               'net_steps': 0}, {
      'syn.init': name, 'coreset.skip': skip, 'segments.number': 1,
      'segments.window': 'everything',
      **_IDC_PRESETS} if presets is None else presets)


# Like the inner networks of others its teacher is trained by `net_…`, for
# `coreset.epochs`.
_RDED = Spec(
    {**_SWEEPS, **defaults('teacher', 'relabel', 'temperature'),
     'match': 'none', 'steps': 0, 'batch': 1, 'augment_mode': 'idc',
     'net_steps': 0, 'net_lr': 0.05, 'net_momentum': 0.9,
     'net_weight_decay': 5e-4, 'net_batch': 128, 'net_augment': 'flip_crop'},
    {'syn.init': 'rded', 'syn.space': 'pixels', 'segments.number': 1,
     'segments.window': 'everything', 'network.norm': 'batch',
     'eval.recipe': 'rded'})

METHODS = {
    'dc': _matching('gradient', {'syn.init': 'noise'}, augment_mode='dsa',
                    distance='layerwise_cosine'),
    'dsa': _matching('gradient', many=10, distance='layerwise_cosine',
                     augment=DSA, augment_mode='dsa', net_augment=DSA),
    'dsac': _matching('contrast', distance='layerwise_cosine', augment=DSA,
                      augment_mode='dsa', net_augment=DSA, alone_share=.25,
                      alone_sweeps=10),
    # A fresh network for each sweep, which nothing trains.
    'dm': _matching('feature', many=10, distance='mse', first_block=-1,
                    last_block=-1, augment=DSA, augment_mode='dsa', inner=1,
                    net_steps=0, lr=1.0),
    'cafe': _matching(
        'discriminate', {'syn.init': 'noise'}, renewed=False, distance='mse',
        **defaults('weights', 'discrimination', 'drops', 'decay',
                   'watch_images', 'watch_window', 'watch_rest', 'watch_move'),
        net_steps=100),
    'idc': _matching(
        'gradient', _IDC_PRESETS, many=10, distance='mse',
        parameters='convolutions', limit=128, augment='color_crop_cutout',
        augment_mode='idc',
        per_class_steps=True, lr_per_image=True, train_on='real',
        net_augment='color_crop', net_cutmix=0.5, net_momentum=0.9,
        net_weight_decay=5e-4, net_batch=64, begin='auto'),
    'sre2l': Spec(
        {**_SWEEPS, **defaults('statistics', 'first_layer', 'teach', 'net_warm',
                               'teacher', 'relabel', 'temperature',
                               'label_views'),
         'match': 'statistics', 'augment': 'flip_crop', 'augment_mode': 'idc',
         'train_on': 'real', 'net_lr': 0.05, 'net_momentum': 0.9,
         'net_weight_decay': 5e-4, 'net_steps': 100, 'net_batch': 128,
         'net_augment': 'flip_crop'},
        {'syn.init': 'noise', 'network.norm': 'batch', 'eval.recipe': 'sre2l',
         'eval.batch': 128}),
    'mtt': _trajectory(),
    'ftd': _trajectory(average=0.9995),
    # Half the gradient, as its program has it; see `trajectory_matching`.
    'tesla': _trajectory(frozen=True, image_factor=0.5, steps=10_000),
    'datm': _trajectory({'syn.init': 'known', 'syn.labels': 'experts'},
                        lr_label=2.0, skip_above=1.0, steps=10_000),
    # Coresets: real images that no step moves. What they begin as is chosen
    # by `syn.init`, of DASM's windows or (the others) of everything.
    'aligned': _coreset('aligned', {'segments.window': 'aligned',
                                    **_IDC_PRESETS}),
    **{name: _coreset(name, {'segments.window': name, **more, **_IDC_PRESETS})
       for name, more in (('frontier', {}), ('ccfs', {
           'segments.order': 'forgetting', 'syn.init': 'easiest'}))},
    'rded': _RDED,
    **{name: _coreset(name) for name in coresets.CORESETS},
    # As its program leaves out of CIFAR-10 where a tenth is kept.
    'ccs': _coreset('ccs', skip=.3),
    # SelMatch's, at the share that was best on CIFAR-10 at ipc 200.
    'window': _coreset('highest', skip=.7),
}


def settings_of(name: str) -> dict[str, Any]:
  """Every entry of `config.method` for the method of that name.

  Args:
    name: a key of `METHODS`.

  Returns:
    A dict.

  Raises:
    UserError: an unknown method.
  """
  return {'name': name, **spec(name).settings}


def spec(name: str) -> Spec:
  """The `Spec` of a method; raises `UserError` for an unknown name.

  Args:
    name: a key of `METHODS`.

  Returns:
    A `Spec`.
  """
  if name not in METHODS:
    raise unknown('method', name, METHODS)
  return METHODS[name]


def selections() -> list[str]:
  """Names of the methods that are one of `coresets.CORESETS`, left as it is.

  Returns:
    A list of keys of `METHODS`.
  """
  return [name for name, row in METHODS.items()
          if row.settings['match'] == 'none'
          and row.presets.get('syn.init') in coresets.CORESETS]


def match_of(c: Any) -> Match:
  """The `Match` that settings ask for; raises `UserError` if there is none.

  Args:
    c: the settings of a method.

  Returns:
    A `Match`.
  """
  if c.match not in MATCHES:
    raise unknown('match', c.match, MATCHES)
  return MATCHES[c.match]


def family_of(c: Any) -> Family:
  """The `Family` of a method's settings.

  Args:
    c: the settings of a method.

  Returns:
    A `Family`.
  """
  return match_of(c).family


def segments_from(c: Any) -> int:
  """Images a class from which a method takes several segments by default.

  Args:
    c: the settings of a method.

  Returns:
    Its `Spec.many`; 1 of coresets, to which segments cost no updates.
  """
  return spec(c.name).many if family_of(c).synthesises else 1


def build(c: Any, network: Network, options: Options) -> Method:
  """A `Method` from its settings.

  Args:
    c: the settings, a mapping with attributes; see `config.defaults`.
    network: a `Network`.
    options: an `Options`.

  Returns:
    A `Method`; its functions take keys of either kind.

  Raises:
    UserError: a name that is in no table, or an impossible value.
  """
  match = match_of(c)
  alone = options.alone
  if alone is None:
    alone = c.get('alone_share', 0) * c.steps
  found = match.objective(network, c, alone) if match.objective else None
  return _with_any_key(match.family.build(network, c, found, options))


def _with_any_key(method):
  """A `Method` whose functions take keys of either kind."""
  def init(key, syn):
    shapes.check_class_major(
        'Method.init', syn, instead='a method learns a whole set')
    return method.init(streams.typed(key), syn)

  def draw(data, windows, key, step):
    return method.draw(data, windows, streams.typed(key), step)

  def step(state, data, windows, drawn, key):
    return method.step(state, data, windows, drawn, streams.typed(key))

  warmup = method.warmup
  if warmup:
    warmup = warmup._replace(
        draw=lambda data, key, step: method.warmup.draw(
            data, streams.typed(key), step),
        step=lambda state, data, drawn, key, size: method.warmup.step(
            state, data, drawn, streams.typed(key), size))
  return method._replace(init=init, draw=draw, step=step, warmup=warmup)


def describe(c: Any) -> str:
  """What a method does, in one line.

  Args:
    c: the settings of a method.

  Returns:
    A text.
  """
  return family_of(c).describe(c)


def classes_apart(c: Any, network: Network | None = None) -> bool:
  """Whether each class is learned by itself, so that others may wait.

  So it is where each is matched alone, by networks that no synthetic image
  trains. Features that are normalised by the batch see every class in it.

  Args:
    c: the settings of a method.
    network: that is matched, if it is built; None: one without batch norm.

  Returns:
    A bool.
  """
  match = match_of(c)
  if match.together and network and models.normalises_batches(network):
    return False
  return match.apart and (c.train_on == 'real' or not c.net_steps)


# ---- What settings cannot be


def check_method(c: Any) -> None:
  """Raises `UserError` for settings of a method that cannot work.

  Args:
    c: the settings of a method.
  """
  family = family_of(c)
  _check_same_method(c)
  for name in c:
    entries.check(f'method.{name}', c[name], ENTRIES[name])
  if not family.synthesises and c.steps:
    raise UserError(f'--config.method.steps={c.steps}, but {c.name} matches '
                    'nothing; set 0')
  if family.synthesises and c.steps < 1:
    raise UserError(f'--config.method.steps={c.steps} must be at least 1')
  if c.get('watch_images') and c.warmup:
    raise UserError(
        f'--config.method.warmup={c.warmup}: networks that train as long as '
        f'their accuracy moves (--config.method.watch_images={c.watch_images}) '
        'have no warm-up; set one of them to 0')
  if c.get('assign') and c.lr_label:
    raise UserError('--config.method.assign and .lr_label are two ways to have '
                    'soft labels; set --config.method.lr_label=0')


def _check_same_method(c):
  """A flag may change what is matched only within a method's settings."""
  # Methods that match alike may differ in entries; `c` must have all of one's.
  rows = {name: set(row.settings) for name, row in METHODS.items()}
  own = spec(c.name).settings
  if rows[c.name] != set(c.keys()) - {'name'}:
    raise UserError(f'--config.method.name={c.name} changes the name alone; '
                    f'ask for --config=FILE.py:method={c.name}')
  fitting = [name for name, row in METHODS.items()
             if row.settings['match'] == c.match]
  still = MATCHES[own['match']].family.synthesises
  if family_of(c).synthesises != still or not any(
      rows[name] <= set(c.keys()) for name in fitting):
    raise UserError(f'--config.method.match={c.match} has settings that method '
                    f'{c.name} has not; take method={" or ".join(fitting)}')


def check_experts(c: Any, experts: Any) -> None:
  """Raises `UserError` where a method asks for epochs that experts lack.

  Args:
    c: of the method.
    experts: of its experts, `config.experts`.
  """
  if not c.first_epoch <= c.last_epoch:
    raise UserError(
        f'--config.method.first_epoch={c.first_epoch} is after --config.method.'
        f'last_epoch={c.last_epoch}; lower it')
  if not c.start_last_epoch <= c.last_epoch or (
      0 <= c.start_last_epoch < c.first_epoch):
    raise UserError(
        f'--config.method.start_last_epoch={c.start_last_epoch} must be from '
        f'--config.method.first_epoch={c.first_epoch} to --config.method.'
        f'last_epoch={c.last_epoch}, or -1')
  needed = c.last_epoch + c.expert_epochs
  if needed > experts.epochs:
    raise UserError(
        f'--config.method.last_epoch={c.last_epoch} and --config.method.'
        f'expert_epochs={c.expert_epochs} need experts of {needed} epochs, but '
        f'--config.experts.epochs={experts.epochs}; raise it or lower them')
