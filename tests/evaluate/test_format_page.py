"""What docs/FORMAT.md says of a file, done by its words, with NumPy alone."""

import json

import exported
import numpy as np
import pytest

from dasm_jax import data, synthetic
from dasm_jax.config import defaults
from dasm_jax.distill import results, setup
from dasm_jax.evaluate import saved_set
from dasm_jax.training import recipes


def enlarged(cell, height, width):
  """Bilinear, half-pixel centres, edges repeated: pixel by pixel."""
  out = np.zeros((height, width, cell.shape[-1]))
  for i in range(height):
    for j in range(width):
      at = [min(max((k + .5) * size / whole - .5, 0), size - 1)
            for k, size, whole in ((i, cell.shape[0], height),
                                   (j, cell.shape[1], width))]
      (top, down), (left, right) = (
          (int(x), min(int(x) + 1, size - 1))
          for x, size in zip(at, cell.shape, strict=False))
      y, x = at[0] - top, at[1] - left
      out[i, j] = ((1 - y) * ((1 - x) * cell[top, left] + x * cell[top, right])
                   + y * ((1 - x) * cell[down, left] + x * cell[down, right]))
  return out


def decoded(images, factor):
  """`[n, h, w, c]`: all images' first cells, then all second ones."""
  _, height, width, _ = images.shape
  tall, wide = -(-height // factor), -(-width // factor)
  images = np.pad(images, ((0, 0), (0, tall * factor - height),
                           (0, wide * factor - width), (0, 0)),
                  constant_values=.5)
  return np.stack([
      enlarged(image[i * tall:(i + 1) * tall, j * wide:(j + 1) * wide],
               height, width)
      for i in range(factor) for j in range(factor) for image in images])


@pytest.mark.parametrize('kind', exported.KINDS)
def test_images_and_labels(kind, tmp_path):
  source = exported.source(kind)
  saved_set.write(tmp_path / 'set.npz', source.arrays, source.card)
  with np.load(tmp_path / 'set.npz') as file:
    d = dict(file)
  card = json.loads(str(d['card']))
  factor, images, labels = int(d['factor']), [], []
  factors = (range(1, factor + 1)
             if card['storage']['formation'] == 'multi' else [factor])
  soft = (np.eye(3)[d['labels']] if d['labels'].ndim == 2
          else d['labels'].astype(np.float32))
  soft = soft / soft.sum(-1, keepdims=True)
  for stored, label in zip(d['images'], soft, strict=True):
    images += [decoded(stored, f) for f in factors]
    labels += [np.tile(label, (f * f, 1)) for f in factors]
  x, y = np.concatenate(images), np.concatenate(labels)
  flat = x.reshape(len(x), -1)
  if str(d['space']) == 'pixels' and 'zca_matrix' in d:
    x = ((flat - d['zca_mean']) @ d['zca_matrix']).reshape(x.shape)
  elif str(d['space']) == 'pixels':
    x = (x - d['mean']) / d['std']
  batch = saved_set.load(tmp_path / 'set.npz').batch
  np.testing.assert_allclose(batch.images, x, atol=5e-5)
  np.testing.assert_allclose(batch.labels, y, atol=1e-6)
  if 'told' in d:
    assert d['told'].shape == (4, len(x), 3)


def test_the_example_of_padding():
  images = np.arange(28 * 28, dtype=np.float32).reshape(1, 28, 28, 1)
  codec = synthetic.codec((0.,), (1.,), factor=3)
  last = np.asarray(synthetic.decode(codec, images))[-1]
  cell = np.pad(images[0], ((0, 2), (0, 2), (0, 0)), constant_values=.5)[
      20:, 20:]
  assert cell.shape == (10, 10, 1) and (cell[-2:] == .5).all()
  np.testing.assert_allclose(last, enlarged(cell, 28, 28), atol=1e-3)


@pytest.mark.parametrize('factor, kind, shape, words', [
    (1, 'single', (8, 8, 1), ['none']),
    (2, 'single', (8, 8, 1), ['2 x 2 cells, row by row;', 'to 8x8']),
    (3, 'single', (28, 28, 1), ['that 3 does not divide', 'right and below']),
    (3, 'multi', (8, 6, 1), ['whole images, then 2 x 2 cells, row by row, then '
                             '3 x 3 cells', 'that 3 does not', 'to 8x6']),
    (2, 'bound', (7, 8, 1), ['2 x 2 cells', 'that 2 does not divide'])])
def test_the_card_says_how_images_are_decoded(factor, kind, shape, words):
  text = synthetic.decoding_text(synthetic.codec(
      (0.,), (1.,), factor=factor, kind=kind), shape)
  assert all(word in text for word in words), text
  assert ('padded' in text) == any('not' in word for word in words)


@pytest.mark.parametrize('entries, words', [
    ({}, '359 test images, all of the test split'),
    ({'dataset.classes': '0+1+2'}, 'test split of these classes'),
    ({'dataset.holdout': .25, 'seed': 7},
     ', 0.25 of the train images of each class, drawn by seed 7')])
def test_the_card_says_which_test_images(entries, words):
  c = defaults('idc')
  c.dataset.name, c.syn.ipc = 'digits', 1
  c.update_from_flattened_dict(entries)
  experiment = setup.build(c)
  assert results.split_text(experiment).endswith(words)
  count = len(experiment.dataset.test.labels)
  assert results.split_text(experiment).startswith(f'{count} test images')


def test_test_images_of_digits():
  """A fifth of each class."""
  train, test = data.load('digits').train, data.load('digits').test
  for label in range(10):
    held, kept = (int((split.labels == label).sum()) for split in (test, train))
    assert held == round((held + kept) / 5)


@pytest.mark.parametrize('settings, rate', [
    ({'drops': (2, 4), 'decay': .1}, [1, 1, .1, .1, .01, .01]),
    ({'cosine': True}, [(1 + np.cos(np.pi * e / 6)) / 2 for e in range(6)]),
    ({'cosine': True, 'stretch': 2.},
     [(1 + np.cos(np.pi * e / 12)) / 2 for e in range(6)]),
    ({'cosine': True, 'warmup': 2},
     [.01, .505, *((1 + np.cos(np.pi * e / 4)) / 2 for e in range(4))])])
def test_rates(settings, rate):
  found, _ = recipes.rates(recipes.recipe(6, lr=1., **settings))
  np.testing.assert_allclose(found, rate, atol=1e-9)
