"""Entries as a command line sets them: text, read by the type of the entry."""

import ast

from dasm_jax.config import difference, entry, files, schema
from dasm_jax.config import entries as flattened
from dasm_jax.errors import UserError
from dasm_jax.runtime import entries

TRUE, FALSE = ('true', 't', '1', 'yes'), ('false', 'f', '0', 'no')


def apply(config, texts, given=''):
  """Sets entries of a configuration to what their texts say.

  Args:
    config: a `ConfigDict`; it is changed.
    texts: `{dotted name: text}`.
    given: the config file that it is of, for what a message proposes.

  Raises:
    UserError: an unknown entry, a group that is given a value, a text that is
      none of the entry's type, a label that says something else than the
      entries beside it, a value that the config file has other entries for.
  """
  chosen = {}
  for name, text in texts.items():
    problem = difference(name, config)
    if problem:
      raise UserError(problem)
    found = entry(name, config)
    if found is None:
      raise UserError(_about_group(name, text, config[name], given))
    now, value = found[0], read_value(name, text, *found)
    if name in schema.LABELS and value != now:
      entries.check(name, value, schema.ENTRIES[name])
      raise UserError(
          f'--config.{name}={text} would change the name alone: the other '
          f'entries are those of {now}; ask for '
          f'--config={_with_argument(given, schema.LABELS[name], text)}')
    if name in schema.ARGUMENTS and value != now:
      entries.check(name, value, schema.ENTRIES[name])
      chosen[name] = value
    with config.unlocked():
      config.update_from_flattened_dict({name: value})
  _check_arguments(chosen, texts, given)


def _check_arguments(chosen, texts, given):
  """Refuses values that a config file has other entries for.

  What is published depends on images a class and the like: the file knows, and
  a flag would take what it has for another value.

  chosen: `{name: value}` of such entries. texts, given: see `apply`.
  """
  taken, asked = {}, given
  for name, value in chosen.items():
    longer = _with_argument(asked, schema.ARGUMENTS[name], value)
    found = _loaded(longer)
    # Where it has no such argument the flag is the only way.
    if name in found and found[name] == value:
      asked, taken = longer, found
  before = _loaded(given) if taken else {}
  others = [name for name in taken
            if taken[name] != before.get(name) and name not in texts]
  if others:
    said = ' '.join(f'--config.{name}={texts[name]}' for name in chosen)
    raise UserError(
        f'{said} would change that alone, but {given.partition(":")[0]} has '
        f'other values of {", ".join(others[:3])}'
        + f' and {len(others) - 3} more' * (len(others) > 3)
        + f' for it; ask for --config={asked}')


def _loaded(given):
  """`{name: value}` of a config file and arguments; {} if it takes them not."""
  try:
    return dict(flattened(files.load(given)))
  except UserError:
    return {}


def read_value(name, text, now, kind):
  """The value that a text says.

  Args:
    name: of the entry, dotted. text: as given; None: the flag alone.
    now: its value, which tells how another may look. kind: its type.

  Raises:
    UserError: no value of that type.
  """
  if text is None:
    if kind is bool:
      return True
    raise UserError(f'--config.{name} has no value; write --config.{name}='
                    f'{_shown(now)}, say')
  try:
    return _READERS[kind](text, now)
  except (ValueError, SyntaxError, RecursionError, MemoryError):
    what = {bool: 'True or False (bool)', int: 'a whole number (int)',
            float: 'a number (float)',
            tuple: 'numbers with commas between them (tuple)'}[kind]
    raise UserError(f'--config.{name}={text} must be {what}, such as '
                    f'{_shown(now)}') from None


def _shown(value):
  return ','.join(map(str, value or (1, 2))) if isinstance(
      value, tuple) else value


def _read_bool(text, now):
  del now
  if text.lower() not in TRUE + FALSE:
    raise ValueError
  return text.lower() in TRUE


def _read_int(text, now):
  del now
  return int(text, 16 if text.lower().startswith('0x') else 10)


def _read_tuple(text, now):
  """`1,2`, `(1, 2)` or `1`; numbers of the kind that there are."""
  value = ast.literal_eval(text or '()')
  value = tuple(value) if isinstance(value, tuple | list) else (value,)
  # An empty one does not tell of which kind its numbers are.
  kind = float if any(isinstance(x, float) for x in now or value) else int
  for x in value:
    if isinstance(x, bool) or not isinstance(x, int | kind):
      raise ValueError
  try:
    return tuple(map(kind, value))
  except OverflowError:
    raise ValueError from None


_READERS = {
    bool: _read_bool, int: _read_int, float: lambda text, now: float(text),
    str: lambda text, now: text, tuple: _read_tuple}


def _about_group(name, text, group, given):
  shown = '' if text is None else f'={text}'
  if name in (label.split('.')[0] for label in schema.LABELS) and text and (
      text.isidentifier()):
    way = f'ask for --config={_with_argument(given, name, text)}'
  else:
    first = next(iter(group))
    way = (f'set them one by one, such as --config.{name}.{first}='
           f'{_shown(group[first])}')
  return f'--config.{name}{shown} is a group of entries; {way}'


def _with_argument(given, key, value):
  """`file.py:a=1,key=value` of `file.py:a=1`."""
  path, _, arguments = given.partition(':')
  kept = [part for part in arguments.split(',')
          if part and not part.startswith(f'{key}=')]
  return f'{path or "FILE.py"}:{",".join([*kept, f"{key}={value}"])}'
