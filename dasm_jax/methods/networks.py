"""How the matching network lives: started, trained between sweeps, ended."""

import jax
import jax.numpy as jnp

from dasm_jax import experts, parallel, synthetic, train
from dasm_jax import source as sources
from dasm_jax.types import Batch

STATISTICS = 16  # real images a class that set batch norm's averages (DC)


def fresh(network, data, key):
  """`Variables` of a new network: one of `data.starts`, else initialised.

  Source: IDC's program, which draws each of ImageNet-100's from ten.
  """
  if data.starts is None:
    return network.init(key)
  row = jax.random.randint(key, (), 0, len(data.starts))
  return experts.flat(network)[1](data.starts[row])


def with_statistics(network, variables, data, key, axis_name=None):
  """Batch norm's running averages from real images, as DC does; else none."""
  if not jax.tree.leaves(variables.stats):
    return variables
  images = sources.take(
      data, of_statistics(data.everything, key), axis_name).images
  return variables._replace(stats=network.apply(variables, images, True)[1])


def own(found):
  """Of images `[…, n]` that all devices look at those this process reads.

  `source.take` exchanges them between the devices.
  """
  return found[..., parallel.own(found.shape[-1])]


def of_statistics(everything, key):
  """The real images that `with_statistics` looks at, `[n]` int32."""
  keys = jax.random.split(key, len(everything.counts))
  return jax.vmap(sources.draw, (0, 0, 0, None))(
      keys, *everything, STATISTICS).reshape(-1)


def keys(key, step):
  """Keys of a sweep: of its new network, averages, matching, training."""
  return jax.random.split(jax.random.fold_in(key, step), 4)


def from_real(network, tx, settings, axis_name, data, key, steps, variables,
              moments, begin=0, end=None):
  """SGD steps on batches of real images of all classes.

  Of `steps` in all those from `begin` to `end`, which may be traced.
  """
  change = train.augmentation(settings.net)
  order = of_training(len(data.labels), settings.net.batch, steps, key)
  alter = jax.random.split(jax.random.split(key)[1], steps)

  def one(i, carry):
    batch = change(alter[i], sources.take(data, order[i], axis_name))
    return train.step(network, tx, *carry, batch, settings.net.lr,
                      axis_name)[:2]

  return jax.lax.fori_loop(begin, steps if end is None else end, one,
                           (variables, moments))


def of_training(n, size, steps, key):
  """The real images that `from_real` looks at, `[steps, size]` int32."""
  if not steps:
    return jnp.zeros((0, size), jnp.int32)
  shuffle = jax.random.split(key)[0]
  passes = -(-steps * size // n)
  return jnp.concatenate([
      jax.random.permutation(k, n) for k in jax.random.split(shuffle, passes)
  ])[:steps * size].reshape(steps, size)


def trainer(network, tx, settings, axis_name):
  """`(variables, moments, syn, data, pool, key) -> (variables, moments)`."""
  def on_real(variables, moments, syn, data, pool, key):
    del syn, pool
    return from_real(network, tx, settings, axis_name, data, key,
                    settings.steps, variables, moments)

  def on_synthetic(variables, moments, syn, data, pool, key):
    del pool
    batch = Batch(*synthetic.inputs(settings.codec, syn))
    each = len(batch.images) // len(syn.images)
    if axis_name is not None:
      batch = jax.lax.all_gather(batch, axis_name, tiled=True)
    # Rows that only fill a device stand at the end.
    batch = jax.tree.map(
        lambda x: x[:each * sources.classes_of(data)], batch)
    change = train.augmentation(settings.net)
    def do(carry, indices, key):
      part = change(key, jax.tree.map(lambda x: x[indices], batch))
      return train.step(network, tx, *carry, part, settings.net.lr)[:2]
    def one(carry, key):
      return train.epoch(do, carry, key, len(batch.images),
                         settings.net.batch), None
    return jax.lax.scan(one, (variables, moments),
                        jax.random.split(key, settings.steps))[0]

  return {'real': on_real, 'synthetic': on_synthetic}[settings.train_on]
