"""Methods by name: what each matches, and how its network moves."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import losses, models, objectives
from dasm_jax.errors import UserError, unknown
from dasm_jax.methods import inner_network, matching, sre2l, trajectory
from dasm_jax.methods.registry import FAMILIES
from dasm_jax.runtime.text import plural
from dasm_jax.training import experts, recipes, train_step
from dasm_jax.transforms import augment, photometric
from dasm_jax.types import Array, Method, Synthetic


class FixedState(NamedTuple):
  """As that of the other methods, as far as there is anything to carry."""
  syn: Synthetic
  step: Array  # [] int32


def fixed_images():
  """A `Method` whose steps move no image."""
  def init(key, syn):
    del key
    return FixedState(syn, jnp.zeros((), jnp.int32))

  def step(state, data, pool, key):
    del data, pool, key
    return state._replace(step=state.step + 1), {}

  return Method(init, step, FixedState(Synthetic(0, 0, None), None))

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
    correction: a `objectives.Correction`.
    images: stored images a class inside the matching mean; with
      `c.lr_per_image` the rate is that of ten and proportional to it (IDC).
    replay, union: see `matching.Settings`.
    steps: sweeps in all; None is `c.steps`.
    batched: classes at once or in turn, see `objectives.per_class`.
    axis_name: mapped axis over which the classes are split.

  Raises:
    UserError: a name that is in no table, or an impossible value.
  """
  if c.match not in FAMILIES:
    raise unknown('match', c.match, FAMILIES)
  if c.match == 'none':
    return fixed_images()
  given = dict(correction=correction, codec=codec)
  if c.match == 'trajectory':
    return _build_trajectory(network, c, dict(given, union=union), axis_name)
  lr = c.lr * images / 10 if c.lr_per_image else c.lr
  momentum = c.momentum
  if c.per_class_steps:
    lr, momentum = matching.joint_step(lr, momentum, classes)
  steps = steps or c.steps
  def pixels(strategy):
    return photometric.pixel_statistics(strategy, codec.mean, codec.std,
                                        codec.zca)
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
    return sre2l.method(network, sre2l.Settings(
        **given, weight=c.statistics, first=c.first_layer, teach=c.teach,
        steps=steps, net_steps=c.net_steps, views=c.label_views,
        relabel=c.relabel), axis_name)
  watch = inner_network.AccuracyWatch(c.watch_images, c.watch_window,
                                      c.watch_rest,
                                      c.watch_move) if c.get(
                                          'watch_images') else None
  return matching.method(network, matching.Settings(
      **given, matching=build_matching(network, c), batch=c.batch, union=union,
      inner=c.inner, warmup=c.warmup, train_on=c.train_on, steps=c.net_steps,
      watch=watch, decay=c.get('decay', 1.0),
      drops=tuple(round(share * steps) for share in c.get('drops', ()))),
      axis_name)


def _build_trajectory(network, c, given, axis_name):
  plain = {name: c[name] for name in trajectory.Settings._fields if name in c}
  return trajectory.method(trajectory.Settings(**{
      **plain, **given, 'unravel': experts.flat_parameters(network)[1],
      'loss_fn': experts.student_loss_fn(network), 'batch': c.batch_syn,
      'assign': experts.student_logits_fn(network) if c.assign else None,
      'augment': augment.build(c.augment, c.augment_mode)}), axis_name)


def build_matching(network, c):
  """The `objectives.Matching` that settings ask for."""
  distance = losses.distance(c.distance)
  if c.match == 'discriminate':
    return objectives.discriminative_matching(network.maps, c.weights,
                                              c.discrimination)
  if c.match == 'feature':
    blocks = dict(first=c.first_block, last=c.last_block)
    if models.normalises_batches(network):  # in training, as published
      return objectives.batch_feature_matching(
          functools.partial(network.features, train=True), distance, **blocks)
    return objectives.class_by_class(objectives.feature_matching(
        network.features, distance, **blocks))
  if c.parameters not in PARAMETERS:
    raise unknown('parameters', c.parameters, PARAMETERS)
  loss, ndims = train_step.loss_fn(network), PARAMETERS[c.parameters]
  shapes = jax.eval_shape(network.init, jax.random.key(0)).params
  if not losses.select(shapes, ndims):
    raise UserError(f'--config.method.parameters={c.parameters} names none of '
                    'the network\'s parameters: there is nothing to match; '
                    'take kernels or all')
  if c.match == 'gradient':
    return objectives.class_by_class(
        objectives.gradient_matching(loss, distance, ndims=ndims))
  def warm(step):
    return (step // c.inner < c.alone_networks) & (
        step % c.inner < c.alone_sweeps)
  return objectives.contrastive_matching(loss, distance, ndims=ndims, warm=warm)


def describe(c):
  """What a method does, in one line."""
  if c.match == 'none':
    return 'real images stay as they are'
  steps = f'{plural(c.steps, "step")} over all segments'
  if c.match == 'trajectory':
    return (f'{steps}, {c.student_steps} of a student for '
            f'{plural(c.expert_epochs, "epoch")} of an expert, from epoch '
            f'{c.first_epoch} to {c.last_epoch}')
  if c.match == 'statistics':
    return f'{steps}, of which {c.teach} teach'
  return f'{steps}, {plural(c.batch, "real image")} a class'


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
