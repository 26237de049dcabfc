"""DD-Ranking's scores: what a distilled set is worth beside real images.

Accuracies are fractions from 0 to 1, floats or arrays of equal shape (one
entry a network, say), computed with as float64 in NumPy. Means over networks
are left to the caller: DD-Ranking averages the scores, not the accuracies.

Source: DD-Ranking (NUS-HPC-AI-Lab) as documented, with fractions. The code of
its release 0.2.0 feeds percentages into the exponential; that is not followed.
"""

import numpy as np

from dasm_jax.errors import UserError


def hlr(full, syn):
  """Hard label recovery: `full - syn`, lower is better.

  Args:
    full: accuracy after training on the whole real set, hard labels.
    syn: on the distilled set, with hard labels too.
  """
  return _float(full) - _float(syn)


def ior(syn, random):
  """Improvement over random: `syn - random`, higher is better.

  Args:
    syn: accuracy on the distilled set with its own labels and recipe.
    random: on as many random real images under the same recipe.
  """
  return _float(syn) - _float(random)


def lrs(lag, gain, weight=0.5):
  """Label robust score: `normalised(weight * gain - (1 - weight) * lag)`.

  Args:
    lag: the `hlr` of a set.
    gain: its `ior`.
    weight: of the gain.

  Returns:
    From 0 to 1, higher is better; `normalised(0)`, 0.269, where the set is as
    good as both the real data and random images.

  Raises:
    UserError: percentages, a weight outside 0 to 1.
  """
  weight, lag, gain = _checked(weight, lag, gain)
  return normalised(weight * gain - (1 - weight) * lag)


def ars(gain_augmented, gain_plain, weight=0.5):
  """Augmentation robust score, from 0 to 1, higher is better.

  `normalised(weight * gain_augmented + (1 - weight) * gain_plain)`.

  Args:
    gain_augmented: `ior` where both sets are augmented in the evaluation.
    gain_plain: `ior` where neither is.
    weight: of the augmented one.

  Raises:
    UserError: percentages, a weight outside 0 to 1.
  """
  weight, augmented, plain = _checked(weight, gain_augmented, gain_plain)
  return normalised(weight * augmented + (1 - weight) * plain)


def normalised(alpha):
  """`(e^alpha - e^-1) / (e - e^-1)`: -1 becomes 0 and 1 stays 1."""
  return (np.exp(_float(alpha)) - np.exp(-1.0)) / (np.e - np.exp(-1.0))


def _checked(weight, *differences):
  weight, *differences = map(_float, (weight, *differences))
  # Accuracies that are fractions differ by 1 at most.
  for x in differences:
    if np.any(np.abs(x) > 1):
      raise UserError(f'a difference of accuracies of {np.abs(x).max():g} is '
                      'outside -1 to 1; give fractions, not percentages')
  if np.any((weight < 0) | (weight > 1)):
    raise UserError(f'weight={weight} is a share; choose from 0 to 1')
  return weight, *differences


def _float(x):
  # `[()]` makes a number of an array without axes.
  return np.asarray(x, np.float64)[()]
