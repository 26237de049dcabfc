"""Workdirs in far places: what is there after a push, what comes back."""

import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
import small

from dasm_jax.distill import run
from dasm_jax.errors import UserError
from dasm_jax.runtime import preemption
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


class Far(type(pathlib.Path())):
  """A path of a far place, which notes what is written, and may be lost."""
  wrote, failures, silent = [], [], []

  def write_text(self, *text, **more):
    """Writes, if the place answers."""
    if self.silent:
      raise self.silent.pop()
    return super().write_text(*text, **more)

  def write_bytes(self, data):
    """Writes, if the place is there."""
    if self.failures:
      raise OSError(f'lost {self.failures.pop()}')
    self.wrote.append(self.name)
    return super().write_bytes(data)


@pytest.fixture
def far(tmp_path):
  """The far place."""
  Far.wrote, Far.failures, Far.silent = [], [], []
  return Far(tmp_path / 'far')


def test_results_come_last(far, tmp_path):
  place = workdirs.MirroredWorkdir(far, tmp_path / 'near')
  place.pull()
  for name in ('results.json', 'synthetic.npz', 'a', 'z'):
    (place.path / name).write_text(name)
  place.push()
  assert far.wrote[-1] == 'results.json' and len(far.wrote) == 4


def test_failures_are_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  near = tmp_path / 'near'
  near.mkdir()
  place = workdirs.MirroredWorkdir(tmp_path / 'file' / 'below', near, (0, 0))
  (near / 'a').write_text('')
  with pytest.raises(UserError, match='cannot use --workdir') as error:
    place.push()
  assert '\n' not in str(error.value) and error.value.code == 75  # try again
  with pytest.raises(UserError, match='cannot use --workdir') as error:
    place.pull()
  assert error.value.code == 2 and (near / 'a').exists()
  with pytest.raises(UserError, match=r"--workdir 'nosuch://x/y'"):
    workdirs.find_workdir('nosuch://x/y')


def test_a_push_is_tried_again(far, tmp_path):
  place = workdirs.MirroredWorkdir(far, tmp_path / 'near', (0, 0))
  place.pull()
  (tmp_path / 'near' / 'a').write_text('one')
  far.failures += [1, 1]
  place.push()
  assert tree(far) == {'a': 'one'} and not far.failures


@pytest.mark.parametrize('errors, code', [
    (2 * [TimeoutError], None), (3 * [TimeoutError], 75),
    ([PermissionError], 2)])
def test_a_place_that_does_not_answer_at_first_is_tried_again(
    errors, code, far, tmp_path):
  place = workdirs.MirroredWorkdir(far, tmp_path / 'near', (0, 0))
  far.silent += [error('no answer') for error in errors]
  if code is None:
    place.pull()
    return
  with pytest.raises(UserError, match='cannot use --workdir') as error:
    place.pull()
  assert error.value.code == code and not far.silent


def test_a_second_run_leaves_the_first_alone(tmp_path):
  place = workdirs.MirroredWorkdir(tmp_path / 'far', tmp_path / 'near')
  with workdirs.open_workdir(place):
    (place.path / 'mine').write_text('')
    with pytest.raises(UserError, match='far.* is in use by'):
      run.run(small.tiny('dm'), place)
    assert (place.path / 'mine').exists()


def test_own_directories_are_themselves(tmp_path):
  place = workdirs.find_workdir(tmp_path / 'runs' / 'one')
  place.pull()
  place.push()
  assert place.home == place.path
  assert place.path == tmp_path / 'runs' / 'one'
  assert place.experts == tmp_path / 'runs' / 'experts'
  assert not (tmp_path / 'runs').exists()


def tiny():
  """Nine networks for eight devices, after sweeps that compile quickly."""
  return small.tiny('dm', eval__networks=9, eval__epochs=6, eval__augment='',
                    segments__number=1, method__augment='',
                    method__net_steps=0, network__depth=1)


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """The accuracies of a run that nobody stops."""
  return run.run(tiny(), tmp_path_factory.mktemp('straight'))['accuracy']


@pytest.mark.slow
@pytest.mark.parametrize('times, said', [
    (1, '8 of 9 networks trained on the synthetic set'),
    (2, '8 of 9 networks trained on the synthetic set, and 1 at epoch 1/6')])
def test_a_lost_machine_goes_on_from_the_far_place(
    times, said, straight, tmp_path):
  """Stopped in the evaluation, the machine gone, another one ends it."""
  far, near = tmp_path / 'far', tmp_path / 'near'
  place = functools.partial(workdirs.MirroredWorkdir, far, near)
  with pytest.raises(preemption.Stopped, match=f'saved {said}; ') as stopped:
    run.run(tiny(), place(), stopping=small.AskedAt(
        times, (near / run.ACCURACIES).exists))
  assert stopped.value.code == 75
  kept = json.loads((far / run.ACCURACIES).read_text())
  assert len(kept['synthetic']) == 8
  assert bool([*far.glob('unfinished/*/*')]) == (times > 1)
  shutil.rmtree(near)
  results = run.run(tiny(), place())
  found = results['accuracy']['synthetic']['networks']
  assert len(found) == 9 and found[:8] == kept['synthetic']
  stored = json.loads((far / 'results.json').read_text())
  assert stored.pop('record') and stored == results
  with np.load(far / 'synthetic.npz') as one:
    assert one['images'].shape == (10, 2, 8, 8, 1)
  assert f'see {far}/report.html' in (far / 'log.txt').read_text()
  assert not (near / 'unfinished').exists()
  assert not [path for path in far.glob('unfinished/**/*') if path.is_file()]
  assert straight == results['accuracy']
