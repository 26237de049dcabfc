"""Workdirs in far places: what is there after a push, what comes back."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import small

from dasm_jax.distill import run
from dasm_jax.errors import UserError
from dasm_jax.runtime import preemption, timing
from dasm_jax.runtime import workdir as workdirs

pytestmark = pytest.mark.usefixtures('quick_compiler')


def tree(root):
  return {str(path.relative_to(root)): path.read_text()
          for path in pathlib.Path(root).rglob('*') if path.is_file()}


def test_pushes_what_changed_and_drops_what_went(tmp_path):
  far, near = tmp_path / 'far', tmp_path / 'near'
  place = workdirs.MirroredWorkdir(far, near)
  place.pull()
  (near / 'a' / 'b').mkdir(parents=True)
  (near / 'a' / 'b' / 'c').write_text('one')
  (near / '.lock').write_text('1')
  place.push()
  assert tree(far) == {'a/b/c': 'one'}
  (far / 'a' / 'b' / 'c').write_text('untouched')  # as nothing changed here
  place.push()
  assert tree(far) == {'a/b/c': 'untouched'}
  (near / 'a' / 'b' / 'c').unlink()
  (near / 'd').write_text('two')
  place.push()
  assert tree(far) == {'d': 'two'}


def test_brings_back_what_is_there_and_nothing_else(tmp_path):
  far, near = tmp_path / 'far', tmp_path / 'near'
  for folder, text in ((far, 'far'), (near, 'near')):
    (folder / 'x').mkdir(parents=True)
    (folder / 'x' / 'both').write_text(text)
  (near / 'stale').write_text('')
  workdirs.MirroredWorkdir(far, near).pull()
  assert tree(near) == {'x/both': 'far'}


def test_results_come_last(tmp_path, monkeypatch):
  near = tmp_path / 'near'
  near.mkdir()
  for name in ('results.json', 'synthetic.npz', 'a', 'z'):
    (near / name).write_text(name)
  place, sent = workdirs.MirroredWorkdir(tmp_path / 'far', tmp_path
                                         / 'empty'), []
  place.path = near
  write = pathlib.Path.write_bytes
  monkeypatch.setattr(pathlib.Path, 'write_bytes', lambda path, data: (
      sent.append(path.name), write(path, data)))
  place.push()
  assert sent[-1] == 'results.json' and len(sent) == 4


def test_failures_are_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(workdirs, 'PUSH_WAITS', (0, 0))
  (tmp_path / 'file').write_text('')
  near = tmp_path / 'near'
  near.mkdir()
  place = workdirs.MirroredWorkdir(tmp_path / 'file' / 'below', near)
  (near / 'a').write_text('')
  with pytest.raises(UserError, match='cannot use --workdir') as error:
    place.push()
  assert '\n' not in str(error.value) and error.value.code == 75  # try again
  with pytest.raises(UserError, match='cannot use --workdir') as error:
    place.pull()
  assert error.value.code == 2 and (near / 'a').exists()
  with pytest.raises(UserError, match=r"--workdir 'nosuch://x/y'"):
    workdirs.open_workdir('nosuch://x/y').pull()


def test_a_push_is_tried_again(tmp_path, monkeypatch):
  monkeypatch.setattr(workdirs, 'PUSH_WAITS', (0, 0))
  place, failures = workdirs.MirroredWorkdir(tmp_path / 'far', tmp_path
                                             / 'near'), [1, 1]
  place.pull()
  (tmp_path / 'near' / 'a').write_text('one')
  write = pathlib.Path.write_bytes
  def flaky(path, data):
    if failures:
      raise OSError(f'lost {failures.pop()}')
    return write(path, data)
  monkeypatch.setattr(pathlib.Path, 'write_bytes', flaky)
  place.push()
  assert tree(tmp_path / 'far') == {'a': 'one'} and not failures


def test_a_second_run_leaves_the_first_alone(tmp_path, monkeypatch):
  far, near = tmp_path / 'far', tmp_path / 'near'
  monkeypatch.setattr(workdirs, 'open_workdir',
                      lambda name: workdirs.MirroredWorkdir(far, near))
  first = workdirs.MirroredWorkdir(far, near)
  with workdirs.lock(first.home):
    first.pull()
    (near / 'mine').write_text('')
    with pytest.raises(UserError, match="'gs://bucket/run' is in use by"):
      run.run(small.tiny('dm'), 'gs://bucket/run')
    assert (near / 'mine').exists()


def test_own_directories_are_themselves(tmp_path):
  place = workdirs.open_workdir(tmp_path / 'runs' / 'one')
  place.pull()
  place.push()
  assert place.home == place.path
  assert place.path == tmp_path / 'runs' / 'one'
  assert place.experts == tmp_path / 'runs' / 'experts'
  assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('times, said', [
    (1, '8 of 9 networks trained on the synthetic set'),
    (4, '8 of 9 networks trained on the synthetic set, and 1 at epoch 3/6')])
def test_a_lost_machine_goes_on_from_the_far_place(
    times, said, tmp_path, monkeypatch):
  """Stopped in the evaluation, the machine gone, another one ends it."""
  far, near = tmp_path / 'far', tmp_path / 'near'

  def place(name):
    assert name == 'gs://bucket/run'
    return workdirs.MirroredWorkdir(far, near)
  config = small.tiny('dm', eval__networks=9, eval__epochs=6,
                      segments__number=1)
  monkeypatch.setattr(workdirs, 'open_workdir', place)
  monkeypatch.setattr(timing, 'CALL_SECONDS', 1e-9)  # an epoch a call
  heard, after = preemption.StopFlag.hear, []
  def hear(self, *values):
    if (near / 'accuracies.json').exists():
      after.append(values)
    if len(after) == times:
      self.note(15)
    return heard(self, *values)
  with monkeypatch.context() as patch:
    patch.setattr(preemption.StopFlag, 'hear', hear)
    with pytest.raises(preemption.Stopped, match=f'saved {said}; ') as stopped:
      run.run(config, 'gs://bucket/run')
  assert stopped.value.code == 75
  kept = json.loads((far / 'accuracies.json').read_text())
  assert len(kept['synthetic']) == 8
  assert bool([*far.glob('unfinished/*/*')]) == (times > 1)
  shutil.rmtree(near)
  results = run.run(config, 'gs://bucket/run')
  found = results['accuracy']['synthetic']['networks']
  assert len(found) == 9 and found[:8] == kept['synthetic']
  assert json.loads((far / 'results.json').read_text()) == results
  with np.load(far / 'synthetic.npz') as one:
    assert one['images'].shape == (10, 2, 8, 8, 1)
  assert 'see gs://bucket/run/report.html' in (far / 'log.txt').read_text()
  assert not [*near.glob('unfinished/*')]
  assert not [path for path in far.glob('unfinished/**/*') if path.is_file()]
  monkeypatch.undo()
  straight = run.run(config, tmp_path / 'straight')
  assert straight['accuracy'] == results['accuracy']
