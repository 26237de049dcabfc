"""How hard images are for networks of every age, from fresh to trained."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import difficulty
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices
from dasm_jax.training import packing, train_step

SCORES = ('gradient norm', 'loss')  # of `difficulty_by_age`, in this order


def difficulty_by_age(network, recipe):
  """Gradient norm and loss of images by networks that grow up on real data.

  Networks take SGD steps by the recipe (rate before its drops, batch drawn
  anew from all images, augmentation, CutMix); images are judged as they
  are, with batch norm's running averages.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`; its epochs are not read.

  Returns:
    `(keys, data, sets, ages, say) -> [[SCORES, ages, networks, n]]`, NumPy, one
    a set: one network a key, trained on data, a `Source` or one of `streaming`;
    sets are `Batch`es of n images; ages are steps, ascending, 0 for fresh
    networks; `say(age)` is called after each.
  """
  fresh, step = train_step.random_batch_trainer(network, recipe)
  loss = train_step.loss_fn(network)

  # Of a network's key one half begins it, the other is of its steps.
  def start(key):
    return fresh(jax.random.split(key)[0])

  def grow(item, since, until, data):
    key, *carry = item
    def one(age, carry):
      return step(carry, _step_key(key, age), data)
    # A traced length: every age runs the same program.
    return jax.lax.fori_loop(since, until, one, tuple(carry))

  def judge(variables, batch):
    return jnp.stack([score(loss, variables, batch) for score in (
        difficulty.gradient_norms, difficulty.sample_losses)])

  begin = devices.spread(start)
  grow, judge = (packing.spread_networks(x, network, recipe)
                 for x in (grow, judge))

  def call(keys, data, sets, ages, say=lambda age: None):
    values, carry = {}, begin(keys)
    # Asked after every piece of steps, of which only some end at an age.
    def measure(age):
      if age in ages and age not in values:
        values[age] = [np.asarray(judge(carry[0], batch)) for batch in sets]
        say(age)
    measure(0)
    # Where streamed as many steps at a time as have room for their images.
    size = streaming.pieces_with_room(
        data, max(1, *ages), devices.most_local(len(keys)) * recipe.batch)
    wanted = functools.partial(_batch_indices, recipe, keys, len(data.labels),
                               size)
    with streaming.prefetched(data, _age_pieces(ages, size), wanted) as coming:
      for (since, until), source in coming:
        carry = grow((keys, *carry), *devices.replicate((
            jnp.int32(since), jnp.int32(until))), source)
        measure(until)
    # Of each set [ages, networks, SCORES, n] so far.
    return [np.moveaxis(np.stack(each), 2, 0)
            for each in zip(*(values[age] for age in ages), strict=True)]
  return call


def _age_pieces(ages, size):
  """`(since, until)`: at most `size` steps, which go from age to age."""
  for before, age in itertools.pairwise((0, *ages)):
    for since in range(before, age, size):
      yield since, min(since + size, age)


def _step_key(key, step):
  """The key of one step of the network that has this one."""
  return jax.random.fold_in(jax.random.split(key)[1], step)


def _batch_indices(recipe, keys, n, size, piece):
  """`streaming.local_rows` of the images that networks look at in some steps.

  The last is repeated up to `size`, so that all run the same program.
  """
  # Drawn on the host, ahead of the devices, by the keys that `grow` uses there.
  since, until = piece
  steps = jnp.minimum(jnp.arange(since, since + size), until - 1)
  def of(key, step):
    return train_step.random_batch_indices(recipe, n, _step_key(key, step))
  return streaming.local_rows(jax.vmap(jax.vmap(of, (None, 0)), (0, None))(
      *devices.on_host((keys, steps))))
