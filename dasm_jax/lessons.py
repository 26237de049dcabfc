"""Labels told anew for every epoch: SRe2L's relabelling.

A network that is trained by a recipe sees each image of a set once an epoch,
augmented and mixed as keys say. With these keys fixed, a teacher can be asked
before what it makes of each image as each epoch shows it; the answers are
stored, and are the labels. Nothing but the keys' seed is stored of what was
shown: whoever trains draws it again.

Source: SRe2L (2306.13092), section 3, which stores crops and partners.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import parallel, storage, synthetic, train
from dasm_jax import source as sources
from dasm_jax.types import Batch, Taught


def of(job, syn, done):
  """What networks are trained on for a finished set.

  Args:
    job: a `Job`; syn: its `Synthetic`.
    done: `Progress` of every segment, each with its teacher if it has one.

  Returns:
    The set as networks see it: a `Batch`, or `Taught` by the mean of the
    teachers.
  """
  stored = syn._replace(labels=storage.rounded(syn.labels))
  batch = Batch(*synthetic.inputs(job.codec, stored))
  teachers = [progress.state.teacher for progress in done]
  if teachers[0] is None:
    return batch
  teachers = jax.tree.map(lambda *x: np.stack(list(map(np.asarray, x))),
                          *teachers)
  return tell(job.network, job.recipe, teachers, batch, job.config.seed,
              job.config.method.temperature)


def tell(network, recipe, teachers, batch, seed, temperature):
  """A `Taught` set: for every epoch of a recipe the teachers' mean logits.

  Args:
    network: of the teachers; running averages stay as they are.
    recipe: a `recipes.Recipe`.
    teachers: `Variables` `[k, …]`.
    batch: a `Batch` of n images.
    seed: of order, augmentation and CutMix.
    temperature: by which logits are divided, on both sides.
  """
  change, n = train.augmentation(recipe), len(batch.labels)

  def one(epoch, teachers, batch):
    def do(told, indices, key):
      images = change(key, sources.part(batch, indices)).images
      logits = jax.lax.map(
          lambda one: network.apply(one, images)[0], teachers).mean(0)
      return told.at[indices].set(logits.astype(jnp.float16))
    blank = jnp.zeros(batch.labels.shape, jnp.float16)
    key = jax.random.fold_in(train.stream(seed), epoch)
    return train.epoch(do, blank, key, n, recipe.batch)

  epochs = np.arange(recipe.epochs + recipe.extra, dtype=np.int32)
  told = parallel.spread(one, together=False)(
      epochs, *parallel.replicate((teachers, batch)))
  return Taught(*batch, told, jnp.uint32(seed), jnp.float32(temperature))
