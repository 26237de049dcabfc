"""Sharpness-aware descent, for experts whose trajectories are flat (FTD).

A step climbs to a worse point near by, takes the gradient there, and leaves
out a part of what the gradient here says besides it:

  e = rho g / |g|, or adaptive: rho w^2 g / ||w| g|     (climb)
  g' = gradient at w + e
  v = g - <g, g'> / |g'|^2 g'                           (surrogate)
  descend along g' - alpha v.

g is the gradient at the weights w, norms are over all weights together.
alpha = 0 is SAM, adaptive ASAM; rho = 0 is plain descent.

Source: FTD (2211.11004) and its program, which takes GSAM (2203.08065,
algorithm 1) on top of ASAM (2102.11600); SAM (2010.01412, eq. 2).
"""

import jax
import jax.numpy as jnp

from dasm_jax import losses
from dasm_jax.errors import UserError
from dasm_jax.training import train_step

# Added to norms that divide, as the program of GSAM does.
EPSILON = 1e-12


def gradient_size(params, gradient, adaptive=True):
  """`|g|`, or `||w| g|` if adaptive, over all leaves: a scalar."""
  return losses.tree_norm(jax.tree.map(
      lambda w, g: jnp.abs(w) * g, params, gradient) if adaptive else gradient)


def climb(params, gradient, rho, adaptive=True):
  """The worse point near by, `w + rho g / |g|`.

  Args:
    params: a pytree, w.
    gradient: the same, the gradient g there.
    rho: how far; a zero gradient goes nowhere.
    adaptive: `w + rho w^2 g / ||w| g|`: each weight moves by its own size.

  Returns:
    A tree like `params`.
  """
  # One factor for all weights: the norm is over all of them together.
  reach = rho / (gradient_size(params, gradient, adaptive) + EPSILON)
  def move(w, g):
    return w + (reach * g * (jnp.square(w) if adaptive else 1)).astype(w.dtype)
  return jax.tree.map(move, params, gradient)


def surrogate(here, there, alpha):
  """`g' - alpha (g - <g, g'> / |g'|^2 g')`: the gap closes besides the loss.

  Args:
    here: the gradient g at the weights.
    there: the same at the worse point, g'.
    alpha: share of what `here` has besides `there`; 0 leaves `there` (SAM).

  Returns:
    A tree like `here`.
  """
  one, other = losses.tree_norm(here), losses.tree_norm(there)
  dot = sum(jax.tree.leaves(jax.tree.map(
      lambda a, b: jnp.sum(a * b), here, there)))
  # The cosine times |g| / |g'|, not <g, g'> / |g'|^2: EPSILON then enters where
  # the program of GSAM has it.
  along = dot / (one * other + EPSILON) * one / (other + EPSILON)
  return jax.tree.map(lambda a, b: b - alpha * (a - along * b), here, there)


def sam_gradient(gradient, params, *, rho, alpha, adaptive=True):
  """What to descend along, for any loss.

  Args:
    gradient: `params -> (found, gradient)`, as `jax.value_and_grad` makes it;
      called twice, with the same batch in both.
    params: a pytree.
    rho: how far to climb; 0 is plain descent, and calls `gradient` once.
    alpha: see `surrogate`, a number.
    adaptive: see `climb`.

  Returns:
    `(found, gradient)`; found is what the first call found: the loss at
    `params`, not at the worse point.

  Raises:
    UserError: a negative rho or alpha.
  """
  check_sam(rho, alpha)
  found, here = gradient(params)
  if rho == 0:
    return found, here
  # Statistics of batch norm at the worse point are dropped with the loss there.
  _, there = gradient(climb(params, here, rho, adaptive))
  return found, surrogate(here, there, alpha)


def sam_step(rho, alpha, adaptive=True):
  """`train_step.sgd_step`, sharpness-aware: a step of an FTD expert.

  Both gradients are of the batch as it is given, augmented before. Running
  averages of batch norm see the weights themselves only. Weight decay and
  momentum, which are in `tx`, are those of the weights as well.

  rho, alpha, adaptive: see `sam_gradient`.

  Returns:
    A function with the arguments and results of `train_step.sgd_step`; the loss
    is that before the step.
  """
  def step(network, tx, variables, opt_state, batch, lr, axis_name=None):
    def gradient(params):
      return train_step.batch_gradient(
          network, variables._replace(params=params), batch, axis_name)
    (value, stats), found = sam_gradient(
        gradient, variables.params, rho=rho, alpha=alpha, adaptive=adaptive)
    return (*train_step.apply_update(
        tx, variables._replace(stats=stats), opt_state, found, lr), value)
  return step


def moving_average(mean, new, decay):
  """`decay mean + (1 - decay) new`: FTD's average of the images so far.

  Args:
    mean: a pytree, the average before; to begin with, the first images.
    new: the same, what the last update made.
    decay: from 0 (the last alone) to 1.
  """
  return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, mean, new)


def check_sam(rho, alpha):
  """Raises `UserError` for a rho or alpha that is negative."""
  for name, value in (('rho', rho), ('alpha', alpha)):
    if value < 0:
      raise UserError(f'{name}={value} of a sharpness-aware step must not be '
                      'negative; 0 takes its part out')
