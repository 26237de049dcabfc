"""Warm-ups of matching networks, in pieces: as at once, and stoppable."""

import io
import itertools
import signal

import jax
import numpy as np
import pytest
import small
import toy

from dasm_jax.distill import feeding, run
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices, logging, preemption

pytestmark = pytest.mark.usefixtures('quick_compiler')
SETTINGS = dict(warmup=5, net_batch=8, inner=2, norm='batch')


def test_order_by_hand():
  order = feeding.Schedule(lambda step: 0 if step % 3 else 5, 7, 4)
  at, seen = feeding.Position(0), []
  while at.step < 7:
    seen.append((*at, order.warms(at), order.left(at), order.number(at)))
    at = order.after(at, min(2, order.left(at)))
  assert seen == [
      (0, 0, True, 5, 0), (0, 2, True, 3, 2), (0, 4, True, 1, 4),
      (0, 5, False, 3, 5), (2, 0, False, 1, 7),
      (3, 0, True, 5, 8), (3, 2, True, 3, 10), (3, 4, True, 1, 12),
      (3, 5, False, 1, 13),  # a chunk ends at 4
      (4, 0, False, 2, 14),
      (6, 0, True, 5, 16), (6, 2, True, 3, 18), (6, 4, True, 1, 20),
      (6, 5, False, 1, 21)]
  assert at == (7, 0) and order.number(at) == 22


def test_without_warm_ups_only_sweeps():
  made = toy.toy('dc')
  order = feeding.schedule_of(made.method, 7, 4)
  assert made.method.warmup is None
  assert feeding.position_of(made.method, made.state) == (0, 0)
  assert [order.left(feeding.Position(k)) for k in range(7)] == [4, 3, 2, 1, 3,
                                                                 2, 1]
  assert order.number(feeding.Position(3)) == 3


def whole(made, steps):
  """The state after sweeps, each with its warm-up in one piece before."""
  warmup, state = made.method.warmup, made.state
  def warm(state):
    drawn = warmup.draw(made.data, made.key, state.step)
    return warmup.step(state, made.data, drawn, made.key, len(drawn))
  warm, step = jax.jit(warm), jax.jit(toy.sweep(made.method))
  for k in range(steps):
    if warmup.batches(k):
      state = warm(state)
    state, _ = step(state, made.data, made.pool, made.key)
  return state


@pytest.mark.slow
def test_pieces_are_as_the_whole():
  """Three sweeps of two networks, each warmed up in pieces of two."""
  made = toy.on_devices(toy.toy('dm', **SETTINGS, axis_name=devices.AXIS))
  want = whole(toy.toy('dm', **SETTINGS), 3)
  programs = devices.chunk(made.method), devices.warmup_chunk(made.method)
  order, at, state = feeding.schedule_of(made.method, 3, 1), feeding.Position(
      0), made.state
  with toy.compilations() as seen:
    while at.step < 3:
      size = min(2, order.left(at))
      state, _ = programs[order.warms(at)](
          state, made.data, made.pool, made.key, size)
      at = order.after(at, size)
      assert feeding.position_of(made.method, state) == at
      if at == (1, 0):
        first = len(seen)
  assert len(seen) == first > 0  # no program for each piece
  state = toy.gather(made, state)
  toy.leaves_close(state, want, rtol=1e-4, atol=1e-5)


def test_draw_tells_all_that_a_batch_reads():
  made = toy.toy('dm', **SETTINGS)
  warmup, data = made.method.warmup, made.data
  assert [warmup.batches(k) for k in range(4)] == [5, 0, 5, 0]
  first, third = (warmup.draw(data, made.key, k) for k in (0, 2))
  assert first.shape == third.shape == (5, 8) and first.dtype == 'int32'
  assert (np.asarray(first) != np.asarray(third)).any()
  step = jax.jit(lambda state, data, size: warmup.step(
      state, data, first, made.key, size))
  one = step(made.state, data, 1)
  assert int(warmup.done(one)) == 1
  other = np.setdiff1d(np.arange(len(data.labels)), first[0])
  few = data._replace(images=data.images.at[other].set(255))
  toy.leaves_equal(step(made.state, few, 1), one)
  second = step(one, few, 1)  # of images that are not there
  assert int(warmup.done(second)) == 2
  with pytest.raises(AssertionError):
    toy.leaves_equal(second, step(one, data, 1))


CHANGES = dict(method__warmup=7, method__net_batch=16, method__inner=2,
               segments__number=1, method__steps=4, run__chunk=3,
               network__depth=1)


def images(workdir):
  with np.load(workdir / 'synthetic.npz') as file:
    return file['images']


class StopAfter(preemption.StopFlag):
  """Asked to stop when all have been asked a number of times."""

  def __init__(self, times):
    super().__init__()
    self._left = times

  def hear(self, *values):
    self._left -= 1
    if not self._left:
      self.note(signal.SIGTERM)
    return super().hear(*values)


@pytest.mark.long
@pytest.mark.slow
def test_a_run_that_stops_in_a_warm_up_goes_on_from_there(tmp_path, capsys):
  straight, stopped = (small.measured(tmp_path / name)
                       for name in ('straight', 'stopped'))
  run.run(small.tiny('dm', **CHANGES), straight)
  shown, clock = io.StringIO(), itertools.count(step=60)  # shows every call
  def three_batches(experiment):
    return streaming.place_dataset(
        experiment.dataset, experiment.codec, small.buffer_mb(3 * 16))
  # At its beginning, after 3 pieces, 2 sweeps, and 2 pieces: 6 of 7 batches.
  c = small.tiny('dm', dataset__stream='always', **CHANGES)
  stopping = StopAfter(1 + 3 + 2 + 2)
  with small.started(c, stopped, three_batches) as made, logging.RunLog(
      stopped, shown, lambda: next(clock)) as log:
    log.own(made.home.run)
    with pytest.raises(preemption.Stopped, match=(
        r'saved segment 1, step 2, batch 6 of 7 of a warm-up')):
      run.distill(made._replace(log=log, stopping=stopping))
  lines = [line for line in shown.getvalue().splitlines() if 'segment' in line]
  assert [line.split('  ')[1:3] for line in lines[:3]] == [
      ['step 0/4', 'compiling'], ['step 0/4', 'warm-up 3/7'],
      ['step 0/4', 'warm-up 6/7']]
  assert lines[-1].endswith('step 2/4  warm-up 6/7')
  capsys.readouterr()
  run.run(small.tiny('dm', **CHANGES), stopped)
  assert 'going on from segment 1/1, step 2/4' in capsys.readouterr().out
  np.testing.assert_array_equal(images(stopped), images(straight))
