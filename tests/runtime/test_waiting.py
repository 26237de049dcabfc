"""Waits that are long are said."""

import time

import pytest

from dasm_jax.runtime import waiting


@pytest.mark.parametrize('lasts, said', [(.2, 'waiting for the bucket\n'),
                                         (0, '')])
def test_a_long_wait_is_said_once(lasts, said, capfd):
  with waiting.say_if_long('the bucket', after=.05):
    time.sleep(lasts)
  assert capfd.readouterr().err == said


def test_who_is_in_time_goes_on(capfd):
  with waiting.end_if_longer(60, 'too late'):
    pass
  assert capfd.readouterr().err == ''
