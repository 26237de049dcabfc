"""What a segment asks of a method, besides the settings of the method."""

from typing import Any, NamedTuple

from dasm_jax import objectives, synthetic
from dasm_jax.training import recipes
from dasm_jax.transforms import augment, photometric
from dasm_jax.types import Augmentation


class Options(NamedTuple):
  """What `methods.build` is given of a segment.

  classes: how many there are in all.
  codec: a `synthetic.Codec`, from stored images to what networks see.
  images: stored images a class inside the matching mean.
  correction: an `objectives.Correction`, the strength of SDC.
  replay: share of a real batch that is from the whole class.
  union: finished and new images are matched together, not the new alone.
  rate: factor on the images' rate in this segment.
  moving: how many of each class's images move, the first; None: all.
  from_finished: share of the inner networks that begin as one of those that
    finished segments have trained.
  steps: sweeps of the segment; None is those of the settings.
  alone: sweeps from the segment's first on, at which a network that begins
    matches each class alone for a while (DSAC); None: the settings' share.
  batched: classes at once or in turn, see `objectives.per_class`.
  axis_name: mapped axis over which classes (or expert starts) are split.
  """
  classes: int
  codec: synthetic.Codec
  images: int
  correction: objectives.Correction = objectives.Correction()
  replay: float = 0.0
  union: bool = False
  rate: float = 1.0
  moving: int | None = None
  from_finished: float = 0.0
  steps: int | None = None
  alone: float | None = None
  batched: bool | int | None = None
  axis_name: str | None = None


def statistics_for(strategy: str, codec: synthetic.Codec) -> tuple:
  """What an augmentation asks of the images' mean and std; () if nothing.

  Args:
    strategy: of an augmentation.
    codec: a `synthetic.Codec`.

  Returns:
    (mean, std), or ().
  """
  return photometric.pixel_statistics(
      strategy, codec.mean, codec.std, codec.zca)


def augmentation(c: Any, codec: synthetic.Codec) -> Augmentation:
  """`(key, images, shared) -> images`, of what is matched.

  Args:
    c: the settings of a method.
    codec: a `synthetic.Codec`.

  Returns:
    As `augment.build` returns it.
  """
  return augment.build(c.augment, c.augment_mode,
                       statistics=statistics_for(c.augment, codec))


def network_recipe(c: Any, codec: synthetic.Codec) -> recipes.Recipe:
  """The `recipes.Recipe` of inner networks between sweeps, or of a teacher.

  Args:
    c: the settings of a method.
    codec: a `synthetic.Codec`.

  Returns:
    A `Recipe` of one epoch.
  """
  # One epoch stands for any: the method says how many batches there are.
  return recipes.recipe(
      1, lr=c.net_lr, momentum=c.net_momentum, weight_decay=c.net_weight_decay,
      batch=c.net_batch, strategy=c.net_augment, mode=c.augment_mode,
      cutmix=c.net_cutmix, statistics=statistics_for(c.net_augment, codec))
