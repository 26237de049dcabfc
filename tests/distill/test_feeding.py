"""Streamed images: what steps look at, read ahead; equal to all in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import toy

from dasm_jax import config, diagnose
from dasm_jax.data import reader
from dasm_jax.distill import feeding, run, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import subjects
from dasm_jax.methods import inner_network
from dasm_jax.pipeline import loading, streaming
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices, timing
from dasm_jax.training import scoring

pytestmark = pytest.mark.usefixtures('quick_compiler')
# Trained on synthetic images, on real ones, matched by features, a teacher.
STREAMED = {'dc': {'warmup': 1, 'norm': 'batch', 'net_batch': 4},
            'cafe': {'watch_images': 0},
            'dm': {'train_on': 'real', 'net_batch': 4}, 'sre2l': {}}


def only(data, indices):
  """A `Source` that holds the images at `indices`, and zeros for no other."""
  unique = np.unique(np.concatenate([np.ravel(x) for x in indices]))
  slots = np.full(len(data.labels), len(data.labels))
  slots[unique] = np.arange(len(unique))
  # As many for each step: one program.
  images = np.zeros_like(np.resize(data.images, (
      len(data.labels) + 1, *data.images.shape[1:])))
  images[:len(unique)] = data.images[unique]
  return data._replace(images=jnp.asarray(images), slots=jnp.asarray(slots))


@pytest.mark.parametrize('name', STREAMED)
def test_a_step_looks_at_what_it_says(name, monkeypatch):
  """Three steps, over the end of a network, with no other image in reach."""
  monkeypatch.setattr(inner_network, 'STATISTICS_IMAGES', 3)
  made = toy.toy(name, replay=.5, **STREAMED[name])
  n, mine = len(made.data.labels), jnp.arange(3)
  step = jax.jit(made.method.step)
  state = other = made.state
  seen = 0
  for k in range(3):
    looked = made.method.looks(made.pool, mine, n, made.key, k)
    part = only(made.data, looked)
    seen = max(seen, len(np.unique(np.concatenate(
        [np.ravel(x) for x in looked]))))
    state, _ = step(state, made.data, made.pool, made.key)
    other, _ = step(other, part, made.pool, made.key)
    toy.leaves_close(state, other)
  assert 0 < seen < n  # else this shows nothing


def test_a_process_looks_at_its_own_classes():
  made = toy.toy('dc', classes=4)
  def labels(mine):
    looked = made.method.looks(made.pool, jnp.array(mine),
                               len(made.data.labels), made.key, 0)
    return set(np.asarray(made.data.labels)[np.ravel(looked[0])].tolist())
  assert labels([1, 3]) == {1, 3} and labels([0]) == {0}


@pytest.mark.parametrize('n', [8, 5, 3])
def test_images_of_other_devices_are_exchanged(n, monkeypatch):
  """Two processes of two devices, of which each has its part alone."""
  data, devices = toy.source(), 4
  wanted = np.random.default_rng(0).permutation(len(data.labels))[:n]
  monkeypatch.setattr(devices, 'count', lambda: devices)
  parts = []
  for held in (slice(0, 2), slice(2, 4)):
    monkeypatch.setattr(devices, '_local_slice', lambda held=held: held)
    mine = wanted[devices.local_items(n)]
    assert len(mine) < n
    parts += 2 * [only(data, [mine])._replace(everything=data.everything)]
  found = jax.vmap(lambda part: sources.take(part, jnp.array(wanted), 'd'),
                   axis_name='d')(jax.tree.map(lambda *x: jnp.stack(x), *parts))
  want = sources.take(data, wanted)
  toy.leaves_equal(found, jax.tree.map(
      lambda x: jnp.broadcast_to(x, (devices, *x.shape)), want))


def test_a_process_reads_its_own_items(stream, monkeypatch):
  """Blocks that are scored, batches of probes, subsets of other networks."""
  _, streamed = stream
  items = np.arange(30).reshape(5, 3, 2)
  monkeypatch.setattr(devices, 'count', lambda: 4)
  monkeypatch.setattr(jax, 'local_device_count', lambda: 2)
  read, rooms = [], []
  monkeypatch.setattr(streamed, 'fetch', lambda indices, room: (
      read.append(np.ravel(indices).tolist()), rooms.append(room)))
  for mine in (slice(0, 2), slice(2, 4)):
    monkeypatch.setattr(devices, '_local_slice', lambda mine=mine: mine)
    streaming.fetch_local(streamed, items)
  streaming.fetch_local(streamed, items[:1], 5)
  # Two items a device; the last two devices have the fifth and a repetition.
  assert read[:2] == [list(range(24)), list(range(24, 30))]
  assert rooms == [24, 24, 24]  # the same program in each


def test_what_only_the_state_tells_cannot_be_read_ahead(tmp_path):
  config = small.tiny('cafe', dataset__stream='always')
  with pytest.raises(UserError, match="method 'cafe' .*dataset.stream=never"):
    run.run(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_whitening_needs_all_images(tmp_path):
  config = small.tiny('dc', dataset__stream='always', dataset__zca=.1)
  with pytest.raises(UserError, match='dataset.zca=0.1 whitens by all'):
    run.run(config, tmp_path)


@pytest.mark.parametrize('most, want', [
    (1, [1] * 11), (2, [2, 1, 2, 1, 1, 2, 1, 1]), (9, [3, 3, 1, 3, 1])])
def test_every_step_is_fed_once_and_in_order(stream, most, want):
  """Whatever is asked for: a step that is slow must not lose what was read."""
  _, streamed = stream
  meter, fed = timing.CostMeter(), []
  def looks(at, warms):
    assert not warms
    return [jnp.array([at.step, 2 * at.step])]
  order = feeding.Schedule(lambda step: 0, 12, 4)
  at = feeding.Position(1)
  with feeding._streamed_feed(streamed, looks, order, at,
                              {False: feeding.FeedPlan(3, 6)}, meter) as feed:
    while at.step < 12:
      data, size = feed(at, most)
      for k in range(at.step, at.step + size):
        row = np.array([k, 2 * k])
        np.testing.assert_array_equal(
            data.images[data.slots[row]], streamed.split.read(row))
      assert len(data.images) == 6
      fed.append(size)
      at = order.after(at, size)
  assert fed == want and meter.waited > 0  # chunks end at 4 and 8


@pytest.mark.parametrize('most', [2, 9])
def test_warm_ups_are_fed_in_pieces(stream, most):
  """Sweeps 0 and 3 begin with five batches; the first has had one."""
  _, streamed = stream
  fed = []
  def looks(at, warms):
    if warms:
      return [100 * at.step + np.arange(10).reshape(5, 2)]
    return [np.array([1000 + at.step])]
  order, at = feeding.Schedule(lambda step: 5 * (step % 3 == 0), 4, 10), (
      feeding.Position(0, 1))
  plans = {True: feeding.FeedPlan(3, 6), False: feeding.FeedPlan(2, 2)}
  with feeding._streamed_feed(streamed, looks, order, at, plans,
                              timing.CostMeter()) as feed:
    while at.step < 4:
      warms = order.warms(at)
      data, size = feed(at, min(most, order.left(at)))
      row = looks(at, warms)[0]
      if warms:
        row = row[at.batch:at.batch + size].ravel()
      np.testing.assert_array_equal(
          data.images[data.slots[row]], streamed.split.read(row))
      assert len(data.images) == plans[warms].capacity
      fed.append((warms, size))
      at = order.after(at, size)
  assert fed == {
      9: [(True, 3), (True, 1), (False, 2), (False, 1),
          (True, 3), (True, 2), (False, 1)],
      2: [(True, 2), (True, 1), (True, 1), (False, 2), (False, 1),
          (True, 2), (True, 1), (True, 2), (False, 1)]}[most]


@pytest.fixture(scope='module')
def stream():
  """`(resident, streamed)` digits."""
  dataset = reader.open_lazy('digits')
  rest = 10, dataset.mean, dataset.std
  whole = sources.make_source(toy.Split(
      dataset.train.read(np.arange(len(dataset.train))),
      dataset.train.labels), *rest)
  return (streaming.ResidentImages(devices.replicate(whole)),
          streaming.StreamedImages(dataset.train, *rest))


def test_fetch_takes_what_is_asked_for(stream):
  resident, streamed = stream
  rows = np.array([[7, 700], [7, 3]])
  got = streamed.fetch(rows, 6)
  assert got.images.shape == (6, 8, 8, 1)
  toy.leaves_equal(sources.take(got, rows),
                   sources.take(streaming.fetch(resident, rows), rows))
  toy.leaves_equal(streamed.everything, resident.everything)


def test_scores_and_probes_are_the_same(stream, monkeypatch):
  monkeypatch.setattr(stream[1], 'room', 600)  # several pieces
  net = toy.network(classes=10)
  recipe = toy.recipes.recipe(1, batch=16)
  keys = jax.random.split(jax.random.key(0), 2)
  found = []
  for data in stream:
    probes = scoring.train_probes(net, recipe, 3)(keys, data)
    found.append((probes, scoring.difficulty_scores(net, 'loss')(
        devices.replicate(probes), data)))
  toy.leaves_close(*found)


def test_pieces_fit_into_the_buffer():
  def looks(at, warms):
    if warms:
      return [jnp.zeros((7, 20), int)]
    return [jnp.zeros((2, 5), int)] + [jnp.zeros(30, int)] * (at.step % 4 == 0)
  def plans(room, n=10 ** 6, batches=0):
    order = feeding.Schedule(lambda step: batches * (step == 5), 12, 6)
    return feeding.plan_pieces(looks, n, order, feeding.Position(0), 12, room)
  assert plans(10 ** 7) == {False: (6, 60 + 60)}
  assert plans(80) == {False: (2, 20 + 30)}
  assert plans(1) == {False: (1, 40)}  # at least a step
  assert plans(10 ** 7, n=50) == {False: (6, 50)}  # no more than there are
  # A warm-up has pieces of its own: its length takes no memory.
  assert plans(80, batches=7) == {False: (2, 50), True: (4, 80)}
  assert plans(10 ** 7, batches=7)[True] == (7, 140)
  assert plans(1, batches=7)[True] == (1, 20)


def test_what_fits_stays_in_memory(monkeypatch):
  config = small.tiny('dc')
  assert loading.fits_in_memory('digits', size=0)
  assert loading.image_bytes(setup.build(config).dataset) == 1797 * 64
  monkeypatch.setattr(devices, 'memory', lambda: 2 * 1797 * 64 - 1)
  assert not loading.fits_in_memory('digits', size=0)
  made = setup.build(config)
  assert made.streamed
  made.close()
  config.dataset.stream = 'never'
  assert not setup.build(config).streamed


@pytest.mark.parametrize('entry, value', [
    ('dataset.stream', 'sometimes'), ('dataset.workers', -1),
    ('run.buffer_mb', 0)])
def test_impossible_settings(entry, value, tmp_path):
  config = small.tiny('dc')
  config.update_from_flattened_dict({entry: value})
  with pytest.raises(UserError, match=str(value)):
    run.run(config, tmp_path)


def test_the_meter_tells_where_time_went():
  now = iter([0., 10., 10., 14.])
  meter = timing.CostMeter(clock=lambda: next(now))
  assert meter.line() is None
  with meter.calls(2, 8):
    meter._listen('/jax/core/compile/backend_compile_duration', 7.)
    meter._listen('/jax/core/compile/something_else', 1.)
  with meter.calls(2, 8):
    pass
  meter.waited = 1.75
  found = meter.summary()
  assert found['peak_memory_bytes'] > 2 ** 20
  assert (found['step_seconds'], found['images_per_second']) == (
      7 / 4, 32 / 7)
  assert found['compile_seconds'] == 7 and found['steps'] == 4
  assert '20.0% of the time waiting' in meter.line()


def test_means_weigh_calls_by_their_steps():
  means = timing.MetricMeans()
  means.add({'loss': 1.}, 3)
  means.add({'loss': 5.}, 1)
  assert means.take() == {'loss': 2.}
  means.add({'loss': 7.}, 2)
  assert means.take() == {'loss': 7.}


def test_means_go_on_from_a_checkpoint(tmp_path):
  path = tmp_path / 'means.json'
  means = timing.MetricMeans(path, (0, 0), 7)  # of a file that is not there
  means.add({'loss': 1.}, 3)
  means.keep(10)
  means.add({'loss': 5.}, 1)
  means.keep(11)
  # A kill before the checkpoint leaves the one before.
  for number, want in ((10, 1.), (11, 2.)):
    assert timing.MetricMeans(path, (0, 0), number).take() == {'loss': want}
  again = timing.MetricMeans(path, (0, 0), 10)
  again.add({'loss': 5.}, 1)
  assert again.take() == means.take() == {'loss': 2.}
  # Neither another segment's nor another phase's, nor of the end of a row.
  for of, number in (((1, 0), 10), ((0, 1), 10), ((0, 0), 12)):
    assert timing.MetricMeans(path, of, number).take() == {}
  before = path.read_text()
  again.keep(12)
  assert path.read_text() == before


def test_calls_last_as_long_as_somebody_waits():
  assert [timing.steps_per_call(x) for x in (0, 3, 100)] == [10 ** 10, 3, 1]


def test_defaults_have_the_entries():
  assert {'stream', 'workers'} <= set(config.defaults('dc').dataset)


def test_networks_grow_up_alike(stream, monkeypatch):
  """Of images that are read in pieces, the last of them a short one."""
  monkeypatch.setattr(stream[1], 'room', 40)
  network, recipe = toy.network(classes=10), toy.recipes.recipe(1, batch=16)
  resident, streamed = stream
  held = [devices.replicate(sources.take(
      streaming.fetch(resident, None), np.arange(0, 1437, 100)))]
  keys = jax.random.split(jax.random.key(0), 2)
  run = diagnose.norms_by_age(network, recipe)
  ours, theirs = (run(keys, data, held, (0, 1, 6)) for data in stream)
  np.testing.assert_allclose(  # of fresh networks alone, on no real image
      run(keys, resident, held, (0,)), ours[:, :1], rtol=1e-5)
  np.testing.assert_allclose(ours, theirs, rtol=1e-4)
  assert len(set(ours.ravel().tolist())) == ours.size


def test_a_saved_set_of_much_data_is_measured_alike(tmp_path, monkeypatch):
  """`evaluate` and `diagnose` read what does not fit."""
  c = small.tiny('dc', segments__number=1, method__steps=2, eval__epochs=1)
  run.run(c, tmp_path)
  subject_ = subjects.saved_subject(tmp_path)
  recipe = subjects.recipe_for(subject_.set)
  network = setup.build(c).network
  def measured(name):
    return subjects.measurer(subject_, recipe, 2, 0)(name, network)
  want = {name: measured(name) for name in (subject_.name, 'random', 'full')}
  monkeypatch.setattr(devices, 'memory', lambda: 2 * 1797 * 64 - 1)
  assert not streaming.is_lazy(subjects.saved_subject(tmp_path).dataset.test)
  monkeypatch.setattr(loading, 'TEST_SHARE',
                      .09)  # 359 images of 1797 are too many
  subject_ = subjects.saved_subject(tmp_path)
  assert streaming.is_lazy(subject_.dataset.test)
  assert streaming.is_lazy(subject_.dataset.train)
  for name, values in want.items():
    np.testing.assert_array_equal(measured(name), values)
