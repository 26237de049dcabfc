"""Image folders as people have them: python tests/folders.py

Each case makes a small folder and says what must come of it, read in memory and
streamed: so many images, or an error on one line. Prints a line each, then how
many ended in a traceback or were wrong without a word; ends with 1 if any did.
The tests of the suite read the same cases.
"""

import logging
import pathlib
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

sys.path[:0] = [str(pathlib.Path(__file__).parents[1])]

from dasm_jax import data  # noqa: E402
from dasm_jax.errors import UserError  # noqa: E402


class Case(NamedTuple):
  """A folder, and what must come of it.

  build: makes it, given its path.
  want: words of the error; or what a `Dataset` must have: `train` and `test`
    images, `channels`, `classes`, `levels` (of all images, sorted), and what is
    `said` about it.
  given: to `data.load`. below: what is added to the path.
  """
  build: Callable
  want: tuple | dict
  given: dict = {}
  below: str = ''


def image(path, value=0, mode='L', side=8):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('L', (side, side), value).convert(mode).save(path)


def array(path, values, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(values)).save(path, **options)


def classes(root, count=5, names=('ant', 'bee'), ending='png'):
  """`count` images of each class, of levels 0, 1, … and 100, 101, …."""
  for label, name in enumerate(names):
    for index in range(count):
      image(root / name / f'{index}.{ending}', 100 * label + index)


def split(train, test, count=5, tests=2):
  def build(root):
    classes(root / train, count)
    classes(root / test, tests)
  return build


def hidden(*names):
  """Images of level 250 in folders and files that are nobody's."""
  def build(root):
    classes(root)
    for name in names:
      image(root / name, 250)
  return build


def sixteen(make):
  """Two classes of 16-bit files and the like, written by `make(path, level)`.

  Levels are 0 to 4 and 100 to 104.
  """
  def build(root):
    for label, name in enumerate(('ant', 'bee')):
      (root / name).mkdir(parents=True)
      for index in range(5):
        make(root / name / str(index), 100 * label + index)
  return build


def pgm(path, level, most=65535):
  values = np.full(64, round(level / 255 * most), '>u2')
  path.with_suffix('.pgm').write_bytes(
      b'P5\n8 8\n%d\n' % most + values.tobytes())


def tiff(dtype, factor):
  def make(path, level):
    array(path.with_suffix('.tif'),
          np.full((8, 8), level * factor).astype(dtype))
  return make


def twelve_bits(path, level):
  """A TIFF of 12 bits a number, which Pillow does not write."""
  data = bytes.fromhex(f'{level * 16:03x}' * 2) * 32
  tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8),
          (277, 1), (278, 8), (279, len(data))]
  file = b'II*\0' + (8 + len(data)).to_bytes(4, 'little') + data
  file += len(tags).to_bytes(2, 'little')
  for tag, value in tags:
    file += b''.join(x.to_bytes(n, 'little') for x, n in (
        (tag, 2), (4, 2), (1, 4), (value, 4)))
  path.with_suffix('.tif').write_bytes(file + bytes(4))


def inverted(path, level):
  """A 16-bit TIFF in which 0 is white."""
  array(path.with_suffix('.tif'),
        np.full((8, 8), (255 - level) * 257, np.uint16),
        tiffinfo={262: 0})


def drawn(ink, mode='RGBA', behind=0):
  """Transparent images with a square of one level."""
  def make(path, level):
    del level
    picture = Image.new('LA', (8, 8), (behind, 0))
    picture.paste((ink, 255), (2, 2, 6, 6))
    picture.convert(mode).save(path.with_suffix('.png'))
  return make


def palette(path, level):
  """One level that is drawn, and one that is transparent."""
  picture = Image.new('P', (8, 8), 1)
  picture.putpalette([level] * 3 + [7] * 3)
  picture.paste(0, (2, 2, 6, 6))
  picture.save(path.with_suffix('.png'), transparency=1)


def odd_one(name, write):
  """Ten images, and one more that `write(path)` makes in the first class."""
  def build(root):
    classes(root)
    write(root / 'ant' / name)
  return build


def bomb(path):
  Image.new('1', (20_000, 9_000)).save(path)


LEVELS = [*range(5), *range(100, 105)]
PLAIN = {'train': 8, 'test': 2, 'channels': 1, 'levels': LEVELS}
SPLIT = {'train': 10, 'test': 4, 'channels': 1}
LEFT_OUT = 'left out of .*:'
CASES = {
    # ---- Folders
    'plain': Case(classes, PLAIN),
    'hidden folder in a class': Case(
        hidden('ant/.ipynb_checkpoints/0.png', 'bee/.AppleDouble/1.png'),
        PLAIN | {'said': f'{LEFT_OUT} 2 image file'}),
    'folders of systems in a class': Case(
        hidden('ant/@eaDir/0.png', 'bee/@eaDir/1/2.png', 'ant/__MACOSX/1.png'),
        PLAIN | {'said': f'{LEFT_OUT} 3 image file'}),
    'folders of systems beside the classes': Case(
        hidden('__MACOSX/ant/0.png', '@eaDir/1.png', '.cache/2.png',
               '#recycle/3.png', '$RECYCLE.BIN/4.png'),
        PLAIN | {'said': f'{LEFT_OUT} 5 image file'}),
    'hidden files': Case(hidden('ant/._0.png'), PLAIN | {
        'said': f'{LEFT_OUT} 1 image file'}),
    'folders within a class': Case(
        lambda root: classes(root, names=('ant/a/b', 'bee/c')), PLAIN),
    'a fifth by another seed': Case(classes, PLAIN, {'seed': 3}),
    'holdout of all images': Case(
        lambda root: classes(root, 20), {'train': 36, 'test': 4},
        {'holdout': .1}),
    'one image in a class': Case(
        lambda root: (classes(root), image(root / 'cat' / '0.png', 200)),
        {'train': 9, 'test': 2, 'classes': ('ant', 'bee', 'cat')}),
    'no image in a class': Case(
        lambda root: (classes(root), (root / 'cat').mkdir()),
        ('no images', 'cat')),
    'one class': Case(lambda root: classes(root, names=('ant',)),
                      ('1 class folders', 'two are needed')),
    'a folder too high': Case(
        lambda root: classes(root / 'archive'),
        ('1 class folders', "/archive'*$")),
    'no folder': Case(lambda root: None, ('does not exist',), below='/no'),
    'a file': Case(lambda root: root.write_text(''), ('is a file, no folder',)),
    'control signs in a name': Case(
        lambda root: classes(root, names=('a\nb', 'c')),
        ("'a.*b'", 'rename')),
    'bytes that are no text in a name': Case(
        lambda root: classes(root, names=('a\udce9', 'c')), ('rename',)),
    'bytes that are no text in a file': Case(
        odd_one('\udce9.png', image), {'train': 9, 'test': 2}),
    # ---- Splits
    **{f'{train} and {test}': Case(split(train, test), SPLIT)
       for train, test in (
           ('train', 'test'), ('Train', 'Test'), ('Training', 'Testing'),
           ('TRAIN', 'VAL'), ('train', 'Validation'), ('training_set',
                                                       'test_set'))},
    'train, test and val': Case(
        lambda root: (split('train', 'test')(root), classes(root / 'val', 1)),
        SPLIT),
    'test and val alone': Case(split('test', 'val'),
                               ('class folders in test, val', 'none', 'train')),
    'Testing and Val alone': Case(split('Testing', 'Val'), ('Testing, Val',)),
    'train and no test': Case(lambda root: classes(root / 'train'),
                              ('no test, val', 'holdout')),
    'Train and no test, held out': Case(
        lambda root: classes(root / 'Train', 10), {'train': 16, 'test': 4},
        {'holdout': .2}),
    'train and Train': Case(split('train', 'Train'), ('several', 'keep one')),
    'train and training': Case(split('train', 'training'),
                               ('several', 'keep one')),
    'test and Test': Case(
        lambda root: (split('train', 'test')(root), classes(root / 'Test')),
        ('Test, test', 'keep one')),
    'classes beside test': Case(
        lambda root: (classes(root), classes(root / 'test')),
        ('class folders in test', 'train')),
    'images without classes': Case(
        lambda root: classes(root, names=('train', 'test')),
        ('no class folders in test, train',)),
    'a class called train': Case(
        lambda root: classes(root, names=('plane', 'train')),
        PLAIN | {'classes': ('plane', 'train')}),
    'a class of test alone': Case(
        lambda root: (split('train', 'test')(root),
                      image(root / 'test' / 'cow' / '0.png')),
        ('cow', 'train has not')),
    'annotations that are no text': Case(
        lambda root: (classes(root / 'train'), image(root / 'val/images/x.png'),
                      (root / 'val/val_annotations.txt').write_bytes(b'\xff')),
        ('cannot read', 'val_annotations')),
    # ---- Names of classes
    'names with + and ,': Case(
        lambda root: classes(root, names=('a+b', 'c,d', 'e')),
        PLAIN | {'classes': ('c,d', 'a+b'), 'levels': None},
        {'classes': r'c\,d,a\+b'}),
    'names with + as they are': Case(
        lambda root: classes(root, names=('a+b', 'c,d', 'e')),
        ("unknown class 'a'", r'\\\+'), {'classes': 'a+b,e'}),
    'names with a backslash': Case(
        lambda root: classes(root, names=('a\\b', 'c', 'e')),
        PLAIN | {'classes': ('a\\b', 'c')}, {'classes': r'a\b+c'}),
    'numbers': Case(
        lambda root: classes(root, names=('1', '2', '10')),
        PLAIN | {'classes': ('10', '2'), 'levels': None},
        {'classes': '10+2'}),
    'a number that is none': Case(classes, ('classes=7', 'text'),
                                  {'classes': 7}),
    'accents in two signs': Case(
        lambda root: classes(root, names=('cafe\u0301', 'the\u0301')),
        PLAIN | {'classes': ('the\u0301', 'cafe\u0301')},
        {'classes': 'th\u00e9,caf\u00e9'}),
    'other scripts': Case(
        lambda root: classes(root, names=('犬', '猫')),
        PLAIN | {'classes': ('犬', '猫')}),
    # ---- Numbers of files
    '16-bit PGM': Case(sixteen(pgm), PLAIN),
    '12-bit PGM': Case(sixteen(lambda path, level: pgm(path, level, 4095)),
                       PLAIN),
    '16-bit PNG': Case(sixteen(lambda path, level: array(
        path.with_suffix('.png'), np.full((8, 8), level * 257, np.uint16))),
        PLAIN),
    '16-bit TIFF': Case(sixteen(tiff(np.uint16, 257)), PLAIN),
    '16-bit TIFF, 0 is white': Case(sixteen(inverted), PLAIN),
    '12-bit TIFF': Case(sixteen(twelve_bits), PLAIN),
    'bytes in 16 bits': Case(sixteen(tiff(np.uint16, 1)),
                             ('no number above 255', 'convert')),
    'int32 TIFF of bytes': Case(sixteen(tiff(np.int32, 1)), PLAIN),
    'int32 TIFF': Case(sixteen(tiff(np.int32, 1000)),
                       ('from .* to', '0 to 255', 'convert')),
    'int16 TIFF below 0': Case(sixteen(tiff(np.int16, -1)),
                               ('tif holds .* from -', 'convert')),
    'float TIFF to 1': Case(sixteen(tiff(np.float32, 1 / 255)), PLAIN),
    'float TIFF to 255': Case(sixteen(tiff(np.float32, 1)),
                              ('fractions', '0 to 1', 'convert')),
    'float TIFF with NaN': Case(sixteen(tiff(np.float32, np.nan)),
                                ('nan', 'convert')),
    'one float TIFF beyond 1': Case(
        odd_one('x.tif', lambda path: array(path, np.full((8, 8), 2., 'f4'))),
        ('x.tif', 'convert')),
    # ---- Transparency
    'black on transparent': Case(
        sixteen(drawn(0)), {'train': 8, 'test': 2, 'channels': 3,
                            'levels': [255], 'said': 'put on white'}),
    'gray on transparent': Case(
        sixteen(drawn(0, 'LA')), {'channels': 1, 'said': 'put on white'}),
    'white on transparent': Case(
        sixteen(drawn(255)), ('nothing on white', 'background=black')),
    'white on transparent, on black': Case(
        sixteen(drawn(255)), {'levels': [0], 'said': 'put on black'},
        {'background': 'black'}),
    'black on transparent, on black': Case(
        sixteen(drawn(0, behind=255)),
        ('nothing on black', 'background=white'), {'background': 'black'}),
    'a palette with a hole': Case(
        sixteen(palette), {'levels': [255], 'said': 'put on white'}),
    'alpha that hides nothing': Case(
        sixteen(lambda path, level: image(path.with_suffix('.png'), level,
                                          'RGBA')),
        PLAIN | {'channels': 3, 'said': None}),
    'another background': Case(classes, ('background', "'green'", 'white'),
                               {'background': 'green'}),
    # ---- Sizes and what is broken
    'images of two sizes': Case(
        odd_one('x.png', lambda path: image(path, side=9)),
        ('8x8', '9x9', 'size=')),
    'beyond the bomb limit': Case(
        odd_one('x.png', bomb), {'train': 9, 'said': 'x.png .more than '
                                 '178956970 pixels; make'}, {'size': 8}),
    'a broken file': Case(
        odd_one('x.png', lambda path: path.write_text('no image')),
        {'train': 9, 'said': 'x.png .not an image'}),
    'an empty file': Case(
        odd_one('x.png', lambda path: path.write_text('')),
        {'train': 9, 'said': 'x.png .not an image'}),
    'a link to nowhere': Case(
        odd_one('x.png', lambda path: path.symlink_to('nowhere')), PLAIN),
    'a link to itself': Case(
        odd_one('x', lambda path: path.symlink_to('..')), PLAIN),
}


class Said(logging.Handler):
  """What is warned of while it is open, a text."""

  def __enter__(self):
    self.text = ''
    logging.getLogger('dasm_jax').addHandler(self)
    return self

  def __exit__(self, *error):
    logging.getLogger('dasm_jax').removeHandler(self)

  def emit(self, record):
    """Keeps a record."""
    self.text += record.getMessage() + '\n'


def outcome(case, root):
  """`(what came of it, '' or what is wrong with that)`; raises what it may."""
  case.build(root)
  name = f'folder:{root}{case.below}'
  found = []
  for way in ('in memory', 'streamed'):
    with Said() as said:
      try:
        data.check(name, **case.given)
        opened = data.open(name, **case.given,
                           options=data.ReadOptions(threads=0))
        if way == 'in memory':
          opened = opened.in_memory()
        images = [half.read(np.arange(len(half.labels)))
                  for half in (opened.train, opened.test)]
      except UserError as error:
        found.append(str(error).replace(str(root), 'ROOT'))
        continue
    found.append((opened, images, said.text))
  first, second = found
  if isinstance(first, str) or isinstance(second, str):
    words = case.want if isinstance(case.want, tuple) else ('(no error)',)
    wrong = [word for word in words
             if not re.search(word, str(first))] + ['\n'] * ('\n' in first)
    if first != second:
      wrong.append(f'streamed: {second}')
    return f'error: {first}', ', '.join(wrong)
  made, images, said = first
  have = {
      'train': len(images[0]), 'test': len(images[1]),
      'channels': images[0].shape[-1], 'classes': made.class_names,
      'levels': sorted({*np.concatenate(images)[:, 0, 0].ravel().tolist()})}
  if isinstance(case.want, tuple):
    return f'read {have}', 'it is not refused'
  wrong = [f'{key} is {have[key]}, not {value}' for key, value
           in case.want.items() if key in have and value is not None
           and have[key] != value]
  want = case.want.get('said', '')
  if want is None and said or want and not re.search(want, said):
    wrong.append(f'said {said!r}')
  if said != second[2]:
    wrong.append(f'streamed it said {second[2]!r}')
  if not all(map(np.array_equal, images, second[1])):
    wrong.append('streamed images are others')
  return f'{have["train"]} + {have["test"]}', ', '.join(wrong)


def main():
  """Runs all cases; returns the exit status."""
  logging.getLogger('dasm_jax').addHandler(logging.NullHandler())
  logging.getLogger('dasm_jax').propagate = False
  tracebacks = wrong = 0
  for name, case in CASES.items():
    with tempfile.TemporaryDirectory() as folder:
      try:
        came, problem = outcome(case, pathlib.Path(folder) / 'set')
      except Exception:
        came, problem = 'TRACEBACK', traceback.format_exc()
        tracebacks += 1
      else:
        wrong += bool(problem)
    print(f'{name}: {came}' + f'\n  WRONG: {problem}' * bool(problem),
          flush=True)
  print(f'{len(CASES)} cases: {tracebacks} tracebacks, {wrong} wrong')
  return int(bool(tracebacks or wrong))


if __name__ == '__main__':
  sys.exit(main())
