"""Difficulty over a network's age: how hard images are, from init to trained.

Source: the diagnostic of SDC (2408.12483), which compares the gradient norms
of distilled and of real images (GraDN, after 2107.07075).
"""

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import batches, difficulty, parallel, train


def gradient_norms(network, recipe, together=None):
  """Mean per-sample gradient norms by networks that grow up on real data.

  Networks take SGD steps by the recipe (rate before its drops, batch drawn
  anew from all images, augmentation, CutMix); the norms are of images as they
  are, with batch norm's running averages.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`; its epochs are not read.
    together: see `parallel.spread`.

  Returns:
    `(keys, data, sets, ages, say) -> [sets, ages, networks]`, NumPy: one
    network a key, trained on the `Source` data; sets are `Batch`es; ages are
    steps, ascending, 0 for fresh networks; `say(age)` is called after each.
  """
  fresh, step = batches.on_random(network, recipe)
  loss = train.loss_fn(network)

  def start(key):
    return fresh(jax.random.split(key)[0])

  def grow(item, data, since, until):
    key, *carry = item
    order = jax.random.split(key)[1]
    def one(age, carry):
      return step(carry, jax.random.fold_in(order, age), data)
    # A traced length: every age runs the same program.
    return jax.lax.fori_loop(since, until, one, tuple(carry))

  def mean_norm(variables, batch):
    return difficulty.gradient_norms(loss, variables, batch).mean()

  begin, grow, mean_norm = (
      parallel.spread(x, together=together) for x in (start, grow, mean_norm))

  def call(keys, data, sets, ages, say=lambda age: None):
    values, carry, since = [], begin(keys), 0
    for age in ages:
      if age > since:
        carry = grow((keys, *carry), data, *(
            parallel.replicate(jnp.int32(x)) for x in (since, age)))
      values.append([mean_norm(carry[0], batch) for batch in sets])
      since = age
      say(age)
    return np.asarray(values).swapaxes(0, 1)
  return call
