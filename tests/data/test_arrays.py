"""Data sets that are arrays: given in Python, and in a file `npz:PATH`."""

import pickle

import numpy as np
import pytest
import small
from image_sets import refused, refused_early, same

from dasm_jax import data
from dasm_jax.data import dataset as datasets
from dasm_jax.distill import run
from dasm_jax.errors import UserError
from dasm_jax.pipeline import loading

RNG = np.random.RandomState(0)
IMAGES = RNG.randint(0, 256, (30, 9, 9, 3), np.uint8)
LABELS = np.arange(30) % 3
TRAIN, TEST = (IMAGES[:24], LABELS[:24]), (IMAGES[24:], LABELS[24:])


def npz(path, **arrays):
  """The name of a set of some arrays."""
  np.savez(path, **arrays)
  return f'npz:{path}'


@pytest.fixture
def name(tmp_path):
  """The name of a file with both splits."""
  return npz(tmp_path / 'set.npz', train_images=IMAGES[:24],
             train_labels=LABELS[:24], test_images=IMAGES[24:],
             test_labels=LABELS[24:], class_names=['cat', 'dog', 'eel'])


@pytest.mark.parametrize('given', [
    {}, {'size': 5}, {'holdout': .3, 'seed': 2}, {'classes': 'eel+cat'},
    {'classes': 'dog,eel', 'size': 4, 'holdout': .5},
    {'size': 6, 'test_crop': .7}])
def test_a_file_is_a_kind_like_any_other(name, given):
  found = data.load(name, **given)
  same(data.open(name, **given), name, **given)
  seen = data.outline(name, **given)
  assert seen.class_names == found.class_names
  for one, other in zip(seen[1:3], found[1:3], strict=True):
    assert one.shape == other.shape
    np.testing.assert_array_equal(one.labels, other.labels)
  assert found.mean == datasets.statistics(found.train.images)[0]
  data.check(name, **given)
  assert data.here(name) and loading.load(name, stream='always', **given)


def test_what_is_in_a_file_is_what_is_read(name):
  found = data.load(name)
  np.testing.assert_array_equal(found.train.images, IMAGES[:24])
  np.testing.assert_array_equal(found.test.images, IMAGES[24:])
  np.testing.assert_array_equal(found.test.labels, LABELS[24:])
  assert found.class_names == ('cat', 'dog', 'eel')


@pytest.mark.parametrize('arrays', [
    dict(x_train=IMAGES[:24], y_train=LABELS[:24], x_test=IMAGES[24:],
         y_test=LABELS[24:]),
    # With a column of labels, and two splits to test on.
    dict(train_images=IMAGES[:24], train_labels=LABELS[:24, None],
         val_images=IMAGES[:3], val_labels=LABELS[:3, None],
         test_images=IMAGES[24:], test_labels=LABELS[24:, None])])
def test_names_that_others_use(tmp_path, arrays):
  found = data.load(npz(tmp_path / 'a.npz', **arrays))
  np.testing.assert_array_equal(found.train.labels, LABELS[:24])
  np.testing.assert_array_equal(found.test.images, IMAGES[24:])
  assert found.class_names == ('0', '1', '2')


def test_without_a_test_split_a_part_is_held_out(tmp_path):
  gray = IMAGES[..., 0]
  name = npz(tmp_path / 'a.npz', images=gray, labels=LABELS)
  found = data.load(name, seed=3)
  kept, held = datasets.stratify(LABELS, .2, 3)
  np.testing.assert_array_equal(found.train.images[..., 0], gray[kept])
  np.testing.assert_array_equal(found.test.images[..., 0], gray[held])
  # And the same arrays, given in Python, are the same set.
  other = data.from_arrays(name, (gray, LABELS), seed=3)
  np.testing.assert_array_equal(other.test.images, found.test.images)
  assert (other.cut, other.class_names, other.mean) == (
      found.cut, found.class_names, found.mean)


def test_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  name = npz(tmp_path / 'a.npz', images=IMAGES, labels=LABELS)
  assert data.absolute('npz:a.npz') == name == data.absolute(name)
  assert len(data.load('npz:a.npz').train.labels) == 24


BAD = {
    'floats': (dict(images=IMAGES / 255., labels=LABELS),
               'numpy.uint8(numpy.round(255'),
    'channels first': (dict(images=np.moveaxis(IMAGES, 3, 1), labels=LABELS),
                       'numpy.moveaxis(images, 1, 3)'),
    'alpha': (dict(images=np.zeros((4, 5, 5, 4), np.uint8),
                   labels=LABELS[:4]), 'must be 1 or 3'),
    'flat': (dict(images=IMAGES.reshape(30, -1), labels=LABELS), '(30, 243)'),
    'fewer labels': (dict(images=IMAGES, labels=LABELS[:9]), '(9,)'),
    'one-hot': (dict(images=IMAGES, labels=np.eye(3)[LABELS]),
                'numpy.argmax(labels, 1)'),
    'no numbers': (dict(images=IMAGES, labels=LABELS / 2), 'whole numbers'),
    'negative': (dict(images=IMAGES, labels=LABELS - 1), 'from -1'),
    'a class without images': (
        dict(images=IMAGES, labels=2 * LABELS), 'no train images of 2 of 5'),
    'too few names': (dict(images=IMAGES, labels=LABELS,
                           class_names=['a', 'b']), 'names for 2 classes'),
    'other arrays': (dict(data=IMAGES, target=LABELS),
                     'data, target'),
    'other sizes': (dict(train_images=IMAGES, train_labels=LABELS,
                         test_images=IMAGES[:, :8], test_labels=LABELS),
                    'size='),
}


@pytest.mark.parametrize('case', BAD)
def test_what_is_no_data_set_is_refused(case, tmp_path):
  arrays, words = BAD[case]
  name = npz(tmp_path / 'a.npz', **arrays)
  refused(words, name=name)
  if not {'data', 'test_images'} & set(arrays):
    with pytest.raises(UserError) as error:
      data.from_arrays('mine', (arrays['images'], arrays['labels']),
                       class_names=arrays.get('class_names', ()))
    assert words in str(error.value) and '\n' not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
  refused_early('No such file', 'moved_to', name=f'npz:{tmp_path}/gone.npz')
  (tmp_path / 'cut.npz').write_bytes(b'PK\3\4 and no more')
  refused_early('damaged', name=f'npz:{tmp_path}/cut.npz')
  refused('a file of arrays is npz:./some.npz', name='./some.npz')


class Ran(Exception):
  pass


class Evil:
  def __reduce__(self):
    return exec, ('raise Ran',)


def test_nothing_in_a_file_is_run(tmp_path):
  hidden = np.empty(1, object)
  hidden[0] = Evil()
  assert pickle.dumps(hidden)
  name = npz(tmp_path / 'a.npz', images=IMAGES, labels=hidden)
  refused('cannot read', name=name)
  name = npz(tmp_path / 'b.npz', images=IMAGES, labels=LABELS,
             class_names=hidden)
  refused('cannot read', name=name)


def test_statistics_of_other_channels_are_refused():
  with pytest.raises(UserError, match='of 3 channels each'):
    data.from_arrays('mine', TRAIN, TEST, statistics=((.5,), (.2,)))
  made = data.from_arrays('mine', TRAIN, TEST,
                          statistics=((.5,) * 3, (.2,) * 3))
  assert made.mean == (.5,) * 3


# ---- A run on arrays


def configuration(**changes):
  return small.tiny('dm', dataset__name='mine', segments__number=1,
                    syn__ipc=1, method__steps=1, **changes)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures('quick_compiler')
def test_a_run_takes_arrays(tmp_path):
  made = data.from_arrays('mine', (IMAGES[:24, :8, :8], LABELS[:24]),
                          (IMAGES[24:, :8, :8], LABELS[24:]))
  found = run.run(configuration(), small.measured(tmp_path / 'run'),
                  dataset=made)
  assert found['dataset'] == 'mine'
  other = made._replace(train=data.Split(made.train.images,
                                         made.train.labels[::-1].copy()))
  (tmp_path / 'run' / 'results.json').unlink()
  with pytest.raises(UserError, match='are not those that this run began'):
    run.run(configuration(), tmp_path / 'run', dataset=other)


def test_a_run_refuses_what_arrays_leave_open(tmp_path):
  made = data.from_arrays('yours', TRAIN, TEST)
  with pytest.raises(UserError, match="given, 'yours'; give both the same"):
    run.run(configuration(), tmp_path, dataset=made)
  made = made._replace(name='mine')
  for name, value in (('size', 4), ('statistics', 'imagenet'),
                      ('stream', 'always'), ('background', 'black')):
    c = configuration(**{f'dataset__{name}': value})
    with pytest.raises(UserError, match=f'{name}={value} is of a data set tha'):
      run.run(c, tmp_path, dataset=made)
  assert not list(tmp_path.iterdir())


def test_a_set_of_arrays_says_how_its_data_are_found():
  refused('moved_to=NAME says where they are now', name='my_arrays')
