"""A run goes on with the images that it began with, or says so."""

import pytest
import small
from image_sets import mixed_folder, write

from dasm_jax.distill import run
from dasm_jax.errors import UserError
from dasm_jax.runtime import preemption

pytestmark = pytest.mark.usefixtures('quick_compiler')


def begun(tmp_path, **changes):
  """A configuration on a folder, and the folder; its run was stopped."""
  root = mixed_folder(tmp_path / 'images', 40)
  config = small.tiny(
      'dm', dataset__name=f'folder:{root}', dataset__size=8,
      network__depth=1, segments__number=1, method__augment='',
      method__net_steps=0, method__batch=4, method__steps=6, run__chunk=1,
      **changes)
  with pytest.raises(preemption.Stopped):  # after the first sweep
    run.run(config, small.measured(tmp_path / 'run'),
            stopping=small.AskedAt(2))
  return config, root


@pytest.mark.parametrize('stream', ['always', 'never'])
def test_other_pixels_are_told_of(stream, tmp_path, capsys):
  config, root = begun(tmp_path, dataset__stream=stream)
  for path in root.glob('a/*.png'):  # some of them are for testing
    write(path, value=99, mode='RGB')
  capsys.readouterr()
  run.run(config, tmp_path / 'run')
  said = capsys.readouterr().out
  assert 'have changed since this run began' in said


def test_other_labels_are_refused(tmp_path, capsys):
  config, root = begun(tmp_path)
  write(root / 'a' / 'one_more.png', value=99, mode='RGB')
  with pytest.raises(UserError, match=r'are not those that this run began with '
                     r'\(\d\d, or in other classes\).* another --workdir'):
    run.run(config, tmp_path / 'run')
  (root / 'a' / 'one_more.png').unlink()
  capsys.readouterr()
  run.run(config, tmp_path / 'run')
  assert 'have changed' not in capsys.readouterr().out


def test_whitened_images_are_known_by_their_labels(tmp_path, capsys):
  config, _ = begun(tmp_path, dataset__zca=.1)
  run.run(config, tmp_path / 'run')
  assert 'have changed' not in capsys.readouterr().out


def test_the_log_tells_of_stops_and_the_clock_of_all_calls(tmp_path):
  config, _ = begun(tmp_path)
  log = (tmp_path / 'run' / 'log.txt').read_text()
  assert 'SIGTERM: saved segment 1, step 1; the same command' in log
  first = small.clock(tmp_path / 'run')
  assert first > 0
  results = run.run(config, tmp_path / 'run')
  assert results['seconds'] > first
  assert small.clock(tmp_path / 'run') >= results['seconds'] - .1
  before = (tmp_path / 'run' / 'log.txt').read_text()
  assert run.run(config, tmp_path / 'run') == results
  assert (tmp_path / 'run' / 'log.txt').read_text() == before
