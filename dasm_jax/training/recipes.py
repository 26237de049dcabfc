"""How a network is trained on a fixed set of images: the published recipes."""

from typing import Any, NamedTuple

import jax
import numpy as np

from dasm_jax.errors import UserError, unknown
from dasm_jax.transforms import augment, photometric


class Recipe(NamedTuple):
  """How a network is trained on a fixed set of images.

  epochs: as published; `extra` more are run (the reference's loop of DC).
  drops: epochs after which the rate is multiplied by `decay`.
  restart: the optimizer starts anew at a drop (DC).
  strategy, mode, cutmix: augmentation, a draw for each image.
  statistics: (mean, std) of the images, if the strategy asks for them.
  optimizer: `sgd` or `adamw`, whose first average has the momentum.
  cosine: whether the rate falls to 0 as a cosine of the epoch besides.
  stretch: of this cosine; at 2 it ends at one half.
  warmup: first epochs, in which it grows from a hundredth, as a line.
  matrices: only tensors of several dimensions decay, not biases and norms.
  mixup: both parameters of the Beta distribution of Mixup's share; 0: none.
  squared: soft labels' loss is T^2 times as large, for temperature T.
  """
  epochs: int
  lr: float = 0.01
  momentum: float = 0.9
  weight_decay: float = 5e-4
  batch: int = 64
  drops: tuple = ()
  decay: float = 0.1
  restart: bool = False
  strategy: str = ''
  mode: str = 'single'
  cutmix: float = 0.0
  extra: int = 0
  statistics: tuple = ()
  optimizer: str = 'sgd'
  cosine: bool = False
  warmup: int = 0
  matrices: bool = False
  mixup: float = 0.0
  squared: bool = False
  stretch: float = 1.0


def dc_recipe(epochs: int, *, strategy: str = '', mode: str = 'single',
              lr: float = 0.01, batch: int = 256, cutmix: float = 0.0,
              **more: Any) -> Recipe:
  """The DC, DSA and DM evaluation: x0.1 once at the middle, fresh momentum.

  Runs `epochs + 1` epochs; from epoch `epochs // 2 + 2` (counted from 0) on
  the rate is a tenth. Source: the reference program of 2006.05929.

  Args:
    epochs: as published.
    **more: these and other fields of `Recipe`, in place of the published.

  Returns:
    A checked `Recipe`.

  Raises:
    UserError: as `recipe`.
  """
  # The reference lowers its rate after epoch `epochs // 2 + 1` was run.
  return recipe(epochs, lr=lr, batch=batch, drops=(epochs // 2 + 2,),
                decay=0.1, restart=True, strategy=strategy, mode=mode,
                cutmix=cutmix, extra=1, **more)


def idc_recipe(epochs: int, *, strategy: str = 'color_crop_scale_rotate',
               lr: float = 0.01, batch: int = 64, cutmix: float = 0.5,
               **more: Any) -> Recipe:
  """The IDC evaluation: x0.2 at 2/3 and 5/6 of the epochs, with CutMix.

  Args:
    epochs: as published.
    **more: these and other fields of `Recipe`, in place of the published.

  Returns:
    A checked `Recipe`.

  Raises:
    UserError: as `recipe`.
  """
  return recipe(epochs, lr=lr, batch=batch,
                drops=(2 * epochs // 3, 5 * epochs // 6), decay=0.2,
                restart=False, strategy=strategy, mode='idc', cutmix=cutmix,
                extra=0, **more)


def sre2l_recipe(epochs: int, *, lr: float = 1e-3, weight_decay: float = 0.01,
                 batch: int = 1024, cutmix: float = 1.0, **more: Any) -> Recipe:
  """The SRe2L validation: AdamW, a cosine to 0, CutMix in every batch.

  Args:
    epochs: as published.
    **more: these and other fields of `Recipe`, in place of the published.

  Returns:
    A checked `Recipe`.

  Raises:
    UserError: as `recipe`.

  Source: 2306.13092, which trains on a teacher's soft labels of every view
  (`soft_labels`); its program for ImageNet, where biases and norms do not
  decay.
  """
  return recipe(epochs, lr=lr, weight_decay=weight_decay, batch=batch,
                mode='idc', cutmix=cutmix, optimizer='adamw', cosine=True,
                **{'matrices': True, **more})


def sre2l_cifar_recipe(epochs: int, *, batch: int = 128, cutmix: float = 0.0,
                       **more: Any) -> Recipe:
  """The same on CIFAR: Mixup in place of CutMix, and all weights decay.

  Args:
    epochs: as published.
    **more: these and other fields of `Recipe`, in place of the published.

  Returns:
    A checked `Recipe`.

  Raises:
    UserError: as `recipe`.

  Source: its program for CIFAR-100.
  """
  return sre2l_recipe(epochs, batch=batch, cutmix=cutmix, matrices=False,
                      mixup=0.8, **more)


def sre2l_tiny_recipe(epochs: int, *, lr: float = 0.2,
                      weight_decay: float = 1e-4, batch: int = 256,
                      cutmix: float = 0.0, **more: Any) -> Recipe:
  """The same on Tiny ImageNet: SGD, a warm-up of 5 epochs, KL times T^2.

  Args:
    epochs: as published.
    **more: these and other fields of `Recipe`, in place of the published.

  Returns:
    A checked `Recipe`.

  Raises:
    UserError: as `recipe`.

  Source: the program for Tiny ImageNet that its README names.
  """
  return recipe(epochs, lr=lr, weight_decay=weight_decay, batch=batch,
                mode='idc', cutmix=cutmix, cosine=True, warmup=5, squared=True,
                **more)


def rded_recipe(epochs: int, *, lr: float = 1e-3, weight_decay: float = 0.01,
                batch: int = 50, cutmix: float = 1.0, **more: Any) -> Recipe:
  """The RDED validation: AdamW, half of a cosine, CutMix in every batch.

  Args:
    epochs: as published.
    **more: these and other fields of `Recipe`, in place of the published.

  Returns:
    A checked `Recipe`.

  Raises:
    UserError: as `recipe`.

  Source: 2312.03526, which trains on a teacher's soft labels of every view
  (`soft_labels`); its program.
  """
  return sre2l_recipe(epochs, lr=lr, weight_decay=weight_decay, batch=batch,
                      cutmix=cutmix, stretch=2.0, **more)


# Of RDED, by cells along a side: they are shuffled, and a view has the area of
# a row of them at least. Of one cell it is the image.
RDED_AUGMENT = {1: 'flip', 2: 'patches2_rrc_flip', 3: 'patches3_rrc33_flip',
                4: 'patches4_rrc25_flip'}
# Its rates, by network; the others have that of the recipe.
RDED_RATES = {'vgg11': 5e-4, 'alexnet': 1e-4, 'vit': 1e-4}

MOST_EPOCHS = 10 ** 6  # as each has its rate in a table
RECIPES = {'dc': dc_recipe, 'idc': idc_recipe, 'sre2l': sre2l_recipe,
           'sre2l_cifar': sre2l_cifar_recipe, 'sre2l_tiny': sre2l_tiny_recipe,
           'rded': rded_recipe}
OPTIMIZERS = 'sgd', 'adamw'
WARM = 0.01  # of the rate, at the first epoch of a warm-up


def recipe(epochs: int, **settings: Any) -> Recipe:
  """A checked `Recipe`; settings are its other fields.

  Args:
    epochs: how many.
    **settings: other fields of `Recipe`.

  Returns:
    A `Recipe`, which may be a key of a cache.

  Raises:
    UserError: fewer than one epoch or image a batch, a rate that is not
      positive, a CutMix probability outside [0, 1], unknown augmentations, one
      that asks for statistics where there are none; an unknown optimizer.
  """
  r = Recipe(epochs, **settings)
  for name, value in (('epochs', r.epochs), ('batch', r.batch)):
    if value < 1:
      raise UserError(f'{name}={value} of a training recipe must be at least 1')
  if r.lr <= 0:
    raise UserError(f'lr={r.lr} of a training recipe must be positive')
  if not 0 <= r.cutmix <= 1:
    raise UserError(f'cutmix={r.cutmix} is a probability, from 0 to 1')
  if r.stretch < 1:
    raise UserError(f'stretch={r.stretch} of a training recipe must be at '
                    'least 1: the rate falls no further than to 0')
  if r.mixup < 0 or r.warmup < 0:
    raise UserError(f'mixup={r.mixup} and warmup={r.warmup} of a training '
                    'recipe must not be negative')
  if r.optimizer not in OPTIMIZERS:
    raise unknown('optimizer', r.optimizer, OPTIMIZERS)
  # Built for its checks: what it makes is not needed here.
  augment.build(r.strategy, r.mode)
  photometric.check_statistics(r.strategy, r.statistics)
  # Lists of a card become tuples: a recipe is a key of caches of programs.
  return r._replace(drops=tuple(r.drops),
                    statistics=tuple(map(tuple, r.statistics)))


def rates(recipe_: Recipe) -> tuple[np.ndarray, np.ndarray]:
  """Learning rate and restart flag of each epoch, NumPy arrays `[epochs]`.

  Args:
    recipe_: a `Recipe`.

  Returns:
    `(rates float64, restarts bool)`.
  """
  epoch = np.arange(recipe_.epochs + recipe_.extra)
  passed = sum((epoch >= drop).astype(int) for drop in recipe_.drops)
  # Without drops the sum is the number 0, which becomes an array here.
  passed = np.zeros_like(epoch) + passed
  restart = np.isin(epoch, recipe_.drops) & recipe_.restart
  lrs = recipe_.lr * recipe_.decay ** passed.astype(float)
  if recipe_.cosine:
    lrs = lrs * cosine(epoch, recipe_.stretch * len(epoch), recipe_.warmup)
  return lrs, restart


def cosine(done: Any, whole: float, warmup: float = 0) -> Any:
  """Share of a rate that falls to 0 as a cosine, of `done` of `whole` epochs.

  In the first `warmup` of them it grows as a line, from `WARM` to 1, and the
  cosine is of the others. Numbers or arrays, of NumPy or JAX.

  Args:
    done: epochs done.
    whole: epochs of the whole fall.
    warmup: epochs of the line.

  Returns:
    As `done`, in [0, 1].
  """
  np_ = jax.numpy if isinstance(done, jax.Array) else np
  down = (1 + np_.cos(np.pi * (done - warmup) / max(whole - warmup, 1))) / 2
  if not warmup:
    return down
  return np_.where(done < warmup, WARM + (1 - WARM) * done / warmup, down)
