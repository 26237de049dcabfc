"""What tells sets apart besides their accuracy.

Sections: formulas on NumPy arrays (how far images moved, how far windows
overlap, thirds of the test images, nearest neighbours); the same of networks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import difficulty
from dasm_jax.runtime import devices
from dasm_jax.training import scoring

THIRDS = ('easy', 'middle', 'hard')
_EMBEDDED = 200  # images that are embedded at once


# ---- Formulas


def moved(first, last):
  """How far images moved: the rms difference of their pixels.

  Args:
    first, last: of each class images of one shape, on [0, 1]; they may come
      class by class.
  """
  squares = [np.square(np.subtract(b, a)).mean(dtype=np.float64)
             for a, b in zip(first, last, strict=True)]
  return float(np.sqrt(np.mean(squares)))


def overlaps(inside, labels):
  """How much windows have in common: `|A & B| / min(|A|, |B|)`.

  Args:
    inside: `[segments, n]` bool, the images of each window.
    labels: `[n]` int.

  Returns:
    `[segments, segments]`, means over the classes of which both windows have
    images; 0 where there is none.
  """
  inside, classes = np.asarray(inside), int(np.max(labels)) + 1
  def sizes(chosen):
    return np.bincount(labels[chosen], minlength=classes)
  own = [sizes(one) for one in inside]

  def shared(a, b):
    least = np.minimum(own[a], own[b])
    of = sizes(inside[a] & inside[b])[least > 0] / least[least > 0]
    return of.mean() if of.size else 0.0
  return np.array([[shared(a, b) for b in range(len(own))]
                   for a in range(len(own))])


def thirds(scores):
  """Which third each image belongs to, `[n]`: 0 easy, 1 middle, 2 hard.

  scores: `[n]`, higher is harder; of equal ones the first image is easier. The
  thirds are of all images together, whatever their classes.
  """
  out = np.empty(len(scores), int)
  for third, rows in enumerate(np.array_split(
      np.argsort(scores, kind='stable'), len(THIRDS))):
    out[rows] = third
  return out


def accuracy_by_third(right, third):
  """Accuracies `{easy, middle, hard, all: [k]}` of some networks.

  Args:
    right: `[n, k]`, 1 where a network is right about an image, else 0.
    third: `[n]`, see `thirds`; one without images has accuracy 0.
  """
  right = np.asarray(right, np.float64)
  parts = {name: right[third == number] for number, name in enumerate(THIRDS)}
  return {name: part.sum(0) / max(len(part), 1)
          for name, part in {**parts, 'all': right}.items()}


def nearest_distances(features, labels):
  """Of each image the distance to its nearest neighbour of the same class.

  Args:
    features: `[n, d]`; each is divided by its length first, so that networks
      can be compared: a distance is from 0 to 2.
    labels: `[n]` int.

  Returns:
    `[n]`; NaN where an image is the only one of its class.
  """
  features = np.asarray(features, np.float64)
  length = np.linalg.norm(features, axis=1, keepdims=True)
  features = features / np.where(length, length, 1)
  out = np.full(len(features), np.nan)
  for label in np.unique(labels):
    rows = np.flatnonzero(labels == label)
    if len(rows) > 1:
      squares = np.square(features[rows]).sum(1)
      apart = (squares[:, None] + squares - 2 * features[rows] @ features[
          rows].T)
      np.fill_diagonal(apart, np.inf)
      out[rows] = np.sqrt(np.maximum(apart.min(1), 0))
  return out


# ---- Of networks


def thirds_of_test(network, judges, test):
  """`thirds` of the test images by the mean cross-entropy of some networks.

  Args:
    network: a `Network`; judges: its `Variables` `[k, …]`, trained on real
      images.
    test: a `Source`, or one of `streaming`.
  """
  return thirds(scoring.difficulty_scores(network, 'loss')(
      devices.replicate(judges), test).scores)


def accuracies_by_third(network, variables, test, third):
  """`accuracy_by_third` of networks `[k, …]` on test images.

  third: `[n]`, what `thirds_of_test` returned.
  """
  return accuracy_by_third(_right(network)(variables, test), third)


def diversity(network, judges, images, labels):
  """Effective diversity of a set: mean distance to the nearest neighbour.

  The mean over all images of `nearest_distances` of their embeddings, which
  grows with what networks see in a set, and falls with the number of images of
  a class: sets are compared at equal numbers.

  Args:
    network: a `Network`; judges: its `Variables` `[k, …]`, trained on real
      images.
    images: `[n, …]` as networks see them; labels: `[n]` int.

  Returns:
    `[k]`, NumPy; NaN where no class has two images.
  """
  embed, labels = _embedding(network), np.asarray(labels)
  found = []
  for number in range(len(jax.tree.leaves(judges)[0])):
    one = jax.tree.map(lambda x: x[number], judges)  # noqa: B023
    apart = nearest_distances(embed(one, images), labels)
    known = apart[np.isfinite(apart)]
    found.append(known.mean() if known.size else np.nan)
  return np.array(found)


# Rows of networks that are alike share programs.
@functools.lru_cache(8)
def _right(network):
  """`(variables [k, …], test) -> [n, k]`, see `correct_predictions`."""
  return scoring.correct_predictions(network)


@functools.lru_cache(8)
def _embedding(network):
  """`(variables, images) -> [n, d]`."""
  return jax.jit(lambda variables, images: difficulty.chunked(
      network.embed, variables, jnp.asarray(images), _EMBEDDED))
