"""Streamed images: what steps look at, read ahead; equal to all in memory."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import toy

from dasm_jax import config
from dasm_jax import data as datasets
from dasm_jax.diagnose import ageing
from dasm_jax.distill import feeding, initialise, run, setup
from dasm_jax.errors import UserError
from dasm_jax.evaluate import subjects
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


@pytest.mark.slow
@pytest.mark.parametrize('name', [
    # Of DC's kind it is the longest, and IDC's is in other tests.
    pytest.param(name, marks=pytest.mark.long) if name == 'dc' else name
    for name in STREAMED])
def test_a_step_looks_at_what_it_says(name):
  """Three steps, over the end of a network, with no other image in reach."""
  made = toy.toy(name, replay=.5, **STREAMED[name])
  # More images than batch norm takes its averages of.
  data = toy.source(each=24)
  made = made._replace(data=data, pool=made.pool._replace(
      window=data.everything, everything=data.everything))
  n = len(data.labels)
  step = jax.jit(made.method.step)
  state = other = made.state
  seen = 0
  for k in range(3):
    drawn = made.method.draw(data._replace(images=None), made.pool, made.key, k)
    looked = [drawn.by_class, *drawn.shared.values()]
    seen = max(seen, len(np.unique(np.concatenate(
        [np.ravel(x) for x in looked]))))
    state, _ = step(state, data, made.pool, drawn, made.key)
    other, _ = step(other, only(data, looked), made.pool, drawn, made.key)
    toy.leaves_close(state, other)
  assert 0 < seen < n  # else this shows nothing


def as_process(monkeypatch, number):
  """JAX says that this process, of two, has two of four devices."""
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  monkeypatch.setattr(jax, 'local_device_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: number)


def test_a_process_looks_at_its_own_classes(tmp_path, monkeypatch):
  c = small.tiny('dm', dataset__stream='always', segments__window='random',
                 segments__replay=0.)
  with small.started(c, tmp_path) as made:
    phase = made.experiment.plan[0]
    progress = initialise.begin_phase(made, phase, [], [])
    labels = made.experiment.dataset.train.labels
    at = feeding.Position(0)
    every, = feeding.index_reader(made, phase, progress)(at, False)
    np.testing.assert_array_equal(
        labels[every], np.arange(10)[:, None].repeat(8, 1))
    assert np.isin(every, np.asarray(progress.window.indices)).all()
    found = []
    for number in range(2):  # three classes a device
      with monkeypatch.context() as patch:
        as_process(patch, number)
        found += feeding.index_reader(made, phase, progress)(at, False)
  assert [len(x) for x in found] == [6, 4]
  np.testing.assert_array_equal(np.concatenate(found), every)


@pytest.mark.parametrize('n', [8, 5, 3])
def test_images_of_other_devices_are_exchanged(n, monkeypatch):
  """Two processes of two devices, of which each has its part alone."""
  data = toy.source()
  wanted = np.random.default_rng(0).permutation(len(data.labels))[:n]
  parts = []
  for number in range(2):
    with monkeypatch.context() as patch:
      as_process(patch, number)
      mine = wanted[devices.local_items(n)]
    assert len(mine) < n
    parts += 2 * [only(data, [mine])._replace(everything=data.everything)]
  found = jax.vmap(lambda part: sources.take(part, jnp.array(wanted), 'd'),
                   axis_name='d')(jax.tree.map(lambda *x: jnp.stack(x), *parts))
  want = sources.take(data, wanted)
  toy.leaves_equal(found, jax.tree.map(
      lambda x: jnp.broadcast_to(x, (4, *x.shape)), want))


def test_a_process_reads_its_own_items(monkeypatch):
  """Blocks that are scored, batches of probes, subsets of other networks."""
  items = np.arange(30).reshape(5, 3, 2)
  read, rooms = [], []
  for number, *given in ((0, items), (1, items), (1, items[:1], 5)):
    with monkeypatch.context() as patch:
      as_process(patch, number)
      indices, room = streaming.local_rows(*given)
    read.append(np.ravel(indices).tolist())
    rooms.append(room)
  # Two items a device; the last two devices have the fifth and a repetition.
  assert read[:2] == [list(range(24)), list(range(24, 30))]
  assert rooms == [24, 24, 24]  # the same program in each


def test_what_is_fetched_has_the_room_of_the_largest_part(stream):
  resident, streamed = stream(10 ** 4)
  items = np.arange(30).reshape(5, 3, 2)
  for given, room in (((items,), 30), ((items[:2], 5), 30), ((items[:2],), 12)):
    found = streaming.fetch_local(streamed, *given)
    assert found.images.shape == (room, 64)
    toy.leaves_equal(sources.take(found, given[0]), sources.take(
        streaming.fetch_local(resident, *given), given[0]))


def test_what_only_the_state_tells_cannot_be_read_ahead(tmp_path):
  c = small.tiny('cafe', dataset__stream='always')
  with pytest.raises(UserError, match="method 'cafe' .*dataset.stream=never"):
    run.run(c, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_whitening_needs_all_images(tmp_path):
  c = small.tiny('dc', dataset__stream='always', dataset__zca=.1)
  with pytest.raises(UserError, match='dataset.zca=0.1 whitens by all'):
    run.run(c, tmp_path)


@pytest.mark.parametrize('most, want', [
    (1, [1] * 11), (2, [2, 1, 2, 1, 1, 2, 1, 1]), (9, [3, 3, 1, 3, 1])])
def test_every_step_is_fed_once_and_in_order(stream, most, want):
  """Whatever is asked for: a step that is slow must not lose what was read."""
  _, streamed = stream(10 ** 4)
  meter, fed = timing.CostMeter(), []
  def indices(at, warms):
    assert not warms
    return [jnp.array([at.step, 2 * at.step])]
  order = feeding.Schedule(lambda step: 0, 12, 4)
  at = feeding.Position(1)
  with feeding.streamed_feed(streamed, meter, indices, order, at,
                             {False: feeding.FeedPlan(3, 6)}) as feed:
    while at.step < 12:
      data, size = feed(at, most)
      for k in range(at.step, at.step + size):
        row = np.array([k, 2 * k])
        np.testing.assert_array_equal(
            data.images[data.slots[row]],
            sources.flat(streamed.split.read(row)))
      assert len(data.images) == 6
      fed.append(size)
      at = order.after(at, size)
  assert fed == want and meter.waited > 0  # chunks end at 4 and 8


@pytest.mark.parametrize('most', [2, 9])
def test_warm_ups_are_fed_in_pieces(stream, most):
  """Sweeps 0 and 3 begin with five batches; the first has had one."""
  _, streamed = stream(10 ** 4)
  fed = []
  def indices(at, warms):
    if warms:
      return [100 * at.step + np.arange(10).reshape(5, 2)]
    return [np.array([1000 + at.step])]
  order, at = feeding.Schedule(lambda step: 5 * (step % 3 == 0), 4, 10), (
      feeding.Position(0, 1))
  plans = {True: feeding.FeedPlan(3, 6), False: feeding.FeedPlan(2, 2)}
  with feeding.streamed_feed(streamed, timing.CostMeter(), indices, order, at,
                             plans) as feed:
    while at.step < 4:
      warms = order.warms(at)
      data, size = feed(at, min(most, order.left(at)))
      row = indices(at, warms)[0]
      if warms:
        row = row[at.batch:at.batch + size].ravel()
      np.testing.assert_array_equal(
          data.images[data.slots[row]],
          sources.flat(streamed.split.read(row)))
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
  """`room -> (resident, streamed)` digits."""
  dataset = datasets.open('digits')
  rest = 10, dataset.mean, dataset.std
  whole = sources.make_source(toy.Split(
      dataset.train.read(np.arange(len(dataset.train))),
      dataset.train.labels), *rest)
  resident = streaming.ResidentImages(devices.replicate(whole))
  return lambda room: (resident, streaming.StreamedImages(
      dataset.train, *rest, small.buffer_mb(room)))


def test_fetch_takes_what_is_asked_for(stream):
  resident, streamed = stream(10 ** 4)
  rows = np.array([[7, 700], [7, 3]])
  got = streamed.fetch(rows, 6)
  assert got.images.shape == (6, 64) and got.like.shape == (8, 8, 1)
  toy.leaves_equal(sources.take(got, rows),
                   sources.take(streaming.fetch(resident, rows), rows))
  toy.leaves_equal(streamed.everything, resident.everything)


@pytest.mark.slow
def test_scores_and_probes_are_the_same(stream):
  net = toy.network(classes=10)
  recipe = toy.recipes.recipe(1, batch=16)
  keys = jax.random.split(jax.random.key(0), 2)
  found = []
  for data in stream(600):  # several pieces
    probes, _ = scoring.train_choosers(net, recipe, 1)(keys, data)
    found.append((probes, scoring.difficulty_scores(net, 'loss')(
        devices.replicate(probes), data)))
  toy.leaves_close(*found)


class Streamed(NamedTuple):
  """As much of `streaming.StreamedImages` as a plan asks for."""
  room: int
  labels: range


def test_pieces_fit_into_the_buffer():
  def indices(at, warms):
    if warms:
      return [jnp.zeros((7, 20), int)]
    return [jnp.zeros((2, 5), int)] + [jnp.zeros(30, int)] * (at.step % 4 == 0)
  def plans(room, n=10 ** 6, batches=0):
    order = feeding.Schedule(lambda step: batches * (step == 5), 12, 6)
    return feeding.plan_pieces(indices, Streamed(room, range(n)), order,
                               feeding.Position(0), 12)
  assert plans(10 ** 7) == {False: (6, 60 + 60)}
  assert plans(80) == {False: (2, 20 + 30)}
  assert plans(1) == {False: (1, 40)}  # at least a step
  assert plans(10 ** 7, n=50) == {False: (6, 50)}  # no more than there are
  # A warm-up has pieces of its own: its length takes no memory.
  assert plans(80, batches=7) == {False: (2, 50), True: (4, 80)}
  assert plans(10 ** 7, batches=7)[True] == (7, 140)
  assert plans(1, batches=7)[True] == (1, 20)


def test_what_fits_stays_in_memory():
  c = small.tiny('dc')
  assert loading.fits_in_memory(datasets.describe('digits'))
  assert loading.image_bytes(setup.build(c).dataset) == 1797 * 64
  enough = 2 * 1797 * 64
  for memory in (enough, enough - 1):
    fits = memory == enough
    described = datasets.describe('digits')
    assert loading.fits_in_memory(described, memory=memory) == fits
    made = setup.build(c, loading.load_configured(c, memory))
    assert made.streamed != fits
    made.close()
  c.dataset.stream = 'never'
  assert not setup.build(c, loading.load_configured(c, memory)).streamed


@pytest.mark.parametrize('entry, value', [
    ('dataset.stream', 'sometimes'), ('dataset.workers', -1),
    ('run.buffer_mb', 0)])
def test_impossible_settings(entry, value, tmp_path):
  c = small.tiny('dc')
  c.update_from_flattened_dict({entry: value})
  with pytest.raises(UserError, match=str(value)):
    run.run(c, tmp_path)


def test_the_meter_tells_where_time_went():
  now, event = iter([0., 10., 10., 14.]), '/jax/core/compile/'
  with timing.measure_costs(clock=lambda: next(now)) as meter:
    assert meter.line() is None
    with meter.calls(2, 8):
      jax.monitoring.record_event_duration_secs(
          event + 'backend_compile_duration', 7.)
      jax.monitoring.record_event_duration_secs(event + 'something_else', 1.)
    with meter.calls(2, 8):
      pass
  jax.monitoring.record_event_duration_secs(  # nobody listens any more
      event + 'backend_compile_duration', 7.)
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


def test_means_go_on_from_a_checkpoint():
  means = timing.MetricMeans()
  means.add({'loss': 1.}, 3)
  kept = json.loads(json.dumps(means.kept()))
  means.add({'loss': 5.}, 1)
  again = timing.MetricMeans(kept)
  again.add({'loss': 5.}, 1)
  assert again.take() == means.take() == {'loss': 2.}
  assert timing.MetricMeans(means.kept()).take() == {}  # of the end of a row


def test_calls_last_as_long_as_somebody_waits():
  assert [timing.steps_per_call(x) for x in (0, 3, 100)] == [10 ** 10, 3, 1]
  assert [timing.steps_per_call(3, x) for x in (0, 9.5, 100)] == [1, 3, 33]


def test_defaults_have_the_entries():
  assert {'stream', 'workers'} <= set(config.defaults('dc').dataset)


@pytest.mark.slow
def test_networks_grow_up_alike(stream):
  """Of images that are read in pieces, the last of them a short one."""
  network, recipe = toy.network(classes=10), toy.recipes.recipe(1, batch=16)
  resident, streamed = stream(40)
  held = [devices.replicate(sources.take(
      streaming.fetch(resident, None), np.arange(0, 1437, 100)))]
  keys = jax.random.split(jax.random.key(0), 2)
  run = ageing.difficulty_by_age(network, recipe)
  (ours,), (theirs,) = (run(keys, data, held, (0, 1, 6))
                        for data in (resident, streamed))
  np.testing.assert_allclose(  # of fresh networks alone, on no real image
      run(keys, resident, held, (0,))[0], ours[:, :1], rtol=1e-5)
  np.testing.assert_allclose(ours, theirs, rtol=1e-4)
  means = ours.mean(-1).ravel().tolist()
  assert len(set(means)) == len(means)


@pytest.mark.long
@pytest.mark.slow
def test_a_saved_set_of_much_data_is_measured_alike(tmp_path):
  """`evaluate` and `diagnose` read what does not fit."""
  c = small.tiny('dc', segments__number=1, method__steps=2, eval__epochs=1)
  run.run(c, small.measured(tmp_path))
  network = setup.build(c).network
  found, lazy = [], []
  for memory in (None, 2 * 1797 * 64 - 1, 9 * 359 * 64):
    subject = subjects.saved_subject(tmp_path, memory=memory)
    train, test = subject.dataset[1:3]
    lazy.append((streaming.is_lazy(train), streaming.is_lazy(test)))
    compared = subjects.comparison_of(
        subject, subjects.recipe_for(subject.set), 2, 0)(network)
    if lazy[-1] != (True, False):
      found.append([compared.accuracies(name)
                    for name in (subject.name, 'random', 'full')])
  # Where a few test images fit, they stay.
  assert lazy == [(False, False), (True, False), (True, True)]
  np.testing.assert_array_equal(*found)
