"""Real crops that a teacher finds easy, as RDED chooses them.

Some images of a class are drawn; of each, random square crops are cut; the crop
stays that the teacher gives its own class most surely, and of these the surest.
Packed several in one image (`synthetic.pack`) they are RDED's set.

Sections: the pool, crops of an image, the choice.

Source: RDED (2312.03526), its program.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax.transforms import resample

LEAST_AREA = 0.08  # of an image, that a crop has; the most is all of it
LEVELS = 255  # crops are rounded to 8 bits: they are what is stored

# ---- The pool


def draw_pool(rows, most, seed):
  """Of each class the images that are cropped, drawn without repeats.

  Args:
    rows: indices to draw from, a list of `[k]` int, one a class.
    most: images a class; a class with fewer gives all.
    seed: anything that `numpy.random.default_rng` takes.

  Returns:
    A list of `[at most most]` int, sorted.
  """
  rng = np.random.default_rng(seed)
  # Sorted before, too: whoever has put a window in order changes no draw.
  return [np.sort(rng.permutation(np.sort(row))[:most]) for row in rows]


# ---- Crops of an image


def random_boxes(key, n, height, width, least=LEAST_AREA):
  """Boxes of `least` to 1 of the area: (top, left, height, width), `[n]` each.

  Of the form of the image, so squares in a square one; area and place uniform.
  """
  k_area, k_top, k_left = jax.random.split(key, 3)
  side = jnp.sqrt(jax.random.uniform(k_area, (n,), minval=least, maxval=1.0))
  tall, wide = (
      jnp.maximum(1, jnp.round(side * size)).astype(jnp.int32)
      for size in (height, width))
  top, left = (jax.random.randint(k, (n,), 0, size - length + 1)
               for k, size, length in ((k_top, height, tall),
                                       (k_left, width, wide)))
  return top, left, tall, wide


def cut(image, boxes, shape):
  """Crops of an image, on 8-bit levels.

  Args:
    image: `[height, width, channels]` on [0, 1].
    boxes: (top, left, height, width), `[m]` each.
    shape: (height, width) that they are resized to, with antialiasing.

  Returns:
    `[m, *shape, channels]` on [0, 1].
  """
  many = jnp.broadcast_to(image, (len(boxes[0]), *image.shape))
  return jnp.round(
      LEVELS * resample.resized_boxes(many, boxes, shape)) / LEVELS


def centred(crops, background):
  """Crops `[n, h, w, c]` in the middle of a larger image `[H, W, c]`."""
  (tall, wide), (height, width) = crops.shape[1:3], background.shape[:2]
  top, left = (height - tall) // 2, (width - wide) // 2
  whole = jnp.broadcast_to(background, (len(crops), *background.shape))
  return whole.at[:, top:top + tall, left:left + wide].set(crops)


# ---- The choice


def best_of_random(look, shape, count):
  """Of each image the best of its random crops.

  Args:
    look: `crops [n, *shape, channels] -> logits [n, classes]`, of the teacher.
    shape: (height, width) of a crop.
    count: crops of an image, each of `LEAST_AREA` of it at least.

  Returns:
    `(images, labels, keys) -> (scores, crops)`: of `[n, height, width,
    channels]` on [0, 1], class numbers `[n]` and keys `[n]` the smallest
    cross-entropy `[n]` of the image's own class, and the crop that has it, the
    first of equal ones.
  """
  def draw(image, key):
    return cut(image, random_boxes(key, count, *image.shape[:2]), shape)

  def run(images, labels, keys):
    found = jax.vmap(draw)(images, keys)
    logits = look(found.reshape(-1, *found.shape[2:])).astype(jnp.float32)
    scores = own_loss(logits.reshape(*found.shape[:2], -1), labels[:, None])
    best = scores.argmin(1)
    rows = jnp.arange(len(images))
    return scores[rows, best], found[rows, best]
  return run


def own_loss(logits, labels):
  """Cross-entropy of class numbers `[…]` under logits `[…, classes]`."""
  chances = jax.nn.log_softmax(logits)
  return -jnp.take_along_axis(chances, labels[..., None], -1)[..., 0]


def smallest(scores, count):
  """Where the `count` smallest of scores `[n]` are, `[count]`, in their order.

  Of equal scores the first comes first; what is no number comes last.
  """
  return np.argsort(np.asarray(scores), kind='stable')[:count]
