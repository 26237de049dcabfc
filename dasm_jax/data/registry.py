"""The kinds of data sets, the sets that have a row, lists of classes by name.

The lists are of WordNet ids, in the order of the papers' labels. Sources:
imagenet100 is the list of CMC (1906.05849), which IDC (2205.14959) and RDED
(2312.03526) keep as their class100.txt, and imagenet10 its first ten, as IDC
takes them; the others are the class numbers in MTT's (2203.11932) program, of
which imagenette and imagewoof are fastai's.
"""

import difflib
import importlib
from collections.abc import Callable
from typing import NamedTuple

from dasm_jax.errors import UserError


class Kind(NamedTuple):
  """A kind of data set.

  module: its name. It has three functions,
      describe(request) -> dataset.Description,
      open(described, options) -> reader.Contents   and
      absolute(name) -> name,
    of a `dataset.Request`, of what `data.describe` made of that, of a
    `reader.ReadOptions`, and of a name, which is made one that no working
    directory changes. `open` makes the images as large as `size` says;
    classes and held-out images are chosen of what it returns.
  takes: of a name, whether it is of this kind.
  names: how its names look, in words.
  """
  module: str
  takes: Callable
  names: str


# The first that takes a name has it, and the last takes all.
KINDS = (
    Kind('dasm_jax.data.digits', lambda name: name == 'digits', 'digits'),
    Kind('dasm_jax.data.folder', lambda name: name.startswith('folder:'),
         'folder:PATH'),
    Kind('dasm_jax.data.arrays', lambda name: name.startswith('npz:'),
         'npz:PATH'),
    Kind('dasm_jax.data.tfds', lambda name: True,
         'any image classification set of TFDS, a prepared TFDS directory'),
)


MOVED_ENTRY = '--config.dataset.moved_to'
IF_MOVED = (f'; if data of a run or set have moved, {MOVED_ENTRY}=NAME says '
            'where they are now')


def kind_of(name):
  """The module of a data set's kind, which is imported when it is needed."""
  return importlib.import_module(
      next(kind.module for kind in KINDS if kind.takes(name)))


def choices():
  """What a data set may be called, in words."""
  return ', '.join((*sorted(DATASETS), *(kind.names for kind in KINDS)))


class TfdsSet(NamedTuple):
  """A set of TFDS as the field uses it.

  tfds: its name there; test: the split to test on.
  mean, std: those that papers normalise with, per channel on the [0, 1] scale;
    for CIFAR-10 they are not quite what the images have.
  counts: of train and test images; shape: of an image, None where they differ;
    classes: how many. So much is known of a set that is not prepared.
  """
  tfds: str
  test: str
  mean: tuple
  std: tuple
  counts: tuple
  shape: tuple
  classes: int


# Of natural images, where nobody has measured theirs.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# By what images are normalised: what the field does with such a set, these, or
# what the train images have. An image rate in normalised space means pixels
# times std squared: it does not carry over from one to the other.
STATISTICS = 'auto', 'imagenet', 'own'

DATASETS = {
    'mnist': TfdsSet('mnist', 'test', (0.1307,), (0.3081,),
                     (60_000, 10_000), (28, 28, 1), 10),
    'fashion_mnist': TfdsSet('fashion_mnist', 'test', (0.2861,), (0.3530,),
                             (60_000, 10_000), (28, 28, 1), 10),
    'svhn': TfdsSet('svhn_cropped', 'test', (0.4377, 0.4438, 0.4728),
                    (0.1980, 0.2010, 0.1970),
                    (73_257, 26_032), (32, 32, 3), 10),
    'cifar10': TfdsSet('cifar10', 'test', (0.4914, 0.4822, 0.4465),
                       (0.2023, 0.1994, 0.2010),
                       (50_000, 10_000), (32, 32, 3), 10),
    'cifar100': TfdsSet('cifar100', 'test', (0.5071, 0.4866, 0.4409),
                        (0.2673, 0.2564, 0.2762),
                        (50_000, 10_000), (32, 32, 3), 100),
    # The test labels of these two were never published.
    'tiny_imagenet': TfdsSet('tiny_imagenet', 'validation', *IMAGENET,
                             (100_000, 10_000), (64, 64, 3), 200),
    'imagenet2012': TfdsSet('imagenet2012', 'validation', *IMAGENET,
                            (1_281_167, 50_000), (None, None, 3), 1000),
}


def row_of(name):
  """The row of a TFDS name, or None; subsets of Tiny ImageNet share its row."""
  for row in DATASETS.values():
    if name == row.tfds:
      return row
  if name.startswith('tiny_imagenet_'):
    return DATASETS['tiny_imagenet']
  return None


def unknown_name(name, looked, here=()):
  """`UserError` for a data set that is nowhere.

  looked: where, in words. here: names of sets that are there.
  """
  known = [one for one in dict.fromkeys(('digits', *DATASETS, *here))
           if one != name]
  close = difflib.get_close_matches(name.lower(), known, 3, 0.5)
  hint = f'did you mean {" or ".join(close)}? ' if close else ''
  if name.startswith('tiny_imagenet'):
    hint = ('TFDS has no Tiny ImageNet: prepare one, or unzip the original '
            'and use folder:PATH; ')
  return UserError(
      f'unknown data set {name!r}, looked in {looked}; {hint}choose from '
      f'{", ".join((*sorted(set(here) - {*DATASETS, name}), choices()))}'
      f'{IF_MOVED}')


IMAGENET100 = tuple('''
n02869837 n01749939 n02488291 n02107142 n13037406 n02091831 n04517823 n04589890
n03062245 n01773797 n01735189 n07831146 n07753275 n03085013 n04485082 n02105505
n01983481 n02788148 n03530642 n04435653 n02086910 n02859443 n13040303 n03594734
n02085620 n02099849 n01558993 n04493381 n02109047 n04111531 n02877765 n04429376
n02009229 n01978455 n02106550 n01820546 n01692333 n07714571 n02974003 n02114855
n03785016 n03764736 n03775546 n02087046 n07836838 n04099969 n04592741 n03891251
n02701002 n03379051 n02259212 n07715103 n03947888 n04026417 n02326432 n03637318
n01980166 n02113799 n02086240 n03903868 n02483362 n04127249 n02089973 n03017168
n02093428 n02804414 n02396427 n04418357 n02172182 n01729322 n02113978 n03787032
n02089867 n02119022 n03777754 n04238763 n02231487 n03032252 n02138441 n02104029
n03837869 n03494278 n04136333 n03794056 n03492542 n02018207 n04067472 n03930630
n03584829 n02123045 n04229816 n02100583 n03642806 n04336792 n03259280 n02116738
n02108089 n03424325 n01855672 n02090622
'''.split())

CLASS_LISTS = {
    'imagenet10': IMAGENET100[:10],
    'imagenet100': IMAGENET100,
    'imagenette': tuple('''
        n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042
        n03425413 n03445777 n03888257'''.split()),
    'imagewoof': tuple('''
        n02096294 n02093754 n02111889 n02088364 n02086240 n02089973 n02087394
        n02115641 n02099601 n02105641'''.split()),
    'imagefruit': tuple('''
        n07753275 n07753592 n07745940 n07747607 n07749582 n07768694 n07753113
        n07720875 n07718472 n07742313'''.split()),
    'imagemeow': tuple('''
        n02123045 n02123159 n02123394 n02123597 n02124075 n02129165 n02129604
        n02128925 n02128757 n02127052'''.split()),
    'imagesquawk': tuple('''
        n01806143 n02007558 n01818515 n02051845 n02056570 n01614925 n01843383
        n01518878 n01860187 n01819313'''.split()),
    # The spider is number 72, as MTT's program has it; RDED's list has 74.
    'imageyellow': tuple('''
        n02206856 n12057211 n07753592 n07749582 n12144580 n04146614 n03530642
        n02129165 n01773157 n01531178'''.split()),
}
