"""A stranger's maps: the steps of each family under vmap and shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax.sharding import Mesh, PartitionSpec

from dasm_jax.runtime import devices

pytestmark = pytest.mark.usefixtures('quick_compiler')
DEVICES = 4  # of eight, for three classes: one row only fills


def filled(made):
  """State and pool of a toy with a class more, which only fills."""
  def more(axis, part):
    return part if axis is None else jax.tree.map(
        lambda x: jnp.concatenate([x, x[:1]]), part)
  state = jax.tree.map(more, made.method.axes, made.state,
                       is_leaf=lambda x: x is None)
  pool = more(0, made.pool)
  return state, pool._replace(present=jnp.array([1., 1, 1, 0]))


def whole(made, state):
  """A state without what only fills."""
  return jax.tree.map(
      lambda axis, part: part if axis is None else jax.tree.map(
          lambda x: x[:3], part),
      made.method.axes, state, is_leaf=lambda x: x is None)


def under_vmap(made, state, pool):
  """One step, `DEVICES` rows of one class."""
  axes = made.method.axes
  def rows(axis, part):
    return part if axis is None else jax.tree.map(lambda x: x[:, None], part)
  def flat(axis, part):
    return part if axis is None else jax.tree.map(lambda x: x[:, 0], part)
  none = dict(is_leaf=lambda x: x is None)
  step = jax.jit(jax.vmap(
      toy.sweep(made.method), in_axes=(axes, None, 0, None),
      out_axes=(axes, None), axis_name=devices.AXIS))
  state, metrics = step(jax.tree.map(rows, axes, state, **none), made.data,
                        rows(0, pool), made.key)
  return jax.tree.map(flat, axes, state, **none), metrics


def under_shard_map(made, state, pool):
  """The same, on real devices."""
  def spec(axis):
    return PartitionSpec() if axis is None else PartitionSpec(devices.AXIS)
  specs = jax.tree.map(spec, made.method.axes, is_leaf=lambda x: x is None)
  mesh = Mesh(np.array(jax.devices()[:DEVICES]), (devices.AXIS,))
  step = jax.jit(jax.shard_map(
      toy.sweep(made.method), mesh=mesh, check_vma=False,
      in_specs=(specs, spec(None), spec(0), spec(None)),
      out_specs=(specs, spec(None))))
  return step(state, jax.device_get(made.data), pool, made.key)


@pytest.mark.slow
@pytest.mark.parametrize('name, mapped', [
    ('dm', under_vmap), ('dc', under_shard_map),
    pytest.param('mtt', under_shard_map, marks=pytest.mark.long)])
def test_a_step_is_a_step(name, mapped):
  alone = toy.toy(name)
  want, loss = jax.jit(toy.sweep(alone.method))(
      alone.state, alone.data, alone.pool, alone.key)
  made = toy.toy(name, axis_name=devices.AXIS)
  state, metrics = mapped(made, *filled(made))
  toy.leaves_close(whole(made, state), want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
      metrics['match/loss'], loss['match/loss'], rtol=1e-4)
