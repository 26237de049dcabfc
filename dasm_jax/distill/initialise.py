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
from dasm_jax.distill import setup
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.runtime.text import plural
from dasm_jax.streams import Stream
from dasm_jax.training import ensemble, resumable, scoring
from dasm_jax.training import experts as expert_training
from dasm_jax.types import Array, Batch, Synthetic, Variables, Window

# ---- From segment to segment


class Progress(NamedTuple):
  """A segment as it is checkpointed.

  state: the method's. window: of real images. scores: `[n]` difficulty, and
  accuracy: `[classes]`, of the real images under the probes (0 where nobody
  scored). used: `[n]` bool, real images that any segment began with.
  """
  state: object
  window: Window
  scores: Array
  accuracy: Array
  used: Array


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
      state=Frozen(Synthetic(images, labels, parts[-1].lr)))


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
    return Progress(_first_state(made, phase, images, labels), window,
                    jnp.zeros(n), jnp.zeros(classes), jnp.zeros(n, bool))
  return jax.eval_shape(blank)


def _first_state(made, phase, images, labels, lr=None):
  """The method's state of first images; lr: of the segments before, or None."""
  experiment = made.experiment
  # A student's rate goes on where the segment before has brought it.
  if lr is None:
    lr = experiment.config.method.get('lr_start', experiment.recipe.lr)
  syn = Synthetic(images, labels, jnp.float32(lr))
  state = jax.jit(setup.build_method(experiment, phase).init)(
      streams.key(made.key, Stream.FIRST_STATE, phase.index), syn)
  # Not by `init`, in whose program its weights would be constants.
  if experiment.teacher is not None:
    state = state._replace(variables=experiment.teacher)
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
  scores, accuracy = score_images(made, phase, done, phases)
  rows = segments.windows(
      experiment.choice, phase.index, len(experiment.plan),
      segments.Judged(labels, experiment.classes, scores, accuracy),
      setup.window_floor(experiment, phase),
      streams.seed(experiment.config.seed, Stream.WINDOWS))
  used = np.asarray(done[-1].used) if done else np.zeros(len(labels), bool)
  images, soft, used = first_images(made, phase, rows, used)
  window = sources.pad_window(rows)
  wide = np.zeros((experiment.classes, np.bincount(labels).max()), np.int32)
  wide[:, :window.indices.shape[1]] = window.indices
  if scores is None:
    scores, accuracy = np.zeros(len(labels)), np.zeros(experiment.classes)
  return Progress(
      _first_state(made, phase, images, soft,
                   done[-1].state.syn.lr if done else None),
      Window(jnp.asarray(wide), jnp.asarray(window.counts)),
      jnp.asarray(scores, jnp.float32), jnp.asarray(accuracy, jnp.float32),
      jnp.asarray(used))


# ---- Difficulty


def score_images(made, phase, done, phases):
  """Difficulty of every real image for a segment: `(scores, accuracy)`.

  None, None where the windows ask nobody. Networks trained on real data score
  once, those trained on the earlier segments anew for each segment. Arguments
  as for `begin_phase`.
  """
  experiment, c = made.experiment, made.experiment.config.segments
  who = segments.scoring_networks(experiment.choice, phase.index)
  if who is None:
    return None, None
  # All phases of a segment have one window, so the first has scored for them.
  known = phases or (done if who == 'real' else [])
  if known:
    return np.asarray(known[0].scores), np.asarray(known[0].accuracy)
  keys = jax.random.split(
      streams.key(made.key, Stream.PROBES, phase.index), c.probes)
  if who == 'real':
    trained_on = 'real images'
    variables = scoring.train_probes(
        experiment.network, experiment.probe, c.probe_real_steps)(
            keys, made.data, _stop_check(made, phase))
  else:
    trained_on = 'the segments before'
    variables = _train_probes(made, phase, done, keys)
  scores, accuracy = scoring.difficulty_scores(experiment.network, c.score)(
      devices.replicate(variables), made.data)
  made.log.say(
      f'segment {phase.index + 1}: {plural(c.probes, "probe")} trained on '
      f'{trained_on}: {accuracy.mean():.1%} right of the real images; score '
      f'{c.score}: {np.quantile(scores, .1):.3g} (easy tenth) to '
      f'{np.quantile(scores, .9):.3g} (hard tenth)')
  return scores, accuracy


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


def _stop_check(made, phase):
  """`() -> None`, called while networks are trained that are not kept."""
  done = f'all before segment {phase.index + 1}' if phase.index else (
      'nothing, as the first segment has not begun')
  return lambda: resumable.stop_if_asked(made.keeper, done)


# ---- First images


def first_images(made, phase, rows, used):
  """First images and labels `[k, width, …]` of a phase, and who is used now.

  Args:
    made: a `setup.Run`; phase: a `Segment` of k classes.
    rows: the windows, one a class.
    used: `[n]` bool, real images that any segment began with.
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
    if coresets.CORESETS[c.syn.init][0]:
      made.log.say(
          f'segment {phase.index + 1}: choosing by {c.syn.init}; '
          f'{plural(c.coreset.networks, "network")} to train for '
          f'{plural(c.coreset.epochs, "epoch")} on all real images')
    values = scoring.selection_values(
        c.syn.init, experiment.network, experiment.probe,
        epochs=c.coreset.epochs, score=c.segments.score)
    keys = jax.random.split(streams.key(
        made.key, Stream.CHOOSERS, phase.index), c.coreset.networks)
    return coresets.choose_from(
        segments.unused_first(rows, used, size), c.syn.init,
        values(keys, made.data, _stop_check(made, phase)), labels, size, seed)
  # DATM begins with images that experts know; later segments need new ones.
  if c.syn.init == 'known':
    right = expert_training.known_by_experts(
        experiment, made.experts, made.data, size * (phase.index + 1))
    rows = [row[right[row]] for row in rows]
  return segments.first_images(rows, labels, used, size, seed)


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
