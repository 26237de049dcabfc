"""What the description of a TFDS set may say: TFDS's own classes, no others.

`features.json` names the class of each feature by its import path, and TFDS
imports what it has not seen, from the working directory first: a set from
elsewhere could run code. Every name is looked at before TFDS reads the file.
"""

import functools
import json

from dasm_jax.errors import UserError

FEATURES = 'features.json'
# How the two forms of the file, of all versions of TFDS, name a class.
_CLASS_KEYS = frozenset(('pythonClassName', 'python_class_name', 'type'))


def check_features(directory):
  """Refuses a description that names a class which is not TFDS's own.

  Args:
    directory: of a prepared set; one without a `features.json` says nothing.

  Raises:
    UserError: another class, or a file that cannot be read as JSON.
  """
  path = directory / FEATURES
  if not path.exists():
    return
  try:
    names = sorted(set(_class_names(json.loads(path.read_text()))))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f'cannot read the TFDS set in {str(directory)!r}: its '
                    f'{FEATURES} is no JSON ({type(error).__name__})'
                    ) from error
  for name in names:
    if name not in _known():
      raise UserError(
          f'{str(path)!r} names the class {name!r}, which is none of '
          'tfds.features: a set is read only if TFDS itself has its features, '
          'as others would run code of their own; prepare it anew with these')


def check_below(directory):
  """The same for all sets below a directory: their versions, configurations."""
  if directory.is_dir():
    for pattern in (f'*/{FEATURES}', f'*/*/{FEATURES}'):
      for path in directory.glob(pattern):
        check_features(path.parent)


@functools.cache
def _known():
  """Import paths of the classes that `tfds.features` has."""
  import tensorflow_datasets as tfds
  classes = (getattr(tfds.features, name) for name in dir(tfds.features))
  return {f'{found.__module__}.{found.__name__}' for found in classes
          if isinstance(found, type)
          and issubclass(found, tfds.features.FeatureConnector)}


def _class_names(tree):
  """Yields all that may be the name of a class, however deep."""
  if isinstance(tree, dict):
    for key, value in tree.items():
      if key in _CLASS_KEYS and isinstance(value, str):
        yield value
      elif key == 'json' and isinstance(value, str):
        # A feature within a text, which TFDS reads as JSON.
        yield from _class_names(json.loads(value))
      else:
        yield from _class_names(value)
  elif isinstance(tree, list):
    for value in tree:
      yield from _class_names(value)
