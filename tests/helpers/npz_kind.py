"""A kind of data set of the tests: one .npz with images and labels."""

import os

import numpy as np

from dasm_jax.data.dataset import Description, stratify
from dasm_jax.data.reader import Contents, array_part


def describe(request):
  """The `Description` of a file."""
  with np.load(request.name) as file:
    names, labels = tuple(map(str, file['names'])), file['labels']
    shape = file['images'].shape[1:]
  train, test = (labels[rows] for rows in stratify(labels, 0.2))
  return Description(names, lambda: (train, test, shape))


def absolute(name):
  """The same name with a whole path."""
  return os.path.abspath(name)


def open(described, options):
  """The `Contents`; a fifth of each class is test."""
  del options
  request = described.request
  with np.load(request.name) as file:
    images, labels = file['images'], file['labels']
  return Contents(*(array_part(images[rows], labels[rows], request.shaping)
                    for rows in stratify(labels, 0.2)), described.class_names)
