"""Some classes of a data set, in the order in which they are named."""

import difflib
import re

import numpy as np

from dasm_jax.data.classes import LISTS
from dasm_jax.data.splits import shorten
from dasm_jax.errors import UserError

ENTRY = '--config.dataset.classes'


def choose(labels, names, wanted):
  """Which images are of the wanted classes, and what they are called then.

  Args:
    labels: `[n]` int, an index into `names`.
    names: of all classes.
    wanted: '' (all classes), or names joined by `+` or `,`: of classes, or of
      lists in `LISTS`. Label k is the k-th class that is named. `NAME:p/P` is
      part p, from 0, of P parts of a list, `:p/P` of all classes: a data set
      of its own, whose networks know no other class.

  Returns:
    `(rows, labels, names)`: `[m]` int, increasing, into the images; `[m]`
    int32, their new labels; a tuple.

  Raises:
    UserError: an unknown class, one named twice, fewer than two, a list with
      classes that the data set has not, a part that is not there.
  """
  at = indices(names, wanted)
  rows = np.flatnonzero(np.isin(labels, at))
  new = np.zeros(len(names), np.int32)
  new[at] = np.arange(len(at))
  return rows, new[labels[rows]], tuple(names[index] for index in at)


def indices(names, wanted):
  """The wanted classes as indices into `names`, `[k]` int; see `choose`."""
  if not wanted:
    return np.arange(len(names))
  known = {name: index for index, name in enumerate(names)}
  found = []
  for part in filter(None, map(str.strip, re.split('[+,]', wanted))):
    found += _of_part(part, known)
  twice = {index for index in found if found.count(index) > 1}
  if twice:
    raise UserError(f'{ENTRY}={wanted} names '
                    f'{shorten(names[index] for index in sorted(twice))} twice')
  if len(found) < 2:
    raise UserError(f'{ENTRY}={wanted} leaves {len(found)} of {len(names)} '
                    'classes; two are needed')
  return np.array(found)


def _of_part(part, known):
  """Indices of one class, of the classes of one list, or of a part of it."""
  if part in known:
    return [known[part]]
  cut = re.fullmatch(r'(.*):(\d+)/(\d+)', part)
  if cut:
    at = _of_part(cut[1], known) if cut[1] else list(known.values())
    k, parts = int(cut[2]), int(cut[3])
    if not k < parts <= len(at):
      raise UserError(f'{ENTRY}={part} is not a part from 0 to {parts - 1}, of '
                      f'{len(at)} at most')
    return at[k * len(at) // parts:(k + 1) * len(at) // parts]
  if part not in LISTS:
    choices = [*known, *LISTS]
    close = difflib.get_close_matches(part, choices, 3)
    hint = f'did you mean {" or ".join(close)}? ' if close else ''
    raise UserError(
        f'unknown class {part!r} in {ENTRY}; {hint}choose from '
        f'{shorten(known)}, or the lists {", ".join(sorted(LISTS))}')
  lacking = [name for name in LISTS[part] if name not in known]
  if lacking:
    raise UserError(
        f'{ENTRY}={part} lists {len(LISTS[part])} classes of ImageNet, and the '
        f'data set lacks {len(lacking)} of them ({shorten(lacking)}); it has '
        f'{shorten(known)}; name some of these, or none for all')
  return [known[name] for name in LISTS[part]]
