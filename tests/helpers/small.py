"""Configurations of whole runs that take seconds, and runs begun by hand."""

import contextlib
import io
import json
import os
import signal

import kill

from dasm_jax import config
from dasm_jax.distill import run, setup
from dasm_jax.runtime import logging, preemption, records, timing
from dasm_jax.runtime import workdir as workdirs

# Networks and images that compile quickly, where it is the walk that is tested.
PLAIN = dict(network__depth=1, method__augment='', eval__augment='')
PICTURES = ('images.png', 'real.png', 'windows.png', 'images_1.png',
            'images_2.png', 'window_1.png', 'window_2.png', 'report.html')


def measured(workdir, networks=2):
  """A workdir that holds accuracies already: no network is trained for them.

  Returns:
    The workdir.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  # A run that has a name, but no configuration yet.
  records.write(workdir / workdirs.FORMAT_FILE, 'format', 'named', {
      'format': workdirs.STATE_FORMAT, 'version': '', 'config': None})
  keep_accuracies(
      workdir, {'synthetic': [1.] * networks, 'random': [0.] * networks})
  return workdir


def keep_accuracies(workdir, accuracies):
  """Writes what a run keeps of the networks that it has evaluated."""
  records.write(workdir / run.ACCURACIES, run.ACCURACIES, owner(workdir),
                accuracies)


def owner(workdir):
  """The name of the run in a workdir."""
  return records.owner_of(json.loads(
      (workdir / workdirs.FORMAT_FILE).read_text()))


def rows_of(workdir):
  """The rows of metrics.jsonl."""
  return [json.loads(row) for row in (
      workdir / 'metrics.jsonl').read_text().splitlines()]


def clock(workdir):
  """Seconds that all calls of a run were at work."""
  return json.loads((workdir / 'clock.json').read_text())['seconds']


def tiny(method='dc', **changes):
  """A configuration of seconds; `changes` with `__` for a dot."""
  c = config.defaults(method)
  c.dataset.name = 'digits'
  c.network.depth, c.syn.ipc, c.segments.number = 1, 2, 2
  if method == 'dc':  # what is walked are windows and the images they give
    c.syn.init = 'real'
  # Probes take the recipe of the evaluation: its augmentation compiles long.
  entries = kill.TINY | {'run.chunk': 3, 'run.save_seconds': 1e9,
                         'eval.augment': ''} | {
      name.replace('__', '.'): value for name, value in changes.items()}
  known = dict(config.entries(c))  # a method has its own entries only
  c.update_from_flattened_dict({
      name: value for name, value in entries.items()
      if name in known or name.replace('.', '__') in changes})
  return c


class AskedAt(preemption.StopFlag):
  """A `StopFlag` that is set at the given one of the times that one hears.

  after: `() -> bool`, whether times count already.
  """

  def __init__(self, times, after=lambda: True):
    super().__init__()
    self._left, self._after = times, after

  def hear(self, *values):
    """Asks, if it is time."""
    self._left -= bool(self._after())
    if not self._left:
      self.note(signal.SIGTERM)
    return super().hear(*values)


@contextlib.contextmanager
def started(c, workdir, images=None, stopping=None):
  """Yields the `setup.Run` of a configuration, as `run.run` starts it.

  images: see `setup.start`; a function of the `Experiment` that gives them.
  stopping: a `StopFlag`, if another than one that is never set.
  """
  settings = json.loads(c.to_json())
  with contextlib.ExitStack() as held:
    home = held.enter_context(workdirs.open_workdir(workdir))
    log = held.enter_context(logging.open_log(home.path))
    meter = held.enter_context(timing.measure_costs())
    experiment = setup.build(c)
    held.callback(experiment.close)
    # Some tests begin several configurations in one place.
    if (home.path / workdirs.FORMAT_FILE).exists():
      home.run = owner(home.path)
    else:
      home.claim(settings, run.FREE_ENTRIES)
    log.own(home.run)
    yield setup.start(
        experiment, home, log, stopping or preemption.StopFlag(), meter,
        workdirs.fingerprint(settings, run.FREE_ENTRIES),
        images and images(experiment))


def buffer_mb(room, shape=(8, 8, 1)):
  """The buffer of `streaming.StreamedImages` that holds `room` images."""
  height, width, channels = shape
  return room * height * width * channels / 2 ** 20


class Interrupting(io.StringIO):
  """A terminal, to stand for standard output, that asks this process to stop.

  At each of `texts` in turn, once it is written.
  """

  def __init__(self, *texts, number=signal.SIGTERM):
    super().__init__()
    self.texts, self._number = [*texts], number

  def isatty(self):
    """It redraws lines."""
    return True

  def write(self, text):
    """Keeps a text; then the process has its signal."""
    size = super().write(text)
    if self.texts and self.texts[0] in text:
      self.texts.pop(0)
      os.kill(os.getpid(), self._number)
    return size
