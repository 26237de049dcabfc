"""Warm-ups of matching networks, in pieces: as at once, and stoppable."""

import signal

import jax
import numpy as np
import pytest
import small
import toy

from dasm_jax.distill import feeding, run
from dasm_jax.runtime import devices, logging, preemption, timing

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
  assert made.method.warm is None and feeding.position_of(made.method,
                                                          made.state) == (
      0, 0)
  assert [order.left(feeding.Position(k)) for k in range(7)] == [4, 3, 2, 1, 3,
                                                                 2, 1]
  assert order.number(feeding.Position(3)) == 3


def test_pieces_are_as_the_whole():
  """Three sweeps of two networks, each warmed up in pieces of two."""
  made = toy.on_devices(toy.toy('dm', **SETTINGS, axis_name=devices.AXIS))
  straight = toy.toy('dm', **SETTINGS)
  want = straight.state
  step = jax.jit(straight.method.step)
  for _ in range(3):
    want, _ = step(want, straight.data, straight.pool, straight.key)
  programs = (devices.chunk(made.method.warm.rest),
              devices.warmup_chunk(made.method))
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


def test_looks_are_those_of_sweeps_and_batches():
  made = toy.toy('dc', **SETTINGS)
  method, n = made.method, len(made.data.labels)
  given = made.pool, np.arange(3), n, made.key
  for k in range(3):
    sweep = method.warm.rest.looks(*given, k)
    both = method.looks(*given, k)
    toy.leaves_equal(both[:len(sweep)], sweep)
    assert [x.shape for x in both[len(sweep):]] == [(5, 8)] * (k % 2 == 0)
  first, third = (method.warm.looks(n, made.key, k) for k in (0, 2))
  assert (np.asarray(first) != np.asarray(third)).any()


CHANGES = dict(method__warmup=7, method__net_batch=16, method__inner=2,
               segments__number=1, method__steps=4, run__chunk=3,
               network__depth=1)


def images(workdir):
  with np.load(workdir / 'synthetic.npz') as file:
    return file['images']


def test_a_run_that_stops_in_a_warm_up_goes_on_from_there(
    tmp_path, monkeypatch, capsys):
  small.unmeasured(monkeypatch)
  monkeypatch.setattr(timing, 'steps_per_call', lambda each: 3)
  notes = []
  with monkeypatch.context() as patch:  # streamed, and nobody stops it
    patch.setattr(logging.RunLog, 'progress', (
        lambda *_, note='', **__: notes.append(note)))
    run.run(small.tiny('dm', dataset__stream='always', **CHANGES),
            tmp_path / 'streamed')
  assert notes[:3] == ['compiling', 'warm-up 3/7', 'warm-up 6/7']
  c = small.tiny('dm', **CHANGES)
  made, had = devices.warmup_chunk, []
  def warming(method):
    call = made(method)
    def counted(state, *rest):
      had.append(int(np.asarray(state.warmed).ravel()[0]))
      if len(had) == 5:  # of the second network
        signal.raise_signal(signal.SIGTERM)
      return call(state, *rest)
    return counted
  monkeypatch.setattr(devices, 'warmup_chunk', warming)
  with pytest.raises(preemption.Stopped, match=(
      r'saved segment 1, step 2, batch 6 of 7 of a warm-up')):
    run.run(c, tmp_path / 'run')
  capsys.readouterr()
  run.run(c, tmp_path / 'run')
  assert 'going on from segment 1/1, step 2/4' in capsys.readouterr().out
  assert had == [0, 3, 6, 0, 3, 6]
  np.testing.assert_array_equal(images(tmp_path / 'run'),
                                images(tmp_path / 'streamed'))
