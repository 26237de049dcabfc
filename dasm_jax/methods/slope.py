"""The image gradient of a matching, with its difficulty correction."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import coupled, objectives, train

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

  def at(self, step):
    """The strength at a step: a number if constant, else traced."""
    if self.start == self.end:
      return self.start
    done = jnp.clip(step / max(self.total - 1, 1), 0, 1)
    return self.start + (self.end - self.start) * done


def smoothed(strength, now, step):
  """Moving average of a relative correction's weight; step 0 starts it."""
  return jnp.where(step == 0, now,
                   SMOOTHING * strength + (1 - SMOOTHING) * now)


def of_images(network, matching, correction, wrap, *, batched=None,
              axis_name=None):
  """The gradient in the stored images of a matching with its correction.

  Args:
    network: a `Network`, whose loss says what is difficult.
    matching: a `coupled.Matching` of network inputs.
    correction: a `Correction`.
    wrap: from objectives of network inputs to those of stored images.
    batched: see `objectives.per_class`.
    axis_name: mapped axis over which the classes are split.

  Returns:
    `(syn, params, target, keys, present, strength, step) -> (gradient,
    strength, metrics)`: `keys` and `present` one a class, `strength` `[]` the
    smoothed weight of a relative correction; metrics are sums over classes.
  """
  hardness = coupled.plain(objectives.difficulty_only(
      train.loss_fn(network), penalty=correction.penalty)).objective

  def lift(flat):
    return objectives.per_class(wrap(flat), batched=batched)

  def slope(total, syn, *rest):
    def of(images):
      return total(syn._replace(images=images), *rest)
    (_, metrics), gradient = jax.value_and_grad(of, has_aux=True)(syn.images)
    return gradient, metrics

  def both(weight):
    if matching.whole:
      match = coupled.together(matching.objective, wrap, batched=batched,
                               axis_name=axis_name)
      return objectives.added(match, weight, lift(hardness))
    return lift(objectives.added(matching.objective, weight, hardness))

  def run(syn, params, target, keys, present, strength, step):
    at = coupled.point(matching, lift, syn, params, target, keys, present,
                       step, axis_name)
    args = (syn, at, target, keys, present)
    weight = correction.at(step)
    if correction.relative and (correction.start or correction.end):
      gradient, metrics = slope(both(0), *args)
      harder, more = slope(lift(hardness), *args)
      now = weight * _norm(gradient, axis_name) / (
          _norm(harder, axis_name) + 1e-12)
      strength = smoothed(strength, now, step)
      gradient = gradient + strength * harder
      metrics = {**metrics, **more}
    else:
      gradient, metrics = slope(both(weight), *args)
    if axis_name is not None:
      metrics = jax.lax.psum(metrics, axis_name)
    return gradient, strength, metrics

  return run


def _norm(x, axis_name):
  square = jnp.sum(jnp.square(x))
  if axis_name is not None:
    square = jax.lax.psum(square, axis_name)
  return jnp.sqrt(square)
