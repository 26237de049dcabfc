"""How a segment begins: probe, score, window, first images.

Sections: what is carried from segment to segment (`Progress`, `Frozen`), the
beginning of a phase, difficulty, first images, windows on the devices.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import coresets, segments, streams, synthetic
from dasm_jax.distill import real_crops, setup
from dasm_jax.methods import registry
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.streams import Stream
from dasm_jax.training import ensemble, resumable, scoring
from dasm_jax.training import experts as expert_training
from dasm_jax.training import real_networks as real_training
from dasm_jax.types import Array, Batch, Synthetic, Variables, Window

# ---- From segment to segment


class Progress(NamedTuple):
  """A segment as it is checkpointed.

  state: the method's. window: of real images. scores: `[n]`, and accuracy:
  `[classes]`, of the real images under the networks asked (0: nobody was).
  missed: `[n]` bool, the candidates of the window (True: nobody was asked).
  used: `[n]` bool, real images that any segment began with. probes:
  `[k, parameters]`, networks that inner networks begin as; k may be 0. first:
  `[k, width, …]` uint8, the pixels that the phase's images began with.
  """
  state: object
  window: Window
  scores: Array
  accuracy: Array
  missed: Array
  used: Array
  probes: Array
  first: Array


class Frozen(NamedTuple):
  """What stays of a method's state when its segment is done.

  teacher: `Variables` of the network that labels views, see
    `soft_labels.teacher_labels`, or None.
  """
  syn: Synthetic
  teacher: Variables | None = None


def freeze_segment(experiment, phases):
  """The finished phases of a segment, each a `Progress`, as one of all classes.

  Of several the images leave the device.
  """
  parts = [progress.state.syn for progress in phases]
  # Optimizers and networks go here; a teacher is asked again at the end.
  if len(parts) == 1:
    relabel = experiment.config.method.get('relabel', False)
    return phases[0]._replace(state=Frozen(
        parts[0], phases[0].state.variables if relabel else None))
  images, labels = (np.concatenate([np.asarray(x) for x in leaves])
                    for leaves in list(zip(*parts, strict=True))[:2])
  return phases[-1]._replace(
      state=Frozen(Synthetic(images, labels, parts[-1].lr)),
      first=np.concatenate([np.asarray(one.first) for one in phases]))


def join_segments(done, rows=slice(None)):
  """All finished segments as one `Synthetic`, of all classes or of `rows`."""
  parts = [progress.state.syn for progress in done]
  return Synthetic(jnp.concatenate([p.images[rows] for p in parts], axis=1),
                   jnp.concatenate([p.labels[rows] for p in parts], axis=1),
                   parts[-1].lr)


def progress_shapes(made, phase):
  """The shapes of the `Progress` of a segment's phase."""
  experiment = made.experiment
  n, classes = len(experiment.dataset.train.labels), experiment.classes
  # As wide as the largest class, so that all windows have one shape.
  widest = np.bincount(experiment.dataset.train.labels).max()

  def blank():
    images = jnp.zeros((len(experiment.rows(phase)), phase.width,
                        *experiment.shape))
    window = Window(jnp.zeros((classes, widest), jnp.int32),
                    jnp.zeros(classes, jnp.int32))
    labels = jnp.zeros((*images.shape[:2], classes))
    kept = experiment.config.segments.probes if _keeps_probes(
        experiment, phase) else 0
    flat = expert_training.flat_variables(experiment.network)[0](
        experiment.network.init(jax.random.key(0)))
    return Progress(_first_state(made, phase, images, labels), window,
                    jnp.zeros(n), jnp.zeros(classes), jnp.zeros(n, bool),
                    jnp.zeros(n, bool), jnp.zeros((kept, len(flat))),
                    images.astype(jnp.uint8))
  return jax.eval_shape(blank)


def _first_state(made, phase, images, labels, lr=None, teacher=None):
  """The method's state of first images.

  lr: of the segments before, or None. teacher: that labels views, if it was
    not trained before the run.
  """
  experiment = made.experiment
  # A student's rate goes on where the segment before has brought it.
  if lr is None:
    lr = experiment.config.method.get('lr_start', experiment.recipe.lr)
  syn = Synthetic(images, labels, jnp.float32(lr))
  state = jax.jit(setup.build_method(experiment, phase).init)(
      streams.key(made.key, Stream.FIRST_STATE, phase.index), syn)
  # Not by `init`, in whose program its weights would be constants.
  teacher = experiment.teacher if teacher is None else teacher
  if teacher is not None and 'teacher' in experiment.config.method:
    state = state._replace(variables=teacher)
  return state


# ---- The beginning


def begin_phase(made, phase, done, phases):
  """The first `Progress` of a phase: probe, score, window, first images.

  Args:
    made: a `setup.Run`.
    phase: a `Segment` of some classes.
    done: finished segments; phases: of this one, those that are finished.
  """
  experiment, labels = made.experiment, made.experiment.dataset.train.labels
  choice, n = experiment.choice, len(labels)
  probes = _finished_probes(made, phase, done)
  judged = judge_images(made, phase, done, phases, probes)
  floor = setup.window_floor(experiment, phase)
  rows = segments.windows(
      choice, phase.index, len(experiment.plan), judged, floor,
      streams.seed(experiment.config.seed, Stream.WINDOWS))
  if not phases:
    _say_filled(made, phase, judged, floor)
  teacher = real_crops.teacher(made, lambda: real_networks(made),
                               done[0].state.teacher if done else None)
  images, soft, used = first_images(made, phase, rows, judged.used, teacher)
  window = sources.pad_window([np.sort(row) for row in rows])
  wide = np.zeros((experiment.classes, np.bincount(labels).max()), np.int32)
  wide[:, :window.indices.shape[1]] = window.indices
  kept = _flat_probes(made, phase, probes, phases)
  def given(values, otherwise):
    return jnp.asarray(otherwise if values is None else values)
  return Progress(
      _first_state(made, phase, images, soft,
                   done[-1].state.syn.lr if done else None, teacher),
      Window(jnp.asarray(wide), jnp.asarray(window.counts)),
      given(judged.scores, np.zeros(n)).astype(jnp.float32),
      given(judged.accuracy, np.zeros(experiment.classes)).astype(jnp.float32),
      given(judged.missed, np.ones(n, bool)), jnp.asarray(used), kept,
      np.asarray(first_pixels(experiment.codec, images)))


# ---- Difficulty


def judge_images(made, phase, done, phases, probes):
  """What networks say of every real image for a segment, `segments.Judged`.

  Networks trained on real data score once (where they have to be right, too,
  for each segment), those trained on the earlier segments anew for each.

  Args:
    made, phase, done, phases: as for `begin_phase`.
    probes: `() -> Variables`, see `_finished_probes`.
  """
  experiment, c = made.experiment, made.experiment.config.segments
  labels = experiment.dataset.train.labels
  asked = segments.asked_networks(experiment.choice, phase.index)
  judged = segments.Judged(
      labels, experiment.classes,
      used=np.asarray(done[-1].used) if done else np.zeros(len(labels), bool))
  # All phases of a segment have one window, so the first has asked for them.
  if phases:
    return judged._replace(**{
        name: np.asarray(getattr(phases[0], name)) for name, who in (
            ('scores', asked.order), ('missed', asked.missed),
            ('accuracy', asked.missed or asked.order)) if who})
  # An order by networks trained on real images is that of earlier segments.
  earlier = [progress for k, progress in enumerate(done)
             if segments.asked_networks(experiment.choice, k).order == 'real']
  if asked.order == 'real' and earlier and not asked.known:
    real = scoring.Scored(np.asarray(earlier[0].scores),
                          np.asarray(earlier[0].accuracy), None)
  elif asked.order == 'real' or asked.known:
    name = c.order if asked.order else 'loss'
    real = scoring.real_scores(experiment.network, name)(
        real_networks(made), made.data)
    _say_scored(made, phase, 'real images', real, name)
  if asked.order == 'previous' or asked.missed:
    previous = scoring.difficulty_scores(experiment.network, c.score)(
        devices.replicate(probes()), made.data)
    _say_scored(made, phase, 'the segments before', previous, c.score)
  if asked.order:
    ordered = real if asked.order == 'real' else previous
    judged = judged._replace(scores=ordered.scores, accuracy=ordered.accuracy)
  if asked.missed:
    # Most of them: of an even number as many may be right as wrong, which is
    # no miss.
    missed = previous.right < .5
    if asked.known:
      missed &= real.right > .5
    judged = judged._replace(missed=missed, accuracy=previous.accuracy)
  return judged


def real_networks(made):
  """The networks of a run that were trained on real images, on the host."""
  return real_training.open_networks(
      made.experiment, made.home.experts, made.data, made.log, made.keeper)


def _say_scored(made, phase, trained_on, scored, name):
  made.log.say(
      f'segment {phase.index + 1}: networks trained on {trained_on}: '
      f'{scored.accuracy.mean():.1%} right of the real images; {name} '
      f'{np.quantile(scored.scores, .1):.3g} (easy tenth) to '
      f'{np.quantile(scored.scores, .9):.3g} (hard tenth)')


def _say_filled(made, phase, judged, floor):
  """Says where candidates are fewer than a window has to hold."""
  if judged.missed is None:
    return
  counts = segments.frontier_counts(judged)
  short = np.flatnonzero(counts < floor)
  if len(short):
    c = short[np.argmin(counts[short])]
    name = made.experiment.dataset.class_names[c]
    made.log.say(
        f'segment {phase.index + 1}: the probes miss {counts[c]} unused images '
        f'of class {name!r}, fewer than the {floor} of a window'
        + f', and too few of {len(short)} classes' * (len(short) > 1)
        + '; the next in order fill it')


def _keeps_probes(experiment, phase):
  """Whether inner networks of a segment may begin as its probes."""
  return experiment.config.segments.networks > 0 and phase.index > 0


def _flat_probes(made, phase, probes, phases):
  """The probes that a segment keeps, `[k, parameters]`; k may be 0."""
  if phases:
    return phases[0].probes
  ravel, _ = expert_training.flat_variables(made.experiment.network)
  if not _keeps_probes(made.experiment, phase):
    size = len(jax.eval_shape(lambda key: ravel(
        made.experiment.network.init(key)), jax.random.key(0)))
    return jnp.zeros((0, size))
  return jax.vmap(ravel)(probes())


def _finished_probes(made, phase, done):
  """`() -> Variables [probes, …]`, trained on the segments before, once."""
  @functools.cache
  def probes():
    keys = jax.random.split(
        streams.key(made.key, Stream.PROBES, phase.index),
        made.experiment.config.segments.probes)
    return _train_probes(made, phase, done, keys)
  return probes


def _train_probes(made, phase, done, keys):
  """Networks trained on the segments before, `Variables [probes, …]`."""
  experiment, before = made.experiment, join_segments(done)
  recipe = experiment.at_rate(experiment.probe, before)
  batch = devices.replicate(
      Batch(*synthetic.training_inputs(experiment.codec, before)))
  train = ensemble.train_on_set(experiment.network, recipe)

  def report(epoch, within, loss):
    if epoch >= recipe.epochs + recipe.extra:
      return None
    made.log.progress(
        (phase.index + 1, len(experiment.plan), epoch, recipe.epochs),
        loss().mean(), what='probes of segment', unit='epoch')
    return lambda: f'the probes of segment {phase.index + 1}, epoch {epoch}'

  group = resumable.Group(
      f'probes_{phase.index + 1}', range(len(keys)),
      functools.partial(ensemble.state_shapes, experiment.network, recipe))
  variables = resumable.train_networks(
      lambda start, seen: train(keys, batch, start, seen), made.keeper, group,
      report)
  made.log.wipe()
  return variables


# ---- First images


def first_images(made, phase, rows, used, teacher=None):
  """First images and labels `[k, width, …]` of a phase, and who is used now.

  Args:
    made: a `setup.Run`; phase: a `Segment` of k classes.
    rows: the windows, one a class.
    used: `[n]` bool, real images that any segment began with.
    teacher: `Variables` of the network that chooses crops.
  """
  experiment, c = made.experiment, made.experiment.config
  codec, which = experiment.codec, experiment.rows(phase)
  labels = jnp.broadcast_to(jnp.eye(experiment.classes)[which, None],
                            (len(which), phase.width, experiment.classes))
  if c.syn.init == 'noise':
    shape = (experiment.classes, phase.width, *experiment.shape)
    key = streams.key(made.key, Stream.NOISE, phase.index)
    return synthetic.noise(key, codec, shape)[which], labels, used
  # Of all classes, also where a phase fills some: each phase then chooses as if
  # there were one.
  crops = None
  if c.syn.init == 'rded':
    chosen, crops = real_crops.choose(made, phase, rows, used, teacher)
  else:
    chosen = _choose_images(made, phase, rows, used)
  used = used.copy()
  used[chosen] = True
  chosen = chosen[which]
  if c.syn.labels != 'hard':
    soft = expert_training.soft_labels(
        experiment, made.experts, made.data, chosen,
        one=c.syn.labels == 'expert')
    # The cells of a stored image have one label: their mean.
    labels = jnp.asarray(soft.reshape(
        len(which), -1, phase.width, experiment.classes).mean(1))
  if crops is not None:
    return real_crops.packed(experiment, crops[which]), labels, used
  # From the host's images: those on the devices may be whitened, or not there.
  real = jnp.asarray(experiment.dataset.train.read(chosen), jnp.float32) / 255
  if codec.space == 'normalised':
    real = synthetic.normalise_pixels(codec, real)
  return jax.vmap(lambda x: synthetic.pack(x, codec.factor))(real), labels, used


def _choose_images(made, phase, rows, used):
  """Real images `[classes, n]` that a segment begins with."""
  experiment, c = made.experiment, made.experiment.config
  labels = experiment.dataset.train.labels
  size = setup.decoded_images(experiment, phase)
  seed = streams.seed(c.seed, Stream.FIRST_IMAGES, phase.index)
  if c.syn.init in coresets.CORESETS:
    learned = None
    if coresets.CORESETS[c.syn.init].needs:
      learned = real_networks(made)
      made.log.say(f'segment {phase.index + 1}: choosing by '
                   f'{coresets.describe(c.syn.init, c.coreset.skip)}')
    values = scoring.selection_values(
        c.syn.init, experiment.network, c.segments.score)(learned, made.data)
    rows = segments.unused_first([np.sort(row) for row in rows], used, size)
    return coresets.choose_from(rows, c.syn.init, values, labels, size, seed,
                                c.coreset.skip)
  # DATM begins with images that experts know; later segments need new ones.
  if c.syn.init == 'known':
    right = expert_training.known_by_experts(
        experiment, made.experts, made.data, size * (phase.index + 1))
    rows = [row[right[row]] for row in rows]
  return segments.first_images(rows, labels, used, size, seed,
                               easiest=c.syn.init == 'easiest',
                               once=not registry.family_of(
                                   c.method).synthesises)


def first_pixels(codec, images):
  """Stored images as 8-bit pixels: what real ones are; noise is rounded."""
  return jnp.rint(255 * synthetic.pixels(codec, images)).astype(jnp.uint8)


# ---- Windows, as the sweeps have them


def class_windows(made, phase, done, progress):
  """The `ClassWindows` of a phase's classes, on the devices."""
  experiment, rows = made.experiment, made.experiment.rows(phase)
  # Where nothing is finished these are of size 0: windows have all fields.
  n = experiment.classes
  frozen = Batch(jnp.zeros((len(rows), 0, *experiment.shape)),
                 jnp.zeros((len(rows), 0, n)))
  if done:
    before = join_segments(done, rows)
    frozen = Batch(before.images, before.labels)
  windows = jax.tree.map(
      lambda x: x[rows], all_windows(made, progress))._replace(frozen=frozen)
  return devices.shard(windows, 0, len(rows))._replace(
      present=devices.present(len(rows)))


def all_windows(made, progress):
  """The `ClassWindows` of all classes, nothing frozen, for `Method.draw`."""
  n = made.experiment.classes
  return sources.ClassWindows(jnp.arange(n), jnp.ones(n), progress.window,
                              made.data.everything, None)
