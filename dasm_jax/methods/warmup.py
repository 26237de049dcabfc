"""The warm-up of a matching network on real images, before its first sweep."""

import jax

from dasm_jax.methods import networks
from dasm_jax.types import Warm


def runner(network, tx, settings, axis_name):
  """`(carry, data, key, size) -> carry`, `size` more of its batches.

  carry: `(variables, moments, batches it has had)`; a network that has had
  none is begun before. key: that of the network. size may be traced.
  """
  def run(carry, data, key, size):
    variables, moments, had = carry
    start, order = jax.random.split(key)
    def begin(*_):
      variables = networks.fresh(network, data, start)
      return variables, tx.init(variables.params)
    variables, moments = jax.lax.cond(
        had == 0, begin, lambda *old: old, variables, moments)
    if settings.warmup:
      variables, moments = networks.from_real(
          network, tx, settings, axis_name, data, order, settings.warmup,
          variables, moments, had, had + size)
    return variables, moments, had + size
  return run


def looks(settings):
  """`Warm.looks` for `Settings` of a method of sweeps."""
  draw = jax.jit(networks.of_training, static_argnums=(0, 1, 2))

  def images(n, key, step):
    order = jax.random.split(networks.keys(key, step)[0])[1]
    return networks.own(draw(n, settings.net.batch, settings.warmup, order))
  return images


def of(settings, run, rest):
  """The `Warm` of a method whose networks live `settings.inner` sweeps.

  run: as `Warm.run`. rest: `Method` of the sweeps alone. None where there is
  no warm-up, or only the state tells when a network begins.
  """
  if settings.watch or not settings.warmup:
    return None
  def batches(step):
    return 0 if step % settings.inner else settings.warmup
  return Warm(batches, lambda state: state.warmed, run, looks(settings), rest)


def joined(sweeps, warm):
  """`Method.looks` of sweeps with their warm-ups."""
  if warm is None:
    return sweeps
  def found(pool, mine, n, key, step):
    before = [warm.looks(n, key, step)] if warm.batches(step) else []
    return [*sweeps(pool, mine, n, key, step), *before]
  return found
