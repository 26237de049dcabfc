"""Methods by name: what each matches, and how its network moves."""

import functools

import jax

from dasm_jax import (
  augment,
  coupled,
  experts,
  losses,
  models,
  objectives,
  photo,
  recipes,
  train,
)
from dasm_jax.errors import UserError, unknown
from dasm_jax.methods import gradient, lives, statistics, still, trajectory
from dasm_jax.methods.table import (
  MATCHES,
  METHODS,
  apart,
  check,
  check_experts,
  settings_of,
)
from dasm_jax.words import many

__all__ = ['METHODS', 'apart', 'build', 'check', 'check_experts', 'describe',
           'images_per_step', 'matching', 'settings_of']

# Which parameters a distance compares, by number of dimensions.
PARAMETERS = {
    'all': None,
    'kernels': objectives.KERNELS,
    'convolutions': (4,),
    'convolutions_linear': (4, 2),
    'convolutions_linear_bias': (4, 2, 1),
}


def build(network, classes, codec, c, correction, *, images, replay=0.0,
          union=False, steps=None, batched=None, axis_name=None):
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
    batched: classes at once or in turn, see `objectives.per_class`.
    axis_name: mapped axis over which the classes are split.

  Raises:
    UserError: a name that is in no table, or an impossible value.
  """
  if c.match not in MATCHES:
    raise unknown('match', c.match, MATCHES)
  if c.match == 'none':
    return still.method()
  given = dict(correction=correction, codec=codec)
  if c.match == 'trajectory':
    return _trajectory(network, c, dict(given, union=union), axis_name)
  lr = c.lr * images / 10 if c.lr_per_image else c.lr
  momentum = c.momentum
  if c.per_class_steps:
    lr, momentum = gradient.equivalent(lr, momentum, classes)
  steps = steps or c.steps
  def pixels(strategy):
    return photo.statistics(strategy, codec.mean, codec.std, codec.zca)
  given.update(
      batched=batched,
      augment=augment.build(c.augment, c.augment_mode,
                            statistics=pixels(c.augment)), lr=lr,
      momentum=momentum, limit=c.limit or None, replay=replay,
      net=recipes.recipe(
          1, lr=c.net_lr, momentum=c.net_momentum,
          weight_decay=c.net_weight_decay, batch=c.net_batch,
          strategy=c.net_augment, mode=c.augment_mode, cutmix=c.net_cutmix,
          statistics=pixels(c.net_augment)))
  if c.match == 'statistics':
    return statistics.method(network, statistics.Settings(
        **given, weight=c.statistics, first=c.first_layer, teach=c.teach,
        steps=steps, net_steps=c.net_steps, views=c.label_views,
        relabel=c.relabel), axis_name)
  watch = lives.Watch(c.watch_images, c.watch_window, c.watch_rest,
                      c.watch_move) if c.get('watch_images') else None
  return gradient.method(network, gradient.Settings(
      **given, matching=matching(network, c), batch=c.batch, union=union,
      inner=c.inner, warmup=c.warmup, train_on=c.train_on, steps=c.net_steps,
      watch=watch, decay=c.get('decay', 1.0),
      drops=tuple(round(share * steps) for share in c.get('drops', ()))),
      axis_name)


def _trajectory(network, c, given, axis_name):
  plain = {name: c[name] for name in trajectory.Settings._fields if name in c}
  return trajectory.method(trajectory.Settings(**{
      **plain, **given, 'unravel': experts.flat(network)[1],
      'loss_fn': experts.loss_fn(network), 'batch': c.batch_syn,
      'assign': experts.seen(network) if c.assign else None,
      'augment': augment.build(c.augment, c.augment_mode)}), axis_name)


def matching(network, c):
  """The `coupled.Matching` that settings ask for."""
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
  shapes = jax.eval_shape(network.init, jax.random.key(0)).params
  if not losses.select(shapes, ndims):
    raise UserError(f'--config.method.parameters={c.parameters} names none of '
                    'the network\'s parameters: there is nothing to match; '
                    'take kernels or all')
  if c.match == 'gradient':
    return coupled.plain(
        objectives.gradient_matching(loss, distance, ndims=ndims))
  def warm(step):
    return (step // c.inner < c.alone_networks) & (
        step % c.inner < c.alone_sweeps)
  return coupled.contrastive(loss, distance, ndims=ndims, warm=warm)


def describe(c):
  """What a method does, in one line."""
  if c.match == 'none':
    return 'real images stay as they are'
  steps = f'{many(c.steps, "step")} over all segments'
  if c.match == 'trajectory':
    return (f'{steps}, {c.student_steps} of a student for '
            f'{many(c.expert_epochs, "epoch")} of an expert, from epoch '
            f'{c.first_epoch} to {c.last_epoch}')
  if c.match == 'statistics':
    return f'{steps}, of which {c.teach} teach'
  return f'{steps}, {many(c.batch, "real image")} a class'


def images_per_step(c, classes, decoded, steps):
  """Images that pass through networks in one sweep of `steps`, on average.

  Of a network that trains until something moves: the most there can be.
  """
  if c.match == 'trajectory':
    return c.starts * c.student_steps * (c.batch_syn or classes * decoded)
  images = min(decoded, c.limit or decoded)
  if c.match == 'statistics':
    return classes * images + c.teach * c.net_steps * c.net_batch / steps
  trained = c.net_steps * (
      c.net_batch if c.train_on == 'real' else classes * decoded)
  return classes * (c.batch + images) + trained
