"""Anybody's images become a set; what does not fit is one line."""

import json

import numpy as np
import pytest
from image_sets import small_folder

import dasm_jax
from dasm_jax import data
from dasm_jax.convert import formats
from dasm_jax.errors import UserError
from dasm_jax.evaluate import __main__ as evaluate
from dasm_jax.evaluate import subjects

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(10, 2, 8, 8, 1)).astype(np.float32)
SOFT = RNG.dirichlet(np.ones(10), (10, 2))


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'mine.npz'


def test_images_by_class(path):
  dasm_jax.save(path, IMAGES, dataset='digits')
  got, digits = dasm_jax.load(path), data.load('digits')
  np.testing.assert_array_equal(got.syn.images, IMAGES)
  np.testing.assert_array_equal(
      got.syn.labels, np.broadcast_to(np.eye(10)[:, None], (10, 2, 10)))
  assert got.class_names == digits.class_names
  assert got.codec.mean == pytest.approx(digits.mean)
  assert got.codec.std == pytest.approx(digits.std)
  assert (got.recipe_name, got.card['method'], got.ipc) == ('idc', 'own', 2)
  assert 'flip' not in got.recipe.strategy  # a mirrored digit is another sign
  # Networks see pixels, normalised.
  np.testing.assert_allclose(
      got.batch.images, (IMAGES.reshape(20, 8, 8, 1) - digits.mean)
      / digits.std, atol=1e-5)


def test_images_in_any_order(path):
  labels = RNG.permutation(np.repeat(np.arange(10), 3))
  images = np.full((30, 8, 8, 1), 0, np.uint8) + labels[
      :, None, None, None].astype(np.uint8)
  dasm_jax.save(path, images, labels, dataset='digits')
  got = dasm_jax.load(path)
  np.testing.assert_array_equal(
      got.syn.images[..., 0, 0, 0],
      np.repeat(np.arange(10, dtype=np.float32)[:, None] / 255, 3, 1))


def test_what_can_be_told(path):
  dasm_jax.save(
      path, RNG.uniform(size=(10, 1, 12, 12, 1)), SOFT[:, :1], dataset='digits',
      recipe={'recipe': 'dc', 'epochs': 7, 'lr': .5}, factor=2,
      network={'name': 'mlp'}, card={'method': 'mine', 'by': 'me'})
  got = dasm_jax.load(path)
  assert (got.recipe.epochs, got.recipe.lr, got.recipe_name) == (7, .5, 'dc')
  assert got.network['name'] == 'mlp' and got.codec.factor == 2
  assert (got.card['method'], got.card['by']) == ('mine', 'me')
  assert got.data['size'] == 12 and len(got.batch.images) == 40
  np.testing.assert_allclose(got.syn.labels, SOFT[:, :1], atol=1e-3)
  assert dasm_jax.__version__ == got.card['version'] and got.card['jax']


def test_colours_of_a_folder_have_imagenets_statistics(path, tmp_path):
  root = small_folder(tmp_path / 'photos', 10, mode='RGB')
  dasm_jax.save(path, RNG.uniform(size=(2, 1, 16, 16, 3)),
                dataset=f'folder:{root}')
  got = dasm_jax.load(path)
  assert got.class_names == ('ant', 'bee') and got.network['depth'] == 3
  assert got.codec.mean == pytest.approx((.485, .456, .406))
  assert got.data['name'] == f'folder:{root}' and got.data['cut'] == .2
  assert got.data['size'] == 16
  subject = subjects.saved_subject(path)
  assert subject.dataset.train.shape == (16, 16, 3)


def test_it_is_evaluated_and_exported(path, tmp_path):
  dasm_jax.save(path, IMAGES, dataset='digits', card={'method': 'mine'})
  assert evaluate.main([f'--set={path}', '--networks=1'],
                       lambda *given: given[-1](np.zeros(1))) == 0
  rows = json.loads((tmp_path / 'evaluation.json').read_text())['rows']
  assert [row['set'] for row in rows] == ['mine', 'random']
  formats.convert(formats.open_source(path), 'npz', tmp_path / 'out')


WRONG = {
    'nchw': (dict(images=np.zeros((10, 2, 1, 8, 8))), 'np.moveaxis'),
    'flat': (dict(images=np.zeros((10, 64))), 'images of shape (10, 64)'),
    'empty': (dict(images=IMAGES[:, :0]), 'images of shape'),
    'classes': (dict(images=IMAGES[:9]), '9 classes, but the data set has 10'),
    'integers': (dict(images=np.ones((10, 2, 8, 8, 1), int)), 'type int64'),
    'normalised': (dict(images=IMAGES * 4 - 2), 'undo their normalisation'),
    'nan': (dict(images=np.where(IMAGES > .5, np.nan, IMAGES)), 'nan'),
    'channels': (dict(images=np.zeros((10, 2, 8, 8, 3))), '3 channels'),
    'oblong': (dict(images=np.zeros((10, 2, 8, 6, 1))), 'give that size'),
    'no labels': (dict(images=IMAGES[0]), 'need labels'),
    'few labels': (dict(labels=np.zeros(10, int)), 'labels of shape (10,)'),
    'label 10': (dict(labels=np.full((10, 2), 10)), 'from 0 to 9'),
    'floats': (dict(labels=np.zeros((10, 2))), 'class numbers are whole'),
    'other row': (dict(labels=np.zeros((10, 2), int)),
                  'image (1, 0) is labelled 0'),
    'unequal': (dict(images=IMAGES[0], labels=np.array([0, 0])),
                'class 1 has 0 images'),
    'logits': (dict(labels=SOFT * 9), 'no probabilities'),
    'recipe': (dict(recipe='mine'), "unknown recipe 'mine'"),
    'entry': (dict(recipe={'epochz': 3}), "'epochz'; did you mean"),
    'type': (dict(recipe={'epochs': 'x'}), "epochs='x'"),
    'range': (dict(recipe={'epochs': 0}), 'epochs=0'),
    'network': (dict(network={'name': 'lenat'}), "unknown network 'lenat'"),
    'setting': (dict(network={'depht': 2}), 'depht'),
    'factor': (dict(factor=9), 'factor 9 does not fit'),
    'dataset': (dict(dataset='digitz'), "unknown data set 'digitz'"),
    'card': (dict(card={'recipe': 3}), 'leave them out'),
    'elsewhere': (dict(dataset='/nowhere/set'), '/nowhere/set'),
    'method': (dict(card={'method': 3}), 'no usable set'),
    'place': (dict(path='/nowhere/at/all.npz'), 'cannot write')}


@pytest.mark.parametrize('name', WRONG)
def test_what_does_not_fit(name, path):
  path.write_text('what was there')
  changes, words = WRONG[name]
  given = {'path': path, 'images': IMAGES, 'dataset': 'digits', **changes}
  with pytest.raises(UserError) as caught:
    dasm_jax.save(given.pop('path'), given.pop('images'),
                  given.pop('labels', None), **given)
  assert words in str(caught.value), str(caught.value)
  assert '\n' not in str(caught.value)
  assert path.read_text() == 'what was there'
