"""Training on batches drawn from all real images."""

import jax

from dasm_jax import train
from dasm_jax.source import take


def on_random(network, recipe_):
  """Training on real batches drawn anew from all images, at the recipe's rate.

  Returns:
    `begin`, `key -> carry`, and `step`, `(carry, key, data) -> carry`, where
    `data` is a `Source` and a carry is `(variables, moments)`.
  """
  tx = train.optimizer_of(recipe_)
  change = train.augmentation(recipe_)

  def begin(key):
    variables = network.init(key)
    return variables, tx.init(variables.params)

  def one(carry, key, data):
    alter = jax.random.split(key)[1]
    batch = change(alter, take(data, drawn(recipe_, len(data.labels), key)))
    return train.step(network, tx, *carry, batch, recipe_.lr)[:2]
  return begin, one


def drawn(recipe_, n, key):
  """Which of `n` images a step `on_random` looks at, `[batch]`."""
  pick = jax.random.split(key)[0]
  return jax.random.randint(pick, (recipe_.batch,), 0, n)
