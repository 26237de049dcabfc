"""Processes: how they find each other, agree, and who of them writes.

Every process runs the same program on the same data and seeds; the first one
leads: it alone says things, writes files and decides what a clock decides.
With one process everything here is what it would be without it.
"""

import contextlib
import errno
import importlib.util
import json
import os
import socket
import sys
import threading
import time

import jax
import numpy as np

from dasm_jax.errors import Unavailable, UserError
from dasm_jax.runtime import environment, waiting

# A pod may take long to start all its workers, and to fetch their images.
STARTING = 1800  # seconds
RETRY = 5  # seconds between two looks for a cluster
LAST = 2  # seconds in which the others leave before the first process does
# What a cluster answers where no other try would help.
FOR_GOOD = (
    'must be defined', 'must be nonnegative', 'must be called before',
    'only be called once', 'Kubernetes API Error: 40', 'headless service',
    'completionMode', 'only supports Job', 'have a controller',
    'expected HOSTNAME', 'Service host/port is not set',
    'Service token file does not exist')
# What JAX's collectives raise where another process is gone.
LOST = ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED', 'Gloo', 'NCCL',
        'closed by peer', 'reset by peer', 'Socket closed', 'Broken pipe',
        'heartbeat', 'coordination service')
# The status then, which is that of JAX's own abort a little later: launchers
# try again, but not for ever, as the other one may have failed by itself.
ABORTED = 134
_joined = threading.Event()


def join(coordinator='', processes=0, process_id=-1, starting=STARTING):
  """Joins the other processes of a run; call it before anything else of JAX.

  Args:
    coordinator: `host:port` of the first process, reached by all. '' asks the
      cluster (TPU pod, SLURM, Kubernetes, OpenMPI); where there is none, this
      process is alone.
    processes: how many there are; process_id: which this is, from 0.
    starting: seconds for all to be there; then the process ends, as
      `Unavailable` would.

  Raises:
    UserError: only a part is given, or what can never be.
    Unavailable: what another try may find: the others, a port, an answer.
  """
  _check_given(coordinator, processes, process_id)
  # Between CPUs; has no effect on others.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  who = f' at {coordinator}' if coordinator else ''
  said = (f'the other processes{who}; all of them must be started, with the '
          'same --coordinator or by the same job')
  # JAX itself would abort the process, with a status and a stack of its own.
  with waiting.end_if_longer(
      starting, f'no answer in {starting} s from {said}'):
    with waiting.say_if_long(said):
      _find_others(coordinator, processes, process_id, starting)
    others = ' and the other processes' * jax.distributed.is_initialized()
    with waiting.say_if_long(f'the devices{others}'):
      _count_devices()
  _joined.set()


def _check_given(coordinator, processes, process_id):
  """Raises `UserError` for arguments of `join` that cannot be."""
  given = {'coordinator': bool(coordinator), 'processes': processes > 0,
           'process_id': process_id >= 0}
  if any(given.values()) and not all(given.values()):
    raise UserError('--coordinator=HOST:PORT, --processes=N and --process_id=I '
                    'go together; missing: '
                    + ', '.join(f'--{k}' for k, v in given.items() if not v))
  if not coordinator:
    return
  host, _, port = coordinator.rpartition(':')
  if not (host and port.isdecimal() and 0 < int(port) < 2 ** 16
          and process_id < processes):
    raise UserError(
        f'--coordinator={coordinator} --processes={processes} --process_id='
        f'{process_id}: give HOST:PORT, a port from 1 to 65535, and ids from 0 '
        f'to {processes - 1}')
  if process_id == 0:
    _check_port(int(port))


def _check_port(port):
  """Raises `Unavailable` for a port that is in use here."""
  # Some versions of JAX crash where they cannot have it.
  with contextlib.suppress(OSError), socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind(('', port))
    except OSError as error:
      if error.errno != errno.EADDRINUSE:
        raise
      raise Unavailable(
          f'port {port} of --coordinator is in use on this machine, perhaps by '
          'a run that is just ending; try again, or give another') from None


def _find_others(coordinator, processes, process_id, starting):
  """JAX's own joining, again and again while a cluster does not answer."""
  given = (coordinator, processes, process_id) if coordinator else ()
  # Short of the end of all waiting, which has no reason to tell.
  until = time.monotonic() + .9 * starting
  while True:
    try:
      with _without_kubernetes(coordinator):
        # It must not give up, and abort the process, before we do.
        return jax.distributed.initialize(
            *given, initialization_timeout=2 * starting + 60)
    except Exception as error:  # clients of clusters raise anything
      # JAX misses an address: no cluster gave one, so this process is alone.
      if not coordinator and 'coordinator_address' in str(error):
        return None
      failure = join_failure(error)
      if (type(failure) is UserError or jax.distributed.is_initialized()
          or time.monotonic() > until):
        raise failure from error
    time.sleep(RETRY)


def join_failure(error):
  """The `UserError` of what JAX raised; `Unavailable` if it may pass."""
  reason = ' '.join(str(error).split())[:200] or type(error).__name__
  if any(words in reason for words in FOR_GOOD):
    return UserError(
        f'cannot join the other processes: {reason}; launch/gke_gpu.yaml has '
        "the rights and fields of Kubernetes' pods, and --coordinator, "
        '--processes and --process_id do without a cluster')
  return Unavailable(
      f'cannot join the other processes: {reason}; all of them must be '
      'started, with the same --coordinator or by the same job; try again')


@contextlib.contextmanager
def _without_kubernetes(coordinator):
  """Hides Kubernetes from JAX within a pod that it cannot be asked about."""
  name, there = 'KUBERNETES_SERVICE_HOST', os.environ
  if name not in there or not (
      coordinator or kubernetes_alone(there, _has_kubernetes())):
    yield
    return
  hidden = there.pop(name)
  try:
    yield
  finally:
    there[name] = hidden


def _has_kubernetes():
  return importlib.util.find_spec('kubernetes') is not None


def kubernetes_alone(environ, client):
  """Whether a pod of Kubernetes has no others to ask its cluster for.

  Args:
    environ: its variables.
    client: whether the package `kubernetes`, which asks, is installed.

  Raises:
    UserError: it has others, and nothing to find them by.
  """
  index = environ.get('JOB_COMPLETION_INDEX')
  # Pods with TPUs are told of each other.
  if client or {'TPU_WORKER_HOSTNAMES', 'TPU_PROCESS_ADDRESSES'} & {*environ}:
    return index is None
  if index not in (None, '0'):
    raise UserError(
        f'this is pod {index} of a job, and finding the others needs the '
        "extra k8s: pip install 'dasm-jax[k8s]', or give --coordinator, "
        '--processes and --process_id')
  return True


def _count_devices():
  """Raises `UserError` if not all processes have as many devices.

  The first time that JAX asks for devices: all processes meet here.
  """
  try:
    local, all_, known = (
        jax.local_device_count(), jax.device_count(), jax.process_count())
  except RuntimeError as error:
    if not jax.distributed.is_initialized():
      environment.check_devices()  # one line that says what to set
      raise
    raise join_failure(error) from error
  except AssertionError:  # JAX's way to say that a platform has no device
    environment.check_devices()
    raise
  # A TPU knows its neighbours even where the cluster did not answer for them.
  if known > 1 and not jax.distributed.is_initialized():
    raise Unavailable(
        f'this machine is one of {known}, and the cluster did not tell of the '
        'others; try again, or give --coordinator, --processes and '
        '--process_id')
  # `devices` finds the rows of a process by its number and this count.
  if all_ != known * local:
    raise UserError(f'{local} devices in this process, {all_} in {known} '
                    'processes: every process must have as many')


def lost_text(error, others=None):
  """What is said of an error of a collective; '' if it is no such one.

  Args:
    error: that a run ended with.
    others: whether there are other processes; None: as it is.
  """
  others = count() > 1 if others is None else others
  reason = ' '.join(str(error).split())[:200]
  if not others or not any(words in reason for words in LOST):
    return ''
  return (f'another process was lost: {reason}; the same command goes on from '
          'the last checkpoint')


def leave(status):
  """Ends a process that others run beside; returns where there are none.

  At its exit JAX would wait for the others, which wait for this one.
  """
  if not jax.distributed.is_initialized():
    return
  sys.stdout.flush()
  sys.stderr.flush()
  # JAX aborts those that still run when the first one is gone, and their
  # status, not that of the mistake, would be what a launcher sees.
  if _joined.is_set() and count() > 1 and is_leader():
    time.sleep(LAST)
  os._exit(status)


def count():
  """Number of processes."""
  return jax.process_count()


def is_leader():
  """Whether this process writes and decides."""
  return jax.process_index() == 0


def broadcast(tree):
  """The leader's values of a tree of arrays, on every process, as NumPy."""
  if count() == 1:
    return tree
  from jax.experimental import multihost_utils
  return multihost_utils.broadcast_one_to_all(tree)


def all_gather(x):
  """`[k, …]` of every process, joined in their order: `[processes * k, …]`."""
  if count() == 1:
    return x
  from jax.experimental import multihost_utils
  return multihost_utils.process_allgather(x, tiled=True)


def maximum(*values):
  """Of each number the highest that any process gives, a list of floats."""
  # float32 rounds, but alike everywhere: all come to the same conclusions.
  return list(all_gather(np.array([values], np.float32)).max(0).tolist())


def on_leader(function):
  """Runs `function` in the leader; returns what it returns, everywhere.

  Args:
    function: of nothing, to something that JSON can hold; it must not use
      collectives.

  Raises:
    UserError: everywhere, what `function` raises in the leader.
  """
  if count() == 1:
    return function()
  said = {}
  if is_leader():
    try:
      said = {'value': function()}
    except UserError as error:
      said = {'error': str(error), 'code': error.code}
    except Exception as error:
      # The others wait, and have to hear of it before this one ends.
      _broadcast_json({'failure': f'{type(error).__name__}: {error}'})
      raise
  said = _broadcast_json(said)
  if 'failure' in said:
    raise RuntimeError(f'the first process failed: {said["failure"]}')
  if 'error' in said:
    kind = Unavailable if said['code'] == Unavailable.code else UserError
    raise kind(said['error'])
  return said['value']


def _broadcast_json(said):
  """What the leader says, anything that JSON can hold, on every process."""
  # Arrays have to be of one shape in all processes: the size comes first.
  text = np.frombuffer(json.dumps(said).encode(), np.uint8)
  size = int(broadcast(np.array(len(text), np.int32)))
  text = broadcast(text if is_leader() else np.zeros(size, np.uint8))
  return json.loads(bytes(np.asarray(text)))
