r"""The cost model against the clock: python tests/benchmarks/cost.py [--only=…]

Runs a few tiny jobs on digits and prints the seconds that `cost` predicts for
their sweeps beside those of metrics.jsonl, the first chunk (which compiles)
left out of both. On a machine that is shared with other work the clock runs on
while others have the core: `core` is the share of it that the whole run had,
`ratio` is measured * core / predicted. Pin it: taskset -c 1 python …
"""

import argparse
import contextlib
import io
import json
import pathlib
import sys
import tempfile
import time
from unittest import mock

import numpy as np

from dasm_jax import config
from dasm_jax.cost import dry_run, estimate, machine
from dasm_jax.distill import run
from dasm_jax.evaluate import comparison
from dasm_jax.models import flops

CHUNK = 10
# Short enough for minutes in all: the sweeps are what is measured.
SAME = {'dataset.name': 'digits', 'network.depth': 2, 'network.width': 32,
        'segments.number': 1,
        'run.chunk': CHUNK, 'run.save_seconds': 1e9}
SWEEPS = {'dc': 100, 'idc': 150, 'dm': 300, 'mtt': 100}
OWN = {'dc': {'method.inner': 50, 'method.net_steps': 10},
       'idc': {'method.inner': 50, 'method.net_steps': 8, 'syn.factor': 2},
       'mtt': {'method.student_steps': 10, 'method.last_epoch': 1,
               'experts.number': 1, 'experts.epochs': 4}}
CASES = {f'{method}_{ipc}': (method, ipc)
         for method in SWEEPS for ipc in (3, 10)}


def settings(method, ipc):
  """The configuration of a case."""
  c = config.defaults(method)
  entries = SAME | {'syn.ipc': ipc, 'method.steps': SWEEPS[method]}
  c.update_from_flattened_dict(entries | OWN.get(method, {}))
  config.remove_flips(c)
  return c


def _nothing(*_):
  """In place of the evaluation, whose programs take long to compile."""
  return {'synthetic': np.zeros(1), 'random': np.zeros(1)}


def measure(name):
  """`(predicted, measured, core)` of a case, seconds of its sweeps."""
  c, here = settings(*CASES[name]), machine.measure_machine()
  job = dry_run.outline(c)
  once = flops.forward_cost(job.network, job.shape)
  sweeps = estimate.phase_work(job, here)['distillation']
  share = 1 - CHUNK / c.method.steps
  predicted = share * estimate.work_seconds(sweeps, once, here)
  with tempfile.TemporaryDirectory() as folder:
    began, busy = time.perf_counter(), time.process_time()
    with (contextlib.redirect_stdout(io.StringIO()),
          mock.patch.object(comparison, 'measure', _nothing)):
      run.run(c, pathlib.Path(folder) / 'run')
    core = (time.process_time() - busy) / (time.perf_counter() - began)
    rows = (pathlib.Path(folder) / 'run/metrics.jsonl').read_text()
  rows = [json.loads(row) for row in rows.splitlines()]
  rows = [row['seconds'] for row in rows if row['segment']]
  return predicted, rows[-1] - rows[0], core


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--only', default=','.join(CASES))
  names = parser.parse_args().only.split(',')
  unknown = set(names) - set(CASES)
  if unknown:
    sys.exit(f'error: unknown case {", ".join(sorted(unknown))}; choose from '
             f'{", ".join(CASES)}')
  print('| case | sweeps | predicted s | measured s | core | ratio |')
  print('|---|---|---|---|---|---|')
  for name in names:
    predicted, measured, core = measure(name)
    print(f'| {name} | {SWEEPS[CASES[name][0]] - CHUNK} | {predicted:.2f} | '
          f'{measured:.2f} | {core:.2f} | {measured * core / predicted:.2f} |',
          flush=True)


if __name__ == '__main__':
  main()
