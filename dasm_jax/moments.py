"""Matching of what batch norm has seen: means and variances of a batch."""

import jax
import jax.numpy as jnp

from dasm_jax import coupled, losses


def matching(network, weight, first):
  """The `coupled.Matching` of SRe2L; `params` are the teacher's variables.

      CE + weight sum_l w_l (|var_l - var_real_l| + |mean_l - mean_real_l|)

  for each slot, that is a batch of one image of every class, summed over the
  slots. Cross-entropy is a mean over the batch; means and (biased) variances
  are those of what batch norm l reads over the batch and all positions, with
  the running averages in use, which are the real ones; norms are Euclidean, not
  squared; `w` is `first` for the first layer, else 1.

  Source: SRe2L (2306.13092), with the weights of its released program.
  """
  def own(seen):
    return {layer: {'mean': x['mean'], 'square': x['var'] + x['mean'] ** 2}
            for layer, x in seen.items()}

  def stage(syn, at, target, key):
    del target, key
    return {'classes': jnp.ones(()),
            'own': own(network.moments(at.params, syn.images)[1])}

  def objective(syn, at, target, key):
    del target, key
    logits, seen = network.moments(at.params, syn.images)
    sums, = at.sums
    count = sums['classes'].astype(logits.dtype)
    value, direction = jax.value_and_grad(apart)(
        sums['own'], at.params.stats, count, first)
    entropy = losses.cross_entropy(logits, syn.labels) * len(logits) / count
    found = value / count + coupled.along(direction, own(seen))
    value = entropy + weight * found
    return value, {'match/loss': value, 'match/entropy': entropy,
                   'match/statistics': found}

  return coupled.Matching(objective, (stage,))


def apart(sums, stats, count, first=1.0):
  """How far batches are from running averages, summed over the batches.

  Args:
    sums: `{layer: {'mean', 'square'}}`, each `[batches, channels]`, sums over
      `count` images of their means and mean squares.
    stats: `{layer: {'mean', 'var'}}`, each `[channels]`.
    first: weight of the first layer.
  """
  total = 0
  for layer in sums:
    mean, square = (sums[layer][x] / count for x in ('mean', 'square'))
    off = (losses.norm(square - mean ** 2 - stats[layer]['var'], -1)
           + losses.norm(mean - stats[layer]['mean'], -1))
    # Layers are numbered in the order of use.
    total += (first if layer.endswith('_0') else 1) * off.sum()
  return total
