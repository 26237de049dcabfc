"""Config files that are none, or fail."""

import pytest

from dasm_jax.config import files
from dasm_jax.errors import UserError

PLAIN = 'def get_config(text):\n  '


@pytest.mark.parametrize('content, words', [
    ((PLAIN + 'pass').encode('utf-16'), 'not Python: .*UTF-8'),
    (b"x = '\xff\xfe'\n", 'not Python: .*UTF-8'), (b'x = 1\0', 'not Python'),
    (b'x = (', 'not Python'), (b'import no_such_module', 'Module.*line 1'),
    ((PLAIN + '1 / 0').encode(), 'ZeroDivisionError: .*line 2'),
    ((PLAIN + 'return 3').encode(), 'returns a int'),
    (b'x = 1', 'no get_config')])
def test_a_file_that_is_no_configuration(content, words, tmp_path):
  path = tmp_path / 'a.py'
  path.write_bytes(content)
  with pytest.raises(UserError, match=words) as caught:
    files.load(f'{path}:ipc=1')
  assert '\n' not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize('given', ['', 'x' * 5000 + '.py', 'a\0.py', 'no.py:x'])
def test_a_file_that_is_not_there(given):
  with pytest.raises(UserError, match='no config file'):
    files.load(given)
