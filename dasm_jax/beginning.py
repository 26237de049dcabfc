"""How a segment begins: probe, score, window, first images."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import (
  answers,
  coreset,
  evaluate,
  fitting,
  parallel,
  segments,
  selection,
  synthetic,
  unfinished,
)
from dasm_jax import job as jobs
from dasm_jax import source as sources
from dasm_jax.types import Array, Batch, Synthetic, Variables, Window
from dasm_jax.words import many


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


def freeze(job, phases):
  """The finished phases of a segment, each a `Progress`, as one of all classes.

  Of several the images leave the device.
  """
  parts = [progress.state.syn for progress in phases]
  if len(parts) == 1:
    relabel = job.config.method.get('relabel', False)
    return phases[0]._replace(state=Frozen(
        parts[0], phases[0].state.variables if relabel else None))
  images, labels = (np.concatenate([np.asarray(x) for x in leaves])
                    for leaves in list(zip(*parts, strict=True))[:2])
  return phases[-1]._replace(
      state=Frozen(Synthetic(images, labels, parts[-1].lr)))


def join(done, rows=slice(None)):
  """All finished segments as one `Synthetic`, of all classes or of `rows`."""
  parts = [progress.state.syn for progress in done]
  return Synthetic(jnp.concatenate([p.images[rows] for p in parts], axis=1),
                   jnp.concatenate([p.labels[rows] for p in parts], axis=1),
                   parts[-1].lr)


def like(job, segment, key):
  """The shapes of a segment's `Progress`."""
  return jax.eval_shape(lambda: _blank(job, segment, key))


def _blank(job, segment, key):
  n, classes = len(job.dataset.train.labels), job.classes
  size = np.bincount(job.dataset.train.labels).max()
  images = jnp.zeros((len(job.rows(segment)), segment.width, *job.shape))
  window = Window(jnp.zeros((classes, size), jnp.int32),
                  jnp.zeros(classes, jnp.int32))
  labels = jnp.zeros((*images.shape[:2], classes))
  return Progress(
      _init(job, segment, images, labels, key), window, jnp.zeros(n),
      jnp.zeros(classes), jnp.zeros(n, bool))


def _init(job, segment, images, labels, key, lr=None):
  lr = job.config.method.get('lr_start', job.recipe.lr) if (
      lr is None) else lr
  syn = Synthetic(images, labels, jnp.float32(lr))
  return jax.jit(jobs.method(job, segment).init)(key, syn)


def beginner(job, segment, done, phases, data, experts, key, log, keeper=None):
  """`() -> Progress`: probe, score, window, start of a segment's phase.

  done: segments; phases: of this one, those that are finished. keeper: an
  `unfinished.Keeper`, or None, for networks that are trained for this.
  """
  def begin():
    key_ = jax.random.fold_in(key, segment.index)
    labels = job.dataset.train.labels
    scores, accuracy = score(
        job, segment, done, phases, data, key_, log, keeper)
    rows = segments.windows(
        job.choice, segment.index, len(job.plan), labels, job.classes, scores,
        accuracy, jobs.floor(job, segment), job.config.seed)
    used = (np.asarray(done[-1].used) if done
            else np.zeros(len(labels), bool))
    images, soft, used = start(job, segment, rows, used, data, experts, key_,
                               log.say, keeper)
    capacity = np.bincount(labels).max()
    window = sources.window(rows)
    wide = np.zeros((job.classes, capacity), np.int32)
    wide[:, :window.indices.shape[1]] = window.indices
    zeros = np.zeros(len(labels), np.float32)
    return Progress(
        _init(job, segment, images, soft, key_,
              done[-1].state.syn.lr if done else None),
        Window(jnp.asarray(wide), jnp.asarray(window.counts)),
        jnp.asarray(zeros if scores is None else scores, jnp.float32),
        jnp.asarray(np.zeros(job.classes) if accuracy is None else accuracy,
                    jnp.float32), jnp.asarray(used))
  return begin


def score(job, segment, done, phases, data, key, log, keeper=None):
  """Difficulty of every real image for a segment: `(scores, accuracy)`.

  None, None where the windows ask nobody. Networks trained on real data score
  once, those trained on the earlier segments anew for each segment.
  """
  c = job.config.segments
  who = segments.scorer(job.choice, segment.index)
  if who is None:
    return None, None
  known = phases or (done if who == 'real' else [])
  if known:
    return np.asarray(known[0].scores), np.asarray(known[0].accuracy)
  keys = jax.random.split(jax.random.fold_in(key, 1), c.probes)
  if who == 'real':
    source_ = 'real images'
    train = evaluate.probes_on_real(job.network, job.probe, c.probe_real_steps)
    variables = train(keys, data, _leaver(segment, keeper))
  else:
    source_ = 'the segments before'
    variables = _probes(job, segment, done, keys, log, keeper)
  scores, accuracy = evaluate.scores(job.network, c.score)(
      parallel.replicate(variables), data)
  log.say(f'segment {segment.index + 1}: {many(c.probes, "probe")} trained on '
          f'{source_}: {accuracy.mean():.1%} right of the real images; score '
          f'{c.score}: '
          f'{np.quantile(scores, .1):.3g} (easy tenth) to '
          f'{np.quantile(scores, .9):.3g} (hard tenth)')
  return scores, accuracy


def _probes(job, segment, done, keys, log, keeper):
  """Networks trained on the segments before, `Variables [probes, …]`."""
  before, what = join(done), f'probes_{segment.index + 1}'
  recipe = job.at_rate(job.probe, before)
  batch = Batch(*synthetic.inputs(job.codec, before))
  epochs = recipe.epochs + recipe.extra
  like = functools.partial(fitting.like, job.network, recipe)
  with unfinished.training(keeper, what, range(len(keys)), like) as (
      start, keep):
    def seen(done, stand, loss):
      if done < epochs:
        log.progress(segment.index + 1, len(job.plan), done, recipe.epochs,
                     loss().mean(), what='probes of segment', unit='epoch')
        keep(stand, lambda: (
            f'the probes of segment {segment.index + 1}, epoch {done}'))
    variables = fitting.on_set(job.network, recipe)(
        keys, parallel.replicate(batch), start, seen)
  log.wipe()
  return variables


def _leaver(segment, keeper):
  """`() -> None`, called while networks are trained that are not kept."""
  done = f'all before segment {segment.index + 1}' if segment.index else (
      'nothing, as the first segment has not begun')
  return lambda: unfinished.leave_if_asked(keeper, done)


def start(job, segment, rows, used, data, experts, key, say, keeper=None):
  """First images and labels `[k, width, …]` of a segment's phase, who is used.

  k: the classes of this phase; who: of all.
  """
  c, codec = job.config, job.codec
  which = job.rows(segment)
  labels = jnp.broadcast_to(jnp.eye(job.classes)[which, None],
                            (len(which), segment.width, job.classes))
  if c.syn.init == 'noise':
    shape = (job.classes, segment.width, *job.shape)
    return synthetic.noise(key, codec, shape)[which], labels, used
  chosen = _chosen(job, segment, rows, used, data, experts, key, say,
                   _leaver(segment, keeper))
  used = used.copy()
  used[chosen] = True
  chosen = chosen[which]
  if c.syn.labels == 'experts':
    soft = answers.soft_labels(job, experts, data, chosen)
    # The cells of a stored image have one label: their mean.
    labels = jnp.asarray(soft.reshape(
        len(which), -1, segment.width, job.classes).mean(1))
  real = jnp.asarray(job.dataset.train.read(chosen), jnp.float32) / 255
  if codec.space == 'normalised':
    real = synthetic.enter(codec, real)
  return jax.vmap(lambda x: synthetic.mix(x, codec.factor))(real), labels, used


def _chosen(job, segment, rows, used, data, experts, key, say, heard):
  """Real images `[classes, n]` that a segment begins with."""
  c, labels = job.config, job.dataset.train.labels
  size, seed = jobs.decoded(job, segment), [c.seed, 1, segment.index]
  if c.syn.init in coreset.CORESETS:
    if coreset.CORESETS[c.syn.init][0]:
      say(f'segment {segment.index + 1}: choosing by {c.syn.init}; '
          f'{many(c.coreset.networks, "network")} to train for '
          f'{many(c.coreset.epochs, "epoch")} on all real images')
    values = selection.values(
        c.syn.init, job.network, job.probe, epochs=c.coreset.epochs,
        score=c.segments.score)
    keys = jax.random.split(jax.random.fold_in(key, 2), c.coreset.networks)
    return coreset.choose_from(
        segments.fresh(rows, used, size), c.syn.init, values(keys, data, heard),
        labels, size, seed)
  if c.syn.init == 'known':
    right = answers.known(job, experts, data, size * (segment.index + 1))
    rows = [row[right[row]] for row in rows]
  return segments.start(rows, labels, used, size, seed)
