"""The synthetic set: how it is stored, decoded and started.

IDC's multi-formation (2205.14959, section 4): one stored image holds
`factor ** 2` small ones, which are enlarged before any network sees them.
Factor 1 is plain storage.

Sections: labels and bytes, the codec, decoding, first images and clipping.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dasm_jax import shapes, streams
from dasm_jax.errors import UserError, unknown
from dasm_jax.transforms import resample, zca
from dasm_jax.types import Array, Synthetic

# ---- Labels and bytes

# Class numbers, probabilities, logits for each epoch.
LABEL_KINDS = ('hard', 'soft', 'told')  # as files name them


def class_numbers(labels: ArrayLike) -> np.ndarray | None:
  """`[classes, ipc]` int32 of labels that are one-hot, else None.

  Args:
    labels: `[classes, ipc, classes]`.

  Returns:
    `[classes, ipc]` int32, or None.
  """
  labels = np.asarray(labels)
  numbers = labels.argmax(-1).astype(np.int32)
  one_hot = (np.eye(labels.shape[-1])[numbers] == labels).all()
  return numbers if one_hot else None


def stored_labels(labels: ArrayLike) -> np.ndarray:
  """Soft labels as they are read back from half precision, float32.

  Args:
    labels: `[…, classes]`, rows that sum to one.

  Returns:
    The same shape, float32, rows that sum to one.
  """
  # Rounded they do not quite add up to one.
  labels = np.asarray(labels, np.float16).astype(np.float32)
  return labels / labels.sum(-1, keepdims=True)


def label_kind(labels: ArrayLike, logits: ArrayLike | None = None) -> str:
  """`hard` if every row of `[…, classes]` is one-hot, else `soft`.

  `told` if there are teachers' logits for each epoch.

  Args:
    labels: `[…, classes]`.
    logits: of teachers, or None.

  Returns:
    One of `LABEL_KINDS`.
  """
  if logits is not None:
    return 'told'
  return 'soft' if class_numbers(labels) is None else 'hard'


def set_bytes(syn: Synthetic, logits: ArrayLike | None = None) -> dict:
  """Bytes of the set as 8-bit pixels, and of its labels: `storage_bytes`.

  Args:
    syn: a `Synthetic`.
    logits: of teachers, or None.

  Returns:
    See `storage_bytes`.
  """
  return storage_bytes(np.shape(syn.images), label_kind(syn.labels, logits),
                       np.shape(logits))


def storage_bytes(shape: Sequence[int], kind: str, told: Sequence[int] = ()
                  ) -> dict:
  """Bytes of images `[classes, ipc, …]` of a shape, and of their labels.

  One byte a pixel and a class number; soft labels, and those told for each
  epoch (`told`: their shape), take two bytes a class (fp16).

  Args:
    shape: of the images.
    kind: one of `LABEL_KINDS`.
    told: the shape of what teachers told.

  Returns:
    `{images: bytes, labels: bytes, counted: how, in words}`.
  """
  classes, ipc, *_ = shape
  labels, how = {
      'hard': (classes * ipc, 'one byte a label'),
      'soft': (2 * classes ** 2 * ipc, 'two bytes a label and class'),
      'told': (2 * math.prod(told), 'two bytes a label, class and epoch')}[kind]
  return {'images': math.prod(shape), 'labels': labels,
          'counted': f'one byte a pixel and channel, {how}'}


# ---- The codec

SPACES = ('normalised', 'pixels')
FORMATIONS = ('single', 'multi', 'bound')


class Codec(NamedTuple):
  """How stored images become network inputs.

  space: `pixels` stores [0, 1]; `normalised` what networks see.
  factor: cells per side of a stored image.
  kind: `single` cuts by `factor`; `multi` by each of 1…factor; `bound` by
    the largest factors that keep a class at `bound` decoded images.
  mean, std: per channel on [0, 1].
  zca: a `zca.Zca` that takes their place, or None.
  """
  space: str
  factor: int
  kind: str
  mean: tuple
  std: tuple
  bound: int = 128
  zca: Any = None


def codec(mean: Iterable[float], std: Iterable[float], *, space: str = 'pixels',
          factor: int = 1, kind: str = 'single', bound: int = 128,
          shape: Sequence[int] | None = None, whitening: zca.Zca | None = None
          ) -> Codec:
  """A checked `Codec`.

  Args:
    mean, std: per channel, on the [0, 1] scale.
    space, factor, kind, bound: see `Codec`.
    shape: (height, width, channels) of the images; None checks no factor.
    whitening: a `zca.Zca`, or None.

  Returns:
    A `Codec`.

  Raises:
    UserError: unknown space or kind, or a factor that is not from 1 to the
      side of the image (`shape`: height, width, channels).
  """
  if space not in SPACES:
    raise unknown('storage space', space, SPACES)
  if kind not in FORMATIONS:
    raise unknown('formation', kind, FORMATIONS)
  side = min(shape[:2]) if shape is not None else math.inf
  if not 1 <= factor <= side:
    raise UserError(f'factor {factor} does not fit images of side {side}; '
                    f'choose from 1 to {side}')
  return Codec(space, factor, kind, tuple(mean), tuple(std), bound, whitening)


def _formation_parts(codec_, n):
  """(start, stop, factor) of the pieces that are decoded alike."""
  if codec_.kind == 'single':
    return [(0, n, codec_.factor)]
  if codec_.kind == 'multi':
    return [(0, n, g) for g in range(1, codec_.factor + 1)]
  parts, start, made = [], 0, 0
  # As many as can be with the largest factor, then with the next: each image
  # that is left needs one decoded image at least. Of 20 at factor 3: 12, 3, 5.
  for g in range(codec_.factor, 0, -1):
    left = n - start
    room = max(codec_.bound - made - left, 0)
    take = left if g == 1 else min(room // g ** 2, left)
    if take:
      parts.append((start, start + take, g))
    start, made = start + take, made + take * g ** 2
  return parts


def decoded_from(codec_: Codec, n: int) -> np.ndarray:
  """Which of `n` stored images each decoded one comes from, NumPy int.

  Args:
    codec_: a `Codec`.
    n: number of stored images.

  Returns:
    `[decoded]` int, from 0 to n - 1.
  """
  return np.concatenate([
      np.tile(np.arange(start, stop), g ** 2)
      for start, stop, g in _formation_parts(codec_, n)])


# ---- Decoding


def decode(codec_: Codec, images: Array) -> Array:
  """Cuts stored images into cells and enlarges them bilinearly.

  Pads right and below with 0.5 to a multiple of the factor. Order: by cell
  (row by row), then by image; factor after factor for `multi`, `bound`.

  Args:
    codec_: a `Codec`.
    images: `[n, height, width, channels]` in storage space.

  Returns:
    `[len(decoded_from(codec_, n)), height, width, channels]`, same space.
  """
  if np.ndim(images) == 5:
    shapes.check_images('synthetic.decode', images)
  return jnp.concatenate([
      _cut(images[start:stop], g)
      for start, stop, g in _formation_parts(codec_, len(images))])


def _cut(images, factor):
  if factor == 1:
    return images
  _, height, width, _ = images.shape
  tall, wide = -(-height // factor), -(-width // factor)
  images = jnp.pad(
      images, ((0, 0), (0, tall * factor - height),
               (0, wide * factor - width), (0, 0)), constant_values=0.5)
  # All images' first cells, then all their second ones: the order of IDC's
  # program, and of `decoded_from`.
  cells = jnp.concatenate([
      images[:, i * tall:(i + 1) * tall, j * wide:(j + 1) * wide]
      for i in range(factor) for j in range(factor)])
  dtype = resample.precision(images)
  return resample.separable(
      cells, resample.upsampling(tall, height, dtype)[None],
      resample.upsampling(wide, width, dtype)[None])


def decoding_text(codec_: Codec, shape: Sequence[int]) -> str:
  """How stored images become those that networks are trained on, in words.

  Args:
    codec_: a `Codec`.
    shape: (height, width, …) of a stored image.

  Returns:
    A text.
  """
  factor, kind = codec_.factor, training_codec(codec_).kind
  cells = range(1, factor + 1) if kind == 'multi' else [factor]
  out = ', then '.join(
      f'{g} x {g} cells, row by row' if g > 1 else 'whole images'
      for g in cells)
  if factor == 1:
    return 'none: each stored image is one'
  padded = [g for g in cells if any(side % g for side in shape[:2])]
  if padded:
    out += (f'; sides that {" or ".join(map(str, padded))} does not divide are '
            'padded right and below with 0.5, as stored, before')
  return (f'{out}; each cell is enlarged bilinearly (half-pixel centres) to '
          f'{shape[0]}x{shape[1]}, and has the label of its image')


def normalise(codec_: Codec, images: Array) -> Array:
  """Stored (or decoded) images as networks see them.

  Args:
    codec_: a `Codec`.
    images: `[…, height, width, channels]`, in storage space.

  Returns:
    The same shape.
  """
  return (images if codec_.space == 'normalised'
          else normalise_pixels(codec_, images))


def normalise_pixels(codec_: Codec, images: Array) -> Array:
  """Images on [0, 1] as networks see them.

  Args:
    codec_: a `Codec`.
    images: `[…, height, width, channels]` on [0, 1].

  Returns:
    The same shape.
  """
  if codec_.zca is not None:
    return zca.whiten(codec_.zca, images)
  return ((images - jnp.asarray(codec_.mean, images.dtype))
          / jnp.asarray(codec_.std, images.dtype))


def pixels(codec_: Codec, images: Array) -> Array:
  """Stored (or decoded) images on [0, 1], clipped: what a person sees.

  Args:
    codec_: a `Codec`.
    images: `[…, height, width, channels]`, in storage space.

  Returns:
    The same shape, on [0, 1].
  """
  return jnp.clip(unclipped_pixels(codec_, images), 0, 1)


def unclipped_pixels(codec_: Codec, images: Array) -> Array:
  """The same, but normalised storage may lie beyond [0, 1].

  Args:
    codec_: a `Codec`.
    images: `[…, height, width, channels]`, in storage space.

  Returns:
    The same shape.
  """
  if codec_.space == 'pixels':
    return jnp.asarray(images)
  if codec_.zca is not None:
    return zca.colour(codec_.zca, images)
  return (images * jnp.asarray(codec_.std, images.dtype)
          + jnp.asarray(codec_.mean, images.dtype))


def training_codec(codec_: Codec) -> Codec:
  """The `Codec` by which networks are trained.

  `bound` is a measure against memory during matching only: for training every
  image is decoded by the full factor.

  Args:
    codec_: a `Codec`.

  Returns:
    A `Codec`.
  """
  return codec_._replace(kind='single') if codec_.kind == 'bound' else codec_


def training_inputs(codec_: Codec, syn: Synthetic) -> tuple[Array, Array]:
  """All classes decoded and normalised for training, as `(images, labels)`.

  Args:
    codec_: a `Codec`.
    syn: a `Synthetic`, class-major.

  Returns:
    images `[classes * decoded, h, w, c]`, labels `[…, classes]`, class-major.
  """
  shapes.check_class_major(
      'synthetic.training_inputs', syn,
      instead='synthetic.decode and normalise take its images')
  codec_ = training_codec(codec_)
  images = jax.vmap(lambda x: normalise(codec_, decode(codec_, x)))(syn.images)
  labels = syn.labels[:, decoded_from(codec_, syn.images.shape[1])]
  return (images.reshape(-1, *images.shape[2:]),
          labels.reshape(-1, labels.shape[-1]))


# ---- First images, and what they may become


def pack(real: Array, factor: int, shape: Sequence[int] | None = None) -> Array:
  """Packs `factor ** 2` real images into each stored one (IDC).

  Cell (i, j) of image n is real image `(i * factor + j) * ipc + n`, shrunk by
  nearest neighbour at source position `floor(k * size / size_of_cell)`; the
  first `size mod factor` rows and columns of cells are one pixel larger.

  Args:
    real: `[ipc * factor ** 2, height, width, channels]`.
    factor: cells along a side.
    shape: (height, width) of a stored image; None: of a real one.

  Returns:
    `[ipc, *shape, channels]`.
  """
  sizes = real.shape[1:3]
  ipc = len(real) // factor ** 2
  rows, columns = (_cell_positions(size, stored, factor) for size, stored in
                   zip(sizes, shape or sizes, strict=True))
  lines = []
  for i, r in enumerate(rows):
    line = []
    for j, c in enumerate(columns):
      at = (i * factor + j) * ipc
      line.append(real[at:at + ipc][:, r][:, :, c])
    lines.append(jnp.concatenate(line, axis=2))
  return jnp.concatenate(lines, axis=1)


def _cell_positions(size, stored, factor):
  """Source positions, below `size`, of each cell along an axis of `stored`."""
  small, larger = divmod(stored, factor)
  # From the first pixel on, as PyTorch's nearest: `jax.image.resize` would
  # take the odd ones when it halves a side.
  lengths = [small + (i < larger) for i in range(factor)]
  return [np.arange(length) * size // length for length in lengths]


def noise(key: Array, codec_: Codec, shape: Sequence[int]) -> Array:
  """Gaussian noise in storage space: N(0, 1), or clip(N / 4 + 0.5).

  Args:
    key: a key.
    codec_: a `Codec`.
    shape: of the images.

  Returns:
    An array of that shape.
  """
  z = jax.random.normal(streams.typed(key), shape)
  return z if codec_.space == 'normalised' else jnp.clip(z / 4 + 0.5, 0, 1)


def hold(new: Array, old: Array, moving: int | None) -> Array:
  """`new` images `[classes, n, …]`, but from slot `moving` on as they were.

  Args:
    new: `[classes, n, …]`.
    old: the same shape.
    moving: how many of each class are new; None: all.

  Returns:
    The same shape.
  """
  if moving is None or moving >= new.shape[1]:
    return new
  return jnp.concatenate([new[:, :moving], old[:, moving:]], axis=1)


def clip(codec_: Codec, images: Array) -> Array:
  """Keeps pixels in [0, 1]; normalised storage is free.

  Args:
    codec_: a `Codec`.
    images: in storage space.

  Returns:
    The same shape.
  """
  return jnp.clip(images, 0, 1) if codec_.space == 'pixels' else images


def clip_to_pixels(codec_: Codec, images: Array) -> Array:
  """Stored images whose pixels are cut to [0, 1], in any space.

  Args:
    codec_: a `Codec`.
    images: `[…, height, width, channels]`, in storage space.

  Returns:
    The same shape, in storage space.
  """
  if codec_.space == 'pixels':
    return jnp.clip(images, 0, 1)
  if codec_.zca is not None:
    return zca.whiten(codec_.zca, pixels(codec_, images))
  # Black and white as networks see them: so every channel has its own range.
  low, high = (normalise(codec_._replace(space='pixels'), jnp.full(
      images.shape[-1:], x, images.dtype)) for x in (0, 1))
  return jnp.clip(images, low, high)
