"""Entries of a configuration: each with its default, meaning, range, choices.

A table `{name: Entry}` says all that there is to know of some entries, once:
what builds a configuration, checks one, or writes the help reads it.
"""

import math
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from dasm_jax.errors import UserError, unknown

INDENT = 36  # of meanings
LARGEST = 10 ** 9  # of numbers, where nothing else is said


class Entry(NamedTuple):
  """One entry.

  default: its value where nobody sets another, which also tells its type.
  meaning: for people, in one line.
  range: `(name, value) -> None`, which raises `UserError`; or None.
  choices: the values there are, or () for any.
  most: the largest number that makes sense.
  """
  default: Any
  meaning: str = ''
  range: Callable | None = None
  choices: Iterable = ()
  most: float = LARGEST


# ---- Ranges
# Each raises by itself rather than say yes or no: its message tells what the
# value would have to be.


def at_least(least):
  """A range of numbers from `least` on."""
  def check(name, value):
    if value < least:
      raise UserError(f'--config.{name}={value} must be at least {least}')
  return check


def positive(name, value):
  """The range of numbers above 0."""
  if not value > 0:
    raise UserError(f'--config.{name}={value} must be positive')


def not_negative(name, value):
  """The range of numbers from 0 on."""
  if value < 0:
    raise UserError(f'--config.{name}={value} must not be negative')


def unless(special, allowed):
  """A range, or one value besides that stands for something else."""
  def check(name, value):
    if value != special:
      try:
        allowed(name, value)
      except UserError as error:
        raise UserError(f'{error}, or {special}') from None
  return check


def each(allowed):
  """A range of the members of a tuple."""
  def check(name, values):
    for value in values:
      try:
        allowed(name, value)
      except UserError as error:
        # It names the one; the flag has them all.
        raise UserError(str(error).replace(
            f'{name}={value}', f'{name}={values}', 1).replace(
                ' must', ': each must', 1)) from None
  return check


def share(name, value):
  """The range from 0 to 1."""
  if not 0 <= value <= 1:
    raise UserError(f'--config.{name}={value} is a share, from 0 to 1')


def below_one(name, value):
  """The range from 0 on that 1 is above."""
  if not 0 <= value < 1:
    raise UserError(f'--config.{name}={value} must be at least 0 and less than '
                    '1')


def shares(name, values):
  """Any number of shares."""
  if not all(0 <= value <= 1 for value in values):
    raise UserError(f'--config.{name}={values} are shares of the steps, from 0 '
                    'to 1')


def not_empty(name, values):
  """At least one value."""
  if not values:
    raise UserError(f'--config.{name}={values} must have at least one')


# ---- Reading the tables


def check(name, value, entry):
  """Raises `UserError` for a value that an `Entry` does not allow.

  name: dotted, as `--config.` has it. None is what is not set.
  """
  if value is None:
    return
  for one in value if isinstance(value, tuple) else (value,):
    _check_sense(name, value, one, entry.most)
  if entry.choices and value not in entry.choices:
    raise unknown(f'--config.{name}', value, entry.choices)
  if entry.range is not None:
    entry.range(name, value)


def _check_sense(name, value, one, most):
  """Raises `UserError` for a number or text that nothing can be made of."""
  if isinstance(one, str) and not one.isprintable():
    raise UserError(f'--config.{name}={value!r} has characters that cannot be '
                    'printed; leave them out')
  if isinstance(one, str | bool) or not isinstance(one, int | float):
    return
  if not math.isfinite(one):
    raise UserError(f'--config.{name}={value} must be a finite number')
  if abs(one) > most:
    raise UserError(f'--config.{name}={value} must be at most {most}')


def help_lines(values, table, width=80):
  """Yields the lines of `--help`.

  An entry stands to the left of its meaning and choices, or above where it is
  long.

  Args:
    values: pairs of a dotted name and its value.
    table: `{dotted name: Entry}`; other names have no meaning.
    width: of the terminal.
  """
  for name, value in values:
    known = table.get(name, Entry(None))
    line, meaning = f'  --config.{name}={value}', known.meaning
    if known.choices:
      meaning += f': {", ".join(sorted(map(str, known.choices)))}'
    text = textwrap.wrap(meaning, max(width - INDENT, 20),
                         break_on_hyphens=False)
    if text and len(line) < INDENT - 1:
      line, text = f'{line:<{INDENT}}{text[0]}', text[1:]
    yield line
    yield from (f'{"":<{INDENT}}{more}' for more in text)
