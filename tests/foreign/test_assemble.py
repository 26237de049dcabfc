"""Published files become sets that train as their programs train them."""

import argparse
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pyarrow
import pytest
from image_sets import small_folder, write
from pyarrow import parquet
from refusals import refused

from dasm_jax import data, foreign, models
from dasm_jax.data.registry import DATASETS
from dasm_jax.diagnose import __main__ as diagnose
from dasm_jax.evaluate import __main__ as evaluate
from dasm_jax.evaluate import flags, saved_set, subjects
from dasm_jax.foreign import Told, assemble, guess, layouts
from dasm_jax.foreign.layouts import Found

FILES = pathlib.Path(__file__).parent / 'files'
with np.load(FILES / 'expected.npz') as file:
  EXPECTED = dict(file)
DC = FILES / 'dc/res_DSA_digits_ConvNet_1ipc.pt'
MTT = FILES / 'mtt/digits'


@pytest.fixture(scope='module')
def digits():
  return data.load('digits')


def load(path, data_dir=None, **told):
  return foreign.load(path, Told(**told), data_dir)


PAGE = (pathlib.Path(__file__).parents[2] / 'docs' / 'others.md').read_text()


def test_the_page_names_what_there_is():
  parser = argparse.ArgumentParser()
  flags.add_flags(parser)
  known = set(re.findall(r'--\w+', parser.format_help())) | {'--set', '--out'}
  named = set(re.findall(r'--\w+', PAGE))
  assert named <= known and {'--zca', '--labels', '--space'} <= named
  for value in re.findall(r'--recipe=(\w+)', PAGE):
    assert value in guess.RECIPES or value == 'NAME'
  lines = [line for line in PAGE.splitlines() if not line.startswith(
      ('|', 'space', 'sets', 'recipe'))]
  assert max(map(len, lines)) <= 90


# ---- Images and labels


def test_a_dc_file_is_trained_on_as_it_is(digits):
  set_ = load(DC)
  images, labels = map(np.asarray, set_.batch)
  # The last experiment's labels run down: class 0 comes last in the file.
  np.testing.assert_array_equal(images, EXPECTED['dc2/images'][::-1])
  np.testing.assert_array_equal(labels, np.eye(10))
  assert set_.codec.space == 'normalised' and set_.codec.zca is None
  np.testing.assert_allclose((set_.codec.mean, set_.codec.std),
                             (digits.mean, digits.std), rtol=1e-6)
  assert (set_.ipc, set_.shape, set_.recipe_name) == (1, (8, 8, 1), 'dc')
  assert set_.recipe.epochs == 1000 and set_.recipe.lr == .01
  assert set_.recipe.strategy and 'flip' not in set_.recipe.strategy
  assert set_.card['method'] == 'dsa' and set_.network['depth'] == 2
  first = load(f'{DC}#1')
  np.testing.assert_array_equal(first.batch.images, EXPECTED['dc1/images'])
  assert (first.card['source']['digest'] != set_.card['source']['digest']
          == load(FILES / 'old' / DC.name).card['source']['digest'])
  assert load(DC, recipe='dc').recipe.epochs == 300
  assert not load(DC, recipe='dc').recipe.strategy
  # Real images are normalised as the program did.
  real = digits.test.images[:3]
  np.testing.assert_allclose(set_.real(real), (
      real / 255 - digits.mean) / digits.std, rtol=1e-5)


def test_what_a_set_is_taken_for_is_said_and_part_of_its_digest():
  set_ = load(MTT, zca=0.)
  said = '\n'.join(set_.card['source']['notes'])
  for word in ('layout    MTT, FTD, TESLA', "digits, by 'digits' in the path",
               'not whitened, as told', 'by the statistics of digits',
               'that of mtt', 'as the rate that was learned is in no file'):
    assert word in said
  assert foreign.notes(set_) == tuple(set_.card['source']['notes'])
  other = load(MTT, space='pixels')
  assert set_.card['source']['digest'] != other.card['source']['digest']
  json.dumps(set_.card)


@pytest.mark.parametrize('recipe', guess.RECIPES)
def test_every_recipe_has_a_network_and_an_evaluation(recipe):
  set_ = load(MTT, zca=0., recipe=recipe)
  like = 'dc' if recipe in ('dm', 'dsa', 'mtt') else recipe
  assert set_.recipe_name == like and set_.recipe.epochs >= 100
  batch_norm = recipe.startswith(('sre2l', 'rded'))
  assert set_.network['norm'] == ('batch' if batch_norm else 'instance')
  models.build(shape=set_.shape, classes=10, **set_.network)


def test_idc_is_decoded_and_then_normalised(digits):
  set_ = load(FILES / 'idc/digits_factor2_mix_ipc1')
  assert (set_.codec.factor, set_.codec.space) == (2, 'pixels')
  images, labels = map(np.asarray, set_.batch)
  assert images.shape == (40, 8, 8, 1)
  # Cell 1 of the first image, whose corner pixels no interpolation moves.
  cell = EXPECTED['idc/images'][0, :4, 4:]
  normal = (cell - digits.mean) / digits.std
  np.testing.assert_allclose(images[1, ::7, ::7], normal[::3, ::3], rtol=1e-5)
  np.testing.assert_array_equal(labels.argmax(1), np.repeat(np.arange(10), 4))
  assert set_.recipe_name == 'idc'


def test_datm_trains_on_the_softmax_at_the_rate_it_learned():
  set_ = load(FILES / 'datm', dataset='digits', zca=0.)
  logits = np.float64(EXPECTED['datm/labels'])
  want = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  np.testing.assert_allclose(set_.batch.labels, want, atol=1e-3)
  assert set_.recipe.lr == .03125 and set_.real_lr == .01
  assert set_.syn.lr == np.float32(.03125)


def test_dd_ranking_and_frepo_labels():
  set_ = load(FILES / 'dd_ranking.pt', dataset='digits', zca=0.)
  np.testing.assert_allclose(set_.batch.labels, EXPECTED['ranking/labels'],
                             atol=1e-3)
  assert set_.recipe.lr == .02
  set_ = load(FILES / 'step000000.npz', dataset='digits')
  # 1.5 (one-hot - .1) and .1 is one-hot 1.45 / -.05, cut at 0.
  np.testing.assert_array_equal(set_.batch.labels, np.eye(10))


def test_labels_need_not_be_there():
  set_ = load(FILES / 'alone.pt', dataset='digits', zca=0.)
  np.testing.assert_array_equal(set_.batch.labels, np.eye(10))
  np.testing.assert_array_equal(set_.batch.images, EXPECTED['ranking/images'])


def test_labels_decide_of_which_class_an_image_is():
  rng = np.random.default_rng(0)
  labels = rng.permutation(np.repeat(np.arange(3), 4))
  images = np.arange(12, dtype=np.float32).reshape(12, 1, 1, 1)
  got, given = assemble.class_major(
      Found(images, labels, '', ()), labels, 'hard', 3, 'x')
  for c in range(3):
    assert got[c].ravel().tolist() == np.flatnonzero(labels == c).tolist()
    assert (given[c].argmax(-1) == c).all()
  labels[0] = (labels[0] + 1) % 3
  refused(lambda: assemble.class_major(
      Found(images, labels, 'IDC', ()), labels, 'hard', 3, 'x'),
      'IDC', 'as many of each', '3 images of class', '5 of class')
  # Soft ones go with their image.
  soft = np.eye(3, dtype=np.float32)[labels] * .5 + .5 / 3
  got, given = assemble.class_major(
      Found(images, soft, '', ()), soft, 'probabilities', 3, 'x')
  assert got.ravel().tolist() == list(range(12))
  np.testing.assert_allclose(given.reshape(12, 3), soft, atol=1e-3)


def test_probabilities():
  one_hot = np.eye(4)
  np.testing.assert_allclose(
      assemble.probabilities(one_hot - .25, 'centred'), one_hot)
  np.testing.assert_allclose(
      assemble.probabilities(np.log(one_hot + 1) + 7, 'logits'),
      (one_hot + 1) / 5, rtol=1e-6)
  np.testing.assert_allclose(
      assemble.probabilities(2 * one_hot, 'probabilities'), one_hot)
  refused(lambda: assemble.probabilities(-one_hot, 'probabilities'),
          '--labels')


# ---- What they are of


def numbered(count, shape, path, labels=None):
  """A set of one smooth image a class, in a torch-free file."""
  ramp = np.linspace(-1.5, 1.5, shape[0])[:, None, None] + np.zeros(shape)
  images = np.float32(ramp + np.linspace(-1, 1, count)[:, None, None, None])
  np.savez(path, images=images / images.std(),
           labels=np.arange(count) if labels is None else labels)
  return path


def test_mtt_normalises_cifar100_as_cifar10(tmp_path):
  here = tmp_path / 'data'
  here.mkdir()
  ten, hundred = DATASETS['cifar10'], DATASETS['cifar100']
  for name, want in (('mtt', ten), ('tesla', ten), ('dsa', hundred)):
    path = numbered(100, (32, 32, 3), tmp_path / f'{name}_cifar100.npz')
    codec = load(path, here, zca=0.).codec
    assert (codec.mean, codec.std) == (want.mean, want.std), name
  path = numbered(10, (32, 32, 3), tmp_path / 'frepo_cifar10.npz')
  assert load(path, here, zca=0.).codec.std == (.2470, .2435, .2616)
  # Nobody has the data here: their classes have numbers.
  assert load(path, here, zca=0.).class_names == tuple(map(str, range(10)))


def test_classes_of_imagenet_by_list(tmp_path):
  here = tmp_path / 'data'
  here.mkdir()
  path = numbered(10, (64, 64, 3), tmp_path / 'mtt_imagewoof.npz')
  set_ = load(path, here, zca=0.)
  assert set_.data == {'name': 'imagenet2012', 'size': 64, 'holdout': 0.,
                       'seed': 0, 'classes': 'imagewoof'}
  assert set_.class_names[0] == 'n02096294' and set_.network['depth'] == 4
  path = numbered(10, (64, 64, 3), tmp_path / 'images.npz')
  set_ = load(path, here, zca=0., dataset='imagenet2012')
  assert set_.data['classes'] == 'imagenet10'


def folder_set(root, names, mode='L'):
  for k, name in enumerate(names):
    write(root / name / 'class000_id000.png', mode=mode, value=9 * k)
  return root


def test_class_folders_by_name(tmp_path):
  real = f'folder:{small_folder(tmp_path / "real", 40)}'
  small_folder(tmp_path / 'real' / 'test', 2)
  for name in ('ant', 'bee'):
    (tmp_path / 'real' / name).rename(tmp_path / 'real' / f'_{name}')
  (tmp_path / 'real' / 'train').mkdir()
  for name in ('ant', 'bee'):
    (tmp_path / 'real' / f'_{name}').rename(
        tmp_path / 'real' / 'train' / name)
  set_ = load(folder_set(tmp_path / 'set', ('bee', 'ant')), dataset=real)
  assert set_.class_names == ('ant', 'bee')
  np.testing.assert_allclose(set_.syn.images[:, 0, 0, 0, 0] * 255, [9, 0])
  assert set_.codec.space == 'pixels' and set_.data['name'].startswith('folder')
  # Other names: by their order, which is said.
  set_ = load(folder_set(tmp_path / 'other', ('a', 'b')), dataset=real)
  assert any("'a' is 'ant'" in note for note in foreign.notes(set_))
  assert any('recipe    that of idc' in note for note in foreign.notes(set_))
  refused(lambda: load(folder_set(tmp_path / 'three', 'abc'), dataset=real),
          '3 classes', '--dataset')
  refused(lambda: load(folder_set(tmp_path / 'rgb', 'ab', 'RGB'),
                       dataset=real), '(8, 8, 3)', '(8, 8, 1)')


def test_classes_are_told_by_name_in_any_order(digits, tmp_path):
  folder_set(tmp_path / 'set', [str(k) for k in range(10)])
  encoded = [{'bytes': path.read_bytes()}
             for path in sorted(tmp_path.glob('set/*/*.png'))]
  names = [str(9 - k) for k in range(10)]
  told = {'info': {'features': {'label': {'names': names}}}}
  parquet.write_table(pyarrow.table({
      'image': encoded, 'label': range(10)}).replace_schema_metadata(
          {'huggingface': json.dumps(told)}), tmp_path / 'set.parquet')
  set_ = load(tmp_path / 'set.parquet', dataset='digits')
  assert set_.class_names == digits.class_names
  found = layouts.find(tmp_path / 'set.parquet')
  np.testing.assert_allclose(
      set_.syn.images[:, 0] * 255, found.images[::-1], rtol=1e-6)


def test_data_that_it_cannot_be_of(tmp_path):
  path = numbered(9, (8, 8, 1), tmp_path / 'a.npz')
  refused(lambda: load(path, dataset='digits', zca=0.), '9 classes', '10')
  path = numbered(10, (8, 8, 3), tmp_path / 'b.npz')
  refused(lambda: load(path, dataset='digits', zca=0.), '(8, 8, 3)')
  path = numbered(10, (8, 6, 1), tmp_path / 'c.npz')
  refused(lambda: load(path, dataset='digits', zca=0.), '(8, 6, 1)')
  path = numbered(10, (6, 6, 1), tmp_path / 'd.npz')
  assert load(path, dataset='digits', zca=0.).data['size'] == 6


# ---- Whitening


def test_mtt_whitening_is_that_of_the_train_images(digits):
  set_ = load(FILES / 'mtt/digits_zca')
  assert set_.card['storage']['zca'] == .1
  flat = digits.train.images.reshape(-1, 64) / 255.
  # Written out: U (s + eps)^-1/2 U^T of the covariance over n - 1.
  u, s, _ = np.linalg.svd(np.cov(flat.T))
  matrix = u @ np.diag((s + .1) ** -.5) @ u.T
  want = (digits.test.images[:5].reshape(-1, 64) / 255. - flat.mean(0)) @ matrix
  np.testing.assert_allclose(
      np.reshape(set_.real(digits.test.images[:5]), (5, 64)), want, atol=1e-4)
  np.testing.assert_array_equal(set_.batch.images, EXPECTED['zca/images'])


def test_frepo_whitens_what_is_normalised(digits):
  images = digits.train.images
  mean, std = (.3,), (.4,)
  real = assemble.Real('digits', dict(name='digits', holdout=0., seed=0,
                                      size=0, classes=''), (), None, ())
  found = assemble._whitening(real, .1, mean, std, 'frepo')
  flat = (images.reshape(-1, 64) / 255. - .3) / .4
  centred = flat - flat.mean(0)
  cov = centred.T @ centred / len(flat)
  u, s, _ = np.linalg.svd(cov + .1 * np.trace(cov) / 64 * np.eye(64))
  want = centred[:7] @ (u @ np.diag(s ** -.5) @ u.T)
  got = (images[:7].reshape(-1, 64) / 255. - found.mean) @ found.matrix
  np.testing.assert_allclose(got, want, atol=2e-3)
  np.testing.assert_allclose(found.matrix @ found.inverse, np.eye(64),
                             atol=1e-6)


# ---- The commands


def real_set(digits, path, ipc=5):
  """Real digits, normalised, as DSA saves them; returns the indices."""
  labels = digits.train.labels
  rows = np.concatenate([np.flatnonzero(labels == c)[3::7][:ipc]
                         for c in range(10)])
  x = (digits.train.images[rows] / 255. - digits.mean) / digits.std
  np.savez(path, images=np.float32(x), labels=labels[rows])
  return path


def lines(capsys):
  out = capsys.readouterr()
  assert 'Traceback' not in out.err
  return out.out, out.err


@pytest.fixture
def narrow(monkeypatch):
  """Networks of four channels, for speed."""
  load_ = foreign.load

  def load(*arguments):
    set_ = load_(*arguments)
    return set_._replace(network={**set_.network, 'width': 4, 'depth': 1})
  monkeypatch.setattr(foreign, 'load', load)


@pytest.mark.slow
@pytest.mark.usefixtures('narrow')
def test_evaluate_trains_on_it(digits, tmp_path, capsys):
  path = real_set(digits, tmp_path / 'dc_digits.npz')
  call = [f'--set={path}', '--dataset=digits', '--zca=0', '--networks=1',
          '--epochs=40']
  assert evaluate.main(call) == 0
  out, _ = lines(capsys)
  assert 'space     channel-normalised' in out and 'layout' in out
  mine, random = json.loads((tmp_path / 'evaluation.json').read_text())['rows']
  assert (mine['set'], random['set'], mine['ipc']) == ('dc', 'random', 5)
  # Real images as random ones are; chance is .1.
  assert mine['mean'] > .3 and abs(mine['mean'] - random['mean']) < .15
  # Nothing is measured twice.
  assert evaluate.main(call) == 0
  rows = json.loads((tmp_path / 'evaluation.json').read_text())['rows']
  assert len(rows) == 2


def test_rows_of_real_images_are_of_one_space(tmp_path):
  """Random images that are whitened are others than those that are not."""
  seen = []

  def measure(compared, name, identity, keeper, report, save):
    seen.append(name)
    return save(np.full(compared.networks, .5))
  call = [f'--set={MTT}', '--networks=1', f'--out={tmp_path / "rows.json"}']
  for more, rows in (('--zca=0', 2), ('--zca=0', 2), ('--zca=0.1', 4),
                     ('--space=pixels', 5)):
    assert evaluate.main([*call, more], measure) == 0
    assert len(seen) == rows, more


@pytest.mark.parametrize('arguments, words', [
    ([f'--set={FILES / "module.pt"}'], ('torch.nn.modules.linear.Linear',)),
    ([f'--set={MTT}'], ('--zca=0.1', '--zca=0')),
    ([f'--set={DC}#7'], ('#1 to #2',)),
    ([f'--set={DC}', '--space=x'], ('invalid choice', '--help')),
    ([f'--set={DC}', '--zca=x'], ("'x' is no number",)),
    ([f'--set={DC}', '--size=3'], ('real subsets',)),
    ([f'--set={DC}', '--dataset=digit'], ('did you mean digits',)),
    ([f'--set={DC}', '--models=vgg'], ('unknown network',)),
    (['--set=real:digits:random:1', '--zca=0'], ('--zca=0.0 is for saved',)),
    (['--set=real:digits:random:1', '--recipe=dsa'], ('dsa', 'idc')),
    ([f'--set={FILES}/none'], ('does not exist', 'DC/DSA/DM'))])
def test_mistakes_are_refused(arguments, words, tmp_path, capsys):
  status = evaluate.main([*arguments, f'--out={tmp_path / "rows.json"}'])
  _, err = lines(capsys)
  assert status == 2 and err.count('\n') == 1
  for word in words:
    assert word in err


def test_flags_of_others_sets_are_refused_for_ours(tmp_path, capsys):
  set_ = load(DC)
  saved_set.save(tmp_path / 'synthetic.npz', set_.syn, set_.codec,
                 set_.class_names, set_.card)
  assert evaluate.main([f'--set={tmp_path}', '--space=pixels']) == 2
  assert '--space=pixels is not for a set of dasm_jax' in lines(capsys)[1]


@pytest.mark.parametrize('path', [
    DC, FILES / 'datm', FILES / 'mtt/digits_zca',
    FILES / 'idc/digits_factor2_mix_ipc1'])
def test_saved_as_ours_it_is_the_same(path, tmp_path):
  told = Told(dataset='digits', zca=0. if path.name == 'datm' else None)
  set_ = subjects.open_set(path, told)
  saved_set.save(tmp_path / 'synthetic.npz', set_.syn, set_.codec,
                 set_.class_names, set_.card)
  again = subjects.open_set(tmp_path / 'synthetic.npz')
  for one, other in zip(jax.tree.leaves(set_.batch),
                        jax.tree.leaves(again.batch), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-6)
  assert set_.recipe == again.recipe and set_.network == again.network
  assert set_.data == again.data


def test_results_lie_beside_the_set(tmp_path):
  shutil.copytree(MTT, tmp_path / 'mtt')
  shutil.copy(DC, tmp_path)
  assert subjects.home_of(f'{tmp_path / DC.name}#1') == tmp_path / DC.name
  assert subjects.home_of(tmp_path / 'mtt').parent == tmp_path / 'mtt'
  assert subjects.home_of(
      tmp_path / 'mtt' / 'images_best.pt').parent == tmp_path / 'mtt'


@pytest.mark.slow
@pytest.mark.usefixtures('narrow')
def test_diagnose_measures_it(digits, tmp_path, capsys):
  path = real_set(digits, tmp_path / 'dc_digits.npz')
  assert diagnose.main([
      f'--set={path}', '--measures=ages', '--ages=0', '--networks=1',
      '--real=20', '--zca=0', f'--out={tmp_path / "out"}']) == 0
  out, _ = lines(capsys)
  assert 'layout    an .npz of arrays' in out
  found = json.loads((tmp_path / 'out' / 'diagnose.json').read_text())
  assert found
