"""What a user can mend: shown as one line, exit status 2, no traceback."""

from collections.abc import Iterable


class UserError(ValueError):
  """A mistake in a configuration, a command line or a data directory.

  The message is one line and names the value, the choices and the way out.
  """
  code = 2  # exit status


class Unavailable(UserError):
  """What failed may work again: the same command goes on, if started again."""
  code = 75


def unknown(kind: str, value: object, choices: Iterable) -> UserError:
  """`UserError` for a name that is in no table, with what is, sorted."""
  names = ', '.join(sorted(str(choice) for choice in choices))
  return UserError(f'unknown {kind} {value!r}; choose from {names}')
