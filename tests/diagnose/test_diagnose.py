"""The command: which sets it compares, what it says and writes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import saved_digits
import small
import toy
from PIL import Image

from dasm_jax.diagnose import __main__ as diagnose
from dasm_jax.diagnose import measures, tables
from dasm_jax.distill import figures, page
from dasm_jax.errors import UserError
from dasm_jax.evaluate import saved_set

pytestmark = pytest.mark.usefixtures('quick_compiler')


def test_a_set_is_read_as_it_was_saved(tmp_path):
  syn = saved_digits.save(tmp_path / 'a' / 'synthetic.npz')
  found = saved_set.load(tmp_path / 'a')
  toy.leaves_equal(found.syn[:2], syn[:2])
  assert (found.codec.space, found.codec.factor) == ('pixels', 2)
  assert found.network['width'] == 4 and found.recipe.restart
  assert measures.origin(found)['name'] == 'digits'


@pytest.mark.slow
def test_command(tmp_path, capsys):
  short = {'eval.epochs': 2, 'segments.number': 2, 'network.depth': 1}
  saved_digits.save(tmp_path / 'a' / 'synthetic.npz', **short)
  saved_digits.save(tmp_path / 'b' / 'other.npz', seed=1, **short)
  # As many real images as the sets decode to: one program measures all.
  assert 0 == diagnose.main([
      f'--set={tmp_path / "a"},{tmp_path / "b" / "other.npz"}', '--ages=3,0',
      '--networks=2', '--real=80', '--epochs=1', f'--out={tmp_path / "c"}'])
  said = capsys.readouterr().out
  for words in ('gradient norm at age', 'loss at age', 'a, segment 2', 'other',
                'easy', 'all real', 'diversity', 'diagnose.png'):
    assert words in said, words
  # Sets of one size and recipe are beside the same random images.
  assert said.count('on random images') == 1
  assert said.count('\nrandom ') == 1
  assert not (tmp_path / 'c' / 'diagnose.unfinished').exists()
  found = json.loads((tmp_path / 'c' / 'diagnose.json').read_text())
  assert found['ages'] == [0, 3] and found['data']['name'] == 'digits'
  assert found['sets']['other']['ipc'] == 2
  assert list(found['lines']) == [
      'a', 'a, segment 1', 'a, segment 2', 'other', 'other, segment 1',
      'other, segment 2', 'real']
  for line in found['lines'].values():
    for one in line, line['loss']:
      assert np.shape(one['networks']) == (2, 2)
      np.testing.assert_allclose(one['mean'], np.mean(one['networks'], 1))
      assert min(one['mean']) > 0
  for score in (lambda x: x), (lambda x: x['loss']):
    whole, *parts = (np.array(score(found['lines'][name])['networks'])
                     for name in ('a', 'a, segment 1', 'a, segment 2'))
    np.testing.assert_allclose(np.mean(parts, 0), whole, rtol=1e-5)
  for name in 'a', 'other':
    one = found['diversity']['sets'][name]
    assert one['images'] == 8 and 0 < one['random']['mean'] < 2
    for values in found['thirds']['sets'][name].values():
      parts = [values[part]['networks'] for part in ('easy', 'middle', 'hard')]
      np.testing.assert_allclose(
          np.mean(parts, 0), values['all']['networks'], atol=.01)
  for picture in 'diagnose.png', 'diagnose_loss.png':
    with Image.open(tmp_path / 'c' / picture) as image:
      assert image.width > 600
  # The page of a run has them, too.
  report = tmp_path / 'a' / 'report.html'
  page.write(report, 'a run', [page.slot('diagnose')])
  assert 0 == diagnose.main([
      f'--set={tmp_path / "a"}', '--measures=ages', '--ages=0', '--networks=1',
      '--real=80'])
  text = report.read_text()
  assert 'gradient norm at age' in text and text.count('<img') == 2
  assert 'report.html' in capsys.readouterr().out


@pytest.mark.slow
def test_a_stopped_command_goes_on(tmp_path, monkeypatch):
  saved_digits.save(tmp_path / 'synthetic.npz', **{
      'eval.epochs': 2, 'network.depth': 1})
  arguments = [f'--set={tmp_path}', '--networks=1', '--epochs=1',
               '--measures=thirds']
  def measured(*texts):
    with monkeypatch.context() as patched:
      stream = small.Interrupting(*texts)
      patched.setattr(sys, 'stdout', stream)
      status = diagnose.main(arguments)
    return status, stream.getvalue()
  # As the networks of the set begin, after those of real images are done.
  assert measured('on the set')[0] == 75
  assert not (tmp_path / 'diagnose.json').exists()
  status, said = measured()
  # The networks on all real images are gone on with, at their end.
  assert status == 0 and said.count('going on with 1 network') == 3
  assert not (tmp_path / 'diagnose.unfinished').exists()
  found = json.loads((tmp_path / 'diagnose.json').read_text())
  assert [*found['thirds']['sets']] == [tmp_path.name] and 'lines' not in found
  assert not (tmp_path / 'diagnose.png').exists()


def test_curves(tmp_path):
  lines = {'one': (np.arange(3.), np.ones(3)), 'real': (np.ones(3), [0.] * 3)}
  for name, x in {'a': (0, 1, 100), 'b': (5, 50, 60), 'c': (0,)}.items():
    shown = {key: (mean[:len(x)], std[:len(x)])
             for key, (mean, std) in lines.items()}
    figures.line_plot(x, shown, tmp_path / f'{name}.png', 'x', 'y')
    with Image.open(tmp_path / f'{name}.png') as image:
      page = np.asarray(image.convert('RGB')).astype(int)
    # Blue (the first line) and the dark dashes of the real one are there.
    assert (abs(page - (0x1f, 0x77, 0xb4)).sum(-1) < 30).sum() > 30


@pytest.mark.parametrize('entries, what', [
    ({'dataset.name': 'mnist'}, 'data'), ({'network.width': 5}, 'network')])
def test_sets_that_cannot_be_compared(entries, what, tmp_path):
  saved_digits.save(tmp_path / 'a.npz')
  one = saved_set.load(tmp_path / 'a.npz')
  dataset = entries.get('dataset.name', 'digits')
  network = one.network | {'width': entries.get('network.width', 4)}
  other = one._replace(network=network, data=one.data | {'name': dataset})
  with pytest.raises(UserError, match=f"'a' and 'b' differ in their {what}"):
    diagnose.agree({'a': one, 'b': other})
  diagnose.agree({'a': one, 'b': one})


def test_names():
  assert diagnose.names_of(['x/a', 'y/b/synthetic.npz', 'c.npz']) == [
      'a', 'b', 'c']
  assert diagnose.names_of(['x/a', 'y/a', 'real']) == [
      'x/a', 'y/a', './real']
  with pytest.raises(UserError, match='names one twice'):
    diagnose.names_of(['x/a', 'x/a'])


def test_labels_are_short_while_they_differ(tmp_path):
  saved_digits.save(tmp_path / 'a.npz')
  one = saved_set.load(tmp_path / 'a.npz')
  def labels(*names):
    bench = measures.Bench({name: one for name in names}, *6 * [None])
    table = tables.write(bench, names, {
        'epochs': 1, 'ages': (0, 1),
        'lines': {name: np.ones((2, 2, 1)) for name in (*names, 'real')}},
                         tmp_path)
    norms, losses = table.split('\n\n')
    found = [row.split()[0] for row in norms.split('\n')[2:]]
    assert found == [row.split()[0] for row in losses.split('\n')[2:]]
    return found
  long = 'digits-ipc=2-method.steps=100-network.width=8'
  want = 'digits-ipc=2-metho…work.width=8'
  assert labels('a', long) == ['a', want, 'real']
  same = [long, long.replace('steps=100', 'steps=999')]
  assert labels(*same) == [*same, 'real']


def test_a_set_of_one_image_a_class_has_no_neighbours(tmp_path):
  saved_digits.save(tmp_path / 'a.npz')
  bench = measures.Bench(
      {'a': saved_set.load(tmp_path / 'a.npz')}, *6 * [None])
  table = tables.write(bench, ['a'], {'epochs': 1, 'diversity': {'a': {
      'images': 1, 'set': np.full(2, np.nan), 'random': np.ones(2)}}}, tmp_path)
  assert 'nan' not in table
  text = (tmp_path / 'diagnose.json').read_text()
  assert 'NaN' not in text and json.loads(text)['diversity']['sets']['a'] == {
      'images': 1, 'set': None, 'random': None}


@pytest.mark.parametrize('number, factor, want', [
    (3, 1, [0, 0, 1, 2]), (1, 1, [0] * 4), (2, 2, [0, 0, 1, 1] * 4)])
def test_segments_of_decoded_images(number, factor, want, tmp_path):
  saved_digits.save(tmp_path / 'a.npz', ipc=4, **{
      'segments.number': number, 'syn.factor': factor})
  found = measures.segment_of_images(saved_set.load(tmp_path / 'a.npz'))
  np.testing.assert_array_equal(found, 10 * want)


MISTAKES = {
    '': '--set', '--set=nowhere': "'nowhere'", '--set=x --ages=1,b': "'b'",
    '--set=x --networks=0': "'0'",
    '--set=x --measures=ages,x': "'x' is none of ages",
    '--set=README.md': 'README.md',
    '--set=x --sets=y': '--sets=y', '--set=x --seed=-1': '-1'}


@pytest.mark.parametrize('text', MISTAKES)
def test_mistake_is_one_line(text, capsys):
  assert diagnose.main(text.split()) == 2
  said = capsys.readouterr()
  assert not said.out
  assert said.err.startswith('error: ') and said.err.count('\n') == 1
  assert MISTAKES[text] in said.err


def test_out_that_cannot_be(tmp_path, capsys):
  saved_digits.save(tmp_path / 'a.npz')
  assert diagnose.main([f'--set={tmp_path / "a.npz"}',
                        f'--out={tmp_path / "a.npz"}']) == 2
  assert 'choose another' in capsys.readouterr().err


def test_help_needs_no_backend():
  done = subprocess.run(
      [sys.executable, '-m', 'dasm_jax.diagnose', '--help'], text=True,
      cwd=toy.ROOT, timeout=120, capture_output=True,
      env=toy.environment(JAX_PLATFORMS='nothing'))
  assert done.returncode == 0 and not done.stderr
  for name in ('--set', '--ages', '--networks'):
    assert name in done.stdout
