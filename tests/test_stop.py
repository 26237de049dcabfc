"""Ctrl-C and SIGTERM inside one process; test_run sends real ones."""

import signal
import threading

import pytest

from dasm_jax import stop


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130),
                                          (signal.SIGTERM, 143)])
def test_a_signal_is_noted_and_leaves_at_the_next_save(number, code):
  before = signal.getsignal(number)
  with stop.watch() as seen:
    assert not seen.asked
    seen.leave_if_asked(1, 10)
    signal.raise_signal(number)
    assert seen.asked
    with pytest.raises(stop.Stopped) as caught:
      seen.leave_if_asked(2, 30)
  assert caught.value.code == code
  text = str(caught.value)
  assert number.name in text and 'segment 2, step 30' in text
  assert 'same command' in text and '\n' not in text
  assert signal.getsignal(number) is before


def test_second_control_c_stops_at_once():
  with pytest.raises(KeyboardInterrupt), stop.watch():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def test_second_sigterm_waits():
  # A scheduler that repeats itself must not cost the last minutes.
  with stop.watch() as seen:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
  assert seen.asked


def test_other_threads_have_no_signals():
  found = []
  def work():
    with stop.watch() as seen:
      found.append(seen.asked)
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [False]
