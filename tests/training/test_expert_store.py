"""Expert buffers: files, what is refused, and that nothing is lost."""

import collections
import contextlib
import json
import resource
import shutil

import numpy as np
import pytest

from dasm_jax.errors import UserError
from dasm_jax.training import expert_store

ABOUT = {'dataset': 'digits', 'network.width': 32, 'shape': [8, 8, 1]}


def claim(folder, number=2, epochs=3, size=5, dtype='float32', **about):
  return expert_store.claim_store(folder, {**ABOUT, **about}, number, epochs,
                                  size, dtype)


def fill(buffer, experts=None):
  """Expert k holds `100 k + epoch` everywhere."""
  for k in buffer.missing() if experts is None else experts:
    writer = expert_store.ExpertWriter(buffer, k)
    for epoch in range(buffer.epochs + 1):
      writer.add(np.full(buffer.size, 100 * k + epoch))
    writer.finish()


@pytest.mark.parametrize('dtype', expert_store.DTYPES)
def test_rows(dtype, tmp_path):
  buffer = claim(tmp_path / 'a', dtype=dtype)
  assert buffer.missing() == [0, 1]
  fill(buffer)
  assert buffer.missing() == []
  found = expert_store.read_rows(buffer, [1, 0, 1], np.array([0, 3, 2]))
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found[:, 0], [100, 3, 102])
  assert buffer.path(0).stat().st_size == buffer.bytes


@pytest.mark.parametrize('last', [False, True])
def test_written_in_two_parts(last, tmp_path):
  buffer = expert_store.claim_store(tmp_path, ABOUT, 1, 3, 5, last=last)
  rows = [np.full(5, k) for k in range(4)]
  writer = expert_store.ExpertWriter(buffer, 0)
  for row in rows[:3]:
    writer.add(row)
  writer.close()
  assert buffer.begun(0) == 3 and buffer.missing() == [0]
  writer = expert_store.ExpertWriter(buffer, 0, 2)  # the third was not kept
  for row in rows[2:]:
    writer.add(row)
  writer.finish()
  np.testing.assert_array_equal(
      expert_store.read_rows(buffer, [0], [3]), rows[3][None])
  assert buffer.path(0).stat().st_size == buffer.bytes
  assert expert_store.claim_store(tmp_path, ABOUT, 1, 3, 5, last=last).missing(
      ) == []


def test_room_counts_what_is_written(tmp_path, monkeypatch):
  buffer = claim(tmp_path, number=1, size=10 ** 6)
  usage = collections.namedtuple('usage', 'free')
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(
      expert_store.DISK_MARGIN + 8_000_000))
  with pytest.raises(UserError, match='1 expert need'):
    claim(tmp_path, number=1, size=10 ** 6)
  writer = expert_store.ExpertWriter(buffer, 0)
  for _ in range(2):
    writer.add(np.zeros(10 ** 6))
  writer.close()
  assert claim(tmp_path, number=1, size=10 ** 6).missing() == [0]


def test_finished_experts_stay(tmp_path):
  buffer = claim(tmp_path)
  fill(buffer, [0])
  writer = expert_store.ExpertWriter(buffer, 1)
  writer.add(np.zeros(5))
  writer.close()
  again = claim(tmp_path)
  assert again.missing() == [1] and again.begun(1) == 1
  fill(again)
  assert not list(tmp_path.glob('*.part'))
  # More experts may be asked for, fewer epochs, fewer experts.
  assert claim(tmp_path, number=4).missing() == [2, 3]
  assert claim(tmp_path, epochs=1).epochs == 3
  assert claim(tmp_path, number=1).missing() == []


@pytest.mark.parametrize('change, words', [
    ({'dataset': 'mnist'}, "dataset 'digits', not 'mnist'"),
    ({'network.width': 16}, 'network.width 32, not 16'),
    ({'size': 6}, 'size 5, not 6'),
    ({'dtype': 'bfloat16'}, "dtype 'float32', not 'bfloat16'"),
    ({'epochs': 4}, 'have 3 epochs, but 4'),
    ({'lr': 0.5}, 'lr None, not 0.5')])
def test_other_buffers_are_refused(change, words, tmp_path):
  fill(claim(tmp_path))
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  with pytest.raises(UserError, match=words):
    claim(tmp_path, **change)
  assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_damage(tmp_path):
  buffer = claim(tmp_path)
  fill(buffer)
  path = buffer.path(1)
  path.write_bytes(path.read_bytes()[:-4])
  with pytest.raises(UserError, match=r'expert_0001\.bin.*76 bytes, not 80'):
    claim(tmp_path)
  with pytest.raises(UserError, match='ends before epoch 3'):
    expert_store.read_rows(buffer, [1], [3])
  path.unlink()
  with pytest.raises(UserError, match='cannot read the expert'):
    expert_store.read_rows(buffer, [1], [0])
  assert claim(tmp_path).missing() == [1]
  about = (tmp_path / 'buffer.json').read_text()
  for text in ('{', '[]', '"x"', '{"epochs": 1e400}', '[' * 10 ** 5,
               about.replace('digits', 'digitz')):
    (tmp_path / 'buffer.json').write_text(text)
    with pytest.raises(UserError, match='does not describe experts'):
      claim(tmp_path)


def test_weights_that_somebody_has_changed(tmp_path):
  """A flipped bit, another run's expert, and one of an earlier version."""
  buffer = claim(tmp_path)
  fill(buffer)
  one, other = map(buffer.path, (0, 1))
  whole = one.read_bytes()
  one.write_bytes(whole[:25] + bytes([whole[25] ^ 1]) + whole[26:])
  with pytest.raises(UserError, match=r'expert_0000.bin.* damaged at epoch 1'):
    expert_store.read_rows(buffer, [0], [1])
  assert expert_store.read_rows(buffer, [0], [2]) == pytest.approx(2)
  one.write_bytes(other.read_bytes())
  with pytest.raises(UserError, match='delete it, and this expert will be'):
    expert_store.read_rows(buffer, [0], [2])
  buffer.sums(0).write_bytes(buffer.sums(0).read_bytes()[:3])
  with pytest.raises(UserError, match='damaged at epoch 2'):
    expert_store.read_rows(buffer, [0], [2])
  buffer.sums(0).unlink()
  assert expert_store.read_rows(buffer, [0], [2]) == pytest.approx(102)
  one.unlink()
  fill(buffer)
  assert expert_store.read_rows(buffer, [0], [2]) == pytest.approx(2)


def test_room(tmp_path, monkeypatch):
  usage = collections.namedtuple('usage', 'free')
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(10 ** 6))
  with pytest.raises(UserError, match=r'2 experts need .* GB .* are free'):
    claim(tmp_path / 'new' / 'deep')
  assert not (tmp_path / 'new').exists()
  monkeypatch.undo()
  fill(claim(tmp_path))
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(0))
  assert claim(tmp_path).missing() == []  # nothing to write


@contextlib.contextmanager
def files_of_at_most(size):
  """Meanwhile no file of this process grows beyond `size` bytes."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_loses_no_finished_expert(tmp_path):
  buffer = claim(tmp_path, size=10 ** 5)
  fill(buffer, [0])
  writer = expert_store.ExpertWriter(buffer, 1)
  with files_of_at_most(10 ** 5):
    with pytest.raises(UserError, match='File too large.*finished stay'):
      writer.add(np.zeros(10 ** 5))
    writer.close()
  assert claim(tmp_path, size=10 ** 5).missing() == [1]
  assert json.loads((tmp_path / 'buffer.json').read_text())['epochs'] == 3


def test_unknown_dtype(tmp_path):
  with pytest.raises(UserError, match="'f2'; choose from bfloat16, float32"):
    claim(tmp_path, dtype='f2')
