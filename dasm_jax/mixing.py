"""CutMix: boxes of one image in another, labels mixed by area."""

import jax
import jax.numpy as jnp


def cutmix(key, batch, probability=0.5):
  """Replaces one box of every image by that of a partner (1905.04899).

  With `probability` a batch is mixed: lambda is Beta(1, 1), the box has
  sides `2 (int(side sqrt(1 - lambda)) // 2)` around a uniform centre and is
  clipped; labels mix by the clipped area, which equals mixing the losses.

  Args:
    key: a key.
    batch: `Batch` of `[n, h, w, c]` images and `[n, classes]` labels.
    probability: of mixing at all.
  """
  if not probability:
    return batch
  k_use, k_lam, k_row, k_column, k_partner = jax.random.split(key, 5)
  n, height, width, _ = batch.images.shape
  lam = jax.random.uniform(k_lam)
  row = jax.random.randint(k_row, (), 0, height)
  column = jax.random.randint(k_column, (), 0, width)
  partner = jax.random.permutation(k_partner, n)
  use = jax.random.uniform(k_use) < probability
  mixed = mix(batch, lam, row, column, partner)
  return jax.tree.map(lambda a, b: jnp.where(use, a, b), mixed, batch)


def mix(batch, lam, row, column, partner):
  """The mixed `Batch` of `cutmix` for given draws (`partner`: `[n]`)."""
  _, height, width, _ = batch.images.shape
  inside_rows, rows = _span(height, lam, row)
  inside_columns, columns = _span(width, lam, column)
  inside = (inside_rows[:, None] & inside_columns[None])[..., None]
  images = jnp.where(inside, batch.images[partner], batch.images)
  share = (1 - rows * columns / (height * width)).astype(batch.labels.dtype)
  labels = share * batch.labels + (1 - share) * batch.labels[partner]
  return batch._replace(images=images, labels=labels)


def _span(size, lam, centre):
  half = jnp.floor(size * jnp.sqrt(1 - lam)).astype(jnp.int32) // 2
  low = jnp.clip(centre - half, 0, size)
  high = jnp.clip(centre + half, 0, size)
  at = jnp.arange(size)
  return (at >= low) & (at < high), high - low
