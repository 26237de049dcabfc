"""Networks in training are kept and taken up, and others are not."""

import contextlib
import time

import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax.errors import Unavailable
from dasm_jax.runtime import preemption, processes
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.training import ensemble, resumable


def state_at(done, k=3):
  return ensemble.TrainState(
      done, {'w': jnp.arange(2. * k).reshape(k, 2) + done},
      {'m': jnp.full((k, 2), .5), 'count': jnp.ones(k, int)})


def shapes(k):
  return state_at(0, k)


def group_of(numbers):
  return resumable.Group('x', numbers, shapes)


def keeper(folder, seconds=1e9, push=lambda: None, of='a', asked=False):
  stopping = preemption.StopFlag()
  if asked:
    stopping.note(15)
  return resumable.Keeper(folder, of, seconds, stopping, push)


def leave(folder, numbers, done, **how):
  """Training that is asked to stop after `done` epochs."""
  with pytest.raises(preemption.Stopped,
                     match='SIGTERM: saved two; the same'), (
      resumable.resumable(keeper(folder, asked=True, **how),
                          group_of(numbers))) as (start, keep):
    keep(lambda: state_at(done, len(numbers)), lambda: 'two')
  return start


def found(folder, numbers, size=1, **how):
  """Who is trained together next, and from where."""
  keep = keeper(folder, **how)
  group = resumable.next_group(keep, 'x', numbers, size, shapes)
  with resumable.resumable(keep, group) as (start, _):
    return group.numbers, start


def test_runs_that_share_networks_wait_for_each_other(tmp_path, monkeypatch):
  """While another trains them, and may be stopped meanwhile."""
  said, keep = [], keeper(tmp_path)
  with contextlib.ExitStack() as other:
    other.enter_context(workdirs.lock(tmp_path / 'there', '--workdir'))
    with pytest.raises(preemption.Stopped, match='all before them'), (
        resumable.folder_for_all_runs(
            tmp_path / 'there', '--workdir', keeper(tmp_path, asked=True),
            said.append)):
      pass
    # The other one ends after three looks.
    looks = []
    def sleep(seconds):
      looks.append(seconds)
      if len(looks) == 3:
        other.close()
    monkeypatch.setattr(resumable.time, 'sleep', sleep)
    with resumable.folder_for_all_runs(
        tmp_path / 'there', '--workdir', keep, said.append):
      assert looks == [resumable.WAIT] * 3
      with pytest.raises(workdirs.InUse), workdirs.lock(tmp_path / 'there'):
        pass
  assert len(said) == 2 and 'waiting for another run' in said[0]


def test_a_stop_keeps_a_group_for_any_number_of_devices(tmp_path):
  assert leave(tmp_path, [4, 5, 7], 2) is None
  group, start = found(tmp_path, [4, 5, 7, 8], size=2)
  assert group == [4, 5, 7] and int(start.done) == 2
  toy.leaves_equal(start, state_at(2))
  # Once they are trained nothing is left of them.
  assert not [*tmp_path.iterdir()]
  assert found(tmp_path, [4, 5, 7, 8], size=2) == ([4, 5], None)


@pytest.mark.parametrize('numbers, how', [
    ([5, 7, 8], {}), ([4, 5, 8], {}), ([4, 5, 7], {'of': 'b'})])
def test_others_are_not_taken_up(numbers, how, tmp_path):
  leave(tmp_path, [4, 5, 7], 2)
  group, start = found(tmp_path, numbers, size=2, **how)
  assert group == numbers[:2] and start is None
  assert not [*tmp_path.iterdir()]  # nobody would take them up later


def test_of_another_program_they_begin_anew(tmp_path):
  leave(tmp_path, [0, 1], 2)
  def wider(k):
    return state_at(0, k)._replace(opt_state=jnp.zeros((k, 9)))
  keep = keeper(tmp_path)
  assert resumable.next_group(keep, 'x', [0, 1], 1, wider).numbers == [0]


def test_damage_begins_anew(tmp_path, caplog):
  leave(tmp_path, [0, 1], 2)
  for path in tmp_path.rglob('*'):
    if path.is_file() and path.stat().st_size > 100:
      path.write_bytes(b'?' * path.stat().st_size)
  assert found(tmp_path, [0, 1]) == ([0, 1], None)
  assert 'cannot be used' in caplog.text and 'starting again' in caplog.text


def test_kept_now_and_then(tmp_path, monkeypatch):
  now, pushed, flushed = [100.], [], []
  monkeypatch.setattr(time, 'time', lambda: now[0])
  def slow():
    pushed.append(now[0])
    now[0] += 3
  with resumable.resumable(
      keeper(tmp_path, 30, slow), group_of([0, 1, 2]),
      lambda: flushed.append(now[0])) as (_, keep):
    for done in range(1, 40):
      now[0] += 10
      keep(lambda: state_at(done), str)  # noqa: B023
    times = [*pushed]
    assert times == flushed
    # After more than 30 s; then 3 s of keeping are a twentieth of a minute.
    np.testing.assert_array_equal(np.diff(times), 73)
    assert times[0] == 140 and len([*tmp_path.iterdir()]) == 1
  assert not [*tmp_path.iterdir()]


def test_nothing_is_gathered_that_is_not_kept(tmp_path):
  with resumable.resumable(keeper(tmp_path), group_of([0])) as (_, keep):
    keep(None, None)
  with resumable.resumable(None, group_of([0])) as (start, keep):
    assert start is None
    keep(None, None)
  assert not [*tmp_path.iterdir()]


def test_what_fails_leaves_what_was_kept(tmp_path):
  def gone():
    raise Unavailable('the remote place')
  with pytest.raises(Unavailable), resumable.resumable(
      keeper(tmp_path, 0, gone), group_of([0, 1])) as (_, keep):
    keep(lambda: state_at(3, 2), str)
  assert int(found(tmp_path, [0, 1])[1].done) == 3
  assert processes.is_leader()


def test_training_is_shown_kept_and_gone_on_with(tmp_path):
  shown, group = [], group_of([0, 1])

  def train(start, seen):
    begun = 0 if start is None else int(start.done)
    for done in range(begun + 1, 4):
      seen(done, lambda: state_at(done, 2), None)  # noqa: B023
    return begun

  def report(done, within, loss):
    shown.append((done, within, loss))
    return None if done == 3 else lambda: f'epoch {done}'

  with pytest.raises(preemption.Stopped, match='SIGTERM: saved epoch 1; the'):
    resumable.train_networks(train, keeper(tmp_path, asked=True), group, report)
  assert resumable.train_networks(train, keeper(tmp_path), group, report) == 1
  assert resumable.train_networks(train, None, group, report) == 0
  assert [done for done, *_ in shown] == [1, 2, 3, 1, 2, 3]
  assert shown[0][1:] == (0, None) and not [*tmp_path.iterdir()]
