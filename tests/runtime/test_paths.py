"""Places that cannot be used: for now, or until somebody mends something."""

import socket

import pytest

from dasm_jax.errors import UserError
from dasm_jax.runtime import cli, paths


def named(name, text='', code=None, cause=None):
  """An exception as a client of buckets raises it, without the client."""
  error = type(name, (Exception,), {'code': code})(text)
  error.__cause__ = cause
  return error


PASSING = [
    ConnectionRefusedError(), TimeoutError(), socket.gaierror(-2, 'unknown'),
    named('ClientConnectionError'), named('HttpError', 'backend', 503),
    named('HttpError', 'rate', '429'), named('TransportError'),
    named('ServiceUnavailable'), named('UnavailableError'),
    named('RefreshError', 'metadata service. Status: 403'),
    named('SomethingElse', cause=ConnectionResetError())]
LASTING = [
    PermissionError(), FileNotFoundError('bucket'), OSError('Forbidden: x'),
    named('HttpError', 'Anonymous caller has no storage.objects.get', 401),
    named('RefreshError', 'invalid_grant: expired'), ImportError('gcsfs'),
    named('DefaultCredentialsError'), ValueError('Bad Request')]


@pytest.mark.parametrize('error, code', [
    *((error, 75) for error in PASSING), *((error, 2) for error in LASTING)],
    ids=lambda value: getattr(type(value), '__name__', ''))
def test_what_may_pass_by_itself_is_tried_again(error, code):
  with pytest.raises(UserError, match="cannot use --out 'gs://b/x'") as told:
    with paths.remote_access('gs://b/x', '--out'):
      raise error
  assert told.value.code == code and '\n' not in str(told.value)
  assert ('try again' in str(told.value)) == (code == 75)


def test_errors_of_this_machine_stay_what_they_are(tmp_path):
  with pytest.raises(TimeoutError), paths.remote_access(tmp_path):
    raise TimeoutError


def test_commands_end_with_the_status_of_what_went_wrong(capsys):
  def action():
    raise paths.remote_error('gs://b', TimeoutError('late'), '--set')
  assert cli.run_command(action, '') == 75
  assert capsys.readouterr().err.startswith('error: cannot use --set')
