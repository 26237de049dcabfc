"""What a file of others does not say: told by the user, or guessed and said."""

from typing import NamedTuple


class Told(NamedTuple):
  """What the user says of a set; what is empty is found out.

  dataset: what it is of, such as cifar10 or folder:PATH; for a set of ours,
    where its data are now.
  space: of its values, one of `SPACES`.
  zca: eps of the whitening its images are in; 0: they are not; None: unsaid.
  factor: cells along a side of a stored image (IDC).
  recipe: how networks are trained on it.
  labels: what rows of real numbers are, one of `LABELS`.
  """
  dataset: str = ''
  space: str = ''
  zca: float | None = None
  factor: int = 0
  recipe: str = ''
  labels: str = ''


NOTHING = Told()
