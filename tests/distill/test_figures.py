"""The pictures, pixel by pixel, and the page that holds them."""

import pathlib

import matplotlib
import numpy as np
import pytest
from PIL import Image

from dasm_jax.distill import figures

pytestmark = pytest.mark.filterwarnings('error')


def _pixels(path):
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB'))


def test_grid_pixels(tmp_path):
  images = np.zeros((2, 3, 8, 8, 3))
  images[0, 0, 0, 0] = 1, .5, 0
  images[1, 2] = np.nan
  images[1, 1] = 7
  images[0, 2] = -np.inf
  images[0, 1] = np.inf
  assert figures.image_grid(images, tmp_path / 'g.png') == (2, 3)
  page = _pixels(tmp_path / 'g.png')
  assert page.shape == (2 * 98 + 2, 3 * 98 + 2, 3)
  assert (page[2:14, 2:14] == (255, 128, 0)).all()  # one pixel, 12 by 12
  assert not page[14:98, 14:98].any()
  assert (page[:2] == 255).all() and (page[:, 98:100] == 255).all()
  assert (page[2:98, 100:196] == 255).all() and not page[2:98, 198:294].any()
  assert (page[100:196, 100:196] == 255).all()
  assert not page[100:196, 198:294].any()


@pytest.mark.parametrize(('shape', 'shown'), [
    ((3, 1, 28, 28, 1), (3, 1)), ((10, 50, 32, 32, 3), (10, 50)),
    ((300, 100, 8, 8, 3), (117, 58)), ((1, 40, 224, 200, 3), (1, 19)),
    ((1, 1, 5000, 3000, 1), (1, 1))])
def test_grid_sizes(tmp_path, shape, shown):
  assert figures.image_grid(np.ones(shape, np.float32) / 2,
                            tmp_path / 'g.png') == shown
  height, width, _ = _pixels(tmp_path / 'g.png').shape
  assert 32 <= width <= 2000 and 32 <= height <= 4000


@pytest.mark.parametrize('shape', [(2, 8, 8, 3), (1, 1, 8, 8, 2),
                                   (0, 1, 8, 8, 3)])
def test_grid_refuses(tmp_path, shape):
  with pytest.raises(ValueError, match='expected'):
    figures.image_grid(np.ones(shape), tmp_path / 'g.png')


@pytest.mark.parametrize('names', [
    ('cat', 'a very long name of a class of images', '猫'), ('0', '1', '2')])
def test_grid_names(tmp_path, names):
  images = np.random.default_rng(0).random((3, 2, 8, 8, 3))
  figures.image_grid(images, tmp_path / 'bare.png')
  figures.image_grid(images, tmp_path / 'named.png', names)
  bare, named = (_pixels(tmp_path / f'{x}.png') for x in ('bare', 'named'))
  margin, rest = np.split(named, [named.shape[1] - bare.shape[1]], axis=1)
  assert (rest == bare).all() and margin.shape[1] < 260
  ink = (margin < 100).any((1, 2))
  for row in range(3):  # Each name stands in the middle of its own row.
    top = 2 + row * 98
    assert ink[top + 38:top + 58].any()
    assert not ink[top:top + 34].any() and not ink[top + 62:top + 96].any()


def font(name):
  return str(pathlib.Path(matplotlib.get_data_path(), 'fonts', 'ttf', name))


def test_no_sign_is_an_empty_box():
  """What a font lacks is left out, and the name's number tells the class."""
  names = ['caf\u00e9', 'cafe\u0301', '猫', 'cat 猫', 'a\nb', '']
  path, labels = figures.readable(names, [font('DejaVuSans.ttf')])
  assert path == font('DejaVuSans.ttf')
  assert labels == ['café', 'café', '2', '3 cat', 'ab', '']
  # The first font with every sign; what is no font has none.
  fonts = [__file__, *map(font, ('cmr10.ttf', 'DejaVuSans.ttf', 'cmb10.ttf'))]
  assert figures.readable(['café'], fonts)[0] == fonts[2]
  assert figures.readable(['cat'], fonts) == (fonts[1], ['cat'])
  assert figures.readable(['猫'], fonts[:2])[1] == ['0']
  # By the fonts that every machine has.
  path, labels = figures.readable(['café', 'собака', '0'])
  assert path == font('DejaVuSans.ttf') and labels == ['café', 'собака', '0']


def test_grid_draws_accents(tmp_path):
  for name in 'é', 'e', '\u00ea':
    figures.image_grid(np.zeros((1, 1, 8, 8, 1)), tmp_path / f'{name}.png',
                       [name])
  é, e, other = (_pixels(tmp_path / f'{x}.png') for x in 'éeê')
  assert (é != e).any() and (é != other).any()  # as boxes would not


def test_lines_with_any_name(tmp_path):
  names = 'é', '猫', '$x', '$y^$', 'real'
  figures.line_plot((0, 1), {name: (np.ones(2), np.ones(2)) for name in names},
                    tmp_path / 'lines.png', 'x', 'y')
  assert _pixels(tmp_path / 'lines.png').shape[1] > 600


def test_windows(tmp_path):
  scores = np.random.default_rng(0).gamma(2, 1, 500)
  inside = scores < 1
  for name, values in {'usual': scores, 'same': np.ones(500),
                       'nan': scores * np.nan, 'float16': np.float16(scores),
                       'wild': np.where(scores > 6, 1e6, scores)}.items():
    figures.window_plot(values, inside, tmp_path / f'{name}.png', 1, 3, 'loss')
  page = _pixels(tmp_path / 'usual.png').astype(int)
  blue = (abs(page - (0x2f, 0x6d, 0xb5)).sum(-1) < 9).sum(0)
  gray = (abs(page - (0xc3, 0xca, 0xd3)).sum(-1) < 9).sum(0)
  # The window is on the easy side; the legend adds to the other one.
  where = np.arange(blue.size)
  assert (where * blue).sum() / blue.sum() < (where * gray).sum() / gray.sum()
  figures.window_plots([(scores, inside), (scores, ~inside)],
                       tmp_path / 'all.png')
  assert _pixels(tmp_path / 'all.png').shape[0] > page.shape[0]


def test_losses(tmp_path):
  figures.loss_plot({1: ([5, 10], [100., 1.]), 2: ([15], [float('nan')])},
                    tmp_path / 'loss.png')
  assert _pixels(tmp_path / 'loss.png').shape[1] > 600


def test_names_that_look_like_formulas(tmp_path):
  figures.line_plot([0, 1], {'runs/$x^{$': ([0, 1], [0, 1])},
                    tmp_path / 'lines.png', 'age', 'norm')
  assert _pixels(tmp_path / 'lines.png').shape[2] == 3
