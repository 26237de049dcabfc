"""Config files: Python with `get_config(arguments)`.

A path names a file, a name one of the project's own: `configs/` of a checkout,
`dasm_jax/configs/` of an installed package.
"""

import difflib
import importlib.util
import os
import pathlib
import re
import runpy
import traceback

from ml_collections import ConfigDict

from dasm_jax.config import name_problem
from dasm_jax.errors import UserError


def load(given):
  """What a config file says, a `ConfigDict` that takes no further entries.

  Args:
    given: `path:arguments` or `name:arguments`, as `--config=` has it.

  Raises:
    UserError: no such file, one that is no Python or fails, or wrong arguments.
  """
  path, _, arguments = given.partition(':')
  path = find(path)
  spec = importlib.util.spec_from_file_location('dasm_config', path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except UserError:
    raise
  except OSError as error:
    if error.filename not in (path, os.path.abspath(path)):
      raise _failed(path, error) from error  # a file that its lines read
    raise UserError(f'cannot read config file {path!r}: '
                    f'{error.strerror or error}') from error
  except Exception as error:  # whatever its lines do
    raise _failed(path, error) from error
  if not hasattr(module, 'get_config'):
    raise UserError(f'config file {path!r} has no get_config(arguments); see '
                    'configs/digits.py')
  try:
    config = module.get_config(arguments)
  except UserError:
    raise
  except Exception as error:
    raise _failed(path, error) from error
  if not isinstance(config, ConfigDict):
    raise UserError(f'get_config of {path!r} returns a '
                    f'{type(config).__name__}, no configuration; begin with '
                    'config.defaults, see configs/digits.py')
  problem = name_problem(config)
  if problem:
    raise UserError(f'config file {path!r} has {problem}')
  return config.lock()


# ---- Where they are


def folder():
  """The folder of the project's own config files."""
  package = pathlib.Path(__file__).parents[1]
  inside = package / 'configs'  # of a wheel
  return inside if inside.is_dir() else package.parent / 'configs'


def names():
  """What the project's own config files are called, sorted: `digits`, …"""
  return sorted(path.stem for path in folder().glob('[!_]*.py'))


def find(path):
  """The path of a config file, of what `--config=` has before the colon.

  A file wins that is there. Else `digits`, `digits.py` and `configs/digits.py`
  are the project's own, from wherever it is called. A name without `.py` is
  always one of these: no file that happens to lie there is run for it.

  Raises:
    UserError: there is none.
  """
  if path.endswith('.py') and _is_file(path):
    return path
  own = re.fullmatch(r'(?:(?:\./)?configs/)?(\w+)\.py|(\w+)', path)
  name = own and (own[1] or own[2])
  if name in names():
    return str(folder() / f'{name}.py')
  raise UserError(f'no config file {path!r}; {_choices(path)}')


def beside(file, name):
  """What another config file defines, `{name: value}`; for config files.

  The one called `name` beside `file`, else the project's own: a copy of one in
  a folder of one's own finds what it builds on.

  Args:
    file: `__file__` of the one that asks.
    name: of the other, without `.py`.

  Raises:
    UserError: there is none.
  """
  near = pathlib.Path(file).with_name(f'{name}.py')
  return runpy.run_path(str(near) if near.is_file() else find(name))


def _choices(path):
  """What there is instead of a config file, in words."""
  stem = pathlib.PurePath(path).stem
  close = difflib.get_close_matches(stem, names(), 1)
  hint = f'did you mean {close[0]}? ' if close else ''
  if path and not path.endswith('.py') and _is_file(f'{path}.py'):
    hint = f'did you mean {path}.py? '
  try:
    near = sorted(str(p) for p in pathlib.Path(path).parent.glob('*.py'))
  except (OSError, ValueError):
    near = []
  # A folder may be full of programs.
  beside_it = (f'there are {", ".join(near)}; ' if 0 < len(near) <= 20 else '')
  return (f'{hint}{beside_it}choose from {", ".join(names())}, or give the '
          'path of a .py file')


def _is_file(path):
  try:
    return pathlib.Path(path).is_file()
  except (OSError, ValueError):  # a name that is too long, or none
    return False


def _failed(path, error):
  """The `UserError` of a file that is no Python, or whose lines fail."""
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if os.path.abspath(frame.filename) == os.path.abspath(path)]
  # Where no line of it was reached it was not understood.
  if not lines:
    line = getattr(error, 'lineno', None)
    text = ' '.join(str(getattr(error, 'msg', None) or error).split())
    return UserError(f'config file {path!r} is not Python: {text}'
                     + (f', line {line}' if line else '')
                     + '; it must be text in UTF-8')
  return UserError(f'config file {path!r} fails in line {lines[-1]}: '
                   f'{_reason(error)}')


_KINDS = {'int': 'a whole number', 'float': 'a number', 'str': 'text',
          'bool': 'True or False', 'tuple': 'a tuple', 'list': 'a list',
          'dict': 'a dict', 'ConfigDict': 'a group of entries'}


def _reason(error):
  """What went wrong in a line of a config file, in words of this program."""
  # What is not there is an error about an error, whose text is quoted again.
  inner = error
  while inner.args and isinstance(inner.args[0], BaseException):
    inner = inner.args[0]
  # A KeyError quotes what it is told, which may be quoted or a text already.
  told = inner.args[0] if isinstance(inner, KeyError) and inner.args else inner
  text = ' '.join(str(told).split())
  if inner is not error or isinstance(inner, KeyError):
    name, close = re.fullmatch(
        r'(?:Key )?[\'"]?(.*?)[\'"]?(?: Did you mean "(.+?)".*'
        r'| cannot be set .*)?', text).groups()
    return f'there is no {name!r}' + f'; did you mean {close}?' * bool(close)
  wrong = re.fullmatch(
      r"Could not override field '(.+)' \(reference\)\. (.*) is of original "
      r"type <class '(.+)'> and cannot be casted to type <class '(.+)'>", text)
  if wrong:
    name, value, *kinds = wrong.groups()
    is_, must = (_KINDS.get(kind.split('.')[-1], kind) for kind in kinds)
    return f'{name}={value} is {is_}, but {name} must be {must}'
  return f'{type(error).__name__}{": " if text else ""}{text}'
