"""Config files that are none, or fail."""

import re

import pytest

from dasm_jax.config import files
from dasm_jax.errors import UserError

PLAIN = 'def get_config(text):\n  '


@pytest.mark.parametrize('content, words', [
    ((PLAIN + 'pass').encode('utf-16'), 'not Python: .*UTF-8'),
    (b"x = '\xff\xfe'\n", 'not Python: .*UTF-8'), (b'x = 1\0', 'not Python'),
    (b'x = (', 'not Python'), (b'import no_such_module', 'line 1: Module'),
    ((PLAIN + '1 / 0').encode(), 'line 2: ZeroDivisionError: '),
    (b'open("/no/such")', 'line 1: FileNotFoundError: .*/no/such'),
    (b'assert False', 'line 1: AssertionError$'),
    (b'x = {}["a"]', "line 1: there is no 'a'$"),
    ((PLAIN + 'return 3').encode(), 'returns a int'),
    (b'x = 1', 'no get_config')])
def test_a_file_that_is_no_configuration(content, words, tmp_path):
  path = tmp_path / 'a.py'
  path.write_bytes(content)
  with pytest.raises(UserError, match=words) as caught:
    files.load(f'{path}:ipc=1')
  assert '\n' not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize('line, words', [
    ('c.eval.epohcs = 4', "no entry 'eval.epohcs'; did you mean eval.epochs"),
    ('c.segments.gama = 4', 'did you mean segments.gamma?'),
    ('c.method.stpes = 4', 'did you mean method.steps?'),
    ('c.network.widht = 4', 'did you mean network.width?'),
    ('c.eval.gamma = 4', 'did you mean segments.gamma?'),
    ('c.experts = dict(lr=1.)', "no entry 'experts.lr'"),
    ('c.note = 1', "no entry 'note'; choose from coreset, dataset, "),
    ('c.method.student_steps = 4', "'method.student_steps' of method 'idc'; "),
    ('c.network.patch = 4', "'network.patch' of network 'convnet'; choose"),
    ('c.update_from_flattened_dict({"eval.epohcs": 4})', 'eval.epochs'),
    ('del c.eval.epochs', "lost the entry 'eval.epochs'"),
    ('del c.network', "lost the entry 'network.name'"),
    ('c.netwrok.width = 4', "3: there is no 'netwrok'; did you mean network"),
    ('c["netwrok"]["width"] = 4', "line 3: there is no 'netwrok'"),
    ('c.update_from_flattened_dict({"a.b": 4})', "there is no 'a.b'$"),
    ('c.method.steps = "4"', 'steps=4 is text, but steps must be a whole'),
    ('c.method = "dc"', 'but method must be a group of entries')])
def test_a_file_whose_line_is_mistyped(line, words, tmp_path):
  path = tmp_path / 'own.py'
  path.write_text('from dasm_jax import config\n' + PLAIN
                  + f'c = config.defaults(); {line}; return c')
  with pytest.raises(UserError) as caught:
    files.load(str(path))
  text = str(caught.value)
  assert str(path) in text and re.search(words, text), text
  assert '\n' not in text and '\\' not in text


@pytest.mark.parametrize('given', ['', 'x' * 5000 + '.py', 'a\0.py', 'no.py:x'])
def test_a_file_that_is_not_there(given):
  with pytest.raises(UserError, match='no config file'):
    files.load(given)
