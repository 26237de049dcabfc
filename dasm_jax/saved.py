"""A set that is read from a file, ours or another's, with all its use needs."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dasm_jax import segments, synthetic
from dasm_jax.runtime import text
from dasm_jax.training import recipes
from dasm_jax.types import Array, Batch, SoftLabelled, Synthetic


class SavedSet(NamedTuple):
  """A set as it is read from a file: NumPy, no device is touched yet.

  syn: `Synthetic` as stored; codec: how networks read it.
  network: settings of `models.build`; recipe: how it is meant to be trained,
    called recipe_name in `recipes.RECIPES`.
  data: what it is of, for `loading.load_again`; class_names: one per label.
  card: all that is known of it.
  logits: `[epochs, n, classes]` of teachers for the decoded images, or None.
  """
  syn: Synthetic
  codec: synthetic.Codec
  network: dict
  recipe: recipes.Recipe
  recipe_name: str
  data: dict
  class_names: tuple
  card: dict
  logits: np.ndarray | None = None

  def __repr__(self):
    size = 'x'.join(map(str, self.shape))
    return (f'<{self.card["method"]} on {self.data["name"]}: '
            f'{text.plural(self.ipc, "image")} of {size} for each of '
            f'{len(self.class_names)} classes>')

  @property
  def shape(self) -> tuple[int, ...]:
    """(height, width, channels)."""
    return self.syn.images.shape[2:]

  @property
  def ipc(self) -> int:
    """Stored images a class."""
    return self.syn.images.shape[1]

  @property
  def segment_images(self) -> tuple[int, ...]:
    """Stored images a class of each segment, in the order they were made."""
    known = self.card.get('segment_images')
    if known is None:  # of a set that is older, or is no run's
      number = self.card.get('segments')
      whole = isinstance(number, int) and 1 <= number <= self.ipc
      known = [segment.width for segment in segments.plan(
          self.ipc, number if whole else 1)]
    return tuple(known)

  @property
  def batch(self) -> Batch | SoftLabelled:
    """All images decoded, as networks see them, `[n, …]` of JAX.

    A `Batch`, or a `SoftLabelled` if a teacher labelled each epoch.
    """
    plain = map(jnp.asarray, synthetic.training_inputs(self.codec, self.syn))
    if self.logits is None:
      return Batch(*plain)
    shown = self.card['lessons']
    return SoftLabelled(*plain, jnp.asarray(self.logits),
                        jnp.uint32(shown['seed']),
                        jnp.float32(shown['temperature']))

  @property
  def real_lr(self) -> float:
    """Rate for real images, where that of the recipe was learned for these."""
    return self.card.get('real_lr', self.recipe.lr)

  def real(self, images: ArrayLike) -> Array:
    """Real images, 8-bit integers, as networks trained on the set see them."""
    # Real images are pixels, in whatever space those of the set are stored.
    plain = self.codec._replace(space='pixels')
    return synthetic.normalise(plain, np.asarray(images, np.float32) / 255)
