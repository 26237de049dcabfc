"""Flat batches and class-major sets, told apart before they are used.

A flat batch is `[n, …]`, as networks and losses read it; a class-major set is
`[classes, ipc, …]`, as `types.Synthetic` is stored. Given to the wrong function
either fails in the middle of a convolution, or, worse, does not fail.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dasm_jax.errors import UserError


def check_flat(who: str, *batches: object,
               instead: str = 'objectives.per_class around it takes them'
               ) -> None:
  """Refuses class-major sets where flat batches are meant.

  Args:
    who: the function that asks.
    *batches: each a `Batch` or `Synthetic`; what has no labels is not judged.
    instead: the way out.

  Raises:
    UserError: labels of three dimensions.
  """
  for batch in batches:
    images, labels = _parts(batch)
    # Labels tell: an image may have any number of dimensions.
    if labels is not None and np.ndim(labels) == 3:
      raise UserError(
          f'{who} takes flat batches [n, …], and images of shape '
          f'{np.shape(images)} with labels of shape {np.shape(labels)} are a '
          f'class-major set [classes, ipc, …]; {instead}')


def check_class_major(who: str, *sets: object,
                      instead: str = 'a flat objective takes them as it is'
                      ) -> None:
  """Refuses flat batches where class-major sets are meant.

  Args:
    who: the function that asks.
    *sets: each a `Batch` or `Synthetic`, and all of as many classes; what has
      no labels is not judged.
    instead: the way out.

  Raises:
    UserError: labels of rows alone, images and labels of other classes or
      numbers of images, sets of other numbers of classes.
  """
  known = [pair for pair in map(_parts, sets) if pair[1] is not None]
  for images, labels in known:
    shape, told = np.shape(images), np.shape(labels)
    # Class numbers of a class-major set have two dimensions, too.
    numbers = len(told) == 2 and shape[:2] == told and not jnp.issubdtype(
        labels.dtype, jnp.floating)
    if len(told) < 3 and not numbers:
      raise UserError(
          f'{who} takes class-major sets [classes, ipc, …], and images of '
          f'shape {shape} with labels of shape {told} are a flat batch [n, …]; '
          f'{instead}, or reshape them')
    if shape[:2] != told[:2]:
      raise UserError(
          f'{who} takes class-major sets [classes, ipc, …], and images of '
          f'shape {shape} do not fit labels of shape {told}: the first two '
          'numbers must be equal')
  if len({len(images) for images, _ in known}) > 1:
    shapes = ' and '.join(str(np.shape(images)) for images, _ in known)
    raise UserError(f'{who} takes sets of the same classes, and images of '
                    f'shapes {shapes} begin with other numbers of them')


def check_images(who: str, images: ArrayLike, dimensions: int = 4) -> None:
  """Refuses images that are not `[n, height, width, channels]`.

  Args:
    who: the function that asks.
    images: that it is given.
    dimensions: how many they have, of networks that read something else.

  Raises:
    UserError: another number of dimensions.
  """
  if np.ndim(images) != dimensions:
    meant = ('[n, height, width, channels]' if dimensions == 4
             else f'of {dimensions} dimensions')
    raise UserError(
        f'{who} takes images {meant}, not of shape {np.shape(images)}; ' + (
            'of a class-major set give one class, or '
            'images.reshape(-1, *images.shape[2:])'
            if np.ndim(images) > dimensions else
            'add the axes that are missing, as images[None] does'))


def _parts(batch):
  return (getattr(batch, 'images', None), getattr(batch, 'labels', None))
