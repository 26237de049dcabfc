"""Every method of the registry times the properties that all have to have.

Who adds a row to `registry.METHODS` has these tests of it. What small images
and networks ask besides the method's settings may be said in `toy.OWN`.
"""

import functools

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
import toy
from jax.sharding import Mesh, PartitionSpec

from dasm_jax import methods, models, objectives
from dasm_jax.errors import UserError
from dasm_jax.methods import matching, registry
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import checkpoint, devices
from dasm_jax.types import Window

pytestmark = pytest.mark.usefixtures('quick_compiler')
# Programs that are long to compile: of a new method all is tested at once.
SLOW = ('dc', 'dsa', 'dsac', 'cafe', 'idc', 'sre2l', 'mtt', 'ftd', 'tesla',
        'datm')


def each(slow, names, long=()):
  """A test of each of these methods, some of which are slow, or very slow."""
  return pytest.mark.parametrize('name', lanes.slow(slow, names, long))


each_method = each(SLOW, toy.DISTINCT)
each_that_learns = each(SLOW, toy.METHODS)  # coresets have no loss


def scattered(data, indices=None, seed=0):
  """A `Source` whose images lie elsewhere, as where they are streamed.

  indices: of the images that are there; others are wrong. None is all.
  """
  if not isinstance(data, sources.Source):  # experts saw theirs before
    return data
  n = len(data.labels)
  slots = np.random.default_rng(seed).permutation(n).astype(np.int32)
  absent = np.setdiff1d(np.arange(n), np.arange(n) if indices is None
                        else indices)
  images = np.array(
      data.images if data.slots is None else data.images[data.slots])
  images[absent] = 255
  return data._replace(images=jnp.asarray(images[np.argsort(slots)]),
                       slots=jnp.asarray(slots))


@functools.cache
def alone(name):
  """A method on one device, and its sweep, compiled once for all tests."""
  made = toy.toy(name)
  made = made._replace(data=scattered(made.data))
  return made, jax.jit(toy.sweep(made.method))


@functools.cache
def spread(name, classes=3):
  """The same on all devices, and its chunk of steps."""
  made = toy.on_devices(toy.toy(
      name, classes=classes, axis_name=devices.AXIS))
  return made, devices.chunk(made.method)


def walk(name, steps):
  """State and metrics, means, after `steps` steps on one device."""
  made, step = alone(name)
  state, seen = made.state, []
  for _ in range(steps):
    state, metrics = step(state, made.data, made.pool, made.key)
    seen.append(metrics)
  return state, jax.tree.map(lambda *x: sum(x) / steps, *seen)


# Steps of MTT are those of FTD and TESLA, but for what other tests compare.
@each((*SLOW, 'dm'), toy.DISTINCT, long=('ftd', 'tesla'))
def test_compiled_is_as_written(name):
  made, step = alone(name)
  once, metrics = step(made.state, made.data, made.pool, made.key)
  plain, same = made.step()
  toy.leaves_close(once, plain)
  toy.leaves_close(metrics, same)
  moved = abs(once.syn.images - made.state.syn.images).max() > 1e-3
  assert moved == (name in toy.METHODS)


@pytest.mark.slow
@pytest.mark.parametrize('name, backend', [
    ('idc', 'gpu'), ('idc', 'tpu'), ('dc', 'gpu'), ('mtt', 'gpu')])
def test_programs_for_accelerators_do_the_same(name, backend):
  """Batches made ahead, classes at once, XLA's gradients in the kernel."""
  made, step = alone(name)
  want, metrics = step(made.state, made.data, made.pool, made.key)
  with devices.building_for(devices.Target(backend, 2 ** 34)):
    got, same = jax.jit(toy.sweep(made.method))(
        made.state, made.data, made.pool, made.key)
  toy.leaves_close(got, want)
  toy.leaves_close(metrics, same)


EXCHANGES = ('psum', 'all_gather', 'all_to_all', 'ppermute', 'pmax', 'pmin',
             'psum_scatter', 'reduce_scatter')


def exchanges(jaxpr, within=False):
  """`(primitive, numbers, whether in a loop)` of what devices tell each other.
  """
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name.removesuffix('_invariant').rstrip('2') in EXCHANGES:
      yield name, sum(x.aval.size for x in eqn.outvars), within
    for part in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: (
        hasattr(x, 'eqns') or hasattr(x, 'jaxpr'))):
      part = getattr(part, 'jaxpr', part)
      if hasattr(part, 'eqns'):
        yield from exchanges(part, within or name in ('scan', 'while'))


@each_that_learns
def test_devices_exchange_nothing_within_the_gradient(name):
  made = toy.toy(name, axis_name=devices.AXIS)
  everywhere = PartitionSpec()
  sweep = jax.shard_map(
      toy.sweep(made.method), mesh=Mesh(np.array(jax.devices()), devices.AXIS),
      in_specs=everywhere, out_specs=everywhere, check_vma=False)
  found = list(exchanges(jax.make_jaxpr(sweep)(
      made.state, made.data, made.pool, made.key).jaxpr))
  assert any(not inside for _, _, inside in found)  # a metric
  inside = sum(size for _, size, inside in found if inside)
  if name == 'idc':  # shares the real batches of its network's training
    assert inside == 1 + sum(
        x.size for x in jax.tree.leaves(made.state.variables.params))
  else:  # CAFE's network is trained until its accuracy rests, on the whole set
    assert (inside > 0) == (name == 'cafe')


@each_method
def test_types_stay(name):
  # A weak or a wider type after one step would compile everything again.
  made, _ = alone(name)
  def kinds(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
  before = jax.eval_shape(lambda: made.state)
  after, metrics = jax.eval_shape(
      toy.sweep(made.method), made.state, made.data, made.pool, made.key)
  assert kinds(before) == kinds(after)
  floats = [x for x in jax.tree.leaves((after, metrics))
            if jnp.issubdtype(x.dtype, jnp.floating)]
  assert {x.dtype for x in floats} == {jnp.dtype('float32')}


@each_that_learns
def test_loss_falls(name):
  # Step 0 again and again: the same network, real images, augmentation.
  made, step = alone(name)
  state, losses = made.state, []
  for _ in range(40):
    state, metrics = step(state, made.data, made.pool, made.key)
    losses.append(float(metrics['match/loss']))
    state = state._replace(step=jnp.int32(0))
  assert losses[-1] < 0.9 * losses[0]
  assert min(losses) == min(losses[20:])


@each(SLOW, toy.DISTINCT, long=('dsac', 'ftd', 'datm'))
def test_many_devices_do_as_one(name):
  # Three classes on eight devices: five rows only fill.
  made, chunk = spread(name)
  assert devices.count() == 8
  state, metrics = chunk(made.state, made.data, made.pool, made.key, 3)
  one, same = walk(name, 3)
  toy.leaves_close(toy.gather(made, state), one, rtol=1e-4, atol=1e-5)
  for key in metrics.keys() & {'match/loss'}:
    np.testing.assert_allclose(metrics[key], same[key], rtol=1e-4)
  assert metrics.keys() == same.keys()


@pytest.mark.slow
def test_more_classes_than_devices():
  # Ten on eight: two rows a device, six of sixteen only fill.
  made, chunk = spread('dc', 10)
  state, metrics = chunk(made.state, made.data, made.pool, made.key, 2)
  single = toy.toy('dc', classes=10)
  step, now, loss = jax.jit(toy.sweep(single.method)), single.state, 0
  for _ in range(2):
    now, one = step(now, single.data, single.pool, single.key)
    loss += one['match/loss'] / 2
  toy.leaves_close(toy.gather(made, state), now, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(metrics['match/loss'], loss, rtol=1e-4)


@each_method
def test_compiles_once(name):
  made, chunk = spread(name)
  state, _ = chunk(made.state, made.data, made.pool, made.key, 1)
  with toy.compilations() as seen:
    for steps in (1, 3, 2):
      state, _ = chunk(state, made.data, made.pool, made.key, steps)
  assert not seen
  assert int(toy.gather(made, state).step) == 7


def test_compilations_are_seen():
  # The test above can fail.
  with toy.compilations() as seen:
    jax.jit(lambda x: x * 3.25)(1.0)
  assert seen


@each_method
def test_killed_is_as_straight(name, tmp_path):
  made, chunk = spread(name)
  def go(state, steps):
    return chunk(state, made.data, made.pool, made.key, steps)[0]
  straight = toy.gather(made, go(go(made.state, 3), 2))
  with checkpoint.open_checkpoints(tmp_path, 'toy') as saved:
    saved.save(3, toy.gather(made, go(made.state, 3)))
  with checkpoint.open_checkpoints(tmp_path, 'toy') as saved:
    step, state = saved.latest(jax.eval_shape(lambda: straight))
  assert step == 3
  state = devices.shard(state, made.method.axes, 3)
  toy.leaves_equal(toy.gather(made, go(state, 2)), straight)


@each((*SLOW, 'dm'), toy.BY_CLASS)
def test_classes_at_once_are_as_in_turn(name):
  # CPU takes turns, accelerators do not: nothing else runs the other form.
  made = toy.toy(name, batched=True)
  state, _ = jax.jit(toy.sweep(made.method))(
      made.state, made.data, made.pool, made.key)
  toy.leaves_close(state, walk(name, 1)[0], rtol=1e-4, atol=1e-5)


# ---- what is drawn


def read(drawn):
  """All indices that are in a `Drawn`, each once."""
  found = jax.tree.leaves(drawn)
  assert {x.dtype for x in found} == {jnp.dtype('int32')}
  return np.unique(np.concatenate([np.ravel(x) for x in found]))


def check_draws(made, step, steps=3):
  """A sweep is the same where there are no images but those drawn for it."""
  draw, state = jax.jit(made.method.draw), made.state
  for _ in range(steps):
    drawn = draw(made.data, made.pool, made.key, state.step)
    assert drawn.by_class.shape[0] == len(made.pool.classes)
    few = scattered(made.data, read(drawn), seed=1)
    want = step(state, made.data, made.pool, made.key)
    toy.leaves_equal(step(state, few, made.pool, made.key), want)
    state, _ = want


# Those that match experts read what these were, and no images.
@each(SLOW, [
    name for name in toy.DISTINCT if name not in toy.TRAJECTORY])
def test_draw_tells_all_that_a_step_reads(name):
  made, step = alone(name)
  if not made.method.foretold:
    pytest.skip('says itself that it reads more')
  check_draws(made, step)


@pytest.mark.slow
@pytest.mark.parametrize('name, changes', [
    ('cafe', dict(watch_images=0)), ('dc', dict(norm='batch')),
    ('dm', dict(replay=.5)), ('sre2l', dict(replay=.5, teach=2))])
def test_draw_tells_windows_replay_and_averages(name, changes):
  data = toy.source(each=30)
  rows, counts = data.everything
  made = toy.toy(name, **changes)
  made = made._replace(data=data, pool=made.pool._replace(
      window=Window(rows[:, :20], counts * 2 // 3), everything=data.everything))
  drawn = made.method.draw(made.data, made.pool, made.key, made.state.step)
  assert 0 < len(read(drawn)) < 90  # of all: this can fail
  made = made._replace(data=scattered(made.data))
  check_draws(made, jax.jit(toy.sweep(made.method)))


# ---- sample difficulty correction


def slope(correction, at=0):
  """How `correction` changes DC's images in step `at`, and the metrics."""
  made, step = alone('dc')
  if correction:
    step = jax.jit(toy.sweep(toy.toy('dc', correction=correction).method))
  state = made.state._replace(step=jnp.int32(at))
  after, metrics = step(state, made.data, made.pool, made.key)
  return np.asarray(after.syn.images - state.syn.images), metrics


@pytest.mark.slow
def test_no_correction_costs_nothing():
  plain = objectives.gradient_matching(lambda params, batch: 0.0)
  assert objectives.sdc(plain, None, 0) is plain
  assert objectives.sdc(plain, None, 0.0) is plain
  # A ratio of nothing, and weights that start and end at it, are none.
  def program(correction):
    made = toy.toy('dc', correction=correction)
    return str(jax.make_jaxpr(toy.sweep(made.method))(
        made.state, made.data, made.pool, made.key))
  none = program(objectives.Correction())
  assert program(objectives.Correction(0, 0, 9, True)) == none
  assert program(objectives.Correction(0.0, 0.0, 9)) == none
  assert program(objectives.Correction(0.1, 0.1, 9)) != none


@pytest.mark.slow
def test_correction_has_the_share_that_is_asked():
  none, plain = slope(None)
  with_it, metrics = slope(objectives.Correction(0.25, 0.25, 9, True))
  share = np.linalg.norm(with_it - none) / np.linalg.norm(none)
  np.testing.assert_allclose(share, 0.25, rtol=1e-3)
  assert metrics['match/loss'] == plain['match/loss']
  assert metrics['sdc/difficulty'] > 0


@pytest.mark.parametrize('name, penalty', lanes.slow_but(
    [('dm', 'influence')], [
        ('dc', 'influence'), ('dc', 'fisher'), ('idc', 'el2n'),
        ('dsac', 'margin'), ('cafe', 'loss'), ('dm', 'influence'),
        ('sre2l', 'loss'), ('mtt', 'el2n'), ('tesla', 'fisher')]))
def test_any_penalty_moves_the_images_of_any_method(name, penalty):
  def after(weight):
    made = toy.toy(name, correction=objectives.Correction(
        weight, weight, penalty=penalty))
    state, metrics = jax.jit(toy.sweep(made.method))(
        made.state, made.data, made.pool, made.key)
    return state.syn.images, metrics
  (plain, _), (moved, metrics) = after(0), after(.5)
  assert np.isfinite(moved).all() and abs(plain - moved).max() > 1e-6
  assert np.isfinite(metrics['sdc/difficulty'])


@pytest.mark.slow
@pytest.mark.parametrize('name, first, changes', [
    ('sre2l', 2, dict(teach=3, steps=4)), ('datm', 1, {})])
def test_a_ratio_begins_with_the_first_images_that_move(name, first, changes):
  """After steps that teach (SRe2L), or whose starts were all skipped (DATM)."""
  made = toy.toy(name, correction=objectives.Correction(.1, .1, 9, True),
                 **changes)
  sweep, data = jax.jit(toy.sweep(made.method)), made.data
  if name == 'datm':
    data = data._replace(first=data.first + first)
  def strength(before):
    state = made.state._replace(step=jnp.int32(first), strength=before)
    return float(sweep(state, data, made.pool, made.key)[0].strength)
  begun = strength(jnp.float32(0))
  assert begun > 0
  # The mean of what is alike is that: nothing was averaged with a zero.
  np.testing.assert_allclose(strength(jnp.float32(begun)), begun, rtol=1e-6)


@pytest.mark.slow
def test_correction_grows():
  end, _ = slope(objectives.Correction(0.5, 0.5), at=4)
  last, _ = slope(objectives.Correction(0.0, 0.5, 5), at=4)
  none, _ = slope(None, at=4)
  assert abs(end - none).max() > 1e-4
  np.testing.assert_allclose(last, end, rtol=1e-4, atol=1e-6)
  growing = objectives.Correction(1.0, 3.0, 5)
  np.testing.assert_allclose(
      [growing.at(step) for step in range(7)], [1, 1.5, 2, 2.5, 3, 3, 3])
  assert objectives.Correction(1.0, 3.0, 1).at(0) == 1


# ---- DSAC's warm-up


@pytest.mark.slow
def test_plain_sweeps_are_of_the_first_networks_of_a_run():
  # Two sweeps a network, the first of them plain, for a quarter of ten.
  @jax.jit
  def images(step, alone):
    made = toy.toy('dsac', steps=20, alone_share=.25, alone=alone,
                   augment='', net_augment='', net_steps=0)
    state, _ = made.step(made.state._replace(step=step))
    return state.syn.images
  equal = np.testing.assert_array_equal
  def plain(step):
    return images(step, 20)
  def contrast(step):
    return images(step, 0)
  assert abs(plain(0) - contrast(0)).max() > 1e-4
  equal(plain(1), contrast(1))
  for step in (0, 2, 4):
    equal(images(step, 5), plain(step))
    equal(images(step, None), plain(step))  # a quarter of twenty
  equal(images(6, 5), contrast(6))  # the fourth network's
  equal(images(6, None), contrast(6))


# ---- What a segment asks


@each_that_learns
def test_some_images_move_and_the_others_stay(name):
  made, step = alone(name)
  whole, _ = step(made.state, made.data, made.pool, made.key)
  part = toy.toy(name, moving=1, rate=.5)
  state, _ = jax.jit(toy.sweep(part.method))(
      made.state, made.data, made.pool, made.key)
  before, after = made.state.syn.images, state.syn.images
  np.testing.assert_array_equal(after[:, 1:], before[:, 1:])
  # Half the rate: from these images half as far, where nothing is cut off.
  moved, fully = after - before, whole.syn.images - before
  assert abs(moved[:, :1]).max() > 1e-4
  close = np.isclose(moved[:, :1], fully[:, :1] / 2, rtol=.05, atol=1e-5)
  assert close.mean() > .8


# ---- IDC's steps, settings


def test_joint_step_is_a_step_for_each_class():
  classes, sweeps, lr, momentum = 10, 7, 0.3, 0.5
  slopes = np.random.default_rng(0).normal(size=(sweeps, classes, 4))
  # Theirs: one tensor of all classes, one step of SGD for each class's loss.
  x, v = np.zeros((classes, 4)), np.zeros((classes, 4))
  theirs = np.zeros((sweeps + 1, classes, 4))
  for sweep in range(sweeps + 1):
    for c in range(classes):
      theirs[sweep, c] = x[c]  # as its loss sees it
      g = np.zeros((classes, 4))
      if sweep < sweeps:
        g[c] = slopes[sweep, c]
      v = momentum * v + g
      x = x - lr * v
  rate, kept = matching.joint_step(lr, momentum, classes)
  y, u = np.zeros((classes, 4)), np.zeros((classes, 4))
  for sweep in range(sweeps):
    u = kept * u + slopes[sweep]
    y = y - rate * u
    np.testing.assert_allclose(y, theirs[sweep + 1], rtol=1e-12)
  assert matching.joint_step(lr, 0.0, 3) == (lr, 0)


def test_nothing_to_match_is_refused():
  with pytest.raises(UserError, match='parameters=convolutions names none'):
    methods.build(
        toy.settings('idc'), models.build('mlp', shape=(8, 8, 1), classes=3),
        methods.Options(3, None, 2))


def test_settings_that_cannot_work():
  for change, words in (
      ({'batch': 0}, 'batch=0'), ({'steps': 0}, 'steps=0'),
      ({'lr': 0.0}, 'lr=0.0'), ({'momentum': 1.0}, 'momentum=1.0'),
      ({'net_steps': -1}, 'net_steps=-1'), ({'train_on': 'x'}, 'synthetic')):
    with pytest.raises(ValueError, match=words):
      registry.check_method(toy.settings('dc', **change))
  for name, change, words in (
      ('dc', {'match': 'statistics'}, 'dc has not; take method=sre2l'),
      ('sre2l', {'match': 'gradient'}, 'take method=dc or dsa or idc'),
      ('cafe', {'drops': (.5, 2.)}, r'drops=\(0.5, 2.0\) are shares'),
      ('cafe', {'weights': ()}, 'at least one')):
    with pytest.raises(ValueError, match=words):
      registry.check_method(toy.settings(name, **change))
  for name in ('match', 'parameters', 'distance', 'augment', 'augment_mode'):
    with pytest.raises(ValueError, match="'x'; choose from"):
      toy.toy('dc', **{name: 'x'})
