"""Decoded images that are kept on a disk: the same, and decoded once."""

import errno
import os
import pathlib
import shutil

import numpy as np
import pytest
import small
from image_sets import hidden, mixed_folder, odd_folder, write

from dasm_jax import data
from dasm_jax.data import cache
from dasm_jax.distill import run
from dasm_jax.errors import UserError

SHAPE = (6, 6, 3)


def opened(root, cache, said=None, size=6, how=None, **given):
  """A folder with a cache, whose statistics were asked for."""
  options = data.ReadOptions(cache=str(cache), **{'threads': 0} | (how or {}))
  if said is not None:
    options = options._replace(say=said.append)
  found = data.open(f'folder:{root}', size=size, options=options, **given)
  found.train.statistics()
  return found


def whole(found):
  return [split.read(np.arange(len(split))) for split in (
      found.train, found.test)]


@pytest.fixture
def root(tmp_path):
  return odd_folder(tmp_path / 'images')


@pytest.mark.parametrize('given', [
    {}, {'how': {'threads': 3}}, {'how': {'workers': 2}},
    {'holdout': .3, 'seed': 1}])
def test_the_same_and_decoded_once(root, tmp_path, given):
  plain = whole(opened(root, '', **given))
  cache, said = tmp_path / 'cache', []
  first = opened(root, cache, said, **given)
  assert all(': 0 of ' in line for line in said[-2:])
  np.testing.assert_equal(whole(first), plain)
  with hidden(root):
    np.testing.assert_equal(whole(first), plain)
  first.train.close()
  said.clear()
  again = opened(root, cache, said, **given)
  with hidden(root):
    np.testing.assert_equal(whole(again), plain)
  for split, line in zip(('train', 'test'), said[-2:], strict=True):
    count = len(getattr(again, split))
    assert f'decoded images of folder:{root} {split}: ' in line
    assert f'{count} of {count} are in ' in line
  # A part, in any order, some twice.
  rows = np.array([[3, 0, 3], [2, 2, 1]])
  np.testing.assert_array_equal(again.train.read(rows), plain[0][rows])


def test_what_is_not_whole_is_decoded_again(root, tmp_path):
  cache = tmp_path / 'cache'
  want = whole(opened(root, cache))
  for spoil in (lambda data: data[:100] + b'?' + data[101:],
                lambda data: data[:250], lambda data: b''):
    for path in cache.glob('*.images'):
      path.write_bytes(spoil(path.read_bytes()))
    np.testing.assert_equal(whole(opened(root, cache)), want)
    found = opened(root, cache)
    with hidden(root):
      np.testing.assert_equal(whole(found), want)
  for path in cache.glob('*.sums'):
    path.write_bytes(b'\1' * path.stat().st_size)
  np.testing.assert_equal(whole(opened(root, cache)), want)


def test_of_other_images_nothing_is_taken(root, tmp_path):
  cache = tmp_path / 'cache'
  opened(root, cache).train.read([0, 1])
  def there(**given):
    said = []
    opened(root, cache, said, **given)
    return int(said[-2].split(': ')[-1].split()[0])
  assert there() > 0
  assert there(size=5) == 0
  write(root / 'a' / '0.jpg', value=99)  # another image under its name
  assert there() == 0


def test_a_broken_image_is_named_and_replaced_each_time(
    tmp_path, caplog):
  root, cache = mixed_folder(tmp_path / 'images'), tmp_path / 'cache'
  broken = root / 'a' / '004.png'
  broken.write_bytes(broken.read_bytes()[:60])
  want = whole(opened(root, ''))
  for _ in range(2):
    caplog.clear()
    np.testing.assert_equal(whole(opened(root, cache)), want)
    assert '1 of ' in caplog.text and '004.png' in caplog.text


def test_a_full_disk_ends_the_keeping_alone(
    root, tmp_path, monkeypatch, caplog):
  want = whole(opened(root, ''))
  found, calls = opened(root, tmp_path / 'cache'), []
  pwrite = os.pwrite
  def full(handle, data, offset):
    calls.append(offset)
    if len(calls) > 6:
      raise OSError(errno.ENOSPC, 'No space left on device')
    return pwrite(handle, data[:50], offset)  # a part at a time
  monkeypatch.setattr(os, 'pwrite', full)
  np.testing.assert_equal(whole(found), want)
  # The train images were read for their mean.
  assert caplog.text.count('no more decoded images are kept in') == 1
  assert 'No space left' in caplog.text
  monkeypatch.undo()
  np.testing.assert_equal(whole(opened(root, tmp_path / 'cache')), want)


def test_where_nothing_can_be_kept_it_goes_on(root, tmp_path, monkeypatch):
  with pytest.raises(UserError, match='cache=gs://b/c has to be a directory'):
    opened(root, 'gs://b/c')
  (tmp_path / 'file').write_text('')
  want, said = whole(opened(root, '')), []
  np.testing.assert_equal(whole(opened(root, tmp_path / 'file', said)), want)
  assert 'note      no decoded images of ' in said[-1] and 'file: ' in said[-1]
  found = opened(root, tmp_path / 'cache', said)
  assert ' more; ' in said[-1] and 'are free' in said[-1]
  whole(found)
  def broken(*_):
    raise OSError(errno.EIO, 'Input/output error')
  monkeypatch.setattr(os, 'preadv', broken)
  np.testing.assert_equal(whole(found), want)


def test_cut_while_it_is_open(root, tmp_path):
  found = opened(root, tmp_path / 'cache')
  want = whole(found)
  for path in (tmp_path / 'cache').glob('*.images'):
    os.truncate(path, 0)
  np.testing.assert_equal(whole(found), want)


def test_held_out_images_are_in_the_same_file(root, tmp_path):
  whole(opened(root, tmp_path / 'cache', holdout=.3, seed=1))
  assert len([*(tmp_path / 'cache').glob('*.images')]) == 1
  found = opened(root, tmp_path / 'cache', holdout=.3, seed=2)
  with hidden(root):
    whole(found)


def test_rows_that_are_not_read_take_no_room(tmp_path):
  made = cache.DecodedImages(tmp_path / 'a.images', 10 ** 6, (100, 100, 3))
  made.put(np.array([7, 10 ** 6 - 1]), np.full((2, 100, 100, 3), 5, np.uint8),
           np.array([1, 0]))
  files = [pathlib.Path(made.path), made.path.with_suffix('.sums')]
  assert sum(file.stat().st_blocks * 512 for file in files) < 2 ** 20
  assert files[0].stat().st_size == 3 * 10 ** 10 and (
      made.has(np.array([7, 8])) == 1)
  again, out = cache.DecodedImages(made.path, 10 ** 6, (100, 100, 3)), np.zeros(
      (3, 100, 100, 3), np.uint8)
  found = again.take(np.array([7, 8, 10 ** 6 - 1]), out, np.array([2, 1, 0]))
  assert found.tolist() == [True, False, True]
  assert [x.tolist() for x in np.unique(out[[0, 2]])[None]] == [[5]]
  assert not out[1].any()


def test_a_part_of_the_classes_is_a_part_of_the_same(root, tmp_path):
  cache, said = tmp_path / 'cache', []
  whole(opened(root, cache))
  shutil.copytree(root / 'a', root / 'c', copy_function=shutil.copy2)
  opened(root, cache, classes='a,b')
  whole(opened(root, cache, said, classes='a,b'))
  assert len({*cache.glob('*.images')}) == 2  # without c, and with it
  said.clear()
  found = opened(root, cache, said)
  count = len(found.train)
  here = int(said[-2].split(': ')[-1].split()[0])
  assert 0 < here < count and f' of {count} are in ' in said[-2]


def test_digits_need_none(tmp_path):
  found = data.open('digits', options=data.ReadOptions(
      cache=str(tmp_path / 'cache')))
  assert found.train.read([3]).any()
  assert not (tmp_path / 'cache').exists()


@pytest.mark.slow
@pytest.mark.usefixtures('quick_compiler')
def test_a_run_is_the_same(tmp_path):
  root = mixed_folder(tmp_path / 'images', 60)
  sets = []
  for number, folder in enumerate(('', 'cache', 'cache')):
    c = small.tiny('dm', dataset__name=f'folder:{root}', dataset__size=8,
                   dataset__stream='always', method__batch=4, method__steps=4,
                   segments__number=1, **small.PLAIN,
                   dataset__cache=folder and str(tmp_path / folder))
    run.run(c, small.measured(tmp_path / f'run_{number}'))
    with np.load(tmp_path / f'run_{number}' / 'synthetic.npz') as file:
      sets.append(file['images'])
  np.testing.assert_array_equal(sets[0], sets[1])
  np.testing.assert_array_equal(sets[0], sets[2])
