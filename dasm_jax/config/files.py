"""Config files: Python with `get_config(arguments)`."""

import importlib.util
import os
import pathlib
import traceback

from ml_collections import ConfigDict

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
  return config.lock()


def _is_file(path):
  try:
    return pathlib.Path(path).is_file()
  except (OSError, ValueError):  # a name that is too long, or none
    return False


def _failed(path, error):
  """The `UserError` of a file that is no Python, or whose lines fail."""
  text = ' '.join(str(getattr(error, 'msg', None) or error).split())
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if os.path.abspath(frame.filename) == os.path.abspath(path)]
  # Where no line of it was reached it was not understood.
  if not lines:
    line = getattr(error, 'lineno', None)
    return UserError(f'config file {path!r} is not Python: {text}'
                     + (f', line {line}' if line else '')
                     + '; it must be text in UTF-8')
  return UserError(f'config file {path!r} fails: {type(error).__name__}: '
                   f'{text}, line {lines[-1]}')
