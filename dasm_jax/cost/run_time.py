"""How long a run takes on this machine: said as it begins, and asked if long.

By count, as of the dry run, and a shorter measurement of the machine.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

from dasm_jax.config import expert_settings
from dasm_jax.cost import estimate, machine
from dasm_jax.errors import UserError
from dasm_jax.models import flops
from dasm_jax.runtime import processes, text
from dasm_jax.training import experts, real_networks

DAY = 86400  # seconds; longer ones are asked about
MINUTE = 60
MEASURED = 0.1  # seconds a product
# FLOP/s that every machine reaches: what is short at that is not measured.
SLOW = {'cpu': 2e9}
SLOW_ACCELERATOR = 1e12
# Variables of batch jobs, where nobody could answer.
BATCH = 'SLURM_JOB_ID', 'KUBERNETES_SERVICE_HOST'


class Asking(NamedTuple):
  """What decides whether a long run is asked about, besides its length.

  ask: `run.ask`. attended: whether somebody sits before it. yes: whether they
  have said so. shorter: of nothing, to a `--config` that takes less, or ''.
  """
  ask: str = 'auto'
  attended: bool = False
  yes: bool = False
  shorter: Callable[[], str] = str


def is_attended(environ, streams, count):
  """Whether somebody could answer.

  Args:
    environ: variables; streams: that should be terminals, None if closed.
    count: of processes.
  """
  return count == 1 and not any(name in environ for name in BATCH) and all(
      stream is not None and not stream.closed and stream.isatty()
      for stream in streams)


def must_ask(seconds, new, asking):
  """Whether a run of so many seconds needs a yes that was not given.

  Args:
    seconds: that it takes.
    new: whether nothing of it is there yet.
    asking: an `Asking`.
  """
  if asking.yes or not new or seconds <= DAY:
    return False
  return asking.ask == 'always' or (asking.ask == 'auto' and asking.attended)


def check(experiment, home, new, asking):
  """What is said of the time that a run takes; all processes call it.

  Args:
    experiment: an `Experiment`; home: the `Workdir` of the run.
    new: whether nothing of it is there yet; asking: an `Asking`.

  Raises:
    UserError: it is long, and somebody has to say yes.
  """
  seconds = run_seconds(experiment, home)
  if must_ask(seconds, new, asking):
    shorter = asking.shorter()
    raise UserError(
        f'this run takes about {text.duration(seconds)} on this machine; begin '
        'it with --yes, or with --config.run.ask=never, which never asks'
        + f', or take {shorter}' * bool(shorter))
  return line(seconds)


def line(seconds):
  """The line that tells how long a run takes."""
  took = ('less than a minute' if seconds < MINUTE else
          f'about {text.duration(seconds)}')
  return f'time      {took} on this machine by count, compilation not included'


def run_seconds(experiment, home, measure=machine.measure_machine):
  """How long a run takes from its beginning, the same in all processes.

  Args:
    experiment: an `Experiment`.
    home: a `Workdir`, whose experts and judges that are there are not counted;
      or None.
    measure: of seconds a product, to a `machine.Machine`.
  """
  slow = machine.this_machine(1.0)
  slow = slow._replace(speed=slow.speed * SLOW.get(
      slow.backend, SLOW_ACCELERATOR))
  seconds = sum(_phase_seconds(experiment, slow).values())
  if seconds >= MINUTE:
    phases = _phase_seconds(experiment, measure(MEASURED))
    # Of images that are read, to know the experts again takes a while, too.
    if 'experts' in phases and home is not None and (
        not experiment.streamed or sum(phases.values()) > DAY):
      phases['experts'] *= experts.missing_share(
          experiment, expert_settings(experiment.config), home.experts)
    if 'judges' in phases and home is not None and not experiment.streamed:
      phases['judges'] *= not real_networks.are_there(experiment, home.experts)
    seconds = sum(phases.values())
  return processes.maximum(seconds)[0]


def _phase_seconds(experiment, machine_):
  once = flops.forward_cost(experiment.network, experiment.shape)
  return {phase: estimate.work_seconds(works, once, machine_)
          for phase, works in estimate.phase_work(experiment, machine_).items()}


def terminals():
  """The streams by which somebody is asked and answers."""
  return sys.stdin, sys.stdout
