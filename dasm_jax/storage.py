"""What a set takes to store: bytes of its images and of its labels."""

import math

import numpy as np

# Class numbers, probabilities, logits for each epoch.
KINDS = ('hard', 'soft', 'told')


def class_numbers(labels):
  """`[classes, ipc]` int32 of labels that are one-hot, else None."""
  labels = np.asarray(labels)
  numbers = labels.argmax(-1).astype(np.int32)
  one_hot = (np.eye(labels.shape[-1])[numbers] == labels).all()
  return numbers if one_hot else None


def rounded(labels):
  """Soft labels as they are read back from half precision, float32."""
  labels = np.asarray(labels, np.float16).astype(np.float32)
  return labels / labels.sum(-1, keepdims=True)


def label_kind(labels, told=None):
  """`hard` if every row of `[…, classes]` is one-hot, else `soft`.

  `told` if there are such logits for each epoch.
  """
  if told is not None:
    return 'told'
  return 'soft' if class_numbers(labels) is None else 'hard'


def size(syn, told=None):
  """Bytes of the set as 8-bit pixels, and with its labels, see `counted`."""
  return counted(np.shape(syn.images), label_kind(syn.labels, told),
                 np.shape(told))


def counted(shape, kind, told=()):
  """Bytes of images `[classes, ipc, …]` of a shape, and of their labels.

  One byte a pixel and a class number; soft labels, and those told for each
  epoch (`told`: their shape), take two bytes a class (fp16).
  """
  classes, ipc, *_ = shape
  labels, how = {
      'hard': (classes * ipc, 'one byte a label'),
      'soft': (2 * classes ** 2 * ipc, 'two bytes a label and class'),
      'told': (2 * math.prod(told), 'two bytes a label, class and epoch')}[kind]
  return {'images': math.prod(shape), 'labels': labels,
          'counted': f'one byte a pixel and channel, {how}'}
