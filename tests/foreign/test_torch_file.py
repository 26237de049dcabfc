"""What torch.save wrote is read as torch would; what is hostile is not run.

The files of `files/` are written by PyTorch, see make_files.py.
"""

import os
import pathlib
import pickle
import struct
import subprocess
import tracemalloc
import zipfile

import numpy as np
import pytest
import refusals

from dasm_jax.errors import UserError
from dasm_jax.foreign import torch_file

FILES = pathlib.Path(__file__).parent / 'files'
with np.load(FILES / 'expected.npz') as file:
  EXPECTED = dict(file)
DC = 'res_DSA_digits_ConvNet_1ipc.pt'


# ---- What torch wrote


@pytest.mark.parametrize('name', [
    'types.pt', 'types_old.pt', 'types_protocol4.pt'])
def test_every_type_and_view(name):
  tree = torch_file.read(FILES / name)
  want = {key.partition('/')[2]: value for key, value in EXPECTED.items()
          if key.startswith('types/')}
  assert len(want) == 19 and set(tree['tensors']) == set(want)
  for key, value in want.items():
    found = tree['tensors'][key]
    assert found.dtype == value.dtype, key
    assert found.flags.c_contiguous and found.flags.writeable
    np.testing.assert_array_equal(found, value, err_msg=key)
  one, part = tree['shared']
  np.testing.assert_array_equal(part, one[1])
  np.testing.assert_array_equal(tree['array'], np.arange(6.).reshape(2, 3))
  np.testing.assert_array_equal(tree['columns'], np.arange(6).reshape(2, 3))
  assert tree['size'] == (2, 3, 4)
  assert tree['numbers'] == (1, -2.5, None, True, 'text', 2 ** 70)
  assert tree['numpy'] == .1


@pytest.mark.parametrize('folder', ['dc', 'old'])
def test_both_layouts_and_numpy_numbers(folder):
  tree = torch_file.read(FILES / folder / DC)
  assert tree['accs_all_exps'] == {'ConvNet': [.5, .25]}
  for k, (images, labels) in enumerate(tree['data'], 1):
    np.testing.assert_array_equal(
        images.transpose(0, 2, 3, 1), EXPECTED[f'dc{k}/images'])
    np.testing.assert_array_equal(labels, EXPECTED[f'dc{k}/labels'])


def test_weights_are_a_dict():
  tree = torch_file.read(FILES / 'weights.pt')
  assert {name: x.shape for name, x in tree.items()} == {
      'weight': (3, 2), 'bias': (3,)}


def refused(path, *words):
  assert len(refusals.refused(lambda: torch_file.read(path), *words)) < 500


def test_a_module_is_refused_by_name():
  refused(FILES / 'module.pt', 'torch.nn.modules.linear.Linear',
          'nothing of it was run')


# ---- Files of others' making


def archive(path, content, members=None, how=zipfile.ZIP_STORED, root='x/'):
  with zipfile.ZipFile(path, 'w', how) as file:
    file.writestr(f'{root}data.pkl', content)
    for name, value in (members or {}).items():
      file.writestr(name, value)
  return path


def words(value):
  """The pickle words that push a value, without the first and the last."""
  return pickle.dumps(value, 2)[2:-1]


def tensor(offset=0, size=(2,), stride=(1,), count=4, key='0'):
  """The pickle of one float32 tensor, as torch words it."""
  return (b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((' + words('storage')
          + b'ctorch\nFloatStorage\n' + words(key) + words('cpu')
          + words(count) + b'tQ' + words(offset) + words(size) + words(stride)
          + b'\x89ccollections\nOrderedDict\n)RtR.')


STORAGE = {'x/data/0': np.arange(4, dtype=np.float32).tobytes()}


def test_tensors_by_hand(tmp_path):
  path = archive(tmp_path / 'a.pt', tensor(1, (3,), (1,)), STORAGE)
  np.testing.assert_array_equal(torch_file.read(path), [1, 2, 3])
  path = archive(tmp_path / 'b.pt', tensor(0, (2, 3), (1, 0)), STORAGE)
  np.testing.assert_array_equal(torch_file.read(path), [[0] * 3, [1] * 3])


@pytest.mark.parametrize('given, word', [
    (dict(offset=3), 'beyond its storage'),
    (dict(offset=2 ** 40), 'beyond its storage'),
    (dict(offset=-1), 'strides'),
    (dict(stride=(-1,)), 'shape (-1,)'),
    (dict(size=(-2,)), 'shape (-2,)'),
    (dict(size=(2, 2)), 'strides'),
    (dict(size=(2 ** 44,), stride=(0,)), 'more than the file'),
    (dict(size=(2 ** 33,), stride=(0,)), 'more than the file'),
    (dict(size=(2 ** 60,)), 'shape'),
    (dict(count=2 ** 40), 'too short'),
    (dict(count=-1), 'length'),
    (dict(key='../../etc/passwd'), 'lacks'),
    (dict(key='7'), 'lacks')])
def test_tensors_that_cannot_be(given, word, tmp_path):
  tracemalloc.start()
  refused(archive(tmp_path / 'a.pt', tensor(**given), STORAGE), word)
  assert tracemalloc.get_traced_memory()[1] < 10 ** 7
  tracemalloc.stop()


class Calls:
  """Pickles as a call, which leaves a file where it is run."""

  def __init__(self, function, *arguments):
    self.how = function, arguments

  def __reduce__(self):
    return self.how


RAN = 'somebody_ran_this'
HOSTILE = {
    'system': (Calls(os.system, f'touch {RAN}'), '.system'),
    'eval': (Calls(eval, f'open({RAN!r}, "w")'), '.eval'),
    'exec': (Calls(exec, f'open({RAN!r}, "w")'), '.exec'),
    'process': (Calls(subprocess.Popen, ['touch', RAN]), '.Popen'),
    'open': (Calls(open, RAN, 'w'), 'io.open'),
    'getattr': (Calls(getattr, os, 'system'), 'getattr'),
    'objects': (np.array([1, 'a'], object), "'O8'"),
    'object array': (np.array([Calls(os.system, f'touch {RAN}')], object),
                     ''),
    'set': ({1, 2}, '__builtin__.set')}


@pytest.mark.parametrize('name', HOSTILE)
@pytest.mark.parametrize('old', [False, True])
def test_calls_are_refused_before_anything_runs(name, old, tmp_path,
                                                monkeypatch):
  monkeypatch.chdir(tmp_path)
  try:
    content = pickle.dumps(HOSTILE[name][0], 2)
  except TypeError:  # a module, which getattr needs
    content = b'\x80\x02cbuiltins\ngetattr\nX\x01\x00\x00\x00aX\x01\x00\x00' \
              b'\x00b\x86R.'
  path = tmp_path / 'a.pt'
  if old:
    path.write_bytes(chain(content))
  else:
    archive(path, content)
  refused(path, HOSTILE[name][1], 'nothing of it was run')
  assert not (tmp_path / RAN).exists()


def chain(content, *more):
  head = [0x1950a86a20f9469cfc6c, 1001, {'little_endian': True}]
  return b''.join(pickle.dumps(x, 2) for x in head) + content + (
      b''.join(more) or pickle.dumps([], 2))


NAME = b'ctorch._utils\n_rebuild_tensor_v2\n'


@pytest.mark.parametrize('content, word', [
    (b'\x80\x02ctorch.nn.modules.linear\nLinear\n)R}b.', 'Linear'),
    (b'\x80\x02' + NAME + b'}b.', 'a state for name'),
    (b'\x80\x02' + NAME + b'N}q\x00' + words('make') + b'Ns\x86b.',
     'a state for name'),
    (b'\x80\x02ccollections\nOrderedDict\n)\x81.', 'NEWOBJ'),
    (b'\x80\x02(ccollections\nOrderedDict\no.', 'OBJ'),
    (b'(S\'true\'\nios\nsystem\n.', 'STRING'),
    (b'\x80\x04\x8c\x02os\x8c\x06system\x93.', 'os.system'),
    (b'\x80\x02' + b']' * 90_000 + b'a' * 89_999 + b'.', 'deep'),
    (b'\x80\x02]q\x00h\x00a.', 'deep'),
    (b'\x80\x02' + b'N' * 200_001 + b'.', 'words'),
    (b'\x80\x02ctorch.storage\n_load_from_bytes\n.', '_load_from_bytes'),
    (b'\x80\x02ctorch\nFloatStorage\n)R.', 'a call of torch.FloatStorage'),
    (b'\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\n'
     b'ctorch\nSize\n)NtR.', 'a kind of tensor of its own'),
    (b'\x80\x02}(]Ns.', 'cut or damaged'),
    (b'\x80\x02X\xff\xff\xff\x7fshort', 'cut or damaged'),
    (b'\x80\x02c_codecs\nencode\n' + words('a') + words('rot13') + b'\x86R.',
     'rot13'),
    (b'', 'cut or damaged')])
def test_pickles_that_no_tensor_needs(content, word, tmp_path):
  refused(archive(tmp_path / 'a.pt', content), word)


def test_memory_for_words_that_are_not_there(tmp_path):
  # Python would make room for two billion.
  content = b'\x80\x02]r' + struct.pack('<I', 2 ** 30) + b'.'
  tracemalloc.start()
  refused(archive(tmp_path / 'a.pt', content), 'remembers')
  assert tracemalloc.get_traced_memory()[1] < 10 ** 7
  tracemalloc.stop()


def test_what_is_shared_is_looked_at_once(tmp_path):
  # 2 ** 40 leaves, of forty lists.
  content = b'\x80\x02]q\x00' + b''.join(
      b'](h' + bytes([k]) + b'h' + bytes([k]) + b'eq' + bytes([k + 1])
      for k in range(40)) + b'.'
  assert len(torch_file.read(archive(tmp_path / 'a.pt', content))) == 2


@pytest.mark.parametrize('members, word', [
    ({'x/../../up': b''}, 'up'), ({'/root': b''}, '/root'),
    ({'x/constants.pkl': b''}, 'TorchScript'),
    ({'x/byteorder': b'big'}, 'byte order'),
    ({'y/data.pkl': b'.'}, 'data.pkl')])
def test_zips_that_torch_does_not_write(members, word, tmp_path):
  refused(archive(tmp_path / 'a.pt', tensor(), {**STORAGE, **members}), word)


def test_compressed_members_do_not_grow(tmp_path):
  path = archive(tmp_path / 'a.pt', tensor(count=2 ** 24),
                 {'x/data/0': bytes(2 ** 26)}, zipfile.ZIP_DEFLATED)
  assert path.stat().st_size < 10 ** 5
  refused(path, 'compressed')


def test_members_that_are_said_to_be_larger_than_the_file(tmp_path):
  path = archive(tmp_path / 'a.pt', tensor(), STORAGE)
  content = bytearray(path.read_bytes())
  at = content.rfind(b'PK\x01\x02')  # the directory's entry of the storage
  content[at + 20:at + 28] = struct.pack('<II', 2 ** 31, 2 ** 31)
  path.write_bytes(content)
  refused(path, 'larger than itself')


def test_two_members_of_one_name(tmp_path):
  path = archive(tmp_path / 'a.pt', tensor(), {})
  with zipfile.ZipFile(path, 'a') as file, pytest.warns(UserWarning):
    file.writestr('x/data/0', b'')
    file.writestr('x/data/0', STORAGE['x/data/0'])
  refused(path, 'two members')


@pytest.mark.parametrize('content, word', [
    (pickle.dumps([1], 2), 'another kind of pickle'),
    (chain(tensor(), pickle.dumps(['1'], 2)), 'nothing needs'),
    (chain(tensor(), pickle.dumps(['0'], 2)), 'cut'),
    (chain(tensor(), pickle.dumps(['0'], 2), struct.pack('<q', 5)), 'is cut'),
    (chain(tensor(), pickle.dumps(['0'], 2), struct.pack('<q', 4), bytes(15)),
     'is cut'),
    (chain(tensor()), 'cut or damaged'),
    (b'a page of a site that wants a login', 'begins as none does')])
def test_chains_that_are_cut(content, word, tmp_path):
  (tmp_path / 'a.pt').write_bytes(content)
  refused(tmp_path / 'a.pt', word)


@pytest.mark.parametrize('name', [f'dc/{DC}', f'old/{DC}'])
def test_every_cut_and_flip_is_refused_or_read(name, tmp_path):
  whole = (FILES / name).read_bytes()
  path, rng = tmp_path / 'a.pt', np.random.default_rng(0)
  for end in range(0, len(whole) - 1, 97):
    path.write_bytes(whole[:end])
    refused(path)
  for _ in range(100):
    content = bytearray(whole)
    for at in rng.integers(len(whole), size=3):
      content[at] = rng.integers(256)
    path.write_bytes(content)
    try:
      torch_file.read(path)
    except UserError as error:
      assert '\n' not in str(error)


def test_a_file_that_is_not_there(tmp_path):
  refused(tmp_path / 'none.pt', 'No such file')
