"""Ctrl-C and SIGTERM inside one process; test_run sends real ones."""

import signal
import subprocess
import sys
import threading
import time

import pytest
import toy

from dasm_jax.runtime import preemption


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130),
                                          (signal.SIGTERM, 75)])
def test_a_signal_is_noted_and_leaves_at_the_next_save(number, code):
  before = signal.getsignal(number)
  with preemption.catch_signals() as seen:
    assert not seen.asked
    seen.leave_if_asked('segment 1, step 10')
    signal.raise_signal(number)
    assert not seen.asked and seen.hear(2, 3) == [2, 3]
    assert seen.asked
    with pytest.raises(preemption.Stopped) as caught:
      seen.leave_if_asked('segment 2, step 30')
  assert caught.value.code == code
  text = str(caught.value)
  assert number.name in text and 'segment 2, step 30' in text
  assert 'same command' in text and '\n' not in text
  assert signal.getsignal(number) is before


def test_control_c_at_the_end_is_nothing(capfd):
  before = signal.getsignal(signal.SIGINT)
  with preemption.catch_signals() as seen:
    seen.finish()
    for _ in range(2):  # the second one would stop at once
      signal.raise_signal(signal.SIGINT)
    time.sleep(.1)
  try:
    preemption.ignore_interrupts()
    signal.raise_signal(signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, before)
  assert capfd.readouterr() == ('', '')


BUSY = '''
import ctypes
from dasm_jax.runtime import preemption
with preemption.catch_signals():
  print('busy', flush=True)
  # Long calls that no Python runs within, as a compilation is; but a signal
  # ends each of these.
  ctypes.CDLL(None).pause()
  for _ in range(9):
    ctypes.CDLL(None).sleep(60)
'''


def test_a_busy_process_answers_and_the_second_control_c_stops_it():
  process = subprocess.Popen(
      [sys.executable, '-c', BUSY], text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, env=toy.environment())
  assert process.stdout.readline() == 'busy\n'
  process.send_signal(signal.SIGTERM)
  assert process.stderr.readline() == '\n'
  assert process.stderr.readline().startswith('SIGTERM: saving at the end')
  process.send_signal(signal.SIGTERM)  # says nothing new
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=20)
  assert process.returncode == 130
  assert err.startswith('\nstopped at once; the same command') and (
      err.count('\n') == 2)


def test_second_sigterm_waits(capfd):
  # A scheduler that repeats itself must not cost the last minutes.
  with preemption.catch_signals() as seen:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    seen.hear()
  assert seen.asked
  # What is said of it comes before all that follows.
  assert capfd.readouterr().err.count('SIGTERM: saving') == 1


def test_other_threads_have_no_signals():
  found = []
  def work():
    with preemption.catch_signals() as seen:
      found.append(seen.asked)
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [False]
