"""Configurations of whole runs that take seconds."""

import json

import kill
import numpy as np

from dasm_jax import config
from dasm_jax.evaluate import comparison

PICTURES = ('images.png', 'windows.png', 'images_1.png', 'images_2.png',
            'window_1.png', 'window_2.png', 'report.html')


def unmeasured(monkeypatch):
  """From now on no network is trained on the sets of runs."""
  monkeypatch.setattr(comparison, 'measure_run', lambda *_: {
      'synthetic': np.ones(2), 'random': np.zeros(2)})


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
  c.network.depth, c.syn.ipc, c.segments.number = 2, 2, 2
  entries = kill.TINY | {'run.chunk': 3, 'run.save_seconds': 1e9} | {
      name.replace('__', '.'): value for name, value in changes.items()}
  known = dict(config.entries(c))  # a method has its own entries only
  c.update_from_flattened_dict({
      name: value for name, value in entries.items()
      if name in known or name.replace('.', '__') in changes})
  return c
