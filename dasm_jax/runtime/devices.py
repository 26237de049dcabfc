"""Devices: the only module that knows how many there are.

Sections: what programs are built for, the devices that are here, arrays put on
them, items split over them, a method's steps as one program, batches one after
the other, functions mapped over items.

Classes, samples and networks are split with `jax.pmap` over the devices of all
processes; each process holds the rows of its own. The functions that are mapped
know an axis name only, so the same ones run under `jit`, `vmap(axis_name=…)`
and `shard_map`.
"""

import contextlib
import contextvars
import functools
import os
import pathlib
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dasm_jax.runtime import processes

AXIS = 'devices'


# ---- What programs are built for


class Target(NamedTuple):
  """What programs are built for.

  backend: `cpu`, `gpu` or `tpu`. memory: bytes of a device. devices: how many,
  None as many as are here; of another number nothing can be put on them.
  """
  backend: str
  memory: int
  devices: int | None = None


_TARGET = contextvars.ContextVar('target', default=None)


@contextlib.contextmanager
def building_for(target):
  """Programs that are traced within are for a `Target`, not for this machine.

  What is traced is not kept apart by it: functions that were jitted before go
  on being for what they were traced for.
  """
  token = _TARGET.set(target)
  try:
    yield
  finally:
    _TARGET.reset(token)


def backend():
  """What programs are built for: `cpu`, `gpu` or `tpu`."""
  target = _TARGET.get()
  return target.backend if target else jax.default_backend()


def memory():
  """Bytes of a device; where it does not tell, of this machine's memory.

  Of all processes the least, as they must come to the same conclusions.
  """
  target = _TARGET.get()
  return target.memory if target else _memory_here()


@functools.cache
def _memory_here():
  found = [(device.memory_stats() or {}).get('bytes_limit', 0)
           for device in jax.local_devices()]
  mine = min(found) if all(found) else (
      os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))
  return mine if processes.count() == 1 else int(-processes.maximum(-mine)[0])


# ---- The devices that are here


def count():
  """Number of devices, of all processes, that programs are built for."""
  target = _TARGET.get()
  return target and target.devices or jax.device_count()


def idle_gpus():
  """`(used, seen)` GPUs of this machine if a cluster idles some, else None."""
  if jax.default_backend() != 'gpu':
    return None
  # Without a cluster's tasks JAX takes all, or those that the user has named.
  used = jax.local_device_count() * tasks_here(os.environ)
  seen = gpus_seen(os.environ)
  return (used, seen) if 0 < used < seen else None


def gpus_seen(environ, folder='/dev'):
  """How many GPUs of NVIDIA a process may use, by its variables or files."""
  named = environ.get('CUDA_VISIBLE_DEVICES')
  names = (named.split(',') if named is not None else
           [path.name for path in pathlib.Path(folder).glob('nvidia*')
            if re.fullmatch(r'nvidia\d+', path.name)])
  return sum(bool(name.strip()) for name in names)


def tasks_here(environ):
  """How many processes of this run a cluster has here; 0 without one."""
  # Of SLURM `8(x2),4`: as many on each of two nodes, then other ones.
  for name in ('SLURM_STEP_TASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE'):
    number = re.match(r'\d+', environ.get(name, ''))
    if number:
      return int(number[0])
  return 0


# ---- Arrays put on devices


def _put(tree, *spec):
  mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*spec)))


def replicate(tree):
  """`tree` with a copy of every leaf on each local device."""
  return _put(tree)


def on_host(tree):
  """`tree` where programs do not wait for those of the devices: on the CPU.

  An accelerator runs one program after the other. Random bits, and what is
  drawn by them, are the same on all. Where JAX was told to do without a CPU the
  tree stays where it is.
  """
  try:
    host = jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    return tree
  return jax.device_put(tree, host)


# ---- Items split over the devices


def padded(n):
  """The least multiple of the number of devices that is not below `n`."""
  return -(-n // count()) * count()


def _local_slice():
  """The slice of all devices that this process has."""
  local = jax.local_device_count()
  return slice(jax.process_index() * local, (jax.process_index() + 1) * local)


def local_items(n):
  """Which of `n` items this process has devices for, `[m]` int, each once."""
  # Results of what only fills a device are thrown away (`unshard`): nothing is
  # read for it. A process with nothing else has the first item, as programs
  # need images to look at.
  fill = np.arange(padded(n)).reshape(count(), -1)[_local_slice()].reshape(-1)
  return fill[fill < n] if (fill < n).any() else np.arange(min(n, 1))


def most_local(n):
  """How many of `n` items the process with the most of them has."""
  return min(n, padded(n) // count() * jax.local_device_count())


def shard(tree, axes, n):
  """Splits leaves that begin with `n` items: `[n, …] -> [local, k, …]`.

  All leaves are put where the mapped programs leave theirs: a second call,
  given the first one's result, then runs the same program.

  Args:
    tree: a pytree, the same in every process.
    axes: a prefix of it, 0 where leaves are split, None where they are whole.
    n: number of items; they are repeated from the first to fill each device.
  """
  # Items follow each other device by device, and those that fill stand at the
  # end: `unshard`, and methods that gather their classes, cut them off there.
  fill = np.arange(padded(n)) % n
  mine = fill.reshape(count(), -1)[_local_slice()]

  def split(axis, part):
    if axis is None:
      return _put(part)
    return _put(_rows(part, mine), AXIS)
  return jax.tree.map(split, axes, tree, is_leaf=lambda x: x is None)


def unshard(tree, axes, n):
  """The inverse of `shard`: `[local, k, …] -> [n, …]`, in every process."""
  def join(axis, part):
    if axis is None:
      return part
    # One at a time: collectives in flight lock up virtual CPU devices.
    part = jax.tree.map(lambda x: jax.block_until_ready(
        processes.all_gather(x)), part)
    return jax.block_until_ready(_items(part, padded(n), n))
  return jax.tree.map(join, axes, tree, is_leaf=lambda x: x is None)


# All leaves in one program: a run begins with a hundred small ones to compile.
@jax.jit
def _rows(tree, rows):
  return jax.tree.map(lambda x: x[rows], tree)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _items(tree, filled, n):
  return jax.tree.map(lambda x: x.reshape(filled, *x.shape[2:])[:n], tree)


def present(n):
  """1 for each of `n` items, 0 for those that only fill, as `shard` does."""
  filled = (np.arange(padded(n)) < n).astype(np.float32)
  return _put(filled.reshape(count(), -1)[_local_slice()], AXIS)


# ---- A method's steps as one program


def chunk(method):
  """A method's steps in one compiled call on all devices.

  Args:
    method: a `Method` made with `axis_name=AXIS`.

  Returns:
    `(state, data, windows, key, steps) -> (state, metrics)` with state and
    windows sharded by class; `steps` is traced, so any number runs the same
    program; metrics are means over the steps.
  """
  def run(state, data, windows, key, steps):
    def once(state):
      return sweep(method, state, data, windows, key)
    shapes = jax.eval_shape(once, state)[1]
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    def body(_, carry):
      state, total = carry
      state, metrics = once(state)
      return state, jax.tree.map(jnp.add, total, metrics)
    state, total = loop(0, steps, body, (state, zero))
    return state, jax.tree.map(lambda x: x / steps, total)
  return _pmapped(run, method.axes)


def sweep(method, state, data, windows, key):
  """One step of a method, and what it reads drawn: `(state, metrics)`."""
  drawn = method.draw(data, windows, key, state.step)
  return method.step(state, data, windows, drawn, key)


def warmup_chunk(method):
  """The same for batches of its warm-up, `method.warmup`; no metrics."""
  warmup = method.warmup

  def run(state, data, windows, key, batches):
    del windows
    drawn = warmup.draw(data, key, state.step)
    return warmup.step(state, data, drawn, key, batches), {}
  return _pmapped(run, method.axes)


def _pmapped(run, axes):
  mapped = jax.pmap(
      run, axis_name=AXIS, in_axes=(axes, None, 0, None, None),
      out_axes=(axes, None))

  # Of few sizes; each has to be put on the devices, which takes a millisecond.
  put_steps = functools.lru_cache(64)(lambda steps: replicate(np.int32(steps)))

  def call(state, data, windows, key, steps):
    out = mapped(state, data, windows, replicate(key), put_steps(steps))
    # Collectives of two calls in flight can lock up virtual CPU devices.
    return jax.block_until_ready(out)
  return call


def described(function, arguments, axes, results, where):
  """A function and its arguments, of shapes alone, on devices not here.

  As `pmap` would share it out, which takes no devices that are not there.

  Args:
    function: of arrays.
    arguments: pytrees of shapes.
    axes: a prefix of them, 0 what devices share out, None what each has.
    results: the same of what it returns.
    where: devices, described ones or real.

  Returns:
    `(function, arguments)` for `jax.jit(function).trace(*arguments)`.
  """
  if len(where) == 1:
    one = jax.sharding.SingleDeviceSharding(where[0])
    return function, jax.tree.map(lambda x: _shape_on(x, one), arguments)
  mesh = Mesh(np.array(where), (AXIS,))
  whole, split = PartitionSpec(), PartitionSpec(AXIS)

  def is_none(x):
    return x is None

  def specs(axes):
    return jax.tree.map(lambda x: whole if x is None else split, axes,
                        is_leaf=is_none)
  function = jax.shard_map(function, mesh=mesh, in_specs=specs(axes),
                           out_specs=specs(results), check_vma=False)

  def place(axis, tree):
    sharding = NamedSharding(mesh, whole if axis is None else split)
    return jax.tree.map(lambda x: _shape_on(x, sharding), tree)
  return function, jax.tree.map(place, axes, arguments, is_leaf=is_none)


def _shape_on(x, sharding):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


# ---- Batches, one after the other

AHEAD_BYTES = 2 ** 26  # of batches that are made before they are used
# Batches a turn of a GPU's loop: some kernels of a turn (counters, copies of
# what it carries) then serve eight steps: 37 a step of ConvNet-3, not 43. Where
# a derivative computes steps again, fewer: TESLA's, of which each hangs on its
# images alone, would all be in memory at once, twice as much for eight.
UNROLLED, UNROLLED_AGAIN = 8, 4


def run_batches(do, carry, make, items, remat=False):
  """`do(carry, *make(*item))` of one item after the other.

  Making a batch (its draw, augmentation and CutMix) is a third of the kernels
  of a step on small images, and a GPU waits for the next kernel: so many
  batches as `AHEAD_BYTES` hold are made at once, in no more kernels than one.
  A CPU and a TPU wait for none, and make each when it is used: of several made
  at once each would have every operation of which one is drawn.

  Args:
    do: `(carry, *made) -> carry`.
    carry: a pytree.
    make: `(*item) -> made`, a tuple.
    items: a tuple of pytrees whose leaves begin with the items.
    remat: whether a derivative computes each step, and what it is given, again.

  Returns:
    The carry after the last.
  """
  n = len(jax.tree.leaves(items)[0])
  block = _made_ahead(make, items, n)
  again = jax.checkpoint if remat else lambda function: function
  unroll = 1 if backend() != 'gpu' else UNROLLED_AGAIN if remat else UNROLLED
  pack, unpack = kept_as(carry)

  def one(carry, made):
    return pack(do(unpack(carry), *made)), None

  def some(carry, items):
    return jax.lax.scan(again(one), carry, again(jax.vmap(make))(*items),
                        unroll=unroll)
  if block == 1:
    some = again(lambda carry, item: one(carry, make(*item)))
  else:
    items = jax.tree.map(
        lambda x: x.reshape(n // block, block, *x.shape[1:]), items)
  return unpack(jax.lax.scan(some, pack(carry), items)[0])


def _made_ahead(make, items, n):
  """How many of n batches are made at once, a divisor of n."""
  if backend() in IN_TURN:
    return 1
  made = jax.eval_shape(
      lambda items: make(*jax.tree.map(lambda x: x[0], items)), items)
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made))
  return next(k for k in range(max(1, min(n, AHEAD_BYTES // size)), 0, -1)
              if n % k == 0)


def kept_as(tree):
  """How the carry of a loop is kept where kernels are launched one by one.

  Vectors and numbers are one vector: each leaf of a carry is written by a
  kernel of its own, and of ConvNet-3's 58 a step ten moved its biases and
  scales. On a GPU what has four axes, `[height, width, in, out]`, has the last
  one first, as its convolutions read it: else every loop, and every branch,
  begins and ends by turning them around. A CPU launches nothing: as it is
  there.

  Args:
    tree: a pytree of arrays.

  Returns:
    `(pack, unpack)`: of trees of this structure and these shapes, to and from
    `({dtype: vector}, leaves that are left)`.
  """
  leaves, structure = jax.tree.flatten(tree)
  leaves = list(map(jax.typeof, leaves))
  small = [i for i, x in enumerate(leaves)
           if x.ndim < 2 and jnp.issubdtype(x.dtype, jnp.floating)]
  if backend() == 'cpu' or len(small) < 2:
    return lambda tree: tree, lambda packed: packed
  kinds = sorted({str(leaves[i].dtype) for i in small})
  large = [i for i in range(len(leaves)) if i not in small]
  turned = {i for i in large if backend() == 'gpu' and leaves[i].ndim == 4}

  def of(kind):
    return [i for i in small if str(leaves[i].dtype) == kind]

  def pack(tree):
    parts = jax.tree.leaves(tree)
    vectors = {kind: jnp.concatenate([jnp.ravel(parts[i]) for i in of(kind)])
               for kind in kinds}
    return vectors, [jnp.moveaxis(parts[i], -1, 0) if i in turned else parts[i]
                     for i in large]

  def unpack(packed):
    vectors, rest = packed
    parts = {i: jnp.moveaxis(x, 0, -1) if i in turned else x
             for i, x in zip(large, rest, strict=True)}
    for kind in kinds:
      ends = np.cumsum([leaves[i].size for i in of(kind)])
      for i, part in zip(of(kind), jnp.split(vectors[kind], ends[:-1]),
                         strict=True):
        parts[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(structure, [parts[i] for i in sorted(parts)])
  return pack, unpack


def loop(begin, end, do, carry):
  """A `fori_loop` of `do(i, carry) -> carry`, kept by `kept_as`."""
  pack, unpack = kept_as(carry)
  return unpack(jax.lax.fori_loop(
      begin, end, lambda i, packed: pack(do(i, unpack(packed))), pack(carry)))


def perform(when, do, carry):
  """`do(carry)`, or the carry as it is, kept by `kept_as`."""
  pack, unpack = kept_as(carry)
  packed = pack(carry)
  if packed is not carry:
    # Else XLA moves the packing into the branches, and hands them each leaf.
    packed = jax.lax.optimization_barrier(packed[0]), packed[1]
  return unpack(jax.lax.cond(
      when, lambda packed: pack(do(unpack(packed))), lambda packed: packed,
      packed))


# ---- Functions mapped over items


# Where classes and networks are taken one after the other. Under a vmap over
# them gradients of kernels are convolutions in groups: on a CPU 2.4 times as
# slow over classes, with ten times the memory, and 2.5 to 3.7 times over four
# networks (measured); on a TPU 3.4 and 2.2 times (its compiler's estimates). A
# GPU waits for each kernel, of which there are five to ten times fewer so.
IN_TURN = 'cpu', 'tpu'


def map_items(function, together=None):
  """`function` over the leading axes of its arguments, so many at once.

  together: True for all (vmap), False for one, or a number; None is as suits
    the backend, see `IN_TURN`.
  """
  together = backend() not in IN_TURN if together is None else together
  if together is True:
    return jax.vmap(function)
  def run(*args):
    size = min(together, len(jax.tree.leaves(args)[0]))
    return jax.lax.map(lambda x: function(*x), args,
                       batch_size=size if size > 1 else None)
  return run


def sum_over(n, function, axis_name=None):
  """`sum_i function(i)` for i below n, split over a mapped axis if named.

  Args:
    n: number of items.
    function: of a traced int, to a pytree of numbers.
    axis_name: the axis; its devices take turns, those left over add nothing.

  Returns:
    The pytree, the same on every device.
  """
  mine, devices = 0, 1
  if axis_name is not None:
    mine = jax.lax.axis_index(axis_name)
    devices = jax.lax.axis_size(axis_name)

  def add(turn, sums):
    i = turn * devices + mine
    # Where n does not divide evenly some devices compute the last item again
    # and add nothing: all run the same program.
    new = function(jnp.minimum(i, n - 1))
    return jax.tree.map(lambda a, b: a + jnp.where(i < n, b, 0), sums, new)

  shapes = jax.eval_shape(function, jnp.int32(0))
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  turns = -(-n // devices)
  sums = add(0, zero) if turns == 1 else jax.lax.fori_loop(0, turns, add, zero)
  return sums if axis_name is None else jax.lax.psum(sums, axis_name)


def spread(function, *, together=None):
  """Maps `function(item, *shared)` over items, split over the devices.

  Args:
    function: of one item (a pytree without the leading axis).
    together: how many a device takes at once, see `map_items`.

  Returns:
    `(items, *shared) -> results`, both with a leading axis of any length.
  """
  run = spread_sharded(function, together=together)

  def call(items, *shared):
    n = jax.tree.leaves(items)[0].shape[0]
    return unshard(run(shard(items, 0, n), *shared), 0, n)
  return call


def spread_sharded(function, *, together=None):
  """As `spread`, of items that `shard` has split; so are the results."""
  def run(items, *shared):
    return map_items(lambda item: function(item, *shared), together)(items)

  # A program for each number of arguments, which `in_axes` has to name.
  compiled = {}

  def call(items, *shared):
    arity = len(shared)
    if arity not in compiled:
      compiled[arity] = jax.pmap(
          run, axis_name=AXIS, in_axes=(0,) + (None,) * arity)
    return jax.block_until_ready(compiled[arity](items, *shared))
  return call
