"""Difficulty over a network's age: how hard images are, from init to trained.

Source: the diagnostic of SDC (2408.12483), which compares the gradient norms
of distilled and of real images (GraDN, after 2107.07075).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import batches, difficulty, groups, parallel, real, train


def gradient_norms(network, recipe, together=None):
  """Mean per-sample gradient norms by networks that grow up on real data.

  Networks take SGD steps by the recipe (rate before its drops, batch drawn
  anew from all images, augmentation, CutMix); the norms are of images as they
  are, with batch norm's running averages.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`; its epochs are not read.
    together: how many a device has at once, see `groups.spread`.

  Returns:
    `(keys, data, sets, ages, say) -> [sets, ages, networks]`, NumPy: one
    network a key, trained on data, a `Source` or one of `real`; sets are
    `Batch`es; ages are steps, ascending, 0 for fresh networks; `say(age)` is
    called after each.
  """
  fresh, step = batches.on_random(network, recipe)
  loss = train.loss_fn(network)

  def start(key):
    return fresh(jax.random.split(key)[0])

  def grow(item, since, until, data):
    key, *carry = item
    def one(age, carry):
      return step(carry, _of_step(key, age), data)
    # A traced length: every age runs the same program.
    return jax.lax.fori_loop(since, until, one, tuple(carry))

  def mean_norm(variables, batch):
    return difficulty.gradient_norms(loss, variables, batch).mean()

  begin = parallel.spread(start, together=together)
  grow, mean_norm = (groups.spread(x, network, recipe, together)
                     for x in (grow, mean_norm))

  def call(keys, data, sets, ages, say=lambda age: None):
    values, carry = {}, begin(keys)
    def measure(age):
      if age in ages and age not in values:
        values[age] = [mean_norm(carry[0], batch) for batch in sets]
        say(age)
    measure(0)
    size = real.pieces(
        data, max(1, *ages), parallel.most(len(keys)) * recipe.batch)
    wanted = functools.partial(_wanted, recipe, keys, len(data.labels), size)
    with real.in_turn(data, _pieces(ages, size), wanted) as coming:
      for (since, until), source in coming:
        carry = grow((keys, *carry), *parallel.replicate((
            jnp.int32(since), jnp.int32(until))), source)
        measure(until)
    return np.asarray([values[age] for age in ages]).swapaxes(0, 1)
  return call


def _pieces(ages, size):
  """`(since, until)`: at most `size` steps, which go from age to age."""
  for before, age in itertools.pairwise((0, *ages)):
    for since in range(before, age, size):
      yield since, min(since + size, age)


def _of_step(key, step):
  """The key of one step of the network that has this one."""
  return jax.random.fold_in(jax.random.split(key)[1], step)


def _wanted(recipe, keys, n, size, piece):
  """`real.of_items` of the images that networks look at in some steps.

  The last is repeated up to `size`, so that all run the same program.
  """
  since, until = piece
  steps = jnp.minimum(jnp.arange(since, since + size), until - 1)
  def of(key, step):
    return batches.drawn(recipe, n, _of_step(key, step))
  return real.of_items(jax.vmap(jax.vmap(of, (None, 0)), (0, None))(
      *parallel.on_host((keys, steps))))
