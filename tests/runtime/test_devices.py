"""Devices: splitting and joining, and mapping items over all of them."""

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
import toy

from dasm_jax.runtime import devices


@pytest.mark.parametrize('n', lanes.slow_but((3, 17), [1, 3, 8, 10, 17]))
def test_shard_and_back(n):
  assert devices.count() == 8
  tree = {'split': jnp.arange(2. * n).reshape(n, 2), 'whole': jnp.ones(3),
          'none': jnp.zeros((n, 0, 4)), 'pair': (jnp.arange(n), jnp.eye(n))}
  axes = {'split': 0, 'whole': None, 'none': 0, 'pair': 0}
  got = devices.shard(tree, axes, n)
  rows = devices.padded(n) // 8
  assert got['split'].shape == (8, rows, 2)
  assert got['none'].shape == (8, rows, 0, 4)
  assert len(got['split'].sharding.device_set) == 8
  # What fills is real: nothing odd is computed from it.
  np.testing.assert_array_equal(
      got['pair'][0].ravel(), np.arange(8 * rows) % n)
  toy.leaves_equal(devices.unshard(got, axes, n), tree)
  present = np.asarray(devices.present(n))
  assert present.shape == (8, rows)
  np.testing.assert_array_equal(present.ravel(), np.arange(8 * rows) < n)


def test_replicate():
  got = devices.replicate({'x': np.arange(3)})['x']
  assert got.shape == (3,) and len(got.sharding.device_set) == 8


@pytest.mark.parametrize('together', [True, False, None])
@pytest.mark.parametrize('n', lanes.slow_but((5, 11), [1, 5, 8, 11]))
def test_spread_takes_any_number(together, n):
  def function(item, scale, shift):
    x, y = item
    return {'sum': x.sum() * scale + shift, 'y': y}
  run = devices.spread(function, together=together)
  items = jnp.arange(3. * n).reshape(n, 3), jnp.arange(n)
  got = run(items, devices.replicate(jnp.float32(2)),
            devices.replicate(jnp.float32(1)))
  np.testing.assert_allclose(got['sum'], 2 * items[0].sum(1) + 1)
  np.testing.assert_array_equal(got['y'], np.arange(n))


def test_spread_compiles_once():
  run = devices.spread(lambda item, shared: item * shared)
  shared = devices.replicate(jnp.float32(2))
  np.testing.assert_array_equal(run(jnp.arange(9.), shared), 2 * np.arange(9))
  with toy.compilations() as seen:
    run(jnp.arange(9.), shared)
  assert not seen


def test_on_host_is_the_same_elsewhere():
  key = jax.random.key(3)
  tree = devices.replicate((jnp.arange(5), key))
  numbers, other = devices.on_host(tree)
  cpu = jax.local_devices(backend='cpu')[0]
  assert numbers.devices() == other.devices() == {cpu}
  np.testing.assert_array_equal(numbers, np.arange(5))
  np.testing.assert_array_equal(jax.random.permutation(other, 9),
                                jax.random.permutation(key, 9))


@pytest.mark.parametrize('environ, seen', [
    ({'CUDA_VISIBLE_DEVICES': '0,1,2'}, 3), ({'CUDA_VISIBLE_DEVICES': ''}, 0),
    ({'CUDA_VISIBLE_DEVICES': 'GPU-8a1, GPU-8a2'}, 2), ({}, 2)])
def test_gpus_of_a_machine(environ, seen, tmp_path):
  for name in ('nvidia0', 'nvidia1', 'nvidiactl', 'nvidia-uvm', 'null'):
    (tmp_path / name).touch()
  assert devices.gpus_seen(environ, tmp_path) == seen


@pytest.mark.parametrize('environ, tasks', [
    ({}, 0), ({'SLURM_STEP_TASKS_PER_NODE': '1'}, 1),
    ({'SLURM_STEP_TASKS_PER_NODE': '8(x2),4'}, 8),
    ({'OMPI_COMM_WORLD_LOCAL_SIZE': '4'}, 4)])
def test_tasks_of_a_machine(environ, tasks):
  assert devices.tasks_here(environ) == tasks


def test_no_gpu_is_idle_where_there_is_none():
  assert devices.idle_gpus() is None


def test_small_leaves_of_a_carry_are_one():
  tree = {'kernel': jnp.ones((2, 3)), 'bias': jnp.arange(3.),
          'half': [jnp.ones(2, jnp.bfloat16), jnp.zeros((), jnp.bfloat16)],
          'rate': jnp.float32(.5), 'count': jnp.int32(7), 'none': jnp.zeros(0),
          'key': jax.random.key(1)}
  pack, unpack = devices.kept_as(tree)
  assert pack(tree) is tree and unpack(tree) is tree  # on a CPU
  with devices.building_for(devices.Target('gpu', 2 ** 30)):
    pack, unpack = devices.kept_as(tree)
    vectors, rest = pack(tree)
    alone = devices.kept_as({'x': jnp.ones(3)})
  np.testing.assert_array_equal(vectors['float32'], [0, 1, 2, .5])
  assert vectors['bfloat16'].shape == (3,) and len(rest) == 3
  got = unpack((vectors, rest))
  assert got.pop('key') == tree.pop('key')
  toy.leaves_equal(got, tree)
  assert [x.dtype for x in jax.tree.leaves(got)] == [
      x.dtype for x in jax.tree.leaves(tree)]
  assert alone[0]({'x': 1}) == {'x': 1}


def test_batches_run_in_one_vector_as_by_themselves():
  carry = {'w': jnp.ones((2, 2)), 'b': jnp.zeros(2), 'loss': jnp.float32(0),
           'kernel': jnp.arange(24.).reshape(1, 2, 3, 4)}
  def do(carry, x):
    return {'w': carry['w'] * .5 + x, 'b': carry['b'] - x * carry['w'][0],
            'loss': carry['b'].sum(), 'kernel': carry['kernel'] * (1 + .1 * x)}
  def run(carry, items, remat=True):
    return devices.run_batches(
        do, carry, lambda x: (x + 1,), (items,), remat=remat)
  def both(carry, items):
    return run(carry, items), jax.grad(
        lambda items: run(carry, items)['b'].sum())(items)
  items = jnp.arange(16.)
  want = both(carry, items)
  with devices.building_for(devices.Target('gpu', 2 ** 30)):
    text = str(jax.make_jaxpr(lambda *given: run(*given))(carry, items))
    plain = str(jax.make_jaxpr(lambda *given: run(*given, remat=False))(
        carry, items))
    got = both(carry, items)
  toy.leaves_close(got, want)
  assert 'unroll=4' in text and 'unroll=8' in plain and 'concatenate' in text
  assert 'f32[4,1,2,3]' in text  # kernels with their outputs first


@pytest.mark.parametrize('when', [True, False])
def test_what_is_performed_only_when(when):
  carry = {'b': jnp.arange(3.), 'loss': jnp.float32(2), 'n': jnp.int32(1)}
  want = {'b': jnp.arange(3.) + 1, 'loss': jnp.float32(3), 'n': jnp.int32(2)}
  def run(carry, when):
    return devices.perform(
        when, lambda carry: jax.tree.map(lambda x: x + 1, carry), carry)
  for backend in 'cpu', 'gpu':
    with devices.building_for(devices.Target(backend, 2 ** 30)):
      got = jax.jit(lambda *given: run(*given))(carry, when)
    toy.leaves_equal(got, want if when else carry)


@pytest.mark.parametrize('backend, together', [
    ('cpu', False), ('tpu', False), ('gpu', True)])
def test_backends_that_take_items_in_turn(backend, together):
  def function(x):
    return x * 2
  with devices.building_for(devices.Target(backend, 2 ** 30)):
    text = str(jax.make_jaxpr(lambda x: devices.map_items(function)(x))(
        jnp.zeros((4, 3))))
  assert ('scan' in text) != together
