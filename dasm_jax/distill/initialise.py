"""How a segment begins: probe, score, window, first images."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import coresets, segments, synthetic
from dasm_jax.distill import setup
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.runtime.text import plural
from dasm_jax.training import ensemble, resumable, scoring
from dasm_jax.training import experts as expert_training
from dasm_jax.types import Array, Batch, Synthetic, Variables, Window


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

  teacher: `Variables` of who tells labels (`lessons`), or None.
  """
  syn: Synthetic
  teacher: Variables | None = None


def freeze_segment(experiment, phases):
  """The finished phases of a segment, each a `Progress`, as one of all classes.

  Of several the images leave the device.
  """
  parts = [progress.state.syn for progress in phases]
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


def progress_shapes(experiment, segment, key):
  """The shapes of a segment's `Progress`."""
  return jax.eval_shape(lambda: _blank_progress(experiment, segment, key))


def _blank_progress(experiment, segment, key):
  n, classes = len(experiment.dataset.train.labels), experiment.classes
  size = np.bincount(experiment.dataset.train.labels).max()
  images = jnp.zeros((len(experiment.rows(segment)), segment.width,
                      *experiment.shape))
  window = Window(jnp.zeros((classes, size), jnp.int32),
                  jnp.zeros(classes, jnp.int32))
  labels = jnp.zeros((*images.shape[:2], classes))
  return Progress(
      _init_state(experiment, segment, images, labels, key), window,
      jnp.zeros(n),
      jnp.zeros(classes), jnp.zeros(n, bool))


def _init_state(experiment, segment, images, labels, key, lr=None):
  lr = experiment.config.method.get('lr_start', experiment.recipe.lr) if (
      lr is None) else lr
  syn = Synthetic(images, labels, jnp.float32(lr))
  return jax.jit(setup.build_method(experiment, segment).init)(key, syn)


def segment_starter(experiment, segment, done, phases, data, experts, key, log,
                    keeper=None):
  """`() -> Progress`: probe, score, window, start of a segment's phase.

  done: segments; phases: of this one, those that are finished. keeper: an
  `resumable.Keeper`, or None, for networks that are trained for this.
  """
  def begin():
    key_ = jax.random.fold_in(key, segment.index)
    labels = experiment.dataset.train.labels
    scores, accuracy = score_images(
        experiment, segment, done, phases, data, key_, log, keeper)
    rows = segments.windows(
        experiment.choice, segment.index, len(experiment.plan), labels,
        experiment.classes, scores,
        accuracy, setup.window_floor(experiment, segment),
        experiment.config.seed)
    used = (np.asarray(done[-1].used) if done
            else np.zeros(len(labels), bool))
    images, soft, used = start_images(experiment, segment, rows, used, data,
                                      experts,
                                      key_,
                                      log.say, keeper)
    capacity = np.bincount(labels).max()
    window = sources.pad_window(rows)
    wide = np.zeros((experiment.classes, capacity), np.int32)
    wide[:, :window.indices.shape[1]] = window.indices
    zeros = np.zeros(len(labels), np.float32)
    return Progress(
        _init_state(experiment, segment, images, soft, key_,
                    done[-1].state.syn.lr if done else None),
        Window(jnp.asarray(wide), jnp.asarray(window.counts)),
        jnp.asarray(zeros if scores is None else scores, jnp.float32),
        jnp.asarray(np.zeros(experiment.classes)
                    if accuracy is None else accuracy,
                    jnp.float32), jnp.asarray(used))
  return begin


def score_images(experiment, segment, done, phases, data, key, log,
                 keeper=None):
  """Difficulty of every real image for a segment: `(scores, accuracy)`.

  None, None where the windows ask nobody. Networks trained on real data score
  once, those trained on the earlier segments anew for each segment.
  """
  c = experiment.config.segments
  who = segments.scoring_networks(experiment.choice, segment.index)
  if who is None:
    return None, None
  known = phases or (done if who == 'real' else [])
  if known:
    return np.asarray(known[0].scores), np.asarray(known[0].accuracy)
  keys = jax.random.split(jax.random.fold_in(key, 1), c.probes)
  if who == 'real':
    source_ = 'real images'
    train = scoring.train_probes(experiment.network, experiment.probe,
                                 c.probe_real_steps)
    variables = train(keys, data, _stop_check(segment, keeper))
  else:
    source_ = 'the segments before'
    variables = _train_probes(experiment, segment, done, keys, log, keeper)
  scores, accuracy = scoring.difficulty_scores(experiment.network, c.score)(
      devices.replicate(variables), data)
  log.say(
      f'segment {segment.index + 1}: {plural(c.probes, "probe")} trained on '
          f'{source_}: {accuracy.mean():.1%} right of the real images; score '
          f'{c.score}: '
          f'{np.quantile(scores, .1):.3g} (easy tenth) to '
          f'{np.quantile(scores, .9):.3g} (hard tenth)')
  return scores, accuracy


def _train_probes(experiment, segment, done, keys, log, keeper):
  """Networks trained on the segments before, `Variables [probes, …]`."""
  before, what = join_segments(done), f'probes_{segment.index + 1}'
  recipe = experiment.at_rate(experiment.probe, before)
  batch = Batch(*synthetic.training_inputs(experiment.codec, before))
  epochs = recipe.epochs + recipe.extra
  like = functools.partial(ensemble.state_shapes, experiment.network, recipe)
  with resumable.resumable(keeper, what, range(len(keys)), like) as (
      start, keep):
    def seen(done, stand, loss):
      if done < epochs:
        log.progress(segment.index + 1, len(experiment.plan), done,
                     recipe.epochs,
                     loss().mean(), what='probes of segment', unit='epoch')
        keep(stand, lambda: (
            f'the probes of segment {segment.index + 1}, epoch {done}'))
    variables = ensemble.train_on_set(experiment.network, recipe)(
        keys, devices.replicate(batch), start, seen)
  log.wipe()
  return variables


def _stop_check(segment, keeper):
  """`() -> None`, called while networks are trained that are not kept."""
  done = f'all before segment {segment.index + 1}' if segment.index else (
      'nothing, as the first segment has not begun')
  return lambda: resumable.stop_if_asked(keeper, done)


def start_images(experiment, segment, rows, used, data, experts, key, say,
                 keeper=None):
  """First images and labels `[k, width, …]` of a segment's phase, who is used.

  k: the classes of this phase; who: of all.
  """
  c, codec = experiment.config, experiment.codec
  which = experiment.rows(segment)
  labels = jnp.broadcast_to(jnp.eye(experiment.classes)[which, None],
                            (len(which), segment.width, experiment.classes))
  if c.syn.init == 'noise':
    shape = (experiment.classes, segment.width, *experiment.shape)
    return synthetic.noise(key, codec, shape)[which], labels, used
  chosen = _choose_start(experiment, segment, rows, used, data, experts, key,
                         say,
                         _stop_check(segment, keeper))
  used = used.copy()
  used[chosen] = True
  chosen = chosen[which]
  if c.syn.labels == 'experts':
    soft = expert_training.soft_labels(experiment, experts, data, chosen)
    # The cells of a stored image have one label: their mean.
    labels = jnp.asarray(soft.reshape(
        len(which), -1, segment.width, experiment.classes).mean(1))
  real = jnp.asarray(experiment.dataset.train.read(chosen), jnp.float32) / 255
  if codec.space == 'normalised':
    real = synthetic.normalise_pixels(codec, real)
  return jax.vmap(lambda x: synthetic.pack(x, codec.factor))(real), labels, used


def _choose_start(experiment, segment, rows, used, data, experts, key, say,
                  heard):
  """Real images `[classes, n]` that a segment begins with."""
  c, labels = experiment.config, experiment.dataset.train.labels
  size, seed = setup.decoded_images(experiment, segment), [c.seed, 1,
                                                           segment.index]
  if c.syn.init in coresets.CORESETS:
    if coresets.CORESETS[c.syn.init][0]:
      say(f'segment {segment.index + 1}: choosing by {c.syn.init}; '
          f'{plural(c.coreset.networks, "network")} to train for '
          f'{plural(c.coreset.epochs, "epoch")} on all real images')
    values = scoring.selection_values(
        c.syn.init, experiment.network, experiment.probe,
        epochs=c.coreset.epochs,
        score=c.segments.score)
    keys = jax.random.split(jax.random.fold_in(key, 2), c.coreset.networks)
    return coresets.choose_from(
        segments.unused_first(rows, used, size), c.syn.init, values(keys, data,
                                                                    heard),
        labels, size, seed)
  if c.syn.init == 'known':
    right = expert_training.known_by_experts(experiment, experts, data, size
                                             * (segment.index + 1))
    rows = [row[right[row]] for row in rows]
  return segments.first_images(rows, labels, used, size, seed)
