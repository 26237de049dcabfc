"""Folders of own images, by the command of docs/own-images.md: trained, or
refused in one line."""

import pathlib
import re

import numpy as np
import pytest
import toy
from PIL import Image

from dasm_jax.config import files, overrides, validate
from dasm_jax.distill import run
from dasm_jax.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick_compiler')]
RNG = np.random.default_rng(0)
PAGE = (toy.ROOT / 'docs' / 'own-images.md').read_text()
TINY = {'network.depth': 1, 'network.width': 4, 'method.steps': 2,
        'method.batch': 2, 'method.augment': '', 'eval.augment': '',
        'eval.epochs': 1, 'eval.networks': 1, 'dataset.size': 8}


def pixels(level, height=12, width=12, channels=3):
  noise = RNG.integers(0, 60, (height, width, channels))
  return Image.fromarray(np.uint8(level + noise).squeeze())


def save(image, path):
  path.parent.mkdir(parents=True, exist_ok=True)
  image.save(path)


def classes(root, make, counts=(6, 6), suffix='.png'):
  """`counts` images of each class, made of their class's number."""
  for number, count in enumerate(counts):
    for image in range(count):
      save(make(number), root / f'class{number:04}' / f'{image}{suffix}')


def sixteen_bits(number):
  return Image.fromarray(np.uint16(
      9000 * number + RNG.integers(0, 9000, (12, 12))))


def palette(number):
  return pixels(90 * number).quantize(16)


def transparent(number):
  image = pixels(90 * number).convert('RGBA')
  image.putalpha(Image.fromarray(np.uint8(RNG.integers(0, 255, (12, 12)))))
  return image


FOLDERS = {
    'grayscale': lambda root: classes(
        root, lambda n: pixels(90 * n, channels=1)),
    'not square': lambda root: classes(
        root, lambda n: pixels(90 * n, 10 + n, 30)),
    'unbalanced': lambda root: classes(
        root, lambda n: pixels(60 * n), (40, 4, 9)),
    'three a class': lambda root: classes(
        root, lambda n: pixels(90 * n), (3, 3)),
    '1000 classes': lambda root: classes(
        root, lambda n: pixels(n % 190), 1000 * (3,), '.bmp'),
    '16 bits': lambda root: classes(root, sixteen_bits),
    'palette': lambda root: classes(root, palette),
    'alpha': lambda root: classes(root, transparent)}


def config(root, **changes):
  """That of the command on the page, made small."""
  command, = re.findall(r'python -m dasm_jax.main --config=(\S+)', PAGE)
  c = files.load(command)
  overrides.apply(c, {name: str(value) for name, value in (
      TINY | {'dataset.name': f'folder:{root}'} | changes).items()}, command)
  return c


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if name == 'three a class'
                 else pytest.mark.long) for name in FOLDERS])
def test_a_folder_is_trained_on(name, tmp_path, capsys):
  root = tmp_path / 'photos'
  FOLDERS[name](root)
  found = run.run(config(root), tmp_path / 'run')
  count = len(list(root.iterdir()))
  with np.load(tmp_path / 'run' / 'synthetic.npz') as file:
    assert file['images'].shape[:2] == (count, 1)
    assert file['images'].shape[-1] == (1 if name in (
        'grayscale', '16 bits') else 3)
    assert np.isfinite(file['images']).all()
  assert 0 <= found['accuracy']['synthetic']['mean'] <= 1
  assert (tmp_path / 'run' / 'report.html').exists()
  assert 'Traceback' not in capsys.readouterr().err


@pytest.mark.parametrize('changes, said', [
    ({'syn.ipc': 4}, 'ipc'), ({'method.batch': 64}, 'method.batch')])
def test_what_a_small_class_cannot_give_is_one_line(
    changes, said, tmp_path):
  classes(tmp_path / 'photos', lambda n: pixels(90 * n), (3, 3))
  c = config(tmp_path / 'photos', **changes)
  with pytest.raises(UserError, match=said) as error:
    validate.check(c)
    run.run(c, tmp_path / 'run')
  assert '\n' not in str(error.value)
  assert not pathlib.Path(tmp_path / 'run' / 'config.json').exists()
