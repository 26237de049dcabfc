"""Evaluation: fresh networks trained from scratch, and the probes of DASM."""

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import (
  batches,
  difficulty,
  fitting,
  groups,
  parallel,
  real,
  train,
)
from dasm_jax import source as sources
from dasm_jax.types import Batch

SCORING = 200  # images a block of the scoring pass
REFERENCE = 1000  # real images, at most, whose loss influence is upon


def accuracies(network, recipe, together=None):
  """How well fresh networks do that are trained on a given set.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`.
    together: how many a device trains at once, see `parallel.mapped`; None is
      as many as it has room for.

  Returns:
    `(keys, batch, test) -> [networks]` accuracies after the last epoch, as
    fractions: one network a key, all trained on the same `Batch`, tested on
    test, a `Source` or one of `real`. What else is given (`start`, `seen`), as
    to `fitting.on_set`.
  """
  return _tested(network, fitting.on_set(network, recipe, together))


def of_networks(network):
  """As `accuracies`, of trained ones: `(variables, test) -> [networks]`."""
  right = correct(network)
  return lambda variables, test: right(variables, test).mean(0, np.float64)


def correct(network):
  """`(variables [P, …], data) -> [n, P]`: 1 where a network is right, or 0."""
  def block(indices, networks, data):
    return jax.lax.map(lambda variables: train.correct(
        network, variables, data, indices), networks).T
  run = by_blocks(block)
  return lambda variables, data: run(parallel.replicate(variables), data)


def accuracies_of_subsets(network, recipe, together=None):
  """As `accuracies`, with a subset of real images for each network.

  Returns:
    `((keys, indices), data, test) -> [networks]`, `indices` `[networks, n]`
    into the `Source` data.
  """
  return _tested(network, fitting.on_subsets(network, recipe, together))


def _tested(network, fit):
  tested = of_networks(network)
  return lambda items, data, test, **how: tested(
      fit(items, data, **how), test)


def keys(seed, networks):
  """Keys of the networks that a set is measured by."""
  key = jax.random.fold_in(jax.random.key(seed), 2 ** 20)
  return jax.random.split(key, networks)


def random_subsets(labels, classes, ipc, networks, seed):
  """A class-balanced random subset for each network, `[networks, classes*ipc]`.

  A class with fewer than `ipc` images repeats them.
  """
  rng = np.random.default_rng(seed)
  members = [np.flatnonzero(labels == c) for c in range(classes)]
  return np.array([
      np.concatenate([np.resize(rng.permutation(m), ipc) for m in members])
      for _ in range(networks)])


def probes_on_real(network, recipe, steps, together=None):
  """Networks trained for `steps` batches of real images.

  Returns:
    `(keys, data, heard=None) -> Variables [P, …]`, one a key; data a `Source`,
    or one of `real`. `heard()` is called now and then.
  """
  begin, step = batches.on_random(network, recipe)
  first = parallel.spread(begin, together=together)

  def some(item, data):
    carry, keys = item
    return jax.lax.scan(
        lambda carry, key: (step(carry, key, data), None), carry, keys)[0]
  run = groups.spread(some, network, recipe, together)

  def call(keys, data, heard=lambda: None):
    start, rest = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    rest = jax.vmap(lambda key: jax.random.split(key, steps))(rest)
    carry, n = first(start), len(data.labels)
    size = real.pieces(data, steps, parallel.most(len(keys)) * recipe.batch)
    drawn = jax.jit(jax.vmap(jax.vmap(
        lambda key: batches.drawn(recipe, n, key))))
    def wanted(at):
      return real.of_items(drawn(parallel.on_host(rest[:, at:at + size])))
    with real.in_turn(data, range(0, steps, size), wanted) as coming:
      for at, source in coming:
        carry = run((carry, rest[:, at:at + size]), source)
        heard()
    return carry[0]
  return call


def by_blocks(function):
  """Maps `function` over all images of a data set, split over the devices.

  Args:
    function: `(indices, networks, data) -> [len(indices), …]`, or a pytree.

  Returns:
    `(networks, data) -> [n, …]`, NumPy; networks on every device, `data` a
    `Source` there, or one of `real`.
  """
  run = parallel.spread(function, together=False)

  def call(networks, data):
    n = len(data.labels)
    size = min(SCORING, n)
    whole, devices = -(-n // size), parallel.count()
    some = min(whole, devices * real.pieces(
        data, -(-whole // devices), parallel.most(devices) * size))
    parts = -(-whole // some)
    blocks = np.resize(np.arange(n), (parts, some, size)).astype(np.int32)
    with real.in_turn(data, range(parts), lambda at: (
        real.of_items(blocks[at]))) as coming:
      found = [jax.tree.map(np.asarray, run(
          jnp.asarray(blocks[at]), networks, source)) for at, source in coming]
    return jax.tree.map(lambda *x: np.concatenate(
        [y.reshape(-1, *y.shape[2:]) for y in x])[:n], *found)
  return call


def scores(network, name):
  """Difficulty of every image for a group of networks.

  Args:
    network: a `Network`.
    name: a key of `difficulty.SCORES`.

  Returns:
    `(probes, data) -> (scores [n], accuracy [classes])`, NumPy, means over
    the networks; no augmentation.
  """
  score = difficulty.score(name, train.loss_fn(network),
                           train.logits_fn(network))

  def block(indices, networks, data):
    batch = sources.take(data, indices)
    def of(item):
      variables, reference = item
      return score(variables, batch, reference), train.correct(
          network, variables, data, indices)
    return jax.tree.map(lambda x: x.mean(0), jax.lax.map(of, networks))

  run, refer = by_blocks(block), _references(network)

  def call(probes, data):
    labels = np.asarray(data.labels)
    reference = refer(probes, data) if name in difficulty.REFERRING else None
    values, hits = run((probes, reference), data)
    classes = sources.classes_of(data)
    accuracy = np.array([hits[labels == c].mean() for c in range(classes)])
    return values, accuracy
  return call


def _references(network):
  """`(probes, data) -> gradients [P, …]` of the loss on some real images."""
  loss_fn = train.loss_fn(network)

  def one(variables, indices, data):
    return difficulty.mean_gradient(
        loss_fn, variables, sources.take(data, indices))
  run = parallel.spread(one, together=False)

  def call(probes, data):
    chosen = np.random.default_rng(0).permutation(len(data.labels))[:REFERENCE]
    return parallel.replicate(run(
        probes, jnp.asarray(chosen, jnp.int32), real.fetch(data, chosen)))
  return call


def summary(values):
  """`{"mean", "std", "networks"}` of accuracies, population std."""
  values = np.asarray(values, np.float64)
  return {'mean': float(values.mean()), 'std': float(values.std()),
          'networks': [float(v) for v in values]}


def as_batch(images, labels):
  """`Batch` from arrays of any kind."""
  return Batch(jnp.asarray(images), jnp.asarray(labels))


if __name__ == '__main__':
  from dasm_jax import assess, commands
  commands.leave(assess.main())
