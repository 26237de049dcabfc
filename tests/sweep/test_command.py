"""The command: its mistakes, and whole sweeps of digits."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import older
import pytest
import toy

from dasm_jax import models
from dasm_jax.config import files
from dasm_jax.diagnose import __main__ as diagnose
from dasm_jax.evaluate import comparison, saved_set
from dasm_jax.runtime import logging
from dasm_jax.sweep import __main__, diagnosed, measure, plan, work
from dasm_jax.training import ensemble, recipes

TINY = ['--config=configs/digits.py', '--config.network.width=4',
        '--config.network.depth=1', '--config.eval.networks=2',
        '--config.eval.epochs=2', '--config.eval.augment=',
        '--config.eval.cutmix=0', '--config.eval.recipe=dc']
# Two segments of real images as they are: quick, and with prefixes.
ARMS = '--methods=random,two@random:segments=2'


@pytest.mark.parametrize('text, words', [
    ('', ['--config is missing']),
    ('--config=configs/nothing.py --methods=idc --ipc=1', ['no config file']),
    ('--config=configs/digits.py --ipc=1', ['no arms', '--methods=random,idc']),
    ('--config=configs/digits.py --methods=idc', ['--ipc is empty', '--ipc=1']),
    ('--config=configs/digits.py --methods=idc --ipc=0', ["'0'", 'at least 1']),
    ('--config=configs/digits.py --methods=idc --ipc=1,x', ["'x'", '--ipc']),
    ('--config=configs/digits.py --methods=idc --ipc=1 --epochs=none',
     ['no length']),
    ('--config=configs/digits.py --methods=idc --ipc=1 --steps=0',
     ['--steps=0']),
    ('--config=configs/digits.py --methods=best --ipc=1',
     ["'best'", 'choose from aligned']),
    ('--config=configs/digits.py --methods=idc --ipc=1 --seeds=none',
     ['--seeds', '--help']),
    ('--config=configs/digits.py --methods=random --ipc=500',
     ['--ipc=500', 'at most that']),
    ('--config=configs/digits.py --methods=random --ipc=1 --workdir=gs://a/b',
     ['gs://a/b', 'directory here']),
    ('--config=configs/digits.py --methods=random --ipc=1 '
     '--workdir=/dev/null/a', ['/dev/null/a', 'cannot'])])
def test_mistake_is_one_line(text, words, capsys, monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  assert __main__.main(text.split()) == 2
  said = capsys.readouterr()
  assert said.err.startswith('error: ') and said.err.count('\n') == 1, said.err
  for word in words:
    assert word in said.err, said.err


def rows(folder):
  with (folder / 'table.csv').open() as file:
    return list(csv.DictReader(file))


@pytest.mark.usefixtures('quick_compiler')
def test_a_sweep(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(toy.ROOT)
  words = [*TINY, ARMS, '--ipc=2', '--steps=3', '--prefixes',
           f'--workdir={tmp_path}']
  assert __main__.main([*words, '--dry_run']) == 0
  said = capsys.readouterr().out
  assert 'two_ipc2_seed0' in said and 'to do' in said and 'in all on' in said
  assert not list(tmp_path.iterdir())
  assert __main__.main([*words, '--show']) == 0
  said = capsys.readouterr().out
  assert 'nothing is measured yet' in said
  assert '8 measurements not there; the same command without --show' in said
  assert __main__.main(words) == 0
  capsys.readouterr()
  found = rows(tmp_path)
  # The recipe of two epochs has one more; of ten images an epoch is a step.
  assert [(one['arm'], one['ipc'], one['prefix of'], one['length'],
           one['epochs'], one['steps'], one['segments']) for one in found] == [
      (arm, ipc, of, length, epochs, epochs, '2' if arm == 'two' else '')
      for length, epochs in (('2 epochs', '3'), ('3 steps', '3'))
      for ipc, of in (('1', '2'), ('2', ''))
      for arm, of in (('random', ''), ('two', of))]
  # Steps that make as many epochs are not trained again.
  assert [one['accuracy'] for one in found[:4]] == [
      one['accuracy'] for one in found[4:]]
  # The numbers are those of the set's own evaluation.
  set_ = saved_set.load(tmp_path / 'runs' / 'two_ipc2_seed0')
  result = json.loads((tmp_path / 'results' / 'two_ipc2_seed0' /
                       'epochs2_networks2.json').read_text())
  assert set_.ipc == 2 and not set_.card['accuracy']
  check_measured(result, set_)
  before = {path: path.stat().st_mtime_ns
            for path in (tmp_path / 'results').rglob('*.json')}
  assert len(before) == 8
  assert __main__.main(words) == 0  # and what is done costs nothing
  assert 'cell ' not in capsys.readouterr().out
  assert before == {path: path.stat().st_mtime_ns for path in before}
  assert __main__.main([*words, '--dry_run']) == 0
  said = capsys.readouterr().out
  assert 'to do' not in said and said.count('done') >= 3
  check_diagnosed(words, tmp_path, capsys)
  check_older(words, tmp_path)
  assert __main__.main([*words, '--config.network.norm=none']) == 2
  assert 'network.norm' in capsys.readouterr().err


def check_older(words, folder):
  """Asserts that the set of an earlier version's run is measured as it is."""
  assert older.forget(
      folder / 'runs' / 'two_ipc2_seed0', 'segments', 'moving') == 1
  path = folder / 'results' / 'two_ipc2_seed0' / 'epochs2_networks2.json'
  before = json.loads(path.read_text())
  path.unlink()
  assert __main__.main(words) == 0
  assert json.loads(path.read_text())['networks'] == before['networks']


def check_diagnosed(words, folder, capsys):
  """Asserts that what --diagnose measures is shown, and is not made twice."""
  page = folder / 'report.html'
  # The window of both segments is all images.
  assert ('<td>two_ipc2_seed0</td><td>2</td><td>1</td><td></td><td>0.0000</td>'
          '<td>1,438</td><td>1.00</td>') in page.read_text()
  assert 'diversity' not in page.read_text()
  asked = plan.Asked('configs/digits.py', {
      word.partition('=')[0][9:]: word.partition('=')[2] for word in TINY[1:]},
      plan.parse_arms(ARMS.partition('=')[2]), [2])
  sweep = work.Sweep(folder, asked.arms, plan.cells(asked), [])
  few = diagnose.options([
      '--measures=diversity,thirds', '--networks=1', '--epochs=1'])
  diagnosed.measure(sweep, logging.Terminal(), few)
  # By the recipe of the sweep, which is shorter than that of the run.
  assert re.search('training 1 network for 2 epochs: on the set',
                   capsys.readouterr().out)
  assert __main__.main([*words, '--show', '--diagnose']) == 0
  assert 'training' not in capsys.readouterr().out
  for word in ('sets of 2 images a class', 'diversity', 'easy', 'all real'):
    assert word in page.read_text(), word
  # Those of another recipe are not shown, and made anew.
  assert any('diversity' in part for part in diagnosed.parts(sweep))
  texts = asked.texts | {'eval.epochs': '3'}
  other = sweep._replace(cells=plan.cells(asked._replace(texts=texts)))
  assert not any('diversity' in part for part in diagnosed.parts(other))
  diagnosed.measure(other, logging.Terminal(), few)
  assert re.search('training 1 network for 3 epochs: on the set',
                   capsys.readouterr().out)
  assert any('diversity' in part for part in diagnosed.parts(other))


def check_measured(result, set_):
  """Asserts that accuracies are those of networks trained by hand."""
  network = models.build(shape=(8, 8, 1), classes=10, **set_.network)
  test = measure.Places().of(files.load('configs/digits.py')).test
  recipe = recipes.dc_recipe(2, mode=set_.recipe.mode)
  variables = ensemble.train_on_set(network, recipe)(
      comparison.network_keys(0, 2), set_.batch)
  np.testing.assert_allclose(
      comparison.tested(network)(variables, test), result['networks'])


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_share_a_folder(tmp_path):
  command = [sys.executable, '-m', 'dasm_jax.sweep', *TINY,
             '--methods=random,one@random:segments=1,two@random:segments=2',
             '--ipc=2,3', f'--workdir={tmp_path}']
  many = [subprocess.Popen(
      command, cwd=toy.ROOT, env=toy.environment(), text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
  said = [one.communicate(timeout=300) for one in many]
  codes = [one.returncode for one in many]
  assert set(codes) <= {0, 75} and 0 in codes, said
  done = [[line.split(':')[1].split(',')[0].strip() for line in out.split('\n')
           if line.startswith('cell ')] for out, _ in said]
  # Each cell is done by one of them.
  assert sorted(done[0] + done[1]) == sorted(
      f'{arm}_ipc{ipc}_seed0' for arm in ('random', 'one', 'two')
      for ipc in (2, 3)), said
  assert len(rows(tmp_path)) == 6
