"""Config files: where they are found, those that are none, or fail."""

import re
import shutil

import pytest
import toy

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


# ---- Where they are found

CONFIGS = toy.ROOT / 'configs'
OTHER = """from dasm_jax import config
def get_config(text):
  c = config.defaults()
  c.seed = 77
  return c
"""


def test_the_projects_own_have_names():
  assert files.names() == sorted(p.stem for p in CONFIGS.glob('*.py'))
  assert 'digits' in files.names()


@pytest.mark.parametrize('given', [
    'digits', 'digits.py', 'configs/digits.py', './configs/digits.py'])
def test_the_projects_own_are_found_from_anywhere(
    given, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  want = files.load(f'{CONFIGS / "digits.py"}:ipc=7')
  assert files.load(f'{given}:ipc=7') == want and want.syn.ipc == 7


def test_a_file_that_is_here_wins_by_its_path_alone(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').mkdir()
  for name in ('configs/digits.py', 'digits.py', 'own.py'):
    (tmp_path / name).write_text(OTHER)
    assert files.load(name).seed == 77
  # A name runs no file that happens to lie here.
  assert files.load('digits').seed == 0
  assert files.load('configs/mnist.py').dataset.name == 'mnist'
  with pytest.raises(UserError, match="'own'; did you mean own.py?"):
    files.load('own')


@pytest.mark.parametrize('given, words', [
    ('digitz', 'did you mean digits?'), ('configs/minst.py', 'mean mnist?'),
    ('no/digits.py', 'mean digits?'), ('no', 'or give the path of a .py file'),
    ('', 'choose from'), ('../digits', 'choose from')])
def test_an_unknown_name_lists_the_choices(
    given, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError) as caught:
    files.load(given)
  text = str(caught.value)
  assert f'no config file {given!r}; ' in text and words in text
  assert ', '.join(files.names()) in text and '\n' not in text


def test_a_file_of_ones_own_builds_on_those_of_the_project(
    tmp_path, monkeypatch):
  shutil.copy(CONFIGS / 'mnist.py', tmp_path)
  monkeypatch.chdir(tmp_path)
  given = 'mnist.py:method=mtt'
  assert files.load(given) == files.load(f'{CONFIGS / given}')
  # One beside it is nearer.
  (tmp_path / 'cifar10.py').write_text('TRAJECTORIES = {}\n')
  assert files.beside(str(tmp_path / 'mnist.py'), 'cifar10')[
      'TRAJECTORIES'] == {}
  with pytest.raises(UserError, match="no config file 'cifar11'.*cifar10"):
    files.beside(__file__, 'cifar11')
