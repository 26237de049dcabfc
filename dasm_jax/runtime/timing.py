"""What a run costs while it runs: compiling, steps, waiting, memory, speed."""

import contextlib
import resource
import sys
import time

import jax

# The name under which JAX reports how long a compilation took.
_COMPILE_EVENT = '/jax/core/compile/backend_compile_duration'
CALL_SECONDS = 10.0  # that a call may last, for whoever wants to stop it


class CostMeter:
  """Adds up where the time of one start of a run goes.

  waited: seconds that steps waited for their images.
  """

  def __init__(self, clock=time.perf_counter):
    self._clock = clock
    self._compiling = self._stepping = self.waited = 0.0
    self._steps = self._images = 0

  def _listen(self, event, seconds, **_):
    if event == _COMPILE_EVENT:
      self._compiling += seconds

  @contextlib.contextmanager
  def calls(self, steps, images):
    """Around a call of `steps` steps, each of `images` images."""
    # Time spent compiling within a call does not count as that of its steps.
    before, began = self._compiling, self._clock()
    yield
    self._stepping += self._clock() - began - (self._compiling - before)
    self._steps += steps
    self._images += steps * images

  def summary(self):
    """Numbers for results.json; of what did not happen, none."""
    found = {'compile_seconds': round(self._compiling, 2),
             'peak_memory_bytes': peak_memory()}
    if self._steps:
      found |= {'steps': self._steps,
                'step_seconds': self._stepping / self._steps,
                'images_per_second': self._images / max(self._stepping, 1e-9),
                'input_wait_seconds': round(self.waited, 3)}
    return found

  def line(self):
    """The same in words, or None before there was a step."""
    if not self._steps:
      return None
    found = self.summary()
    share = self.waited / max(self._stepping + self.waited, 1e-9)
    return (f'{found["step_seconds"]:.3g} s a step, '
            f'{found["images_per_second"]:.3g} images/s, '
            f'{found["compile_seconds"]:.3g} s compiling, {share:.1%} of the '
            'time waiting for images, '
            f'{found["peak_memory_bytes"] / 2 ** 20:.0f} MiB at most')


@contextlib.contextmanager
def measure_costs(clock=time.perf_counter):
  """Yields a `CostMeter` that also hears what is compiled."""
  made = CostMeter(clock)
  jax.monitoring.register_event_duration_secs_listener(made._listen)
  try:
    yield made
  finally:
    jax.monitoring.unregister_event_duration_listener(made._listen)


def peak_memory():
  """Bytes: the most on any device here; where none tells, of this process."""
  peaks = [(device.memory_stats() or {}).get('peak_bytes_in_use', 0)
           for device in jax.local_devices()]
  if any(peaks):
    return max(peaks)
  # Bytes on macOS, KiB elsewhere.
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def steps_per_call(each, seconds=None):
  """How many steps of `each` seconds a call may have.

  seconds: that it may last; None: `CALL_SECONDS`.
  """
  most = CALL_SECONDS if seconds is None else seconds
  return max(1, int(most / max(each, 1e-9)))


class MetricMeans:
  """Means of metrics over the steps of several calls.

  A run may be stopped within the steps of a row of metrics.jsonl: each
  checkpoint tells what was added so far.
  """

  def __init__(self, kept=None):
    """kept: what `kept` told of the checkpoint to go on from, if any."""
    kept = kept or {'sums': {}, 'steps': 0}
    self._sums, self._steps = dict(kept['sums']), kept['steps']

  def add(self, values, steps):
    """Adds the means `values`, a dict of numbers, of `steps` more steps."""
    self._steps += steps
    for name, value in values.items():
      self._sums[name] = self._sums.get(name, 0.0) + steps * value

  def take(self):
    """The means since the last time."""
    found = {name: total / self._steps for name, total in self._sums.items()}
    self._sums, self._steps = {}, 0
    return found

  def kept(self):
    """What was added since the last row, a dict that JSON can hold."""
    return {'sums': dict(self._sums), 'steps': self._steps}


LEAST_SECONDS = 2.0  # seconds that tell how many more there will be


class Throughput:
  """How fast steps go, the first chunk (with its compilation) left out."""

  def __init__(self, images, clock=time.time, cycle=1):
    """images: of a step. cycle: steps after which what they cost repeats."""
    self._images, self._clock, self._cycle = images, clock, cycle
    self._begin, self._steps, self.calls = None, 0, 0

  def add(self, steps):
    """Notes that `steps` more are done; `calls` counts how often."""
    self.calls += 1
    # The first call compiles: the clock starts at its end, and its steps do not
    # count.
    if self._begin is None:
      self._begin = self._clock()
    else:
      self._steps += steps

  @property
  def speed(self):
    """Images a second, or None before there is anything to tell."""
    return self._images / self._each() if self._steps else None

  def left(self, steps):
    """Seconds that `steps` more will take; None before one can tell."""
    # A warm-up costs as much as many steps: not before one was timed, together
    # with the steps that it is for.
    if self._steps < self._cycle or self._clock() - self._begin < LEAST_SECONDS:
      return None
    return steps * self._each()

  def _each(self):
    return max(self._clock() - self._begin, 1e-9) / self._steps
