"""Classes by name and by list: rows, labels, names, and what is refused."""

import numpy as np
import pytest
from image_sets import refused, refused_early, small_folder, write

from dasm_jax import data
from dasm_jax.data import dataset as datasets
from dasm_jax.data import registry
from dasm_jax.errors import UserError

NAMES = ('ant', 'bee', 'cat', 'dog')
LABELS = np.array([0, 2, 1, 2, 3, 0], np.int32)


def test_choose_by_hand():
  for wanted in ('cat+ant', 'cat,ant', ' cat + ant '):
    rows, labels, names = datasets.choose_classes(LABELS, NAMES, wanted)
    assert rows.tolist() == [0, 1, 3, 5]
    assert labels.tolist() == [1, 0, 0, 1] and labels.dtype == np.int32
    assert names == ('cat', 'ant')
  rows, labels, names = datasets.choose_classes(LABELS, NAMES, '')
  assert rows.tolist() == list(range(6)) and names == NAMES
  np.testing.assert_array_equal(labels, LABELS)


def test_lists():
  for name, wnids in registry.CLASS_LISTS.items():
    assert len(set(wnids)) == len(wnids) == (100 if '100' in name else 10)
    assert all(len(x) == 9 and x[0] == 'n' and x[1:].isdigit() for x in wnids)
  # IDC's labels are places in its list, whatever the order of the folders.
  every = tuple(sorted(registry.IMAGENET100))
  labels = np.arange(100, dtype=np.int32)
  rows, found, names = datasets.choose_classes(labels, every, 'imagenet10')
  assert names == registry.IMAGENET100[:10] and sorted(found) == list(range(10))
  assert [every[row] for row in rows] == sorted(names)
  assert all(names[new] == every[row]
             for row, new in zip(rows, found, strict=True))
  # A list, and one more; a class may have the name of a list.
  more = datasets.choose_classes(labels, every,
                                 f'imagenet10+{registry.IMAGENET100[50]}')
  assert more[2] == (*names, registry.IMAGENET100[50])
  assert datasets.choose_classes(labels[:2], ('imagenette', 'b'),
                                 'b+imagenette')[
      2] == ('b', 'imagenette')


def test_parts_cover_a_list():
  every = tuple(sorted(registry.IMAGENET100))
  labels = np.arange(100, dtype=np.int32)
  parts = [datasets.choose_classes(labels, every, f'imagenet100:{k}/7')[2]
           for k in range(7)]
  assert sum(parts, ()) == registry.IMAGENET100
  assert {len(part) for part in parts} == {14, 15}
  assert datasets.choose_classes(LABELS, NAMES, ':1/2')[2] == ('cat', 'dog')
  assert datasets.choose_classes(LABELS, NAMES, 'cat+:0/2')[2] == ('cat', 'ant',
                                                                   'bee')


@pytest.mark.parametrize('wanted, words', [
    (':2/2', 'not a part from 0 to 1, of 4 at'), (':0/5', 'of 4 at most'),
    (':0/4', 'leaves 1 of 4'), ('fly:0/2', "unknown class 'fly'"),
    ('cat+bees', "unknown class 'bees' .* mean bee\\? choose .*imagenet10, "),
    ('imagenet1+ant', "'imagenet1'.* did you mean imagenet10"),
    ('cat', 'leaves 1 of 4 classes; two'), ('+', 'leaves 0 of 4'),
    ('ant+cat+ant', 'names ant twice'),
    ('imagewoof', 'lists 10 .*lacks 10 of them .n02096294, .*it has ant, ')])
def test_refused(wanted, words):
  with pytest.raises(UserError, match=words) as caught:
    datasets.choose_classes(LABELS, NAMES, wanted)
  assert '\n' not in str(caught.value)


def test_folder_reads_the_wanted_alone(tmp_path):
  small_folder(tmp_path / 'train')
  small_folder(tmp_path / 'test', 2)
  for split in ('train', 'test'):
    # Of another size: it would be refused if it were read.
    write(tmp_path / split / 'cat' / '0.png', shape=(9, 9))
  name = f'folder:{tmp_path}'
  data.check(name, classes='bee+ant')
  found = data.load(name, classes='bee+ant')
  assert found.class_names == ('bee', 'ant')
  assert len(found.train.labels) == 10 and len(found.test.labels) == 4
  for images, labels in (found.train, found.test):
    np.testing.assert_array_equal(images[:, 0, 0, 0] < 50, labels == 1)
  held = data.load(name, classes='bee+ant', holdout=.4)
  assert np.bincount(held.test.labels).tolist() == [2, 2]
  refused_early("unknown class 'be'", 'did you mean bee', name=name,
                classes='ant+be')


def test_digits_and_tfds(store):
  found = data.load('digits', classes='7,1')
  whole = data.load('digits')
  np.testing.assert_array_equal(
      found.train.images, whole.train.images[
          np.isin(whole.train.labels, (1, 7))])
  assert found.class_names == ('7', '1') and found.test.labels.max() == 1
  refused('unknown class', name='digits', classes='7,10')
  root, images = store
  found = data.load('tiny_set', data_dir=root, classes='yes+no')
  plain = data.load('tiny_set', data_dir=root)
  np.testing.assert_array_equal(found.train.images, plain.train.images)
  np.testing.assert_array_equal(found.train.labels, 1 - plain.train.labels)
  refused_early("unknown class 'maybe'", name='tiny_set', data_dir=root,
                classes='yes+maybe')


def test_an_outline_copies_no_image(tmp_path):
  found = data.outline('mnist', classes='0+1', data_dir=tmp_path)
  assert found.train.images.shape == (12_000, 28, 28, 1)
  assert found.train.images.strides[0] == 0  # as if they were there
