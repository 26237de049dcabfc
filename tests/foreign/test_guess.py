"""What files do not say is guessed by their values and names, or asked for."""

import numpy as np
import pytest
from refusals import refused

from dasm_jax import synthetic
from dasm_jax.foreign import guess
from dasm_jax.foreign.guess import Told
from dasm_jax.foreign.layouts import Found

RNG = np.random.default_rng(0)


def smooth(n=20, side=32, channels=3, grain=4):
  """Images whose neighbouring pixels are alike, of mean 0 and std 1."""
  x = RNG.normal(size=(n, *[side // grain + 2] * 2, channels))
  x = x.repeat(grain, 1).repeat(grain, 2)
  for axis in (1, 2):
    x = sum(np.roll(x, k, axis) for k in range(grain))
  x = x[:, grain:grain + side, grain:grain + side]
  return ((x - x.mean()) / x.std()).astype(np.float32)


SMOOTH = smooth()
PIXELS = (SMOOTH - SMOOTH.min()) / (SMOOTH.max() - SMOOTH.min())
ROUGH = RNG.normal(size=(20, 32, 32, 3)).astype(np.float32)
LABELS = np.repeat(np.arange(10), 2)


def found(images=SMOOTH, labels=LABELS, layout='some layout', **more):
  return Found(images, labels, layout, (), **more)


# ---- Data sets


@pytest.mark.parametrize('path, name, classes', [
    ('a/res_DSA_CIFAR10_ConvNet_10ipc.pt', 'cifar10', ''),
    ('a/cifar-10/images_best.pt', 'cifar10', ''),
    ('results/cifar100/old/cifar10_x/data.pt', 'cifar10', ''),
    ('distilled_results/DC/svhn/IPC1/x.pt', 'svhn', ''),
    ('logged_files/CIFAR100/x/cifar10/y.pt', 'cifar10', '')])
def test_data_sets_by_path(path, name, classes):
  assert guess.dataset(found(), path, Told())[:2] == (name, classes)


@pytest.mark.parametrize('path, shape, count, want', [
    ('CIFAR100/images_best.pt', (32, 32, 3), 100, ('cifar100', '')),
    ('x/images.pt', (32, 32, 3), 100, ('cifar100', '')),
    ('Tiny/images_best.pt', (64, 64, 3), 200, ('tiny_imagenet', '')),
    ('x.pt', (64, 64, 3), 200, ('tiny_imagenet', '')),
    ('MNIST_x.pt', (28, 28, 1), 10, ('mnist', '')),
    ('FashionMNIST_x.pt', (28, 28, 1), 10, ('fashion_mnist', '')),
    ('x.npz', (8, 8, 1), 10, ('digits', '')),
    ('imagenette/images_best.pt', (128, 128, 3), 10,
     ('imagenet2012', 'imagenette')),
    ('imagewoof_128/images_best.pt', (128, 128, 3), 10,
     ('imagenet2012', 'imagewoof')),
    ('imagenet10/x_factor3_ipc10/data.pt', (224, 224, 3), 10,
     ('imagenet2012', 'imagenet10')),
    ('imagenet/x_nclass100_ipc10/data.pt', (224, 224, 3), 100,
     ('imagenet2012', 'imagenet100')),
    ('ImageNet-1K/x.pt', (64, 64, 3), 1000, ('imagenet2012', ''))])
def test_data_sets_by_path_and_shape(path, shape, count, want):
  images = np.broadcast_to(np.float32(0), (count, *shape))
  assert guess.dataset(
      found(images, np.arange(count)), path, Told())[:2] == want


def test_data_sets_that_do_not_fit_or_are_unclear():
  # Of 10 classes, so not CIFAR-100, whatever the folder is called.
  refused(lambda: guess.dataset(found(), 'cifar100/x.pt', Told()),
          '--dataset=svhn or --dataset=cifar10')
  refused(lambda: guess.dataset(found(smooth(8, 16)), 'x.pt', Told()),
          '16x16x3', '--dataset=NAME')
  assert guess.dataset(found(), 'x.pt', Told('folder:a'))[:2] == (
      'folder:a', '')
  # Without labels only the shape speaks.
  assert guess.dataset(found(labels=None), 'svhn.pt', Told())[0] == 'svhn'


# ---- Values


@pytest.mark.parametrize('images, more, want', [
    (PIXELS, {}, 'pixels'), (PIXELS * 1.3 - .15, {}, 'pixels'),
    (PIXELS * 1.6 - .3, dict(space='pixels'), 'pixels'),
    (np.uint8(255 * PIXELS), {}, '255'), (255 * PIXELS, {}, '255'),
    (SMOOTH, {}, 'normalised'), (1.25 * SMOOTH + .1, {}, 'normalised'),
    (ROUGH, dict(space='normalised'), 'normalised'),
    (ROUGH, dict(whitens=False), 'normalised'),
    (SMOOTH, dict(whitens=True), 'normalised')])
def test_space(images, more, want):
  got, eps, line = guess.space(found(images, **more), 'x.pt', Told())
  assert (got, eps) == (want, 0) and line.startswith('space     ')


@pytest.mark.parametrize('images, path', [
    (.26 * ROUGH, 'x.pt'), (.26 * SMOOTH, 'x.pt'), (ROUGH, 'x.pt'),
    (3 * SMOOTH, 'x.pt')])
def test_what_may_be_whitened_is_asked_for(images, path):
  doubtful = found(images, whitens=True)
  refused(lambda: guess.space(doubtful, path, Told()), '--zca=0.1', '--zca=0')
  for eps in (0.0, 0.1, 0.2):
    assert guess.space(doubtful, path, Told(zca=eps))[:2] == (
        'normalised', eps)
  assert guess.space(doubtful, 'cifar_zca/x.pt', Told())[1] == 0.1
  for name in ('nozca', 'no_ZCA', 'without_zca'):
    assert guess.space(doubtful, f'{name}/x.pt', Told())[1] == 0
  assert guess.space(doubtful, 'zca/x.pt', Told(zca=0.))[1] == 0


def test_frepo_whitens_what_has_colours():
  colour = found(.4 * ROUGH, layout='FRePo', whitens=True)
  assert guess.space(colour, 'x.npz', Told())[1] == 0.1
  gray = found(ROUGH[..., :1], layout='FRePo', whitens=True)
  assert guess.space(gray, 'x.npz', Told())[1] == 0


def test_values_that_contradict_their_layout_or_the_user():
  refused(lambda: guess.space(found(PIXELS, space='normalised'), 'x', Told()),
          'means normalised', '--space=pixels')
  refused(lambda: guess.space(found(SMOOTH, space='pixels'), 'x', Told()),
          'means pixels')
  refused(lambda: guess.space(found(PIXELS), 'x', Told(zca=.1)), '--zca=0.1')
  assert guess.space(found(PIXELS, space='normalised'), 'x',
                     Told(space='pixels'))[0] == 'pixels'
  for told, word in ((Told(space='sRGB'), 'sRGB'), (Told(zca=-1.), '--zca'),
                     (Told(zca=.1, space='255'), 'contradict'),
                     (Told(recipe='x'), 'dsa'), (Told(labels='x'), 'logits')):
    refused(lambda told=told: guess.check(told), word)


# ---- Cells


@pytest.mark.parametrize('cells', [1, 2, 3])
def test_cells_are_seen_at_their_edges(cells):
  whole = smooth(20 * cells ** 2, 36, grain=12)
  packed = np.asarray(synthetic.pack(whole, cells)) if cells > 1 else whole
  assert guess.factor(found(packed, cells=True), 'data.pt', Told())[0] == cells


@pytest.mark.parametrize('path, want', [
    ('conv3in_grad_mse_nd2000_cut_niter2000_factor2_lr0.005_mix_ipc10/data.pt',
     2), ('x_factor1_lr0.1/data.pt', 1), ('f3/data.pt', 3)])
def test_cells_by_path(path, want):
  assert guess.factor(found(ROUGH, cells=True), path, Told())[0] == want
  assert guess.factor(found(ROUGH, cells=True), path, Told(factor=5))[0] == 5


def test_cells_that_do_not_show_are_asked_for():
  gray = found(ROUGH[..., :1], cells=True)
  rough = found(np.asarray(synthetic.pack(smooth(180, 36), 3)), cells=True)
  for doubtful in (gray, rough):
    refused(lambda x=doubtful: guess.factor(x, 'data.pt', Told()), '--factor=1')
  assert guess.factor(found(ROUGH), 'data.pt', Told()) == (1, '')


# ---- Labels


ONE_HOT = np.eye(10, dtype=np.float32)[LABELS]
SOFT = RNG.dirichlet(np.ones(10), 20).astype(np.float32)
LOGITS = RNG.normal(2, 3, (20, 10)).astype(np.float32)


@pytest.mark.parametrize('labels, more, want', [
    (LABELS, {}, 'hard'), (None, {}, 'hard'), (ONE_HOT, {}, 'hard'),
    (SOFT, {}, 'probabilities'), (LOGITS, {}, 'logits'),
    (SOFT, dict(label_kind='logits'), 'logits'),
    (ONE_HOT * 1.1 - .1, dict(layout='FRePo'), 'centred')])
def test_kinds_of_labels(labels, more, want):
  assert guess.labels(found(labels=labels, **more), 'x', Told())[0] == want


def test_labels_that_may_be_two_things():
  centred = found(labels=ONE_HOT - .1)
  refused(lambda: guess.labels(centred, 'x', Told()), '--labels=centred')
  assert guess.labels(centred, 'datm/x', Told())[0] == 'logits'
  assert guess.labels(centred, 'x', Told(labels='centred'))[0] == 'centred'
  refused(lambda: guess.labels(found(), 'x', Told(labels='logits')),
          'class numbers')


# ---- Recipes


@pytest.mark.parametrize('path, more, like, epochs', [
    ('res_DC_CIFAR10_ConvNet_1ipc.pt', {}, 'dc', 300),
    ('res_DSA_CIFAR10_ConvNet_1ipc.pt', {}, 'dsa', 1000),
    ('DM/CIFAR10/IPC1/x.pt', {}, 'dm', 1000),
    ('TM/CIFAR10/IPC1/images_best.pt', {}, 'mtt', 1000),
    ('x/images_best.pt', dict(method='mtt'), 'mtt', 1000),
    ('datm/images_best.pt', dict(method='mtt'), 'datm', 1000),
    ('data.pt', dict(method='idc'), 'idc', 1000), ('x.pt', {}, 'dsa', 1000)])
def test_recipes(path, more, like, epochs):
  name, training, line = guess.training(
      found(**more), path, Told(), 'normalised')
  assert (name, training.like, training.epochs) == (like, like, epochs)
  assert 'recipe' in line
  name, training, _ = guess.training(
      found(**more), path, Told(recipe='sre2l_cifar'), 'normalised')
  assert (name, training.like) == ('sre2l_cifar', 'sre2l')


def test_every_method_that_is_known_is_evaluated_by_one_of_ours():
  for name, training in guess.TRAININGS.items():
    assert training.like in guess.TRAININGS, name
  for name in guess.RECIPES:
    assert name.partition('_')[0] in guess.TRAININGS
