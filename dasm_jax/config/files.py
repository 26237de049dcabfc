"""Config files: Python with `get_config(arguments)`."""

import importlib.util
import os
import pathlib
import re
import traceback

from ml_collections import ConfigDict

from dasm_jax.config import name_problem
from dasm_jax.errors import UserError


def load(given):
  """What a config file says, a `ConfigDict` that takes no further entries.

  Args:
    given: `path:arguments`, as `--config=` has it.

  Raises:
    UserError: no such file, one that is no Python or fails, or wrong arguments.
  """
  path, _, arguments = given.partition(':')
  if not (path.endswith('.py') and _is_file(path)):
    near = sorted(str(p) for p in pathlib.Path(path).parent.glob('*.py'))
    raise UserError(f'no config file {path!r}; ' + (
        f'there are {", ".join(near)}' if near else
        'give the path of a .py file, such as configs/digits.py'))
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
