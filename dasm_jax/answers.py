"""What the experts of a job say of real images: whom they know, soft labels."""

import jax.numpy as jnp
import numpy as np

from dasm_jax import experts, real
from dasm_jax.experts import ASKED
from dasm_jax.school import weights


def known(job, buffer, data, each):
  """Real images that experts classify correctly in the end, `[n]` bool.

  By the first expert, then the next, until every class has `each` of them or
  nobody is left to ask (DATM).
  """
  labels = job.dataset.train.labels
  right = np.zeros(len(labels), bool)
  for out in _final_logits(job, buffer, data, np.arange(len(labels))):
    right |= out.argmax(-1) == labels
    if np.bincount(labels[right], minlength=job.classes).min() >= each:
      break
  return right


def soft_labels(job, buffer, data, chosen):
  """Probabilities of each image from all experts that know it.

  The softmax of the mean logits of the experts that classify it correctly; of
  all experts where none does.

  Args:
    chosen: int of any shape, into the real images.

  Returns:
    `[*chosen.shape, classes]` float32.

  Source: DATM (2310.05773), section 3.3.
  """
  flat = chosen.reshape(-1)
  truth = job.dataset.train.labels[flat]
  sums = np.zeros((2, len(flat), job.classes))
  counts = np.zeros((2, len(flat), 1))
  for out in _final_logits(job, buffer, data, flat):
    right = (out.argmax(-1) == truth)[:, None]
    for k, use in enumerate((right, np.ones_like(right))):
      sums[k] += use * out
      counts[k] += use
  mean = np.where(counts[0] > 0, sums[0], sums[1]) / np.where(
      counts[0] > 0, counts[0], counts[1])
  odds = np.exp(mean - mean.max(-1, keepdims=True))
  soft = odds / odds.sum(-1, keepdims=True)
  return soft.reshape(*chosen.shape, job.classes).astype(np.float32)


def _final_logits(job, buffer, data, indices):
  """Yields the logits `[len(indices), classes]` of each finished expert."""
  _, unravel = experts.flat(job.network)
  ask = experts.logits(job.network, ASKED)
  # Whole chunks, or batch norm would see others.
  size = ASKED * real.pieces(data, -(-len(indices) // ASKED), ASKED)
  starts = range(0, len(indices), size)
  for expert in range(buffer.number):
    row, = weights(buffer, [expert], [buffer.epochs])
    variables = unravel(jnp.asarray(row))
    with real.in_turn(data, starts, lambda at: (
        indices[at:at + size], min(size, len(indices)))) as coming:
      yield np.concatenate([np.asarray(ask(
          variables, source, jnp.asarray(indices[at:at + size])))
          for at, source in coming])
