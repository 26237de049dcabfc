"""Where prepared TFDS sets are on disk. Looks at names, reads no images."""

import os
import re
from pathlib import Path

from dasm_jax.data.splits import brief, shorten
from dasm_jax.data.table import DATASETS
from dasm_jax.errors import UserError
from dasm_jax.paths import is_far, path_of

DEFAULT = '~/tensorflow_datasets'
INFO = 'dataset_info.json'
_VERSION = re.compile(r'\d+\.\d+\.\d+')


def data_root(data_dir=None):
  """The data directory: the argument, else TFDS_DATA_DIR, else TFDS's own.

  Raises `UserError` if one was asked for and is not there.
  """
  told = data_dir or os.environ.get('TFDS_DATA_DIR')
  root = path_of(told or DEFAULT)
  try:
    missing = told and not root.is_dir()
  except Exception as error:  # Of a bucket: no rights, no network, no gcsfs.
    raise UserError(f'cannot reach data directory {str(told)!r}: '
                    f'{brief(error)}; gs:// needs dasm-jax[gcs]') from error
  if missing:
    source = 'data_dir' if data_dir else 'TFDS_DATA_DIR'
    raise UserError(f'data directory {str(told)!r} ({source}) does not exist; '
                    'make it, or name the one that holds the data sets')
  return root


def is_path(name):
  """Whether a name can only be meant as a path."""
  return name.startswith(('/', '.', '~')) or is_far(name)


def tfds_name(name):
  """What TFDS calls a data set: `svhn` is `svhn_cropped` there."""
  stem, slash, rest = name.partition('/')
  return (DATASETS[stem].tfds if stem in DATASETS else stem) + slash + rest


def locate(name, data_dir=None):
  """The directory of a prepared set, or None if it is not prepared.

  name: a path, or a name below the data directory, `name[/config][:version]`.
  Raises `UserError` for a path with nothing prepared, and for a choice.
  """
  try:
    if is_path(name):
      found = _newest(path_of(name), name)
      if found is None:
        raise UserError(f'no prepared TFDS set at {name!r}: no {INFO} in it or '
                        'its version directories; for plain images use '
                        f'folder:{name}')
      return found
    return _below(name, data_dir)
  except OSError as error:
    raise UserError(f'cannot look for data set {name!r}: {brief(error)}'
                    ) from error


def _below(name, data_dir):
  here = _newest(Path(name), name) if os.sep in name else None
  if here is not None:
    return here
  stem, _, version = tfds_name(name).partition(':')
  path = data_root(data_dir) / stem
  if version:
    return path / version if (path / version / INFO).is_file() else None
  return _newest(path, name)


def _newest(path, name):
  """`path` if it is a version directory, else its newest version's."""
  if (path / INFO).is_file():
    return path
  if not path.is_dir():
    return None
  versions = _versions(path)
  if versions:
    return versions[-1]
  configs = sorted(entry for entry in path.iterdir()
                   if entry.is_dir() and _versions(entry))
  if len(configs) > 1:
    raise UserError(
        f'data set {name!r} is prepared in several configurations; choose one '
        f'of {shorten((f"{name}/{entry.name}" for entry in configs), 20)}')
  return _versions(configs[0])[-1] if configs else None


def prepared(root):
  """Names of the sets that are prepared below a data directory."""
  try:
    return sorted(entry.name for entry in root.iterdir()
                  if entry.is_dir() and _versions(entry))
  except OSError:  # What cannot be listed helps nobody.
    return []


def _versions(path):
  """The prepared versions in a directory, oldest first."""
  found = [entry for entry in path.iterdir()
           if _VERSION.fullmatch(entry.name) and (entry / INFO).is_file()]
  return sorted(found, key=lambda entry: [
      int(part) for part in entry.name.split('.')])
