"""A set in every format, and back: the same bits where it can hold them."""

import gc
import json
import pathlib
import pickletools
import re
import subprocess
import sys
import types
import warnings
import zipfile

import exported
import numpy as np
import pytest
import toy
from PIL import Image

import dasm_jax
from dasm_jax import data, foreign, synthetic
from dasm_jax.convert import __main__ as command
from dasm_jax.convert import formats, snippets
from dasm_jax.errors import UserError
from dasm_jax.evaluate import __main__ as evaluate
from dasm_jax.evaluate import saved_set, subjects
from dasm_jax.evaluate.exported import folders, picture_files, table

ARRAYS = [name for name, row in table.FORMATS.items() if not row.pictures]
PICTURES = [name for name, row in table.FORMATS.items() if row.pictures]


def parsed_safetensors(path):
  """The arrays of a file by the format's description: header, then bytes."""
  raw = pathlib.Path(path).read_bytes()
  size = int.from_bytes(raw[:8], 'little')
  header = json.loads(raw[8:8 + size])
  assert size % 8 == 0 and all(isinstance(v, str) for v in header.pop(
      '__metadata__').values())
  kinds = {'F32': '<f4', 'F16': '<f2', 'I64': '<i8'}
  out, end = {}, 0
  for name, row in header.items():
    begin, stop = row['data_offsets']
    assert begin == end  # no holes, as the format wants
    end = stop
    out[name] = np.frombuffer(
        raw[8 + size + begin:8 + size + stop], kinds[row['dtype']]).reshape(
            row['shape'])
  assert 8 + size + end == len(raw)
  return out


def parquet_rows(path):
  """As `datasets.load_dataset` gives them: images of Pillow, numbers."""
  import io

  import pyarrow.parquet
  (file,) = pathlib.Path(path, 'data').glob('*.parquet')
  table = pyarrow.parquet.read_table(file)
  told = json.loads(table.schema.metadata[b'huggingface'])['info']['features']
  assert told['image'] == {'_type': 'Image'}
  assert told['label']['names'] == list(exported.NAMES)
  rows = table.to_pydict()
  rows['image'] = [Image.open(io.BytesIO(row['bytes']))
                   for row in rows['image']]
  return {'train': rows}


@pytest.fixture
def others(monkeypatch):
  """Stands for the packages that code on pages may import."""
  for name, entries in {
      'safetensors': {}, 'safetensors.numpy': {'load_file': parsed_safetensors},
      'datasets': {'load_dataset': parquet_rows}}.items():
    module = types.ModuleType(name)
    vars(module).update(entries)
    monkeypatch.setitem(sys.modules, name, module)


def code_of(folder, heading):
  """The code below a heading of a page."""
  page = (folder / 'README.md').read_text()
  return re.search(rf'## In {heading}\n\n```python\n(.*?)```', page, re.S)[1]


def run_code(folder, monkeypatch):
  """The names that the JAX code of a page leaves."""
  monkeypatch.chdir(folder)
  names = {}
  code = code_of(folder, 'JAX')
  assert 'dasm_jax' not in code
  with warnings.catch_warnings():
    # Scripts that are that short leave files open.
    warnings.simplefilter('ignore', ResourceWarning)
    exec(compile(code, 'README.md', 'exec'), names)  # noqa: S102
    for name in ('d', 'file', 'files'):
      names.pop(name, None)
    gc.collect()
  return names


# Every kind in one format, each format with some: kinds and formats are apart.
@pytest.mark.parametrize('to, kind', [
    *(('pt', kind) for kind in exported.KINDS), *(
        (to, kind) for to in ARRAYS for kind in ('packed', 'told')
        if to != 'pt')])
def test_arrays_come_back_bit_for_bit(to, kind, tmp_path, monkeypatch, others):
  source = exported.source(kind)
  formats.convert(source, to, tmp_path / 'out')
  again = formats.open_source(tmp_path / 'out')
  assert again.digest == source.digest and again.card == source.card
  for name, array in source.arrays.items():
    np.testing.assert_array_equal(again.arrays[name], array)
    assert again.arrays[name].dtype == array.dtype
  # And what the page says leaves what networks are trained on.
  names = run_code(tmp_path / 'out', monkeypatch)
  batch, order = source.set.batch, exported.order_of_code(kind)
  np.testing.assert_allclose(names['x'], batch.images[np.array(order)],
                             atol=2e-5)
  labels = np.asarray(names['y'])
  if labels.ndim == 1:
    labels = np.eye(3)[labels]
  np.testing.assert_allclose(labels, batch.labels[np.array(order)], atol=1e-6)
  real = np.random.default_rng(1).integers(
      0, 256, (4, *source.set.shape)).astype(np.uint8)
  np.testing.assert_allclose(names['see'](real / np.float32(255)),
                             source.set.real(real), atol=2e-5)


@pytest.mark.parametrize('to, kind', [
    *(('folder', kind) for kind in exported.KINDS if kind != 'told'),
    ('hf', 'packed'), ('hf', 'multi'), ('tfds', 'packed'), ('tfds', 'multi')])
def test_pictures_come_back_rounded(to, kind, tmp_path, monkeypatch, others):
  source = exported.source(kind)
  (_, note) = formats.convert(source, to, tmp_path / 'out')
  again = formats.open_source(tmp_path / 'out').set
  codec = synthetic.training_codec(source.set.codec)
  want = np.stack([
      synthetic.unclipped_pixels(codec, synthetic.decode(codec, images))
      for images in source.set.syn.images])
  got = again.syn.images
  assert again.codec.space == 'pixels' and again.codec.factor == 1
  np.testing.assert_array_equal(got, np.rint(want.clip(0, 1) * 255)
                                .astype(np.float32) / 255)
  # The note tells of the largest difference.
  told = float(re.search(r'up to (0\.\d+) on', note)[1])
  assert told == pytest.approx(np.abs(got - want).max(), abs=6e-5)
  batch = source.set.batch
  np.testing.assert_allclose(again.batch.labels, batch.labels, atol=1e-3)
  # The page leaves what that set leaves.
  names = run_code(tmp_path / 'out', monkeypatch)
  np.testing.assert_allclose(names['x'], again.batch.images, atol=3e-5)
  assert 'accuracy' not in again.card and again.card['accuracy_before']


def test_pixels_beyond_their_range_are_told_of(tmp_path):
  source = exported.source('plain')
  arrays = source.arrays | {'images': source.arrays['images'] * 1.5}
  source = folders.from_arrays(arrays, source.card, 'a test', '')
  _, note = formats.convert(source, 'folder', tmp_path / 'out')
  far = arrays['images'].max() - 1
  assert f'up to {far:.4f} on [0, 1]; 3' in note and 'beyond it' in note


def test_what_pictures_cannot_hold_is_refused_with_the_way_out(tmp_path):
  for to in PICTURES:
    with pytest.raises(UserError, match='each epoch.* take --to=npz') as caught:
      formats.convert(exported.source('told'), to, tmp_path / 'out')
    assert '\n' not in str(caught.value)
  assert not [*tmp_path.iterdir()]


# ---- What others read


def test_folders_are_what_torchvision_documents(tmp_path):
  """root/class/file, classes numbered by their sorted folder names."""
  formats.convert(exported.source('packed'), 'folder', tmp_path / 'out')
  root = tmp_path / 'out' / 'train'
  classes = sorted(path.name for path in root.iterdir() if path.is_dir())
  assert [path.name for path in root.iterdir() if not path.is_dir()] == []
  card = json.loads((tmp_path / 'out' / 'card.json').read_text())
  assert sorted(card['export']['folders']) == classes == sorted(
      ['crane_0', 'a_b_ _ä_', 'Crane_2'])
  for folder in root.iterdir():
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f'{number}.png' for number in range(8)]
    with Image.open(folder / names[0]) as image:
      assert (image.size, image.mode) == ((5, 7), 'RGB')
  # This package distils it, too.
  assert data.load(f'folder:{root}').train.shape == (7, 5, 3)
  assert 'number the classes otherwise' in (
      tmp_path / 'out' / 'README.md').read_text()


@pytest.mark.parametrize('names, folders', [
    (('..', ' ', 'con.'), ['class_0', 'class_1', 'con']),
    (('ü' * 300, 'x\n', 'x_'), ['ü' * 100, 'x__1', 'x__2'])])
def test_names_of_classes_that_no_folder_can_have(names, folders):
  assert picture_files.folder_names(names) == folders


def test_tfds_sets_are_read_by_their_directory(tmp_path):
  source = exported.source('packed')
  formats.convert(source, 'tfds', tmp_path / 'out')
  found = data.load(str(tmp_path / 'out'), holdout=.25)
  assert len(found.train.labels) + len(found.test.labels) == 24
  assert found.class_names == exported.NAMES
  # The labels that reading keeps beside the set do not make it another.
  assert folders.check_out(tmp_path / 'out', source, 'tfds')


def test_tensors_name_nothing_that_weights_only_refuses(tmp_path):
  source = exported.source('told')
  formats.convert(source, 'pt', tmp_path / 'out')
  with zipfile.ZipFile(tmp_path / 'out' / 'set.pt') as file:
    assert all(x.compress_type == zipfile.ZIP_STORED for x in file.infolist())
    assert file.read('set/version') == b'3\n'
    assert file.read('set/byteorder') == b'little'
    ops = [*pickletools.genops(file.read('set/data.pkl'))]
    assert {arg for op, arg, _ in ops if op.name == 'GLOBAL'} == {
        'torch._utils _rebuild_tensor_v2', 'collections OrderedDict',
        'torch FloatStorage', 'torch LongStorage', 'torch HalfStorage'}
    # The opcodes that PyTorch 2.13 knows there.
    assert {op.name for op, _, _ in ops} <= {
        'PROTO', 'EMPTY_DICT', 'MARK', 'BINUNICODE', 'GLOBAL', 'LONG1',
        'BINPERSID', 'NEWFALSE', 'EMPTY_TUPLE', 'TUPLE', 'REDUCE', 'EMPTY_LIST',
        'APPENDS', 'SETITEMS', 'STOP'}
    images = np.frombuffer(file.read('set/data/0'), '<f4').reshape(6, 1, 7, 5)
  np.testing.assert_array_equal(
      images, source.arrays['images'].reshape(6, 1, 7, 5))


def test_pages_tell_of_the_set(tmp_path):
  for to in table.FORMATS:
    kind = 'normalised' if to in PICTURES else 'told'
    formats.convert(exported.source(kind), to, tmp_path / to)
    page = (tmp_path / to / 'README.md').read_text()
    for word in ('# cranes, idc, 2 images a class', '75.00%', '9 test images',
                 'weight decay 0.0005', '0.2 after epochs 20 and 25'):
      assert word in page, (to, word)
    compile(code_of(tmp_path / to, 'PyTorch'), 'README.md', 'exec')
    with Image.open(tmp_path / to / 'images.png') as image:
      assert image.size[0] > 10
    assert ('`told`' in page) == (kind == 'told')
    # It begins with what the Hub reads, of such a set alone.
    assert page.startswith('---\n') == (to == 'hf')


def test_the_head_of_a_hub_page(tmp_path):
  yaml = pytest.importorskip('yaml')
  formats.convert(exported.source('multi'), 'hf', tmp_path / 'out')
  head = yaml.safe_load((tmp_path / 'out' / 'README.md').read_text()
                        .split('---\n')[1])
  label = head['dataset_info']['features'][1]['dtype']['class_label']['names']
  assert label == {str(k): name for k, name in enumerate(exported.NAMES)}
  (files,) = head['configs'][0]['data_files']
  assert [*(tmp_path / 'out').glob(files['path'])]


@pytest.mark.parametrize('to', table.FORMATS)
@pytest.mark.parametrize('library', snippets.LIBRARIES)
def test_code_is_short(library, to):
  for kind in exported.KINDS:
    lines = snippets.code(library, to, exported.source(kind)).split('\n')
    # Ten, and imports, and what cuts images out.
    assert len(lines) <= 26 and max(map(len, lines)) <= 80, lines


# ---- Opening, and refusing


@pytest.fixture
def saved(tmp_path):
  """A workdir of a set."""
  source = exported.source('packed')
  (tmp_path / 'run').mkdir()
  saved_set.write(tmp_path / 'run' / 'synthetic.npz', source.arrays,
                  source.card)
  return tmp_path / 'run'


def test_the_command(saved, tmp_path, capsys):
  out = tmp_path / 'new' / 'out'
  line = [f'--set={saved}', '--to=npz', f'--out={out}']
  assert command.main(line) == 0
  said = capsys.readouterr().out
  assert 'idc on folder:/nowhere/cranes: 2 images' in said and str(out) in said
  assert sorted(path.name for path in out.iterdir()) == [
      'README.md', 'card.json', 'images.png', 'set.npz']
  assert [path.name for path in out.parent.iterdir()] == ['out']
  # Again it is left as it is, from whatever file of it.
  before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
  assert command.main(line) == 0
  assert 'holds this set already' in capsys.readouterr().out
  for name in ('set.npz', 'card.json', 'README.md'):
    assert command.main([f'--set={out / name}', *line[1:]]) == 0
  assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}


@pytest.mark.parametrize('what, words', {
    'another format': 'another set or format (--to=npz)',
    'a file': 'exists and is no export',
    'a folder': 'exists and is no export',
    'damage': 'damaged or changed',
    'a bucket': 'in a bucket',
    'a card that is none': 'cannot read'}.items())
def test_nothing_is_overwritten(what, words, saved, tmp_path, capsys):
  out, to = tmp_path / 'out', 'npz'
  if what == 'a file':
    out.write_text('mine')
  elif what == 'a bucket':
    out = 'gs://bucket/out'
  elif what in ('a folder', 'a card that is none'):
    out.mkdir()
    (out / ('notes.txt' if what == 'a folder' else 'card.json')).write_text('x')
  else:
    assert command.main([f'--set={saved}', '--to=npz', f'--out={out}']) == 0
    to = 'safetensors' if what == 'another format' else 'npz'
    if what == 'damage':
      (out / 'set.npz').write_bytes((out / 'set.npz').read_bytes()[:-9])
  before = {path: path.read_bytes() for path in tmp_path.rglob('*')
            if path.is_file()}
  assert command.main([f'--set={saved}', f'--to={to}', f'--out={out}']) == 2
  said = capsys.readouterr().err
  assert words in said and said.count('\n') == 1
  assert before == {path: path.read_bytes() for path in tmp_path.rglob('*')
                    if path.is_file()}


def test_an_empty_folder_is_taken(saved, tmp_path):
  (tmp_path / 'out').mkdir()
  formats.convert(exported.source('plain'), 'pt', tmp_path / 'out')
  assert (tmp_path / 'out' / 'set.pt').is_file()


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(folders, 'write_card', full)
  with pytest.raises(UserError, match='No space left.*where there is room'):
    formats.convert(exported.source('plain'), 'folder', tmp_path / 'out')
  assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_that_looks_whole(saved, tmp_path):
  code = (
      'import time; from dasm_jax.convert import __main__; '
      'from dasm_jax.evaluate.exported import folders; '
      'folders.write_card = lambda *_: (print("now", flush=True), '
      f'time.sleep(60)); __main__.main(["--set={saved}", "--to=npz", '
      f'"--out={tmp_path / "out"}"])')
  with subprocess.Popen([sys.executable, '-c', code], cwd=toy.ROOT, text=True,
                        env=toy.environment(), stdout=subprocess.PIPE) as run:
    while 'now' not in run.stdout.readline():
      assert run.poll() is None
    run.kill()
  assert not (tmp_path / 'out').exists()
  for path in tmp_path.iterdir():
    if path != saved:
      assert folders.find(path) is None
  formats.convert(formats.open_source(saved), 'npz', tmp_path / 'out')


@pytest.mark.parametrize('to, inside', [
    ('folder', 'train'), ('folder', 'train/crane_0'),
    ('folder', 'train/crane_0/0.png'), ('tfds', '1.0.0'),
    ('hf', f'data/{picture_files.PARQUET}'), ('hf', 'README.md')])
def test_whatever_is_of_an_export_is_read_by_its_card(to, inside, tmp_path):
  formats.convert(exported.source('packed'), to, tmp_path / 'out')
  path = tmp_path / 'out' / inside
  assert path.exists() and folders.find(path) == tmp_path / 'out'
  assert subjects.open_set(path).card['dataset'] == 'cranes'


def test_what_lies_beside_an_export_is_not_of_it(tmp_path):
  formats.convert(exported.source('plain'), 'npz', tmp_path / 'out')
  for name in ('other.npz', 'more/set.npz'):
    path = tmp_path / 'out' / name
    path.parent.mkdir(exist_ok=True)
    np.savez(path, x=1)
    assert folders.find(path) is None
  assert folders.find(tmp_path) is None
  (tmp_path / 'card.json').write_text('nothing of ours')
  assert folders.find(tmp_path / 'out' / 'more' / 'set.npz') is None
  assert folders.find(tmp_path / 'out') == tmp_path / 'out'


@pytest.mark.parametrize('out', ['/proc/set', '/dev/null/set'])
def test_places_that_cannot_be_written(out, saved, capsys):
  assert command.main([f'--set={saved}', '--to=npz', f'--out={out}']) == 2
  said = capsys.readouterr().err
  assert f'--out={out} cannot be written: ' in said and said.count('\n') == 1


def damaged(folder, how):
  """Changes an export."""
  card = json.loads((folder / 'card.json').read_text())
  told = card['export']
  if how == 'lost':
    next((folder / 'train').rglob('*.png')).unlink()
  elif how == 'outside':
    told['data'] = ['../run']
  elif how == 'folders':
    told['folders'][0] = '../../run'
  elif how == 'newer':
    told['format'] = 2
  elif how == 'format':
    told['to'] = 'zarr'
  elif how == 'shape':
    told['shape'] = [99999, 99999, 3]
  elif how == 'names':
    told['class_names'] = ['a', 'b']
  elif how == 'keys':
    del told['digest']
  (folder / 'card.json').write_text(json.dumps(card))


@pytest.mark.parametrize('how, words', {
    'lost': 'its data files are not those', 'outside': 'no name of a file',
    'folders': 'no name of a file', 'newer': 'of format 2', 'format': "'zarr'",
    'shape': 'in a set of', 'names': 'no usable', 'keys': "'digest'"}.items())
def test_exports_that_are_not_whole(how, words, tmp_path):
  formats.convert(exported.source('packed'), 'folder', tmp_path / 'out')
  damaged(tmp_path / 'out', how)
  with pytest.raises(UserError) as caught:
    formats.open_source(tmp_path / 'out')
  assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('to', ['safetensors', 'pt', 'npz'])
def test_files_that_lie(to, tmp_path):
  """Whoever makes a file makes its digest as well."""
  source = exported.source('plain')
  formats.convert(source, to, tmp_path / 'out')
  path = tmp_path / 'out' / f'set.{to}'
  raw = path.read_bytes()
  card = json.loads((tmp_path / 'out' / 'card.json').read_text())
  changes = {
      'cut': raw[:40], 'empty': b'', 'text': b'hello' * 99,
      'offsets': raw.replace(b'"data_offsets": [0, ', b'"data_offsets": [9, '),
      'huge': raw.replace(b'"shape": [6, 7', b'"shape": [6, 7' + b'0' * 6)}
  if to == 'safetensors':
    changes['header'] = (2 ** 60).to_bytes(8, 'little') + raw[8:]
  for name, content in changes.items():
    if content == raw:
      continue
    path.write_bytes(content)
    card['export']['digest'] = folders._digest_of(
        tmp_path / 'out', [path.name])
    (tmp_path / 'out' / 'card.json').write_text(json.dumps(card))
    with pytest.raises(UserError, match='no usable') as caught:
      formats.open_source(tmp_path / 'out')
    assert '\n' not in str(caught.value), name


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(UserError, match=r"pip install 'dasm-jax\[export\]'"):
    formats.convert(exported.source('plain'), 'hf', tmp_path / 'out')
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(UserError, match='pip install tensorflow-datasets'):
    formats.convert(exported.source('plain'), 'tfds', tmp_path / 'out')
  assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize('line, words', [
    ([], 'required'), (['--set=x', '--to=zarr', '--out=y'], 'choose from'),
    (['--set=/nowhere/x', '--to=npz', '--out=/nowhere/y'], '/nowhere/x')])
def test_wrong_commands(line, words, capsys):
  assert command.main(line) == 2
  said = capsys.readouterr().err
  assert words in said and said.count('\n') == 1


def test_flags_of_others_are_not_for_ours(saved, tmp_path, capsys):
  formats.convert(formats.open_source(saved), 'pt', tmp_path / 'pt')
  for path in (saved, tmp_path / 'pt'):
    assert command.main([f'--set={path}', '--to=npz', '--factor=2',
                         f'--out={tmp_path / "out"}']) == 2
    assert '--factor=2 is not for' in capsys.readouterr().err


@pytest.mark.parametrize('to', table.FORMATS)
def test_an_export_is_evaluated_by_its_card(to, tmp_path, capsys):
  """Nothing of it is guessed, as of the sets of others."""
  images = np.random.default_rng(0).uniform(size=(10, 1, 8, 8, 1))
  dasm_jax.save(tmp_path / 'mine.npz', images, dataset='digits', factor=2,
                recipe={'recipe': 'dc', 'epochs': 7}, card={'method': 'mine'})
  out = tmp_path / 'out'
  formats.convert(formats.open_source(tmp_path / 'mine.npz'), to, out)
  measure = lambda *given: given[-1](np.zeros(1))  # noqa: E731
  for path in out, out / 'card.json':
    assert evaluate.main([f'--set={path}', '--networks=1'], measure) == 0
    said = capsys.readouterr().out
    assert 'mine on digits' in said and '7 epochs of recipe dc' in said
    assert 'space  ' not in said
  rows = json.loads((out / 'evaluation.json').read_text())['rows']
  assert [row['set'] for row in rows] == ['mine', 'random']
  # What is kept beside the set leaves it whole.
  again = subjects.open_set(out)
  count = 4 if table.FORMATS[to].pictures else 1
  assert again.ipc == count and len(again.batch.images) == 40
  assert evaluate.main([f'--set={out}', '--factor=2']) == 2
  assert '--factor=2 is not for a set of dasm_jax' in capsys.readouterr().err


FILES = pathlib.Path(__file__).parents[1] / 'foreign' / 'files'


@pytest.mark.parametrize('name, flags', [
    ('idc/digits_factor2_mix_ipc1/data.pt', {}), ('datm', {'zca': 0.}),
    ('mtt/digits_zca', {})])
def test_a_set_that_others_published(name, flags, tmp_path, capsys):
  told = foreign.Told(**flags)
  found = subjects.open_set(str(FILES / name), told)
  line = [f'--{key}={value}' for key, value in flags.items()]
  for to, path in (('pt', FILES / name), ('card', tmp_path / 'pt')):
    assert command.main([f'--set={path}', f'--to={to}',
                         f'--out={tmp_path / to}', *line]) == 0
    said = capsys.readouterr().out
    # What was guessed is said once, and on the page.
    assert (found.card['source']['notes'][0] in said) == (to == 'pt')
    line = []
  page = (tmp_path / 'pt' / 'README.md').read_text()
  assert '\n'.join(found.card['source']['notes']) in page
  again = saved_set.load(tmp_path / 'card')
  np.testing.assert_array_equal(again.syn.images, found.syn.images)
  np.testing.assert_allclose(again.syn.labels, found.syn.labels, atol=1e-3)
  np.testing.assert_allclose(again.batch.images, found.batch.images, atol=1e-4)
  assert again.recipe == found.recipe and again.data['name'] == 'digits'


def test_a_set_of_others_becomes_ours(tmp_path):
  """What `foreign.load` returns has a card of its own."""
  found = exported.source('multi').set
  given = found._replace(card={'method': 'mtt', 'storage': {'zca': 0.0}})
  source = folders.from_set(given)
  formats.convert(source, 'card', tmp_path / 'out')
  again = saved_set.load(tmp_path / 'out')
  np.testing.assert_array_equal(again.syn.images, found.syn.images)
  np.testing.assert_allclose(again.syn.labels, found.syn.labels, atol=1e-3)
  assert again.recipe == found.recipe and again.codec == found.codec
  assert again.card['method'] == 'mtt' and again.network == found.network
