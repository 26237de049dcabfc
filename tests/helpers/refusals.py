"""What a user's mistake ends in."""

import pytest

from dasm_jax.errors import UserError


def refused(call, *words):
  """Asserts that `call()` is refused in one line with these words.

  Returns:
    The line.
  """
  with pytest.raises(UserError) as caught:
    call()
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert word in message, message
  return message
