"""The evaluation command: its mistakes, its rows, and what it measures."""

import contextlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small
import toy

from dasm_jax.config import defaults
from dasm_jax.distill import results, setup
from dasm_jax.evaluate import (
  __main__,
  comparison,
  dd_ranking,
  saved_set,
  subjects,
)
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import logging
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.training import recipes
from dasm_jax.types import Synthetic

RNG = np.random.default_rng(0)
SOFT = RNG.dirichlet(np.ones(10), (10, 2)).astype(np.float32)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A saved set of digits that nobody distilled, with soft labels."""
  c = defaults('dsa')
  c.dataset.name, c.network.depth, c.network.width, c.syn.ipc = (
      'digits', 1, 4, 2)
  c.eval.epochs = 6
  root = tmp_path_factory.mktemp('evaluate')
  images = RNG.normal(size=(10, 2, 8, 8, 1)).astype(np.float32)
  experiment, syn = setup.build(c), Synthetic(images, SOFT, np.float32(.1))
  saved_set.save(root / 'synthetic.npz', syn, experiment.codec,
                 experiment.dataset.class_names,
                 results.card(experiment, syn, {}))
  return root


class Untrained(list):
  """Measures without training: accuracies count the calls, which are kept."""

  def __call__(self, compared, name, identity, keeper, report, save):
    self.append((name, compared.recipe.epochs, compared.seed))
    return save(np.full(compared.networks, len(self) / 100))


def rows_of(path):
  return json.loads(path.read_text())['rows']


def test_help_needs_no_device():
  done = subprocess.run(
      [sys.executable, '-m', 'dasm_jax.evaluate', '--help'], text=True,
      cwd=toy.ROOT, env=toy.environment(JAX_PLATFORMS='nothing'),
      capture_output=True, timeout=120)
  assert done.returncode == 0 and not done.stderr
  for word in ('--set', '--models', 'resnet18', 'real:mnist:herding:10',
               'k_center', '--out', '--full'):
    assert word in done.stdout, word


MISTAKES = {
    '--set={}/nowhere': ["/nowhere' does not exist", 'give a synthetic.npz'],
    '--set={} --models=resnet81': ["network 'resnet81'", 'choose from alexnet'],
    '--set={} --models=convnet,lenet': ['at least 16x16, not 8x8', 'larger'],
    '--set={} --networks=0': ['--networks', "'0'", 'at least 1'],
    '--set={} --networks=two': ['--networks', "'two'", '--help'],
    '--set={} --eppochs=2': ['--eppochs=2', '--help'],
    '--set={} --out={}/no/x.json': ['there is no directory', '/no'],
    # Python 3.11 quotes each of the choices, later ones none.
    '--set={} --recipe=x': ["'x'", 'choose from ', 'idc', 'sre2l_tiny'],
    '--set={} --recipe=dc': ['--recipe=dc', 'as its card says'],
    '--set={} --size=9': ['--size=9', 'real subsets'],
    '--set=': ['--set= is empty'], '--set={} --out=': ['--out= is empty'],
    '--set={} --dataset=': ['--dataset= is empty', 'leave it out'],
    '--set={},b': ['does not exist', 'one at a time'],
    '': ['--set', 'required'],
    '--set=real:digits': ['not real:DATASET:SELECTION:IPC', 'real:mnist'],
    '--set=real:digits:random:many': ['not real:DATASET', 'random:many'],
    '--set=real:digits:best:2': ["selection 'best'", 'choose from ccs'],
    '--set=real:digitz:random:2': ["'digitz'", 'did you mean digits'],
    '--set=real:digits:herding:400': [
        'error: ipc=400', "class '", 'at most that'],
    '--set=real:digits:random:0': ['error: ipc=0', 'at least 1'],
}


@pytest.mark.parametrize('text', MISTAKES)
def test_mistake_is_one_line(text, workdir, capsys):
  assert __main__.main(text.replace('{}', str(workdir)).split()) == 2
  said = capsys.readouterr()
  assert said.err.startswith('error: ') and said.err.count('\n') == 1, said.err
  for word in MISTAKES[text]:
    assert word in said.err, said.err
  assert not said.out
  assert not (workdir / 'evaluation.json').exists()


def test_set_of_other_data(workdir, tmp_path, capsys):
  with np.load(workdir / 'synthetic.npz') as file:
    arrays = dict(file)
  def refused(**changes):
    np.savez(tmp_path / 'other.npz', **{**arrays, **changes})
    assert __main__.main([f'--set={tmp_path / "other.npz"}']) == 2
    said = capsys.readouterr()
    assert not said.out
    return said.err
  nine = refused(images=arrays['images'][:9], class_names=arrays[
      'class_names'][:9], labels=arrays['labels'][:9, :, :9])
  assert 'labels of 9 classes' in nine and "'digits' has 10" in nine
  cut = refused(images=arrays['images'][:, :, :6, :6])
  assert 'images (6, 6, 1)' in cut and 'has (8, 8, 1)' in cut
  for text in '{"rows": [', '{"rows": [], "scores": [{"lrs": 1}]}':
    (tmp_path / 'evaluation.json').write_text(text)
    broken = refused()
    assert 'is no file of rows' in broken and 'mend or move' in broken


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures('quick_compiler')
def test_stopped_within_a_row(workdir, tmp_path, monkeypatch, capsys):
  """The networks go on where they stood, and end as they do alone."""
  monkeypatch.setenv('TERM', 'xterm')  # how far they are is shown
  def command(out):
    return [f'--set={workdir}', f'--out={tmp_path / out}', '--networks=2',
            '--epochs=3']
  assert __main__.main(command('straight.json')) == 0
  capsys.readouterr()
  # The first call is one epoch long, however fast that is.
  for row, words in ((1, 'saved 0 rows of 2'), (2, 'saved 1 row of 2')):
    terminal = small.Interrupting(f'row {row}/2  epoch 1/3')
    with contextlib.redirect_stdout(terminal):
      assert __main__.main(command('rows.json')) == 75
    assert f'{words}, and the next at epoch 1;' in capsys.readouterr().err
  assert 'going on with 2 networks in training, at epoch 1' in (
      terminal.getvalue())
  (kept,) = (tmp_path / 'rows.unfinished').iterdir()
  # Other commands write other rows to the same file meanwhile.
  assert __main__.main([*command('rows.json')[:2], '--networks=1']) == 0
  with workdirs.lock(kept):  # at the same row: that one keeps its own
    assert __main__.main(command('rows.json')) == 0
  assert kept.is_dir()
  lines = (tmp_path / 'rows.json').read_text()
  (tmp_path / 'rows.json').write_text(json.dumps(
      {'rows': [row for row in json.loads(lines)['rows']
                if len(row['networks']) == 1]}))
  capsys.readouterr()
  assert __main__.main(command('rows.json')) == 0
  assert 'going on with 2 networks in training, at epoch 1' in (
      capsys.readouterr().out)
  assert not (tmp_path / 'rows.unfinished').exists()
  one, other = (rows_of(tmp_path / f'{name}.json')
                for name in ('straight', 'rows'))
  assert len(other) == 4 and len(one) == 2
  assert one == other[2:] and [row['set'] for row in one] == ['dsa', 'random']


def test_a_read_only_folder_is_found_out_before_the_work(workdir, tmp_path,
                                                         capsys):
  shutil.copy(workdir / 'synthetic.npz', tmp_path / 'set.npz')
  tmp_path.chmod(0o555)
  try:
    calls = Untrained()
    command = [f'--set={tmp_path / "set.npz"}', '--networks=1']
    assert __main__.main(command, calls) == 2 and not calls
    said = capsys.readouterr()
    assert '--out=FILE.json' in said.err and said.err.count('\n') == 1
    assert 'dsa on digits' not in said.out  # before data are read
    tmp_path.chmod(0o755)
    assert __main__.main(command, calls) == 0 and len(calls) == 2
    # What is there is shown all the same; only what is new is refused.
    tmp_path.chmod(0o555)
    assert __main__.main(command, calls) == 0 and len(calls) == 2
    capsys.readouterr()
    assert __main__.main([*command, '--seed=1'], calls) == 2
    assert '--out=FILE.json' in capsys.readouterr().err and len(calls) == 2
  finally:
    tmp_path.chmod(0o755)


def test_rows_that_somebody_has_changed_are_measured_again(workdir, tmp_path,
                                                           caplog):
  out, calls = tmp_path / 'rows.json', Untrained()
  command = [f'--set={workdir}', f'--out={out}', '--networks=1']
  assert __main__.main(command, calls) == 0 and len(calls) == 2
  tree = json.loads(out.read_text())
  tree['rows'][0]['networks'] = [.99]
  # One of an earlier version has no seal.
  del tree['rows'][1]['record']
  out.write_text(json.dumps(tree))
  assert __main__.main(command, calls) == 0 and len(calls) == 3
  assert 'not what its digest says: it is measured again' in caplog.text
  assert [row['networks'] for row in rows_of(out)] == [[.02], [.03]]
  del tree['rows'][0]['record']
  tree['rows'][0] |= {'mean': 7.5, 'networks': [7.5]}
  out.write_text(json.dumps(tree))
  assert __main__.main(command, calls) == 0 and len(calls) == 4
  assert 'accuracies that cannot be' in caplog.text


def test_rows_are_kept_and_not_made_twice(workdir, tmp_path, capsys):
  out, calls = tmp_path / 'rows.json', Untrained()
  command = [f'--set={workdir}', f'--out={out}', '--networks=3']
  assert __main__.main(command, calls) == 0
  said = capsys.readouterr().out
  assert 'dsa on digits, 2 images a class, 1.7 kB with labels; 6 epochs' in said
  table = [line for line in said.split('\n') if '%' in line]
  assert [line.split() for line in table] == [
      ['convnet', 'dsa', '2', '1.00%', '±', '0.00%', '3'],
      ['convnet', 'random', '2', '2.00%', '±', '0.00%', '3']]
  assert len({line.rstrip().rfind('  ') for line in table}) == 1
  first = rows_of(out)
  assert calls == [('dsa', 6, 0), ('random', 6, 0)]
  assert first[0]['networks'] == [.01] * 3
  assert first[0]['settings']['width'] == 4
  # The same again reads; anything else adds, and loses nothing.
  assert __main__.main(command, calls) == 0 and len(calls) == 2
  for more in (['--seed=1'], ['--models=mlp,convnet'], ['--epochs=4'],
               ['--networks=2']):
    before = len(calls)
    assert __main__.main(command + more, calls) == 0
    assert len(calls) == before + 2
  assert ('dsa', 4, 0) in calls
  rows = rows_of(out)
  assert rows[:2] == first and len(rows) == len(calls) == 10
  assert rows[4]['model'] == 'mlp' and 'norm' not in rows[4]['settings']
  # Another set under the same name is another set.
  with np.load(workdir / 'synthetic.npz') as file:
    arrays = dict(file)
  np.savez(tmp_path / 'synthetic.npz', **{
      **arrays, 'images': arrays['images'] + 1})
  assert __main__.main([f'--set={tmp_path}', *command[1:]], calls) == 0
  assert [name for name, *_ in calls[10:]] == ['dsa']


def test_all_images_bring_the_scores_of_dd_ranking(workdir, tmp_path, capsys):
  out, calls = tmp_path / 'rows.json', Untrained()
  command = [f'--set={workdir}', f'--out={out}', '--networks=3']
  assert __main__.main([*command, '--full'], calls) == 0
  said = capsys.readouterr().out
  assert ('--full: all 1438 real images for each network, 71.9 times those of '
          'the set; 6 rows, of which DD-Ranking alone asks 3') in said
  # In this order: the set's accuracy is .01, that of random images .02, ….
  assert [(row['set'], row['ipc']) for row in rows_of(out)] == [
      ('dsa', 2), ('random', 2), ('full', None), ('dsa, hard labels', 2),
      ('dsa, plain', 2), ('random, plain', 2)]
  bare = [row['recipe']['strategy'] == '' for row in rows_of(out)]
  assert bare == [False] * 4 + [True] * 2
  assert [row['digest'] is None for row in rows_of(out)] == [
      False, True, True, False, False, True]
  (scores,) = json.loads(out.read_text())['scores']
  want = dd_ranking.scores(dict(zip(
      ('set', 'random', 'full', 'hard', 'set_plain', 'random_plain'),
      np.arange(1, 7)[:, None] / 100, strict=True)))
  for name, (value,) in want.items():
    assert scores[name]['networks'] == pytest.approx([value] * 3), name
  assert scores['model'] == 'convnet' and scores['digest']
  line = f'convnet: LRS {want["lrs"][0]:.2%} ± 0.00%, ARS {want["ars"][0]:.2%}'
  assert line in said and 'has 26.89%' in said
  # Nothing is trained again, more rows leave the scores, and none is twice.
  assert __main__.main([*command, '--full'], calls) == 0 and len(calls) == 6
  assert __main__.main([*command, '--seed=1'], calls) == 0
  assert json.loads(out.read_text())['scores'] == [scores]


def test_what_dd_ranking_asks_is_trained_so(workdir):
  found = subjects.saved_subject(workdir)
  recipe = subjects.recipe_for(found.set)
  whole = subjects.comparison_of(found, recipe, 2, 0)(toy.network(classes=10))
  rows = subjects.rows_of(found, recipe, full=True)
  compared = {kind: row.compared(whole) for kind, row in rows.items()}
  for kind in ('set', 'random', 'full', 'hard'):
    assert compared[kind].recipe == whole.recipe
    assert compared[kind].real_recipe == whole.real_recipe
  for kind in ('set_plain', 'random_plain'):
    for given, bare in zip(whole[4:6], compared[kind][4:6], strict=True):
      assert given.strategy and not bare.strategy and not bare.cutmix
      assert given == bare._replace(strategy=given.strategy)
  soft, hard = whole.batch(), compared['hard'].batch()
  np.testing.assert_array_equal(hard.images, soft.images)
  np.testing.assert_array_equal(hard.labels, np.repeat(np.eye(10), 2, 0))
  assert compared['set'].batch() is compared['set_plain'].batch() is soft


def test_scores_that_a_set_cannot_have(workdir):
  found = subjects.saved_subject(workdir)
  recipe = subjects.recipe_for(found.set)
  def names(subject, recipe=recipe):
    rows = subjects.rows_of(subject, recipe, full=True)
    return [*dict.fromkeys(row.name for row in rows.values())]
  assert names(found, recipe._replace(strategy='')) == [
      'dsa', 'random', 'full', 'dsa, hard labels']
  assert 'dsa, plain' in names(found, recipe._replace(strategy='', cutmix=.5))
  # Labels told for each epoch fit no other views; hard ones are there already.
  told = found._replace(set=found.set._replace(logits=np.zeros((1, 20, 10))))
  assert names(told) == ['dsa', 'random', 'full', 'dsa, hard labels']
  real = subjects.real_subject('real:digits:random:3')
  assert names(real) == ['random', 'full', 'random, plain']


@pytest.mark.parametrize('more, words', [
    ([], 'nothing was kept; --out=FILE.json keeps rows'),
    (['--out=rows.json'], 'the same command goes on')])
def test_what_a_stop_says_of_the_rows(more, words, tmp_path, capsys,
                                      monkeypatch):
  monkeypatch.chdir(tmp_path)
  def stop(*_):
    raise KeyboardInterrupt
  assert __main__.main(['--set=real:digits:random:3', *more], stop) == 130
  said = capsys.readouterr()
  assert words in said.err and said.err.strip().count('\n') == 0
  # Before the first call, which compiles, and where nothing is redrawn.
  assert 'row 1/1  epoch 0/1000  compiling' in said.out


def test_how_far_a_row_is_told_where_nothing_is_redrawn(capsys):
  now = [0.]
  screen = logging.Terminal(clock=lambda: now[0])
  recipe = recipes.dc_recipe(9)
  report = comparison.row_reporter(screen, 2, 3, recipe, '1 row of 3')
  for epoch in range(1, 9):
    now[0] += 6
    assert '1 row of 3' in report(epoch, 0, lambda: np.full(2, .5))()
  assert report(9 + recipe.extra, 0, None) is None
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[:4] for line in lines] == [
      ['row', '2/3', 'epoch', f'{n}/9'] for n in (0, 2, 4, 6, 8)]
  assert all('loss 0.5' in line for line in lines[1:])


def test_real_subset(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  command = ['--set=real:digits:random:3', '--epochs=5', '--recipe=dc']
  calls = Untrained()
  assert __main__.main(command, calls) == 0
  assert calls == [('random', 5, 0)]
  said = capsys.readouterr().out
  assert 'evaluation.json' not in said and 'kept nowhere: --out=' in said
  assert not list(tmp_path.iterdir())  # nothing to keep it beside
  assert __main__.main([*command, '--out=x.json'], calls) == 0
  assert rows_of(tmp_path / 'x.json')[0]['data']['name'] == 'digits'


def test_a_real_subset_is_what_a_run_would_start_from():
  found = subjects.real_subject('real:digits:random:3', seed=4)
  images = found.dataset.train.images
  labels = found.dataset.train.labels
  got = np.rint(255 * np.asarray(found.set.syn.images))
  for c in range(10):
    hits = (got[c][:, None] == images[labels == c]).all((2, 3, 4))
    assert hits.any(1).all() and hits.any(0).sum() == 3
  other = subjects.real_subject('real:digits:random:3', seed=5)
  assert (other.set.syn.images != found.set.syn.images).any()


def test_a_real_subset_has_the_rates_of_its_recipe():
  for name, want in (('dc', (.01, 5e-4, 256)), ('idc', (.01, 5e-4, 64)),
                     ('sre2l', (1e-3, .01, 128)),
                     ('sre2l_tiny', (.2, 1e-4, 256))):
    recipe = subjects.real_subject('real:digits:random:2',
                                   recipe=name).set.recipe
    assert (recipe.lr, recipe.weight_decay, recipe.batch) == want


def test_recipes_of_another_length(workdir):
  set_ = saved_set.load(workdir)
  assert subjects.recipe_for(set_) == set_.recipe
  assert subjects.recipe_for(set_, 6) == set_.recipe  # its own length
  assert subjects.recipe_for(set_, 40) == recipes.dc_recipe(
      40, strategy='color_crop_cutout_flip_scale_rotate', mode='dsa')
  other = set_._replace(recipe=set_.recipe._replace(mode='mtt'))
  assert subjects.recipe_for(other, 40).mode == 'mtt'


def test_a_comparison_is_of_what_the_subject_says(workdir):
  found = subjects.saved_subject(workdir)
  learned = found.set.recipe._replace(lr=.7)
  network = toy.network(classes=10)
  compared = subjects.comparison_of(found, learned, 3, 7)(network)
  # Real images do not have a learned rate.
  assert compared.recipe == learned
  assert compared.real_recipe == learned._replace(lr=.01)
  assert (compared.networks, compared.seed, compared.ipc) == (3, 7, 2)
  assert len(compared.test.labels) == 359 and len(compared.data.labels) == 1438
  np.testing.assert_array_equal(
      streaming.fetch(compared.data, None).images,
      sources.flat(found.dataset.train.images))
  batch = compared.batch()
  assert batch is compared.batch() and len(batch.images) == 20
  np.testing.assert_array_equal(batch.labels[:2], found.set.syn.labels[0])
