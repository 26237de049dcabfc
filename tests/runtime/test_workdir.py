"""One run a directory, one configuration for good."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from dasm_jax.errors import UserError
from dasm_jax.runtime import workdir as workdirs

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_HOLD = '''
import sys, time
from dasm_jax.runtime import workdir
with workdir.lock(sys.argv[1]):
  print('held', flush=True)
  time.sleep(60)
'''


def test_lock(tmp_path):
  path = tmp_path / 'new' / 'run'
  process = subprocess.Popen(
      [sys.executable, '-c', _HOLD, str(path)],
      env=os.environ | {'PYTHONPATH': str(_ROOT)}, stdout=subprocess.PIPE,
      text=True)
  assert process.stdout.readline() == 'held\n'
  with pytest.raises(UserError, match=f'in use by process {process.pid};'):
    with workdirs.lock(path):
      pass
  process.kill()
  process.communicate()
  with workdirs.lock(str(path)):
    assert (path / '.lock').read_text() == f'{os.getpid()}\n'
  with workdirs.lock(path):
    pass


def test_lock_where_nothing_can_be_made(tmp_path):
  (tmp_path / 'file').write_text('')
  for name, words in (('file/run', "run' is below '.*/file', a file, no"),
                      ('file', "file' is a file, no directory; choose")):
    for asked in (lambda path: workdirs.lock(path).__enter__(),
                  lambda path: workdirs.check_config(path, {})):
      with pytest.raises(UserError, match=f'--workdir .*{words}'):
        asked(tmp_path / name)


def test_claim(tmp_path):
  config = {'ipc': 1, 'model': {'name': 'convnet', 'widths': (8, 8)},
            'devices': {'n': 1}, 'nan': float('nan'), 'empty': {}}
  assert workdirs.claim(tmp_path, config) == workdirs.claim(tmp_path, config)
  other = config | {'devices': {'n': 8}, 'devices_too': 1, 'ipc': 10,
                    'model': {'name': 'x' * 99, 'widths': (8,)}}
  with pytest.raises(UserError) as error:
    workdirs.claim(tmp_path, other, free=('devices',))
  message = str(error.value)
  for part in ('ipc (1 there, 10 here)', 'devices_too (missing there, 1 here)',
               'model.widths ([8, 8] there, [8] here)', '--workdir',
               'model.name ("convnet" there, "xxx'):
    assert part in message
  assert 'devices.n' not in message and 'nan' not in message
  with pytest.raises(UserError, match='and 3 more; choose'):
    workdirs.claim(tmp_path, {str(i): i for i in range(3)} | {'ipc': 1})
  workdirs.claim(tmp_path, config | {'devices': {'n': 8}}, ('devices',))
  assert json.loads((tmp_path / 'config.json').read_text())['devices'] == {
      'n': 8}
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      'config.json', 'format.json']


def test_what_tells_runs_apart_is_named_first(tmp_path):
  def config(method, seed):
    return {'dataset': {'name': 'digits'}, 'eval': {'lr': seed},
            'method': {'augment': method, 'batch': seed, 'name': method},
            'network': {'depth': seed}, 'seed': seed, 'syn': {'ipc': seed + 1}}
  workdirs.claim(tmp_path, config('dm', 0))
  with pytest.raises(UserError, match='configuration: method.name .*, syn.ipc '
                     '.*, seed .*, eval.lr .*, method.augment .* and 2 more'):
    workdirs.claim(tmp_path, config('dc', 1))


CONFIG = {'seed': 0, 'run': {'chunk': 1}}


def folder(path):
  path.unlink()
  path.mkdir()


FAULTS = {
    'gone': lambda path: path.unlink(), 'folder': folder,
    'empty': lambda path: path.write_text(''),
    'cut': lambda path: path.write_text(path.read_text()[:-9]),
    'list': lambda path: path.write_text('[1]'),
    'deep': lambda path: path.write_text('[' * 10 ** 5),
    'flip': lambda path: path.write_text(path.read_text().replace('0', '1')),
    'text': lambda path: path.write_bytes(bytes(range(256)))}


@pytest.mark.parametrize('name', ['config.json', 'format.json'])
@pytest.mark.parametrize('fault', FAULTS)
def test_one_of_two_files_tells_whose_a_workdir_is(fault, name, tmp_path,
                                                   caplog):
  run = workdirs.claim(tmp_path, CONFIG, ('run',))
  (tmp_path / 'results.json').write_text('{}')
  FAULTS[fault](tmp_path / name)
  with pytest.raises(UserError, match='another configuration') as caught:
    workdirs.claim(tmp_path, CONFIG | {'seed': 1}, ('run',))
  # A finished run is nothing to delete.
  assert name != 'config.json' or 'the command that began it' in str(
      caught.value) and 'delete' not in str(caught.value)
  assert workdirs.check_config(tmp_path, CONFIG, ('run',)) == run
  assert not caplog.records
  again = CONFIG | {'run': {'chunk': 2}}
  assert workdirs.claim(tmp_path, again, ('run',)) == run
  assert len(caplog.records) == ((fault, name) != ('gone', 'format.json'))
  caplog.clear()
  assert workdirs.claim(tmp_path, again, ('run',)) == run
  assert not caplog.records


@pytest.mark.parametrize('fault', FAULTS)
def test_a_workdir_of_nobody_knows_whom_is_refused(fault, tmp_path):
  workdirs.claim(tmp_path, CONFIG)
  (tmp_path / 'segment_1').mkdir()
  for name in 'config.json', 'format.json':
    FAULTS[fault](tmp_path / name)
  for seed in 0, 1:
    with pytest.raises(UserError, match='segment_1.*config.json is .*choose '
                       'another --workdir'):
      workdirs.claim(tmp_path, CONFIG | {'seed': seed})


def test_a_configuration_that_was_set_aside_is_told_of(tmp_path):
  workdirs.claim(tmp_path, CONFIG)
  for _ in range(2):
    (tmp_path / 'config.json').replace(tmp_path / 'config.json.damaged')
    with pytest.raises(UserError, match=r'json is missing.* \(config\.json\.'
                       'damaged there may tell which.; .*choose another'):
      workdirs.claim(tmp_path, CONFIG | {'seed': 1})
    (tmp_path / 'config.json.damaged').replace(tmp_path / 'config.json')
    (tmp_path / 'format.json').unlink(missing_ok=True)
    (tmp_path / 'results.json').touch()


def test_files_of_two_runs_are_refused(tmp_path):
  for name in 'one', 'two':
    (tmp_path / name).mkdir()
  assert workdirs.claim(tmp_path / 'one', CONFIG) != workdirs.claim(
      tmp_path / 'two', CONFIG)
  (tmp_path / 'one' / 'config.json').replace(tmp_path / 'two' / 'config.json')
  with pytest.raises(UserError, match='are of two runs; delete the one'):
    workdirs.claim(tmp_path / 'two', CONFIG)


@pytest.mark.parametrize('told, version', [
    (None, '0.1'), ('{"format": 2, "version": "0.2"}', '0.2')])
def test_a_workdir_of_an_earlier_version(told, version, tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
  if told:
    (tmp_path / 'format.json').write_text(told)
  assert workdirs.check_config(tmp_path, CONFIG) is None
  with pytest.raises(UserError, match=f'of dasm_jax {version}, whose checkpo'):
    workdirs.claim(tmp_path, CONFIG)
