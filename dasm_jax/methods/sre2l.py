"""Batch-norm statistics matching: SRe2L.

A teacher with batch norm learns the real images. Then image j of every class
is one batch, which moves until the teacher knows its labels and finds in it
the means and variances that it found in real images. At last the teacher's
probabilities become the labels.

Batches are matched alone, so finished segments change nothing in a new one
(`segments.match=union` is `new`); a segment's window is what its teacher sees.

Sections: what a run carries, the method (`init`, `draw`, `step`), the teacher,
the recovery of the images.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dasm_jax import models, objectives, synthetic
from dasm_jax.errors import UserError
from dasm_jax.methods import options as asked
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime.text import plural
from dasm_jax.training import recipes, soft_labels, train_step
from dasm_jax.types import Array, Drawn, Method, Synthetic, Variables, Window

SECOND = 0.9  # Adam's, of the squares


# ---- What a run carries


class Settings(NamedTuple):
  """What a run of SRe2L is made of; `configs` has the published values.

  matching: an `objectives.Matching` of the teacher's statistics.
  augment: `(key, images, shared) -> images`, one draw a batch of all classes.
  correction: an `objectives.Correction`; codec: a `synthetic.Codec`.
  limit: decoded images a class that take part in one step; None is all.
  lr, momentum: of Adam on the stored images; the rate falls to 0 as a cosine.
  teach: steps that train the teacher, the last of which also moves the images;
    0: the state is given a trained one.
  warm: of them those in which its rate grows, see `recipes.cosine`.
  steps: of the whole segment, after the last of which the labels are set.
  net_steps: batches of real images in each step that trains the teacher.
  net: `Recipe` of the teacher, whose rate falls to 0 as a cosine.
  replay: share of the teacher's images from the whole class.
  views: augmented views that labels are means of; 0 is the image as it is.
  relabel: labels stay hard, as the teacher labels every view of the evaluation.
  batched: classes at once or in turn, see `objectives.per_class`.
  """
  matching: objectives.Matching
  augment: Callable
  correction: objectives.Correction
  codec: synthetic.Codec
  limit: int | None
  lr: float
  momentum: float
  teach: int
  warm: int
  steps: int
  net_steps: int
  net: recipes.Recipe
  replay: float
  views: int
  relabel: bool = False
  batched: bool | None = None
  moving: int | None = None


class State(NamedTuple):
  """Everything that a run of one segment carries."""
  syn: Synthetic
  opt_state: object     # of the images' optimizer
  variables: Variables  # the teacher
  net_opt_state: object
  strength: Array       # [] smoothed weight of a relative correction
  step: Array           # [] int32


# Which leaves begin with the classes (0); the others are alike everywhere.
AXES = State(Synthetic(0, 0, None), optax.ScaleByAdamState(None, 0, 0), None,
             None, None, None)


class StepKeys(NamedTuple):
  """Keys of a step: of the teacher, its batches, the recovery, the labels."""
  network: Array
  teach: Array
  match: Array
  label: Array


def step_keys(key, step):
  """The `StepKeys` of a step of the segment that has this key."""
  return StepKeys(*jax.random.split(jax.random.fold_in(key, step), 4))


def build(network, c, matching, options):
  """SRe2L's `Method` of the settings of a configuration."""
  o = options
  return method(network, Settings(
      matching=matching, augment=asked.augmentation(c, o.codec),
      correction=o.correction, codec=o.codec, limit=c.limit or None,
      lr=o.rate * c.lr, moving=o.moving, momentum=c.momentum,
      teach=teaching_steps(c), warm=c.net_warm,
      steps=o.steps or c.steps + first_moving_step(c),
      net_steps=c.net_steps, net=asked.network_recipe(c, o.codec),
      replay=o.replay, views=c.label_views, relabel=c.relabel,
      batched=o.batched), o.axis_name)


# ---- The method


def method(network, settings, axis_name=None):
  """SRe2L's `Method`.

  The first `teach` steps train the teacher θ on real images. From the last of
  them on each step moves the stored images X `[classes, ipc, …]`, image j of
  all classes as one batch, by Adam (`momentum`, .9 of squares) at the rate
  `lr (1 + cos(pi t / T)) / 2`, t of T moves, along the gradient of
  `CE(θ(A(X)), y) + w sum_l |mean_l - m_l| + |var_l - v_l|`, of θ's running
  averages m and v. The last step sets the labels.

  Args:
    network: a `Network` with batch norm: the teacher.
    settings: `Settings`.
    axis_name: mapped axis over which the classes are split, None alone.

  Returns:
    A `Method` whose state is a `State`; `draw` tells the teacher's batches,
    `[net_steps, batch]`. Metrics are sums over all classes.

  Source: 2306.13092; its loss is that of `objectives.statistics_matching`.

  Raises:
    UserError: a network without batch norm; no step left to move the images.
  """
  _check(network, settings)
  # Without the rate, which falls as a cosine.
  tx = optax.scale_by_adam(settings.momentum, SECOND)
  net_tx = train_step.sgd(settings.net.momentum, settings.net.weight_decay)
  teach = _teacher(network, net_tx, settings, axis_name)
  recover = _recovery(network, tx, settings, axis_name)
  label = _keep_labels if settings.relabel else soft_labels.network_labels(
      network, settings)

  def init(key, syn):
    variables = network.init(key)
    return State(syn, tx.init(syn.images), variables,
                 net_tx.init(variables.params), jnp.zeros((), jnp.float32),
                 jnp.zeros((), jnp.int32))

  def draw(data, windows, key, step):
    # All devices train the same teacher: each needs the windows of all classes.
    window = windows.window
    if axis_name is not None:
      window = Window(*jax.lax.all_gather(window, axis_name, tiled=True))
    # Rows that only fill a device stand at the end and are never drawn.
    batches = jax.lax.map(lambda key: _draw_teacher_batch(
        settings, jax.random.split(key)[0], data.everything, window),
        jax.random.split(step_keys(key, step).teach, settings.net_steps))
    # Once the teacher is trained one image stands for all.
    batches = jnp.where(step < settings.teach, batches, batches[0, 0])
    return Drawn(jnp.zeros((len(windows.classes), 0), jnp.int32),
                 {'teacher': batches})

  def renew(carry, key):
    del carry
    variables = network.init(key)
    return variables, net_tx.init(variables.params)

  def step(state, data, windows, drawn, key):
    keys = step_keys(key, state.step)
    # Each segment has a teacher of its own, which sees its window.
    carry = jax.lax.cond(
        (state.step == 0) & (settings.teach > 0), renew, lambda carry, _: carry,
        (state.variables, state.net_opt_state), keys.network)
    (variables, net_opt_state), taught = jax.lax.cond(
        state.step < settings.teach, teach,
        lambda carry, *_: (carry, jnp.zeros((), jnp.float32)),
        carry, data, drawn.shared['teacher'], keys.teach, state.step)
    state = state._replace(variables=variables, net_opt_state=net_opt_state)
    # Until the teacher is ready images wait, with metrics of the same shapes.
    shapes = jax.eval_shape(recover, state, windows, keys.match)[1]
    def wait(state, *_):
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
      # What is made smaller now is the teacher's loss.
      return state, {**zeros, 'match/loss': taught}
    state, metrics = jax.lax.cond(
        state.step >= _first_move(settings.teach), recover, wait, state,
        windows, keys.match)
    labels = jax.lax.cond(
        state.step == settings.steps - 1, label, _keep_labels,
        variables, state.syn, windows, keys.label)
    state = state._replace(syn=state.syn._replace(labels=labels),
                           step=state.step + 1)
    return state, {**metrics, 'teacher/loss': taught}

  return Method(init, draw, step, AXES)


# ---- The teacher


def _keep_labels(variables, syn, windows, key):
  """The labels as they are; with `relabel` each view gets its own later."""
  del variables, windows, key
  return syn.labels


def _draw_teacher_batch(settings, key, everything, window):
  """A batch of real images, classes and then images at random, `[size]`."""
  # With replacement, so that a step's key alone tells them: there is no epoch
  # to go on with.
  which, where, often = jax.random.split(key, 3)
  shape = (settings.net.batch,)
  classes = jax.random.randint(which, shape, 0, len(everything.counts))
  share = jax.random.uniform(where, shape)
  again = jax.random.uniform(often, shape) < settings.replay
  def chosen(rows):
    at = (share * rows.counts[classes]).astype(jnp.int32)
    return rows.indices[classes, at]
  return jnp.where(again, chosen(everything), chosen(window))


def _check(network, settings):
  if not models.normalises_batches(network):
    raise UserError('method sre2l matches the averages of batch norm, of which '
                    'this network has none; set --config.network.norm=batch')
  if settings.teach > settings.steps:
    raise UserError(
        f'teach={settings.teach}, but a segment has {settings.steps} steps in '
        'all: none is left to move images; the last that teaches is the first '
        'that moves them')


def _teacher(network, tx, settings, axis_name):
  """`(carry, data, batches, key, step) -> (carry, loss)`, of the teacher."""
  change = train_step.augmentation(settings.net)

  def run(carry, data, batches, key, step):
    lr = settings.net.lr * recipes.cosine(
        step, max(settings.teach, 1), settings.warm)
    def one(carry, given):
      indices, key = given
      batch = change(jax.random.split(key)[1],
                     sources.take(data, indices, axis_name))
      *carry, loss = train_step.sgd_step(
          network, tx, *carry, batch, lr, axis_name)
      return tuple(carry), loss
    carry, found = jax.lax.scan(
        one, carry, (batches, jax.random.split(key, settings.net_steps)))
    return carry, found.mean()

  return run


# ---- The images


def _recovery(network, tx, settings, axis_name):
  """`(state, windows, key) -> (state, metrics)`: the images moved once."""
  def wrap(flat):
    def altered(syn, params, target, key):
      draw, rest = jax.random.split(key)
      images = settings.augment(draw, syn.images, shared=False)
      return flat(syn._replace(images=images), params, target, rest)
    return objectives.decoded(altered, settings.codec, settings.limit)

  difficulty = objectives.difficulty_only(
      train_step.loss_fn(network), penalty=settings.correction.penalty,
      logits_fn=train_step.logits_fn(network))
  begin = _first_move(settings.teach)
  correction = settings.correction._replace(total=settings.steps - begin)
  gradient = objectives.image_gradient(
      difficulty, settings.matching, correction, wrap,
      batched=settings.batched, axis_name=axis_name)

  def run(state, windows, key):
    # The same key for all classes: slot j is treated alike in each of them.
    keys = jnp.broadcast_to(key, windows.classes.shape)
    direction, strength, metrics = gradient(
        state.syn, state.variables, None, keys, windows.present,
        state.strength, state.step - begin)
    change, adam = tx.update(direction, state.opt_state)
    lr = settings.lr * recipes.cosine(
        state.step - begin, settings.steps - begin)
    # After every step, as published: pixels stay between black and white.
    images = synthetic.hold(synthetic.clip_to_pixels(
        settings.codec, state.syn.images - lr * change), state.syn.images,
        settings.moving)
    return state._replace(syn=state.syn._replace(images=images),
                          opt_state=adam, strength=strength), metrics

  return run


def teaching_steps(c):
  """Steps of a segment that train its teacher, of the method's settings."""
  return 0 if c.teacher else c.teach


def first_moving_step(c):
  """The first step of a segment that moves its images, from 0."""
  return _first_move(teaching_steps(c))


def _first_move(teach):
  # The last step that trains the teacher moves the images, too.
  return max(teach - 1, 0)


def describe(c):
  """What it does, in one line."""
  steps = f'images move in {plural(c.steps, "step")} over all segments'
  if c.teacher:
    return f'{steps}, with the teacher of {c.teacher}'
  return f'{steps}, each of which has a teacher of {plural(c.teach, "step")}'


def images_per_step(c, classes, decoded, steps):
  """Images that pass through networks in one step of `steps`, on average."""
  images = min(decoded, c.limit or decoded)
  taught = teaching_steps(c) * c.net_steps * c.net_batch
  return classes * images + taught / steps
