"""Every published layout is recognised, and gives the arrays it holds."""

import json
import pathlib
import shutil
import struct
import sys

import numpy as np
import pyarrow
import pytest
import refusals
from image_sets import write
from pyarrow import parquet

from dasm_jax.foreign import files, layouts

FILES = pathlib.Path(__file__).parent / 'files'
with np.load(FILES / 'expected.npz') as file:
  EXPECTED = dict(file)
DC = 'dc/res_DSA_digits_ConvNet_1ipc.pt'
RANDOM = 'distilled_results/random/CIFAR10/IPC1'


def refused(path, *words, number=0):
  refusals.refused(lambda: layouts.find(path, number), *words)


@pytest.mark.parametrize('path, layout, want', [
    (DC, 'DC, DSA, DM', 'dc2'), ('dc', 'DC, DSA, DM', 'dc2'),
    ('old', 'DC, DSA, DM', 'dc2'),
    ('idc/digits_factor2_mix_ipc1', 'IDC', 'idc'),
    ('idc/digits_factor2_mix_ipc1/data.pt', 'IDC', 'idc'),
    ('mtt/digits', 'MTT, FTD, TESLA', 'mtt'),
    ('mtt/digits/images_best.pt', 'MTT, FTD, TESLA', 'mtt'),
    ('mtt/digits/labels_best.pt', 'MTT, FTD, TESLA', 'mtt'),
    ('mtt/parts', 'MTT, FTD, TESLA', 'mtt'),
    ('mtt/parts/images_best_1.pt', 'MTT, FTD, TESLA', 'mtt'),
    ('datm', 'DATM', 'datm'), ('datm/lr_best.pt', '', None),
    ('ncfm/digits', 'NCFM', 'ncfm'),
    ('ncfm/digits/distilled_data/data_20000.pt', 'NCFM', 'ncfm'),
    (RANDOM, 'DC-BENCH', 'dcb'),
    (f'{RANDOM}/CIFAR10_IPC1_normalize_images.pt', 'DC-BENCH', 'dcb'),
    ('step000000.npz', 'FRePo', None),
    ('kip_digits_ConvNet3_ssize10_nol_noaug_ckpt1000.npz', 'KIP', None),
    ('dd_ranking.pt', 'DD-Ranking', 'ranking')])
def test_layouts(path, layout, want):
  if not layout:
    return refused(FILES / path, 'no file of images')
  found = layouts.find(FILES / path)
  assert found.layout == layout
  if want:
    np.testing.assert_array_equal(found.images, EXPECTED[f'{want}/images'])
    np.testing.assert_array_equal(found.labels, EXPECTED[f'{want}/labels'])
  assert found.digest() == layouts.find(FILES / path).digest()


def test_one_of_several_experiments():
  first = layouts.find(FILES / DC, 1)
  np.testing.assert_array_equal(first.images, EXPECTED['dc1/images'])
  assert layouts.find(FILES / DC, 2).digest() == layouts.find(
      FILES / DC).digest() != first.digest()
  assert first.notes[0].startswith('sets      2 in the file, this is #1')
  refused(FILES / DC, '#3', '#1 to #2', number=3)
  refused(FILES / 'datm', 'holds one set', number=2)


def test_what_layouts_imply():
  def implied(path):
    found = layouts.find(FILES / path)
    return (found.space, found.cells, found.whitens, found.label_kind,
            found.lr, found.method)
  assert implied(DC) == ('normalised', False, False, 'hard', None, 'dc')
  assert implied('idc/digits_factor2_mix_ipc1') == (
      'pixels', True, False, 'hard', None, 'idc')
  assert implied('mtt/digits') == ('', False, True, 'hard', None, 'mtt')
  assert implied('datm') == ('', False, True, 'logits', .03125, 'datm')
  assert implied(RANDOM) == ('normalised', False, False, 'hard', None, '')
  assert implied('step000000.npz')[2:4] == (True, '')
  assert implied('dd_ranking.pt')[2:5] == (True, '', .02)


def test_phases_are_one_set():
  want = np.concatenate([EXPECTED[f'phase{k}/images'] for k in (0, 1)])
  for path in ('idc/digits_factor1_ipc1_5_phase0',
               'idc/digits_factor1_ipc1_5_phase1'):
    found = layouts.find(FILES / path)
    np.testing.assert_array_equal(found.images, want)
    # Each part counts from 0.
    np.testing.assert_array_equal(found.labels, np.arange(10))
    assert found.layout == 'IDC in phases'


def test_kip_and_frepo_have_channels_last():
  for path in ('step000000.npz',
               'kip_digits_ConvNet3_ssize10_nol_noaug_ckpt1000.npz'):
    np.testing.assert_array_equal(
        layouts.find(FILES / path).images, EXPECTED['jax/images'])
  kip = layouts.find(FILES / 'kip_digits_ConvNet3_ssize10_nol_noaug_ckpt1000'
                     '.npz')
  np.testing.assert_array_equal(kip.labels, np.arange(10))


def test_whitened_kip_and_copies_for_viewing_are_refused(tmp_path):
  shutil.copy(FILES / 'kip_digits_ConvNet3_ssize10_nol_noaug_ckpt1000.npz',
              tmp_path / 'kip_cifar10_ConvNet_ssize10_zca_nol.npz')
  refused(tmp_path, 'KIP', 'length 1')
  shutil.copy(FILES / 'alone.pt', tmp_path / 'images_zca_5000.pt')
  refused(tmp_path / 'images_zca_5000.pt', "give 'images_5000.pt'")


def test_a_folder_of_several_sets(tmp_path):
  for name in ('images_100.pt', 'labels_100.pt', 'images_200.pt'):
    shutil.copy(FILES / 'mtt/digits' / f'{name[:6]}_best.pt', tmp_path / name)
  refused(tmp_path, 'several sets', 'images_100.pt, images_200.pt')
  assert layouts.find(tmp_path / 'images_100.pt').labels.shape == (10,)
  assert layouts.find(tmp_path / 'images_200.pt').labels is None


def test_parts_that_lack_labels(tmp_path):
  shutil.copytree(FILES / 'mtt/parts', tmp_path / 'parts')
  (tmp_path / 'parts/labels_best_1.pt').unlink()
  refused(tmp_path / 'parts', 'lacks labels')


# ---- Folders of images


def class_folders(root, names, size=8):
  for k, name in enumerate(names):
    for i in range(2):
      write(root / name / f'class{k:03d}_id{i:03d}.png', mode='RGB',
            shape=(size, size), value=20 * k + i)
  return root


@pytest.mark.parametrize('names, layout, classes', [
    (('new000', 'new001', 'new002'), 'SRe2L class folders', ()),
    (('00000', '00001', '00002'), 'class folders of images', ()),
    (('ant', 'bee', 'cat'), 'class folders of images', ('ant', 'bee', 'cat'))])
def test_class_folders(names, layout, classes, tmp_path):
  found = layouts.find(class_folders(tmp_path, names))
  assert (found.layout, found.space, found.classes) == (layout, '255', classes)
  assert found.images.dtype == np.uint8 and found.images.shape == (6, 8, 8, 3)
  assert found.images[:, 0, 0, 0].tolist() == [0, 1, 20, 21, 40, 41]
  assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_class_folders_by_their_numbers_and_images_by_theirs(tmp_path):
  for k in (2, 10, 0):
    for i in (10, 9):
      write(tmp_path / f'new{k:03d}' / f'id{i}.png', value=10 * k + i)
  write(tmp_path / '.trash' / 'a.png')
  (tmp_path / 'new001').mkdir()
  found = layouts.find(tmp_path)
  assert found.labels.tolist() == [0, 0, 2, 2, 10, 10]
  assert found.images[:, 0, 0, 0].tolist() == [9, 10, 29, 30, 109, 110]


def test_images_of_another_size_or_broken(tmp_path):
  class_folders(tmp_path, ('a', 'b'))
  write(tmp_path / 'b' / 'z.png', shape=(9, 9))
  refused(tmp_path, 'z.png is (9, 9, 3)', 'one size')
  (tmp_path / 'b' / 'z.png').write_bytes(b'\x89PNG\r\n')
  refused(tmp_path, 'z.png', 'no image that can be read')


def test_no_more_than_fits(tmp_path, monkeypatch):
  monkeypatch.setattr(files, 'MOST_PIXELS', 700)
  refused(class_folders(tmp_path, ('a', 'b')), '4 images', '700')


# ---- Arrays


def safetensors(path, arrays, **changes):
  header, at = {'__metadata__': {'format': 'pt'}}, 0
  for name, (dtype, array) in arrays.items():
    header[name] = {'dtype': dtype, 'shape': list(array.shape),
                    'data_offsets': [at, at + array.nbytes]} | changes
    at += array.nbytes
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + b''.join(
      array.tobytes() for _, array in arrays.values()))
  return path


X = np.random.default_rng(0).uniform(size=(4, 3, 5, 6)).astype(np.float32)


def test_safetensors(tmp_path):
  path = safetensors(tmp_path / 'a.safetensors', {
      'images': ('F32', X), 'labels': ('I64', np.array([0, 0, 1, 1]))})
  found = layouts.find(path)
  np.testing.assert_array_equal(found.images, X.transpose(0, 2, 3, 1))
  assert found.labels.tolist() == [0, 0, 1, 1]
  # The upper half of a float32 is a bfloat16.
  short = (X.view(np.uint32) >> 16).astype(np.uint16)
  path = safetensors(tmp_path / 'b.safetensors', {
      'images': ('BF16', short), 'labels': ('I64', np.array([0, 0, 1, 1]))})
  np.testing.assert_allclose(layouts.find(path).images,
                             X.transpose(0, 2, 3, 1), rtol=1e-2)


@pytest.mark.parametrize('changes', [
    {'shape': [2 ** 40]}, {'data_offsets': [0, 10 ** 9]}, {'dtype': 'PICKLE'},
    {'data_offsets': [-8, 0]}, {'shape': 'x'}])
def test_safetensors_that_cannot_be(changes, tmp_path):
  path = safetensors(tmp_path / 'a.safetensors', {'images': ('F32', X)},
                     **changes)
  refused(path, 'not a safetensors file')
  path.write_bytes(b'\xff' * 64)
  refused(path, 'not a safetensors file')


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_any_npz_with_channels_first_or_last(order, tmp_path):
  np.savez(tmp_path / 'a.npz', x=X.transpose(order), y=[[0], [0], [1], [1]])
  found = layouts.find(tmp_path)
  np.testing.assert_array_equal(found.images, X.transpose(0, 2, 3, 1))
  assert found.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize('arrays, words', [
    (dict(a=X), ('a dict of a', 'known are')),
    (dict(images=X[0, 0]), ('known are',)),
    (dict(images=X.transpose(0, 3, 2, 1)[:, :, :, :2], labels=[0]),
     ('one channel or three',)),
    (dict(images=X, labels=[0, 1]), ('4 images and 2 labels',)),
    (dict(images=X, labels=[.5] * 4), ('no class numbers',)),
    (dict(images=X, labels=[-1, 0, 0, 0]), ('no class numbers',)),
    (dict(images=X * np.nan, labels=[0] * 4), ('not finite',)),
    (dict(images=X[:0], labels=[]), ('shape (0, 5, 6, 3)',)),
    (dict(images=X.astype('U8'), labels=[0] * 4), ('of type <U8',)),
    (dict(images=X, labels=[0] * 4, lr=-1.), ('the rate',))])
def test_arrays_that_are_no_set(arrays, words, tmp_path):
  np.savez(tmp_path / 'a.npz', **arrays)
  refused(tmp_path / 'a.npz', *words)


def table(path, **columns):
  names = {'info': {'features': {'label': {'names': ['cat', 'dog']}}}}
  rows = pyarrow.table(columns)
  parquet.write_table(rows.replace_schema_metadata(
      {'huggingface': json.dumps(names)}), path)
  return path


def test_hugging_face_parquet(tmp_path):
  encoded = []
  for k in range(4):
    write(tmp_path / f'{k}.png', value=50 * k)
    encoded.append({'bytes': (tmp_path / f'{k}.png').read_bytes(),
                    'path': None})
  folder = tmp_path / 'set' / 'data'
  folder.mkdir(parents=True)
  table(folder / 'train-00000-of-00002.parquet', image=encoded[:2],
        label=[1, 0])
  table(folder / 'train-00001-of-00002.parquet', image=encoded[2:],
        label=[0, 1])
  table(folder / 'test-00000-of-00001.parquet', image=encoded, label=[0] * 4)
  found = layouts.find(tmp_path / 'set')
  assert found.images[:, 0, 0, 0].tolist() == [0, 50, 100, 150]
  assert found.labels.tolist() == [1, 0, 0, 1]
  assert found.classes == ('cat', 'dog')
  refused(table(tmp_path / 'a.parquet', text=['a'], label=[1]),
          'columns text, label')
  refused(table(tmp_path / 'a.parquet', image=['a'], label=[1]), 'image')
  (tmp_path / 'a.parquet').write_bytes(b'PAR1')
  refused(tmp_path / 'a.parquet', 'not a parquet file')


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
  (tmp_path / 'a.parquet').touch()
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  refused(tmp_path / 'a.parquet', 'pip install pyarrow')


# ---- What is none


def test_what_is_no_set_says_what_is(tmp_path):
  refused(tmp_path, 'holds no synthetic.npz', 'MTT/FTD/TESLA')
  refused(tmp_path / 'none.pt', 'does not exist', 'DC/DSA/DM')
  refused(FILES / 'weights.pt', 'a dict of weight, bias', 'known are')
  refused(FILES / 'module.pt', 'torch.nn.modules.linear.Linear')
  refused(FILES / 'datm/lr_best.pt', 'a tensor of shape ()')
  (tmp_path / 'set.txt').touch()
  refused(tmp_path / 'set.txt', "a file of the kind '.txt'")
