"""Small things that the tests share: data, settings, methods."""

import contextlib
import functools
import os
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import config, methods, models, synthetic
from dasm_jax.methods import registry, trajectory
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices
from dasm_jax.training import ensemble, experts, recipes
from dasm_jax.types import Batch, Synthetic

# All methods that there are, whoever adds one: those whose steps move images,
# those that match experts, those that match class by class.
METHODS = tuple(name for name in registry.METHODS if registry.family_of(
    config.defaults(name).method).synthesises)
# Of coresets of the same settings one: all are built alike, and no step moves
# them.
DISTINCT = (*METHODS, *{
    repr(sorted(row.settings.items())): name
    for name, row in reversed(registry.METHODS.items())
    if name not in METHODS}.values())
TRAJECTORY = tuple(name for name in METHODS if registry.family_of(
    config.defaults(name).method).experts)
BY_CLASS = tuple(name for name in METHODS if name not in TRAJECTORY)
# What small networks and images want besides.
OWN = {'cafe': dict(watch_images=8, watch_window=2, net_steps=4),
       'sre2l': dict(teach=1, statistics=0.3, relabel=False)}
ROOT = pathlib.Path(__file__).parents[2]


class Split(NamedTuple):
  """As `data.Split`."""
  images: np.ndarray
  labels: np.ndarray


def split(classes=3, each=12, side=8, seed=0):
  """Classes that are easy to tell: a pattern each, and noise."""
  rng = np.random.default_rng(seed)
  pattern = rng.uniform(0, 255, (classes, 1, side, side, 1))
  images = pattern + rng.normal(0, 25, (classes, each, side, side, 1))
  images = images.clip(0, 255).astype(np.uint8).reshape(-1, side, side, 1)
  return Split(images, np.repeat(np.arange(classes, dtype=np.int32), each))


def source(classes=3, each=12, side=8, seed=0):
  """A `Source` of such images."""
  return sources.make_source(split(classes, each, side, seed), classes, (.5,),
                             (.3,))


def network(classes=3, side=8, **settings):
  """A ConvNet of a few hundred parameters."""
  return models.build('convnet', shape=(side, side, 1), classes=classes,
                      **{'depth': 2, 'width': 4, **settings})


class Toy(NamedTuple):
  """A method with all that its step takes."""
  method: object
  state: object
  data: sources.Source
  pool: sources.ClassWindows
  key: jax.Array

  def step(self, state=None):
    """One step, as it is: not jitted."""
    return step(self, self.method, self.state if state is None else state)


def sweep(method):
  """`(state, data, pool, key) -> (state, metrics)`: what a step reads is drawn.

  As `devices.chunk` has it, for one device; may be jitted.
  """
  return functools.partial(devices.sweep, method)


def step(toy_, method, state):
  """One sweep of a method with the data of a `Toy`: `(state, metrics)`."""
  return sweep(method)(state, toy_.data, toy_.pool, toy_.key)


def settings(name, **changes):
  """The settings of a method, small."""
  c = config.defaults(name).method
  small = dict(batch=4, inner=2, net_steps=2, net_batch=8, lr=0.05, limit=0,
               lr_per_image=False, alone_share=1e-6, alone_sweeps=1)
  if name in TRAJECTORY:
    small = dict(student_steps=3, batch_syn=3, starts=3, lr=30.0, lr_lr=1e-3,
                 lr_label=c.lr_label and 5.0, average=c.average and 0.5,
                 skip_above=c.skip_above and 9.0)
  small = {key: value for key, value in small.items() if key in c}
  for key in ('augment', 'net_augment'):
    # A branch for each operation takes its time to compile; two tell as much.
    if c.get(key, '').count('_') > 2:
      small[key] = 'crop_flip'
  c.update(small | OWN.get(name, {}) | changes)
  return c


@functools.cache
def pairs(classes, norm, rows=24):
  """Starts and ends of an expert of two epochs, the same in every row."""
  net, data = network(classes, norm=norm), source(classes)
  recipe = recipes.recipe(1, lr=0.1, momentum=0.0, weight_decay=0.0, batch=12)
  keys = jax.random.split(jax.random.key(3), 1)
  begun = jax.jit(jax.vmap(net.init))(keys)
  ravel = jax.vmap(experts.flat_parameters(net)[0])
  start = ravel(begun)
  variables = ensemble.epoch_trainer(net, recipe)(
      ensemble.states_from(recipe, begun), 2 * [ensemble.EpochPlan(keys,
                                                                   recipe.lr)],
      devices.replicate(data))
  return trajectory.Pairs(*(jnp.repeat(x, rows, axis=0) for x in (
      start, ravel(variables))), jnp.int32(0))


def windows(data, window=None, frozen=None):
  """The `ClassWindows` of a `Source`; its whole classes unless given."""
  classes = sources.class_count(data)
  return sources.ClassWindows(
      jnp.arange(classes), jnp.ones(classes), window or data.everything,
      data.everything, frozen)


OPTIONS = ('correction', 'replay', 'union', 'batched', 'axis_name', 'alone',
           'rate', 'moving', 'from_finished')


def toy(name, *, classes=3, ipc=2, frozen=0, seed=0, window=None, norm=None,
        factor=None, **changes):
  """A `Toy` of the method called `name`.

  Args:
    name: of the method, whose row tells how images are stored, and the norm.
    classes: how many. ipc: images of each. frozen: finished ones besides.
    seed: of the images. window: that is matched with; None is everything.
    norm: of the network, if another than the method's. factor: of the codec,
      if another than 2 for pixels and 1 else.
    **changes: `OPTIONS` of `methods.build`, and settings of the method.
  """
  presets = registry.spec(name).presets
  norm = norm or presets.get('network.norm', 'instance')
  space = presets.get('syn.space', 'normalised')
  data, net = source(classes), network(classes, norm=norm)
  codec = synthetic.codec((.5,), (.3,), space=space, shape=(8, 8, 1),
                          factor=factor or 1 + (space == 'pixels'))
  asked = {key: changes.pop(key) for key in OPTIONS if key in changes}
  method = methods.build(settings(name, **changes), net, methods.Options(
      classes, codec, ipc, **asked))
  first, key = jax.random.split(jax.random.key(seed))
  images = synthetic.noise(first, codec, (classes, frozen + ipc, 8, 8, 1))
  labels = jnp.broadcast_to(jnp.eye(classes)[:, None],
                            (classes, frozen + ipc, classes))
  syn = Synthetic(images[:, frozen:], labels[:, frozen:], jnp.float32(0.01))
  pool = windows(data, window, Batch(images[:, :frozen], labels[:, :frozen]))
  if name in TRAJECTORY:
    data = pairs(classes, norm)
  return Toy(method, jax.jit(method.init)(key, syn), data, pool, key)


def on_devices(toy_):
  """The same on all devices; its method must know `devices.AXIS`."""
  n = len(toy_.pool.classes)
  pool = devices.shard(toy_.pool, 0, n)._replace(present=devices.present(n))
  return toy_._replace(
      state=devices.shard(toy_.state, toy_.method.axes, n), pool=pool,
      data=devices.replicate(toy_.data))


def gather(toy_, state):
  """A state of `on_devices` in one piece."""
  classes = state.syn.labels.shape[-1]
  return devices.unshard(state, toy_.method.axes, classes)


@contextlib.contextmanager
def compilations():
  """Yields a list that grows with every compilation."""
  seen = []

  def listen(event, duration, **_):
    if event == '/jax/core/compile/backend_compile_duration':
      seen.append(duration)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield seen
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def leaves_equal(a, b):
  """Asserts that two trees are equal bit for bit."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def leaves_close(a, b, rtol=1e-5, atol=1e-6):
  """Asserts that two trees are equal to rounding."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol, atol)


def environment(**more):
  """Of a subprocess: our sources first, one CPU device."""
  return {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu',
          'XLA_FLAGS': '', **more}
