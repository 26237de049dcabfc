"""Processes: how they find each other, agree, and who of them writes.

Every process runs the same program on the same data and seeds; the first one
leads: it alone says things, writes files and decides what a clock decides.
With one process everything here is what it would be without it.
"""

import json

import jax
import numpy as np

from dasm_jax.errors import Unavailable, UserError

# A pod may take long to start all its workers.
STARTING = 1800  # seconds


def join(coordinator='', processes=0, process_id=-1):
  """Joins the other processes of a run; call it before anything else of JAX.

  Args:
    coordinator: `host:port` of the first process, reached by all. '' asks the
      cluster (TPU pod, SLURM, Kubernetes, OpenMPI); where there is none, this
      process is alone.
    processes: how many there are; process_id: which this is, from 0.

  Raises:
    UserError: only a part is given, or a number out of range.
  """
  given = {'coordinator': bool(coordinator), 'processes': processes > 0,
           'process_id': process_id >= 0}
  if any(given.values()) and not all(given.values()):
    raise UserError('--coordinator=HOST:PORT, --processes=N and --process_id=I '
                    'go together; missing: '
                    + ', '.join(f'--{k}' for k, v in given.items() if not v))
  if coordinator and not (':' in coordinator and process_id < processes):
    raise UserError(
        f'--coordinator={coordinator} --processes={processes} --process_id='
        f'{process_id}: give HOST:PORT, and ids from 0 to {processes - 1}')
  # Between CPUs; has no effect on others.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  try:
    if coordinator:
      jax.distributed.initialize(
          coordinator, processes, process_id, initialization_timeout=STARTING)
    else:
      jax.distributed.initialize(initialization_timeout=STARTING)
  except ValueError as error:
    # JAX misses an address: no cluster gave one, so this process is alone.
    if coordinator or 'coordinator_address' not in str(error):
      raise
  except RuntimeError as error:
    reason = str(error).strip().split('\n')[0][:200]
    raise UserError(f'cannot join the other processes: {reason}; all of them '
                    'must be started, with the same --coordinator') from error
  # `devices` finds the rows of a process by its number and this count.
  if jax.device_count() != jax.process_count() * jax.local_device_count():
    raise UserError(f'{jax.local_device_count()} devices in this process, '
                    f'{jax.device_count()} in {jax.process_count()} processes: '
                    'every process must have as many')


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
