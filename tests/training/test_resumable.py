"""Networks in training are kept and taken up, and others are not."""

import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax.errors import Unavailable
from dasm_jax.runtime import preemption, processes
from dasm_jax.training import ensemble, resumable


def stand(done, k=3):
  return ensemble.TrainState(done, {'w': jnp.arange(2. * k).reshape(k, 2)
                                    + done},
                             {'m': jnp.full((k, 2), .5), 'count': jnp.ones(k,
                                                                           int)})


def like(k):
  return stand(0, k)


def keeper(folder, seconds=1e9, push=lambda: None, of='a', asked=False):
  watch = preemption.StopFlag()
  if asked:
    watch.note(15)
  return resumable.Keeper(folder, of, seconds, watch, push)


def leave(folder, numbers, done, **how):
  """Training that is asked to stop after `done` epochs."""
  with pytest.raises(preemption.Stopped,
                     match='SIGTERM: saved two; the same'), (
      resumable.resumable(keeper(folder, asked=True, **how), 'x', numbers,
                          like)) as (start, keep):
    keep(lambda: stand(done, len(numbers)), lambda: 'two')
  return start


def found(folder, numbers, size=1, **how):
  """Who is trained together next, and from where."""
  keep = keeper(folder, **how)
  group = resumable.resumable_group(keep, 'x', numbers, size, like)
  with resumable.resumable(keep, 'x', group, like) as (start, _):
    return group, start


def test_a_stop_keeps_a_group_for_any_number_of_devices(tmp_path):
  assert leave(tmp_path, [4, 5, 7], 2) is None
  group, start = found(tmp_path, [4, 5, 7, 8], size=2)
  assert group == [4, 5, 7] and int(start.done) == 2
  toy.leaves_equal(start, stand(2))
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
    return stand(0, k)._replace(moments=jnp.zeros((k, 9)))
  keep = keeper(tmp_path)
  assert resumable.resumable_group(keep, 'x', [0, 1], 1, wider) == [0]


def test_damage_begins_anew(tmp_path, caplog):
  leave(tmp_path, [0, 1], 2)
  for path in tmp_path.rglob('*'):
    if path.is_file() and path.stat().st_size > 100:
      path.write_bytes(b'?' * path.stat().st_size)
  assert found(tmp_path, [0, 1]) == ([0, 1], None)
  assert 'is damaged' in caplog.text and 'starting again' in caplog.text


def test_kept_now_and_then(tmp_path, monkeypatch):
  now, pushed, flushed = [100.], [], []
  monkeypatch.setattr(resumable.time, 'time', lambda: now[0])
  def slow():
    pushed.append(now[0])
    now[0] += 3
  with resumable.resumable(
      keeper(tmp_path, 30, slow), 'x', [0, 1, 2], like,
      lambda: flushed.append(now[0])) as (_, keep):
    for done in range(1, 40):
      now[0] += 10
      keep(lambda: stand(done), str)  # noqa: B023
    times = [*pushed]
    assert times == flushed
    # After more than 30 s; then 3 s of keeping are a twentieth of a minute.
    np.testing.assert_array_equal(np.diff(times), 73)
    assert times[0] == 140 and len([*tmp_path.iterdir()]) == 1
  assert not [*tmp_path.iterdir()]


def test_nothing_is_gathered_that_is_not_kept(tmp_path):
  with resumable.resumable(keeper(tmp_path), 'x', [0], like) as (_, keep):
    keep(None, None)
  with resumable.resumable(None, 'x', [0], like) as (start, keep):
    assert start is None
    keep(None, None)
  assert not [*tmp_path.iterdir()]


def test_what_fails_leaves_what_was_kept(tmp_path):
  def gone():
    raise Unavailable('the far place')
  with pytest.raises(Unavailable), resumable.resumable(
      keeper(tmp_path, 0, gone), 'x', [0, 1], like) as (_, keep):
    keep(lambda: stand(3, 2), str)
  assert int(found(tmp_path, [0, 1])[1].done) == 3
  assert processes.is_leader()
