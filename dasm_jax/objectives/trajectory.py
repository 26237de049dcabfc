"""Trajectory matching: a student trained on the synthetic set chases an expert.

The student starts where an expert stood after some epoch and takes a few steps
of SGD on the synthetic images; it should end where the expert was some epochs
later. Every step is checkpointed, so memory hardly grows with their number and
the gradient is exact.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dasm_jax import losses, shapes, streams
from dasm_jax.errors import UserError
from dasm_jax.runtime import devices
from dasm_jax.types import (
  Array,
  Augmentation,
  Batch,
  LossFn,
  Objective,
  PyTree,
  Synthetic,
)


class StudentSteps(NamedTuple):
  """Student steps on minibatches of one size.

  indices: `[steps, size]` int32 into the synthetic images.
  keys: `[steps]`, of the augmentation.
  """
  indices: Array
  keys: Array


def minibatches(key: Array, n: int, size: int, steps: int
                ) -> list[StudentSteps]:
  """The `StudentSteps` of a student, in their order.

  The images are permuted, cut into minibatches, and permuted anew when they
  are used up. Where `size` does not divide n, the short minibatch comes first,
  as in the reference.

  Args:
    key: a key.
    n: number of images.
    size: images a step; 0, or more than n, is all of them.
    steps: of the student.

  Returns:
    A list of `StudentSteps`, `steps` steps in all. Each costs a compilation of
    the step, so a size that divides n is best: it gives one.
  """
  key, size = streams.typed(key), min(size or n, n)
  short, each = n % size, n // size
  order, draws = jax.random.split(key)
  keys, runs, done = jax.random.split(draws, steps), [], 0

  def add(rows):
    nonlocal done
    rows = rows[:steps - done]
    if len(rows):
      runs.append(StudentSteps(rows, keys[done:done + len(rows)]))
    done += len(rows)

  if not short:
    # All minibatches have one size: one scan over all steps, compiled once.
    passes = -(-steps // each)
    rows = jax.vmap(lambda k: streams.permutation(k, n))(
        jax.random.split(order, passes))
    add(rows.reshape(passes * each, size))
    return runs
  while done < steps:
    # MTT's program cuts a permutation into minibatches, of which the last is
    # the short one, and takes them from the end.
    row = streams.permutation(jax.random.fold_in(order, done), n)
    add(row[None, each * size:])
    add(row[:each * size].reshape(each, size))
  return runs


def student(loss_fn: LossFn, syn: Synthetic, params: PyTree,
            runs: Sequence[StudentSteps], *,
            augment: Augmentation | None = None, frozen: bool = False,
            difficulty: Callable[[PyTree, Batch], Array] | None = None
            ) -> tuple[PyTree, Array]:
  """Trains a student by `p <- p - lr grad loss(p, minibatch)`.

  Args:
    loss_fn: `(params, Batch) -> scalar`, the mean over the minibatch.
    syn: a `Synthetic` of flat network inputs `[n, h, w, c]`, labels
      `[n, classes]`; its `lr` is the rate.
    params: where it starts.
    runs: from `minibatches`.
    augment: `(key, images, shared) -> images`, from `augment.build`; each
      image draws its own strength. None changes nothing.
    frozen: each gradient is a function of its own minibatch alone, at weights
      that count as constants (TESLA).
    difficulty: `(params, Batch) -> scalar` to be averaged over the steps, at
      constant weights; None is 0.

  Returns:
    `(params, difficulty)`, differentiable in `syn` and `params`.
  """
  def make(draw):
    images = syn.images[draw.indices]
    if augment is not None:
      images = augment(draw.keys, images, shared=False)
    return (Batch(images, syn.labels[draw.indices]),)

  def step(carry, batch):
    params, hard = carry
    # The images of this step alone answer for its difficulty, not those that
    # moved the weights before.
    still = jax.lax.stop_gradient(params)
    if difficulty is not None:
      hard += difficulty(still, batch)
    # Frozen, the gradient's cosine with the exact one is .86 after 20 steps at
    # a rate of .03, as measured; of one step it is exact.
    gradient = jax.grad(loss_fn)(still if frozen else params, batch)
    params = jax.tree.map(
        lambda p, g: p - syn.lr.astype(p.dtype) * g, params, gradient)
    return params, hard

  carry = params, jnp.zeros((), syn.images.dtype)
  for run in runs:
    # Steps are computed again on the way back: 20 of them, on 100 images, take
    # .7 GiB in a ConvNet-3, without this 12, as measured.
    carry = devices.run_batches(step, carry, make, (run,), remat=True)
  params, hard = carry
  return params, hard / sum(len(run.indices) for run in runs)


def distance(params: PyTree, start: PyTree, target: PyTree) -> Array:
  """`|params - target|^2 / |start - target|^2` over all leaves together.

  1 for a student that did not move, 0 for one that arrived (MTT, eq. 2).

  Args:
    params, start, target: pytrees of equal structure.

  Returns:
    A scalar.
  """
  return losses.mse(params, target) / losses.mse(start, target)


def trajectory_matching(
    loss_fn: LossFn, steps: int, *, batch: int = 0,
    augment: Augmentation | None = None, frozen: bool = False,
    image_factor: float = 1.0,
    difficulty: Callable[[PyTree, Batch], Array] | None = None) -> Objective:
  """MTT's objective: `params` is the expert's start, `target` its later point.

  Args:
    loss_fn: `(params, Batch) -> scalar`, the mean over the batch.
    steps: of the student.
    batch: images a step, 0 for all; see `minibatches`.
    augment, frozen: see `student`.
    image_factor: of the image gradient alone; TESLA's program halves it.
    difficulty: `(params, Batch) -> scalar`, such as `difficulty.penalty` gives,
      averaged over the student's steps: it is the metric `sdc/difficulty`,
      which may be differentiated. None: there is no such metric.

  Returns:
    An objective on flat batches, see `objectives`.

  Raises:
    UserError: fewer than one step.

  Source: MTT (2203.11932), eq. 2; TESLA (2211.10586) where `frozen`; DATM
  (2310.05773) where the labels of `syn` are learned.
  """
  if steps < 1:
    raise UserError(f'steps={steps} of the student must be at least 1')

  def objective(syn, params, target, key):
    shapes.check_flat(
        'objectives.trajectory_matching', syn,
        instead='give all classes as one batch, reshaped to [n, …]')
    images = syn.images
    still = jax.lax.stop_gradient(images)
    # The same images, whose gradient alone is scaled. TESLA's program has half
    # of it by a slip (its issue 5), to which the published rates are tuned.
    syn = syn._replace(images=still + image_factor * (images - still))
    plan = minibatches(key, len(images), batch, steps)
    end, hard = student(loss_fn, syn, params, plan, augment=augment,
                        frozen=frozen, difficulty=difficulty)
    value = distance(end, params, target)
    more = {} if difficulty is None else {'sdc/difficulty': hard}
    return value, {'match/loss': value, **more}
  return objective
