"""The crops of real images that a segment begins with (RDED), and who chooses.

Sections: the teacher, the choice, the images.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import crops, segments, streams, synthetic
from dasm_jax.distill import setup
from dasm_jax.methods import options, registry
from dasm_jax.runtime import devices
from dasm_jax.runtime.text import plural
from dasm_jax.streams import Stream
from dasm_jax.training import ensemble, resumable

LOOK = 200  # crops that the teacher looks at at once

# ---- The teacher


def asks_teacher(c):
  """Whether a configuration has a teacher before its first segment begins.

  It chooses crops, or labels the views of a coreset.
  """
  return c.syn.init == 'rded' or (
      c.method.get('relabel', False)
      and not registry.family_of(c.method).synthesises)


def trains_teacher(experiment, index):
  """Whether segment `index` trains that teacher.

  The first does; one that labels views is kept, and any other trained again.
  """
  c = experiment.config
  return (asks_teacher(c) and 'teacher' in c.method
          and experiment.teacher is None
          and not (index and c.method.relabel and c.syn.phases == 1))


def teacher(made, learned, kept=None):
  """`Variables` of the network that chooses crops; None where none is asked.

  That of `method.teacher`; else one that is trained here on all real images, as
  the method says, the same for all segments. Of a method without a teacher the
  first of those that put images in order.

  Args:
    made: a `setup.Run`.
    learned: `() -> (Variables [k, …], …)`, these.
    kept: `Variables` of the teacher that an earlier segment has trained.

  Raises:
    preemption.Stopped: asked to stop; networks in training stay.
  """
  experiment = made.experiment
  if not asks_teacher(experiment.config):
    return None
  for there in (experiment.teacher, kept):
    if there is not None:
      return there
  found = (_train_teacher(made) if trains_teacher(experiment, 0)
           else learned()[0])
  return jax.tree.map(lambda x: np.asarray(x)[0], found)


def teacher_recipe(experiment):
  """The `recipes.Recipe` of a teacher that is trained here."""
  c = experiment.config
  return options.network_recipe(c.method, experiment.codec)._replace(
      epochs=c.coreset.epochs, cosine=True)


def _train_teacher(made):
  experiment, recipe = made.experiment, teacher_recipe(made.experiment)
  made.log.say(f'a teacher is trained for {plural(recipe.epochs, "epoch")} on '
               'all real images')

  def report(epoch, within, loss):
    del within
    if epoch >= recipe.epochs:
      return None
    made.log.progress((1, 1, epoch, recipe.epochs), loss().mean(),
                      what='teacher', unit='epoch')
    return lambda: f'the teacher, epoch {epoch}'

  train = ensemble.train_on_all(experiment.network, recipe)
  keys = streams.key(made.key, Stream.CROPS, 0)[None]
  group = resumable.Group('teacher', [0], functools.partial(
      ensemble.state_shapes, experiment.network, recipe))
  variables = resumable.train_networks(
      lambda start, seen: train(keys, made.data, seen, start), made.keeper,
      group, report)
  made.log.wipe()
  return variables


# ---- The choice


def choose(made, phase, rows, used, variables):
  """The crops that a phase begins with, and the real images they are of.

  Args:
    made: a `setup.Run`; phase: a `Segment`.
    rows: the windows of all classes.
    used: `[n]` bool, real images that any segment began with.
    variables: of the teacher.

  Returns:
    `(chosen [classes, n] int, crops [classes, n, height, width, channels])`
    from the surest on, as 8-bit integers.
  """
  experiment, c = made.experiment, made.experiment.config
  count = setup.real_images(experiment, phase)
  pool = crops.draw_pool(
      segments.unused_first(rows, used, count), c.coreset.pool,
      streams.seed(c.seed, Stream.CROPS, phase.index))
  # The same number of blocks for every class: one program.
  size = max(1, LOOK // c.coreset.crops)
  blocks = -(-max(map(len, pool)) // size)
  look = devices.spread(_best_crops(experiment), together=False)
  shared = devices.replicate((
      variables, streams.key(made.key, Stream.CROPS, 1, phase.index)))
  chosen, found, scored = [], [], []
  for label, members in enumerate(pool):
    # What fills the last block is cut off again.
    indices = np.resize(members, (blocks, size)).astype(np.int32)
    images = experiment.dataset.train.read(indices.reshape(-1))
    images = np.asarray(images).reshape(blocks, size, *images.shape[1:])
    scores, best = (
        np.asarray(x).reshape(blocks * size, *x.shape[2:])[:len(members)]
        for x in look((images, indices, np.full(blocks, label)), *shared))
    order = crops.smallest(scores, count)
    chosen.append(members[order])
    found.append(best[order])
    scored.append(scores[order])
    resumable.stop_if_asked(made.keeper, 'nothing of the choice of crops')
  made.log.say(
      f'segment {phase.index + 1}: {plural(count, "crop")} a class of '
      f'{max(map(len, pool))} images, cross-entropy of the teacher '
      f'{np.mean(scored):.3g}')
  return np.stack(chosen), np.stack(found)


def _best_crops(experiment):
  """`((images, numbers, label), teacher, key) -> (scores, crops)` of a block.

  Images and crops as 8-bit integers.
  """
  codec = experiment.codec._replace(space='pixels')
  # What is normalised to zeros lies around a crop.
  middle = codec.mean if codec.zca is None else codec.zca.mean.reshape(
      experiment.shape)
  background = jnp.broadcast_to(
      jnp.asarray(middle, jnp.float32), experiment.shape)

  def run(item, variables, key):
    images, numbers, label = item
    def look(found):
      return experiment.network.apply(variables, synthetic.normalise(
          codec, crops.centred(found, background)))[0]
    # By the image's number: how blocks are cut changes no crop.
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
    scores, best = crops.best_of_random(
        look, cell_shape(experiment), experiment.config.coreset.crops)(
            images.astype(jnp.float32) / crops.LEVELS,
            jnp.broadcast_to(label, numbers.shape), keys)
    return scores, jnp.round(best * crops.LEVELS).astype(jnp.uint8)
  return run


def cells(experiment):
  """Crops along a side of a stored image."""
  return experiment.codec.factor * experiment.config.coreset.cells


def cell_shape(experiment):
  """(height, width) of a crop."""
  return tuple(max(1, side // cells(experiment))
               for side in experiment.shape[:2])


# ---- The images


def packed(experiment, found):
  """Crops `[k, n, …]` packed as stored images `[k, ipc, …]`."""
  codec = experiment.codec
  whole = jax.vmap(lambda x: synthetic.pack(
      x, cells(experiment), experiment.shape[:2]))(
          jnp.asarray(found, jnp.float32) / crops.LEVELS)
  return whole if codec.space == 'pixels' else synthetic.normalise_pixels(
      codec, whole)
