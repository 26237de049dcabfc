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
  with pytest.raises(UserError, match='cannot write to --workdir'):
    with workdirs.lock(tmp_path / 'file' / 'run'):
      pass


def test_claim(tmp_path):
  config = {'ipc': 1, 'model': {'name': 'convnet', 'widths': (8, 8)},
            'devices': {'n': 1}, 'nan': float('nan'), 'empty': {}}
  workdirs.claim(tmp_path, config)
  workdirs.claim(tmp_path, config)
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
  assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_claim_of_a_broken_file(tmp_path):
  (tmp_path / 'config.json').write_text('{"a": ')
  with pytest.raises(UserError, match='not readable as JSON; mend or delete'):
    workdirs.claim(tmp_path, {})
  with pytest.raises(UserError, match='cannot write'):
    workdirs.write_text(tmp_path / 'no' / 'where', '')
