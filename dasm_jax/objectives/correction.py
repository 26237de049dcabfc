"""SDC: the difficulty of the synthetic samples, added to any objective.

Source: SDC (2408.12483). We could read its abstract only: a regulariser by the
gradient norm of the synthetic samples, with one strength. Which norm that is,
and a strength relative to the matching's, are our reading.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dasm_jax import difficulty, shapes
from dasm_jax.objectives import wrappers
from dasm_jax.types import Array, Batch, LogitsFn, LossFn, Objective


def sdc(objective: Objective, loss_fn: LossFn, weight: ArrayLike, *,
        penalty: str = 'sample_norm', logits_fn: LogitsFn | None = None
        ) -> Objective:
  """Sample difficulty correction: adds `weight * difficulty(syn)`.

  Args:
    objective: any objective on flat batches.
    loss_fn: `(params, Batch) -> scalar`.
    weight: a number or a traced scalar; the number 0 returns `objective`
      itself and costs nothing.
    penalty: see `difficulty.penalty`; the mean per-sample gradient norm.
    logits_fn: `(params, images) -> [n, classes]`, for penalties that read it.

  Returns:
    An objective on flat batches, with the metric `sdc/difficulty` besides.

  Raises:
    UserError: an unknown penalty, or no logits for one that reads them.
  """
  return wrappers.added(objective, weight, difficulty_only(
      loss_fn, penalty=penalty, logits_fn=logits_fn))


def difficulty_only(loss_fn: LossFn, *, penalty: str = 'sample_norm',
                    logits_fn: LogitsFn | None = None) -> Objective:
  """The correction of `sdc` alone, as an objective.

  Args:
    loss_fn: `(params, Batch) -> scalar`.
    penalty: see `difficulty.penalty`.
    logits_fn: `(params, images) -> [n, classes]`, for penalties that read it.

  Returns:
    An objective on flat batches; it asks for no key, and for a target, a
    `Batch` of real samples, by `difficulty.REFERRING` penalties alone.

  Raises:
    UserError: as `sdc`; by the objective, no target for one that needs it.
  """
  hardness = difficulty.penalty(loss_fn, penalty, logits_fn)

  def objective(syn, params, target=None, key=None):
    del key
    shapes.check_flat('objectives.sdc', syn)
    # The loss of these real samples is what the synthetic ones work for or
    # against: a constant, as in matching.
    reference = None
    if penalty in difficulty.REFERRING and target is not None:
      reference = jax.lax.stop_gradient(jax.grad(loss_fn)(params, target))
    value = hardness(params, Batch(syn.images, syn.labels), reference)
    return value, {'sdc/difficulty': value}
  return objective


# The ratio of two gradients' norms jumps from sweep to sweep. We know of no
# published value.
SMOOTHING = 0.9


class Correction(NamedTuple):
  """Strength of SDC over `total` sweeps, linearly from `start` to `end`.

  relative: the strength is not the weight but the share that the
    correction's image gradient has of the matching's norm.
  penalty: a name in `difficulty.PENALTIES`.
  """
  start: float = 0.0
  end: float = 0.0
  total: int = 1
  relative: bool = False
  penalty: str = 'sample_norm'

  @property
  def active(self) -> bool:
    """Whether there is any, at some sweep."""
    return bool(self.start or self.end)

  def at(self, step: ArrayLike) -> ArrayLike:
    """The strength at a step: a number if constant, else traced."""
    # A Python number: `wrappers.added` sees whether it is 0, and then leaves
    # SDC out of the program.
    if self.start == self.end:
      return self.start
    # The last sweep is number `total - 1`, and has `end`.
    done = jnp.clip(step / max(self.total - 1, 1), 0, 1)
    return self.start + (self.end - self.start) * done


def smoothed(strength: ArrayLike, now: ArrayLike, step: ArrayLike) -> Array:
  """Moving average of a relative correction's weight; step 0 starts it.

  Args:
    strength: the average so far.
    now: the value of this step.
    step: sweeps done.

  Returns:
    A scalar.
  """
  return jnp.where(step == 0, now,
                   SMOOTHING * strength + (1 - SMOOTHING) * now)
