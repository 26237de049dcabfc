"""DD-Ranking's scores: what a distilled set is worth beside real images.

Accuracies are fractions from 0 to 1, floats or arrays of equal shape (one
entry a network, say), computed with as float64 in NumPy. Means over networks
are left to the caller: DD-Ranking averages the scores, not the accuracies.

Source: DD-Ranking (2505.13300), its definitions. Where the program that was
released with it (NUS-HPC-AI-Lab, 0.2.0) and `dasm_jax.evaluate --full` differ:

- It puts percentages into the exponential, so that its scores explode: `scores`
  tells what it would say as `lrs_released`, `ars_released`. Here fractions.
- It searches the rate of random images, and of the set where none is given,
  among five by accuracy on the test split, and so for hard labels. Here the set
  keeps its own rate, real images that of its recipe.
- It takes the best of several looks at the test split. Here the last epoch.
- Its real images are trained on by a recipe of their own, or stand in a table
  (ImageNet, Tiny ImageNet). Here by the set's recipe.
- Hard labels of a set with soft ones are trained on without augmentation
  unless asked. Here by the set's recipe.
- Its cosine falls to half of the rate, and its Mixup and CutMix leave hard
  labels as they are. Here rate and labels are as the set's recipe says.
- Random images have labels of the teacher where the set has. A saved set has no
  teacher: here they have hard ones, which favours sets with soft labels.
- Its five rounds are five seeds, each with another random subset. Here as many
  as networks, the k-th of each kind with the same key.
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


def scores(accuracies, weight=0.5):
  """All scores of a set, from accuracies of k networks of each kind.

  Args:
    accuracies: `{kind: [k]}`: `set`; `random`, as many real images; `full`, all
      of them; `hard`, the set with hard labels. Where there is to be an ARS
      `set_plain` and `random_plain` too, both without augmentation.
    weight: see `lrs` and `ars`.

  Returns:
    `{name: [k]}`: hlr, ior, lrs, ars (the last only with those kinds), and what
    the released program makes of the latter two, `lrs_released`, …

  Raises:
    UserError: percentages, a weight outside 0 to 1.
  """
  found = {kind: np.asarray(x, np.float64) for kind, x in accuracies.items()}
  lag = hlr(found['full'], found['hard'])
  gain = ior(found['set'], found['random'])
  out = {'hlr': lag, 'ior': gain, 'lrs': lrs(lag, gain, weight),
         'lrs_released': normalised(
             100 * (weight * gain - (1 - weight) * lag))}
  if 'set_plain' in found:
    plain = ior(found['set_plain'], found['random_plain'])
    out |= {'ars': ars(gain, plain, weight), 'ars_released': normalised(
        100 * (weight * gain + (1 - weight) * plain))}
  return out


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
