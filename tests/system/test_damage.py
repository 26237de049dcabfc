"""Some of what `tests/damage.py` tries, in one process."""

import json
import shutil

import damage
import numpy as np
import older
import pytest

from dasm_jax.errors import UserError
from dasm_jax.runtime import records
from dasm_jax.runtime import workdir as workdirs

pytestmark = pytest.mark.usefixtures('quick_compiler')


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
  """Workdirs to damage."""
  return damage.Bench(tmp_path_factory.mktemp('damage'))


@pytest.mark.parametrize('state, kind, name, outcome, words', [
    ('finished', 'flipped', 'results.json', 'same', 'results.json is no'),
    ('finished', 'exchanged', 'results.json', 'same', 'is a folder'),
    ('finished', 'flipped', 'synthetic.npz', 'same', 'damaged'),
    ('finished', 'deleted', 'config.json', 'same', ''),
    ('finished', 'exchanged', 'segment_1', 'same', ''),
    ('segment 2', 'cut', 'metrics.jsonl', 'told', 'of the 6 rows'),
    ('segment 2', 'exchanged', 'segment_1', 'refused', 'cannot write to'),
])
def test_damage(bench, state, kind, name, outcome, words):
  below = damage.names_of(bench.made(state))[name]
  found, said = bench.trial(state, below, kind)
  assert found == outcome and words in said, (found, said)


def test_files_of_another_run_are_set_aside(bench):
  """Of one of the same configuration, and so alike."""
  workdir = bench.copied('finished')
  results, images = workdir / 'results.json', workdir / 'synthetic.npz'
  tree = json.loads(results.read_text())
  tree.pop('record')
  records.write(results, 'results.json', 'other', tree)
  found, said = damage.tried(workdir, bench.straight, True)
  assert found == 'same' and 'of another run' in said
  with np.load(images) as file:
    np.savez(images, **dict(file) | {'images': 1 - file['images']})
  found, said = damage.tried(workdir, bench.straight, True)
  assert found == 'same' and 'is not the one that results.json is of' in said


def test_checkpoints_of_another_segment_are_set_aside(bench):
  found, said = bench.exchanged()
  assert found == 'same' and 'segment 1, phase 1): set aside' in said


def test_a_damaged_segment_leaves_the_rows_of_later_ones(bench):
  """The last checkpoint of segment 1 is lost, that of segment 2 stands."""
  workdir = bench.copied('segment 2')
  shutil.rmtree(workdir / 'segment_1' / '4')
  assert damage.tried(workdir, bench.straight, False)[0] == 'same'


def test_accuracies_that_somebody_has_changed_are_measured_again(bench):
  workdir = bench.copied('finished')
  (workdir / 'results.json').unlink()
  path = workdir / 'accuracies.json'
  path.write_text(path.read_text().replace('[0.', '[7.'))
  found, said = damage.tried(workdir, bench.straight, False)
  assert found == 'same' and 'accuracies.json is not what its digest' in said


def test_another_seed_gets_no_results_of_before(bench, caplog):
  """Whatever of the files that tell the configuration is gone."""
  for names in ('config.json',), ('format.json',), (
      'config.json', 'format.json'):
    workdir = bench.copied('finished')
    for name in names:
      (workdir / name).unlink()
    with pytest.raises(UserError, match='--workdir .* holds'):
      damage.call(workdir, seed=1)
    assert not (workdir / 'config.json').exists() or len(names) == 1
  assert not caplog.records


def old(workdir, version, **changes):
  """Makes the files of a finished run those of an earlier version."""
  for name in 'config.json', 'results.json':
    tree = json.loads((workdir / name).read_text())
    tree.pop('record'), tree.pop('set', None)
    (workdir / name).write_text(json.dumps(
        tree | (changes if name == 'results.json' else {})))
  (workdir / workdirs.FORMAT_FILE).write_text(json.dumps(
      {'format': 2, 'version': version}))


def test_a_finished_run_of_an_earlier_version_is_shown(bench):
  workdir = bench.copied('finished')
  old(workdir, '0.2')
  before = (workdir / 'results.json').read_text()
  assert damage.call(workdir) == json.loads(before)
  assert (workdir / 'results.json').read_text() == before


def test_an_entry_that_a_finished_run_did_not_know_had_its_default(bench):
  workdir = bench.copied('finished')
  assert older.forget(workdir, 'segments', 'moving') == 1
  found = json.loads((workdir / 'results.json').read_text())
  assert damage.call(workdir) == {
      name: value for name, value in found.items() if name != records.FIELD}
  # What it did know is as before, and so is a run that has to go on.
  with pytest.raises(UserError, match=r'seed \(0 there, 1 here\)'):
    damage.call(workdir, seed=1)
  (workdir / 'results.json').unlink()
  with pytest.raises(UserError, match='segments.moving'):
    damage.call(workdir)


def test_a_finished_run_that_said_the_same_otherwise(bench):
  """One that is not finished has to say it as it did."""
  workdir = bench.copied('finished')
  older.said(workdir, 'segments', match='union')  # which auto means here
  damage.call(workdir)
  older.said(workdir, 'method', begin='auto')
  with pytest.raises(UserError, match=r'begin \(.judges. there, .noise. here'):
    damage.call(workdir)
  older.said(workdir, 'method', begin='noise')
  older.said(workdir, 'segments', match='union')
  (workdir / 'results.json').unlink()
  with pytest.raises(UserError, match='segments.match'):
    damage.call(workdir)


@pytest.mark.parametrize('changes', [
    {'seconds': 1e400}, {'accuracy': {'random': {}}}, {'method': 'x'},
    {'devices': '8'},
    {'accuracy': {'synthetic': {'mean': 7.5, 'std': 0., 'networks': [7.5]},
                  'random': {'mean': .1, 'std': 0., 'networks': [.1]}}}])
def test_results_of_an_earlier_version_that_cannot_be(changes, bench):
  workdir = bench.copied('finished')
  old(workdir, '0.2', **changes)
  with pytest.raises(UserError, match='a run of dasm_jax 0.2, whose'):
    damage.call(workdir)
  assert (workdir / 'results.json.damaged').exists()
