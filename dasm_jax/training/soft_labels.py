"""Soft labels that networks give images: SRe2L's, TESLA's, one for each epoch.

SRe2L's teacher labels the images anew for every epoch. A network that is
trained by a recipe sees each image of a set once an epoch, augmented and mixed
as keys say. With these keys fixed, a teacher can label each image beforehand as
each epoch shows it; its logits are stored, and are the labels. Of what was
shown only the keys' seed is stored: whoever trains draws it again.

Source: SRe2L (2306.13092), section 3, which stores crops and partners.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import difficulty, synthetic
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import train_step
from dasm_jax.types import SoftLabelled

LABEL_CHUNK = 200  # images that are labelled at once


def network_labels(network, settings):
  """`(variables, syn, windows, key) -> [classes, ipc, classes]`, probabilities.

  settings: of `sre2l`: its codec, augmentation and views.
  """
  codec = settings.codec

  def run(variables, syn, windows, key):
    def probabilities(images):
      return jax.nn.softmax(network.apply(variables, images)[0])
    def one(args):
      images, index = args
      images = synthetic.normalise(codec, synthetic.decode(codec, images))
      if settings.views:
        # By the class, not its row: how classes are split changes nothing.
        draws = jax.random.split(
            jax.random.fold_in(key, index), settings.views)
        labels = jax.lax.map(lambda draw: probabilities(
            settings.augment(draw, images, shared=False)), draws).mean(0)
      else:
        labels = probabilities(images)
      labels = mean_of_cells(codec, labels, syn.images.shape[1])
      # As they are stored.
      return labels.astype(jnp.float16).astype(syn.labels.dtype)
    return jax.lax.map(one, (syn.images, windows.classes))

  return run


def assigned_labels(logits, codec):
  """`(params, syn) -> [classes, ipc, classes]`: TESLA's soft label assignment.

  What an expert makes of the images as they are, not augmented.

  Args:
    logits: `(params, images [n, …]) -> [n, classes]`.
    codec: a `synthetic.Codec`.

  Source: TESLA (2211.10586), section 3.3.
  """
  whole = synthetic.training_codec(codec)

  def run(params, syn):
    images, _ = synthetic.training_inputs(codec, syn)
    found = jax.nn.softmax(difficulty.chunked(
        lambda params, at: logits(params, images[at]), params,
        jnp.arange(len(images)), LABEL_CHUNK))
    found = found.reshape(len(syn.images), -1, found.shape[-1])
    return jax.vmap(
        lambda labels: mean_of_cells(whole, labels, syn.images.shape[1]))(
            found).astype(syn.labels.dtype)
  return run


def mean_of_cells(codec, labels, ipc):
  """`[decoded, classes]` of a class as `[ipc, classes]`: means of the cells."""
  # A stored image has one label, and several decoded ones that are labelled.
  sources = synthetic.decoded_from(codec, ipc)
  share = jnp.zeros((ipc, len(sources))).at[
      sources, jnp.arange(len(sources))].set(1)
  return share @ labels / share.sum(1, keepdims=True)


def teacher_labels(network, recipe, teachers, batch, seed, temperature):
  """A `SoftLabelled` set: the teachers' mean logits for every epoch.

  Args:
    network: of the teachers; running averages stay as they are.
    recipe: a `recipes.Recipe`.
    teachers: `Variables` `[k, …]`.
    batch: a `Batch` of n images.
    seed: of order, augmentation and CutMix.
    temperature: by which logits are divided, on both sides.
  """
  change, n = train_step.augmentation(recipe), len(batch.labels)

  # Goes through an epoch as `ensemble.fit_epochs` does with such a set, by the
  # same keys: each label is of the very view that a network is trained on.
  def one(epoch, teachers, batch):
    def label(found, indices, key):
      images = change(key, sources.take_any(batch, indices)).images
      logits = jax.lax.map(
          lambda one: network.apply(one, images)[0], teachers).mean(0)
      return found.at[indices].set(logits.astype(jnp.float16))
    blank = jnp.zeros(batch.labels.shape, jnp.float16)
    key = jax.random.fold_in(train_step.soft_label_key(seed), epoch)
    return train_step.run_epoch(label, blank, key, n, recipe.batch)

  epochs = np.arange(recipe.epochs + recipe.extra, dtype=np.int32)
  logits = devices.spread(one, together=False)(
      epochs, *devices.replicate((teachers, batch)))
  return SoftLabelled(
      *batch, logits, jnp.uint32(seed), jnp.float32(temperature))
