"""Objectives: pure losses of a synthetic set, and wrappers that compose.

An objective is `objective(syn, params, target, key) -> (scalar, metrics)`:
`params` is the point in weight space where matching happens, `target` what is
matched there. Plain ones treat the images they are given as one batch
`[n, h, w, c]`; `per_class` lifts one to class-major sets `[classes, ipc, …]`.
Wrappers read from the outside in:

    per_class(decoded(augmented(sdc(gradient_matching(loss_fn), loss_fn, 1.))))

`matching` has the losses of gradients, features and statistics, `trajectory`
those of experts' weights, `correction` SDC, `wrappers` what composes, and
`cross_class` what losses need whose classes depend on each other.
"""

from dasm_jax.objectives.correction import (
  Correction,
  difficulty_only,
  sdc,
  smoothed,
)
from dasm_jax.objectives.cross_class import (
  Matching,
  all_classes,
  class_by_class,
  directional,
  image_gradient,
  sums_over_classes,
)
from dasm_jax.objectives.matching import (
  KERNELS,
  batch_feature_matching,
  contrastive_matching,
  discriminative_matching,
  feature_matching,
  gradient_matching,
  select_blocks,
  statistics_distance,
  statistics_matching,
)
from dasm_jax.objectives.trajectory import (
  StudentSteps,
  distance,
  minibatches,
  student,
  trajectory_matching,
)
from dasm_jax.objectives.wrappers import (
  added,
  augmented,
  decoded,
  each_class,
  joined,
  per_class,
)

__all__ = [
    'KERNELS', 'Correction', 'Matching', 'StudentSteps', 'added',
    'all_classes', 'augmented', 'batch_feature_matching', 'class_by_class',
    'contrastive_matching', 'decoded', 'difficulty_only', 'directional',
    'discriminative_matching', 'distance', 'each_class', 'feature_matching',
    'gradient_matching', 'image_gradient', 'joined', 'minibatches',
    'per_class', 'sdc', 'select_blocks', 'smoothed', 'statistics_distance',
    'statistics_matching', 'student', 'sums_over_classes',
    'trajectory_matching']
