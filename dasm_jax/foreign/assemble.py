"""A `SavedSet` of what others published."""

from dasm_jax.errors import UserError
from dasm_jax.foreign.guess import NOTHING


def split(path):
  """`(path, number)` of a path that `#2` may follow; 0 where none does."""
  head, mark, number = str(path).rpartition('#')
  if mark and number.isdecimal():
    return head, int(number)
  return str(path), 0


def load(path, told=NOTHING, data_dir=None):
  """The `SavedSet` of a published file or folder.

  Args:
    path: of a file or folder; `#2` behind it takes the second of several sets.
    told: a `Told`.
    data_dir: where TFDS sets are; None: TFDS_DATA_DIR.

  Raises:
    UserError: no set that is known, or something that must be told.
  """
  del told, data_dir
  raise UserError(f'{str(path)!r} is no synthetic.npz; give a set that a run '
                  'of dasm_jax has left, or its workdir')
