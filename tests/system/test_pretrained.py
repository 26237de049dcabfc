"""Matching networks that were trained before: kept, drawn, never twice."""

import shutil

import jax
import numpy as np
import optax
import pytest
import small
import toy

from dasm_jax import config
from dasm_jax.cost import workload
from dasm_jax.distill import feeding, initialise, run, setup
from dasm_jax.errors import UserError
from dasm_jax.methods import inner_network
from dasm_jax.runtime import devices, preemption
from dasm_jax.training import expert_store, experts

pytestmark = pytest.mark.usefixtures('quick_compiler')


def with_starts(name, rows=4, **changes):
  """A toy method, each of whose networks begins as one of `rows`."""
  made = toy.toy(name, **changes)
  ravel = experts.flat_parameters(toy.network())[0]
  keys = jax.random.split(jax.random.key(9), rows)
  return made._replace(data=made.data._replace(
      starts=jax.vmap(lambda key: ravel(toy.network().init(key)))(keys)))


def rows_of(made, variables):
  """Which of the starts a network is."""
  row = experts.flat_parameters(toy.network())[0](variables)
  return np.flatnonzero((np.asarray(made.data.starts) == row).all(-1)).tolist()


# ---- a step


def test_a_network_begins_as_one_of_them():
  made = with_starts('dm', net_steps=0, inner=2, augment='')
  step, state, seen = jax.jit(toy.sweep(made.method)), made.state, []
  assert not rows_of(made, state.variables)
  for _ in range(12):
    state, _ = step(state, made.data, made.pool, made.key)
    seen += rows_of(made, state.variables)
  assert len(seen) == 12 and seen[::2] == seen[1::2]  # each lives two sweeps
  assert len(set(seen)) > 1
  # What it had learned of its old momentum goes with the old network.
  assert not any(x.any() for x in jax.tree.leaves(state.net_opt_state))


def test_all_are_drawn_about_as_often():
  made, network, tx = with_starts('dc'), toy.network(), optax.sgd(.1)
  old = network.init(jax.random.key(0))
  draw = jax.jit(jax.vmap(lambda key: inner_network.beginner(network, tx)(
      True, (old, tx.init(old.params)), made.data, key)[0]))
  drawn = draw(jax.random.split(jax.random.key(0), 200))
  ravel = jax.vmap(experts.flat_parameters(toy.network())[0])
  same = (ravel(drawn)[:, None] == made.data.starts).all(-1)
  assert (same.sum(1) == 1).all() and same.sum(0).min() > 30


def test_it_has_the_averages_of_the_network_that_was_trained():
  made, tx = with_starts('dc'), optax.sgd(.1)
  network = toy.network(norm='batch')
  ravel, unravel = experts.flat_variables(network)
  fresh = network.init(jax.random.key(0))
  trained = jax.tree.map(lambda x: x + .5, network.init(jax.random.key(1)))
  toy.leaves_equal(unravel(ravel(trained)), trained)
  begun, _ = inner_network.beginner(network, tx)(
      True, (fresh, tx.init(fresh.params)),
      made.data._replace(starts=ravel(trained)[None]), jax.random.key(2))
  assert begun.stats
  toy.leaves_equal(begun, trained)


@pytest.mark.parametrize('share', [0., .5, 1.])
def test_a_share_begins_as_what_finished_segments_trained(share):
  made, network, tx = with_starts('dc'), toy.network(), optax.sgd(.1)
  data = made.data._replace(finished=made.data.starts[:2] + 1)
  old = network.init(jax.random.key(0))
  draw = jax.jit(jax.vmap(lambda key: inner_network.beginner(
      network, tx, share)(True, (old, tx.init(old.params)), data, key)[0]))
  ravel = jax.vmap(experts.flat_parameters(network)[0])
  drawn = ravel(draw(jax.random.split(jax.random.key(0), 100)))[:, None]
  again = (drawn == data.finished).all(-1)
  assert (again.any(1) ^ (drawn == data.starts).all(-1).any(1)).all()
  assert abs(again.any(1).mean() - share) < .15
  if share:
    assert again.sum(0).min() > 10


def test_many_devices_do_as_one():
  kept = {}
  for axis_name in (None, devices.AXIS):
    made = with_starts('dm', axis_name=axis_name, warmup=1, augment='',
                       net_augment='')
    if axis_name is None:
      state = made.state
      for _ in range(3):
        state, _ = jax.jit(toy.sweep(made.method))(
            state, made.data, made.pool, made.key)
    else:
      many = toy.on_devices(made)
      state, _ = devices.chunk(many.method)(
          many.state, many.data, many.pool, many.key, 3)
      state = toy.gather(many, state)
    kept[axis_name] = state
  toy.leaves_close(kept[None], kept[devices.AXIS], rtol=1e-4, atol=1e-5)


# ---- a run


def tiny(method='dc', **changes):
  """A configuration of seconds, with three networks of two epochs."""
  return small.tiny(method, **{**dict(
      method__pretrained=3, method__pretrained_epochs=2, method__net_lr=0.1,
      method__net_batch=128, method__net_augment='', network__depth=1),
      **changes})


def opened(workdir, c, stopping=None):
  """The `ExpertStore` of a run that starts there."""
  with small.started(c, workdir, stopping=stopping) as made:
    return made.experts


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The workdir of a run whose networks are trained, and the run."""
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  with small.started(tiny(), workdir) as made:
    return workdir, made


def test_several_segments_of_idc_begin_as_judges():
  """What the plain method matches by is drawn, as it was published."""
  def judged(method='idc', **changes):
    c = small.tiny(method, **changes)
    assert not config.expert_settings(c) or method == 'mtt' or (
        c.method.pretrained)
    return config.begins_as_judges(c)
  assert judged() and not judged(segments__number=1)
  # Whatever is said is done; no other method asks for them.
  assert not judged(method__begin='noise')
  assert not judged(method__pretrained=4)
  assert judged(segments__number=1, method__begin='judges')
  for method in ('dc', 'dsa', 'dm', 'mtt', 'random', 'frontier'):
    assert not judged(method)
  assert judged('dsa', method__begin='auto')


@pytest.mark.parametrize('order', ['loss', 'none'])
def test_judges_are_what_networks_begin_as(order, tmp_path):
  """They are trained for that where nothing else asks them, too."""
  c = small.tiny('dc', method__begin='judges', segments__order=order,
                 network__norm='batch', coreset__networks=2)
  with small.started(c, tmp_path / 'run') as made:
    given = feeding.network_starts(made)
    kept = initialise.real_networks(made)[0]
    assert workload.asks_judges(made.experiment)
  assert not [*(tmp_path / 'experts').glob('*/expert_*')]
  rows = jax.vmap(experts.flat_variables(made.experiment.network)[0])(kept)
  assert len(given) == 2 and kept.stats
  np.testing.assert_array_equal(given, rows)


def test_they_are_what_experts_end_as(trained, tmp_path):
  made = trained[1]
  whole = opened(tmp_path / 'run', small.tiny(
      'mtt', experts__number=3, experts__epochs=2, experts__lr=0.1,
      experts__batch=128, experts__augment='', method__last_epoch=0,
      network__depth=1))
  want = expert_store.read_rows(whole, range(3), [2] * 3)
  np.testing.assert_array_equal(feeding.network_starts(made), want)
  assert not (want == expert_store.read_rows(whole, range(3), [1] * 3)).all(
      1).any()
  # No other epoch is kept.
  assert made.experts.path(0).stat().st_size == 4 * want.shape[1]
  first = made.experiment.plan[0]
  progress = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype),
                          initialise.progress_shapes(made, first).probes)
  progress = initialise.Progress(*6 * [None], progress, None)
  with feeding.open_feed(made, first, progress, None, None) as feed:
    given, steps = feed(feeding.Position(0), 4)
  assert steps == 4 and given.finished is None
  np.testing.assert_array_equal(given.starts, want)


def test_they_are_trained_as_between_sweeps():
  c = tiny('idc', method__net_augment='flip')
  recipe = experts.expert_recipe(config.expert_settings(c),
                                 setup.build(c).codec)
  assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.batch,
          recipe.strategy, recipe.mode, recipe.cutmix) == (
              .1, .9, 5e-4, 128, 'flip', 'idc', .5)


def test_only_missing_ones_are_trained_again(trained):
  workdir, made = trained
  store, before = made.experts, feeding.network_starts(made)
  times = [store.path(k).stat().st_mtime_ns for k in range(3)]
  store.path(1).unlink()
  with pytest.raises(preemption.Stopped, match='saved 2 experts'):
    opened(workdir, tiny(), small.AskedAt(1))
  assert list(store.folder.glob('*.part')) == [store.part(1)]
  # Runs of another seed and rate of images share them.
  again = opened(workdir, tiny(seed=3, method__lr=0.5))
  assert again == store
  np.testing.assert_array_equal(feeding.network_starts(
      made._replace(experts=again)), before)
  assert [a == b for a, b in zip(times, [
      again.path(k).stat().st_mtime_ns for k in range(3)],
      strict=True)] == [True, False, True]
  # Those of another rate are others.
  assert len([*store.folder.parent.iterdir()]) == 1
  with pytest.raises(preemption.Stopped, match='saved 0 experts'):
    opened(workdir, tiny(method__net_lr=0.2), small.AskedAt(1))
  assert len([*store.folder.parent.iterdir()]) == 2


@pytest.mark.slow
def test_whole_run(tmp_path):
  c = tiny('dm', method__pretrained=2, method__pretrained_epochs=1,
           method__augment='', network__norm='batch', segments__number=1)
  results = run.run(c, small.measured(tmp_path / 'run'))
  assert len(results['segments']) == 1
  folder, = (tmp_path / 'experts').iterdir()
  assert len(list(folder.glob('expert_*.bin'))) == 2
  with np.load(tmp_path / 'run' / 'synthetic.npz') as file:
    assert np.isfinite(file['images']).all()


def test_without_them_nothing_is_kept(tmp_path):
  for method in ('dc', 'dm', 'sre2l'):
    c = small.tiny(method)
    assert config.expert_settings(c) is None and not c.method.get('pretrained')
  with small.started(small.tiny(), tmp_path / 'run') as made:
    assert made.experts is None and feeding.network_starts(made) is None
  assert not (tmp_path / 'experts').exists()


@pytest.mark.parametrize('changes, text', [
    ({'method__pretrained': -1}, 'method.pretrained=-1 must be at least 0'),
    ({'method__pretrained_epochs': 0}, 'pretrained_epochs=0 must be at least'),
    ({'method__begin': 'judge'}, "'judge'.*auto, judges, noise"),
    ({'method__begin': 'judges'}, 'begin=judges and .*pretrained=3 are two')])
def test_what_cannot_work_says_so(tmp_path, changes, text):
  with pytest.raises(UserError, match=text):
    run.run(tiny(**changes), tmp_path / 'run')


def test_room_is_checked_before(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=100 * 2 ** 20)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  with pytest.raises(UserError, match='use --workdir on a larger disk, or '
                     'fewer --config.method.pretrained'):
    opened(tmp_path / 'run', tiny(
        method__pretrained=12, network__depth=2, network__width=512))
