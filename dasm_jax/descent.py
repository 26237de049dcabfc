"""The two halves of a training step: the gradient of a batch, and the move."""

import jax

from dasm_jax import blocks, losses


def gradient(network, variables, batch, axis_name=None):
  """Cross-entropy of a batch in training mode, and its gradient.

  Args:
    network: a `Network`.
    variables: its point.
    batch: a `Batch`; with `axis_name` every device has the whole of it and
      works on its share, where the shares are equal and no batch norm looks
      across them.

  Returns:
    `((loss, stats), gradient)`: the running averages after this batch, and a
    tree like `variables.params`; the same on every device.
  """
  share = shares(batch, variables, axis_name)
  if share:
    at = jax.lax.axis_index(axis_name) * share
    batch = jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, at, share), batch)

  def loss(params, batch):
    logits, stats = network.apply(
        variables._replace(params=params), batch.images, train=True)
    return losses.cross_entropy(logits, batch.labels), stats

  stats = variables.stats
  if jax.tree.leaves(stats):  # batch norm needs the whole batch at once
    (value, stats), slope = jax.value_and_grad(loss, has_aux=True)(
        variables.params, batch)
  else:
    value, slope = blocks.value_and_grad(
        lambda *given: loss(*given)[0], variables.params, batch)
  if share:
    value, slope = jax.lax.pmean((value, slope), axis_name)
  return (value, stats), slope


def move(tx, variables, moments, slope, lr):
  """`(variables, moments)` after `params - lr * tx(slope)`."""
  change, moments = tx.update(slope, moments, variables.params)
  params = jax.tree.map(lambda p, c: (p - lr * c).astype(p.dtype),
                        variables.params, change)
  return variables._replace(params=params), moments


def shares(batch, variables, axis_name):
  """Images of a batch for each device of an axis; 0: all do all of them."""
  if axis_name is None or jax.tree.leaves(variables.stats):
    return 0
  n = jax.lax.axis_size(axis_name)
  return 0 if n == 1 or len(batch.images) % n else len(batch.images) // n
