"""Kills runs at random moments: what they leave must be what others leave.

  python tests/kill.py --runs 20
  python tests/kill.py --runs 10 --stream     images read as they are used,
    for networks that are warmed up, too
  python tests/kill.py --runs 10 --experts    MTT, which trains experts first,
    on streamed images

Half of the kills are SIGKILL, half SIGTERM. Prints a line a run and exits with
status 1 if any differs from a run that nobody killed.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent import futures

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent / 'helpers'))

import toy  # noqa: E402

# Seconds of work: DC on digits in two segments, a checkpoint at every step.
TINY = {
    'network.width': 4, 'method.steps': 10, 'method.inner': 3,
    'method.net_steps': 1, 'method.batch': 8, 'segments.probes': 1,
    'segments.probe_epochs': 2, 'coreset.epochs': 2,
    'eval.epochs': 2, 'eval.networks': 2, 'eval.prefixes': 0, 'run.chunk': 1,
    'run.save_seconds': 0.0}


# Nothing that takes long to compile, and nobody judges the images.
QUICK = {
    'config': 'configs/digits.py:ipc=2,method=dm,segments=2',
    'network__depth': 1, 'method__augment': '', 'method__net_steps': 0,
    'eval__augment': '', 'segments__window': 'everything'}
# Trajectories on streamed images, half of whose time the experts take.
EXPERTS = {
    'config': 'configs/digits.py:ipc=2,method=mtt,segments=2',
    'dataset__stream': 'always', 'run__buffer_mb': 1,
    'experts__number': 3,
    'experts__epochs': 40, 'experts__batch': 64, 'method__expert_epochs': 1,
    'method__last_epoch': 4, 'method__student_steps': 3, 'method__batch': None,
    'method__inner': None, 'method__net_steps': None,
    'coreset__epochs': None, 'eval__epochs': 300}


def environment(cache, devices=1, keep=True):
  """Of a process that compiles quickly, and only what is not in `cache`.

  keep: whether it adds to that; one that is killed would leave half a file.
  """
  return toy.environment(
      XLA_FLAGS=os.environ.get('XLA_FLAGS', ''),
      JAX_COMPILATION_CACHE_DIR=str(cache),
      JAX_NUM_CPU_DEVICES=str(devices), JAX_DISABLE_MOST_OPTIMIZATIONS='1',
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0' if keep else '3600')


def start(workdir, cache, config='configs/digits.py:ipc=2,method=dc,segments=2',
          flags=None, devices=1, keep=True, **changes):
  """The process of such a run; `changes` as in `TINY`, `__` for a dot.

  None leaves an entry out. devices, keep: see `environment`.
  """
  entries = TINY | {k.replace('__', '.'): v for k, v in changes.items()}
  return subprocess.Popen(
      [sys.executable, '-m', 'dasm_jax.main',
       f'--config={config}', f'--workdir={workdir}',
       *(f'--{name}={value}' for name, value in (flags or {}).items()),
       *(f'--config.{name}={value}' for name, value in entries.items()
         if value is not None)],
      cwd=toy.ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=environment(cache, devices, keep))


def finish(process):
  """Waits; returns what it printed. RuntimeError if it failed."""
  out, err = process.communicate(timeout=600)
  if process.returncode or err:
    raise RuntimeError(f'status {process.returncode}: {err[-2000:]}')
  return out


def left(workdir):
  """What a run left that must not depend on when it was killed."""
  workdir = pathlib.Path(workdir)
  results = json.loads((workdir / 'results.json').read_text())
  # The seal is of the run, which has a name of its own, and of its times.
  results.pop('seconds'), results.pop('costs'), results.pop('record')
  results.pop('set')  # a digest of what is compared below
  rows = [json.loads(row)
          for row in (workdir / 'metrics.jsonl').read_text().splitlines()]
  for row in rows:
    row.pop('time'), row.pop('seconds'), row.pop('sum')
  with np.load(workdir / 'synthetic.npz') as file:
    arrays = {name: (str(x.dtype), x.shape, x.tobytes())
              for name, x in file.items()}
  return {'results.json': results, 'metrics.jsonl': rows} | arrays


def difference(one, other):
  """Names of what differs between two `left`."""
  return [name for name in sorted(one | other)
          if one.get(name) != other.get(name)]


def killed(workdir, cache, seconds, rng, most=2, **changes):
  """Runs to the end, killed on the way; returns how often.

  seconds: that a run takes which nobody kills.
  """
  for kills in range(most):
    process = start(workdir, cache, keep=False, **changes)
    try:
      process.communicate(timeout=rng.uniform(0.3, 1) * seconds)
    except subprocess.TimeoutExpired:
      process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
      process.communicate(timeout=600)
      # SIGTERM before there is anything to save ends it like any program.
      if process.returncode in (-signal.SIGKILL, -signal.SIGTERM, 75):
        continue
    if process.returncode:
      raise RuntimeError(f'status {process.returncode} after {kills} kills')
    return kills
  finish(start(workdir, cache, keep=False, **changes))
  return most


def straight(root, cache, **changes):
  """Two runs that nobody kills: `left` of each, seconds of the second."""
  found = []
  for name in ('one', 'two'):  # the first also fills the cache
    began = time.time()
    # Each has experts of its own, which stand beside the workdir.
    finish(start(root / name / 'run', cache, **changes))
    found.append(left(root / name / 'run'))
  return *found, time.time() - began


def killed_runs(root, one, seconds, runs, seed, **changes):
  """How many of `runs` killed runs differ from `one`, the `left` of another."""
  def trial(number):
    workdir, rng = root / f'killed_{number}/run', random.Random(seed + number)
    kills = killed(workdir, root / 'cache', seconds, rng, **changes)
    bad = difference(one, left(workdir))
    print(f'seed {seed + number}: killed {kills} times, '
          + (f'differs in {", ".join(bad)}' if bad else 'same'), flush=True)
    return bool(bad)
  with futures.ThreadPoolExecutor(2) as pool:
    return sum(pool.map(trial, range(runs)))


def trials(root, runs, seed, **changes):
  """Whether any of them, or a second straight run, differs."""
  one, two, seconds = straight(root, root / 'cache', **changes)
  bad = difference(one, two)
  print(f'two straight runs, {seconds:.1f} s: '
        + (f'differ in {", ".join(bad)}' if bad else 'same'), flush=True)
  return killed_runs(root, one, seconds, runs, seed, **changes) or bool(bad)


def main():
  """Runs the trials."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--runs', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--stream', action='store_true')
  parser.add_argument('--experts', action='store_true')
  given = parser.parse_args()
  changes = {'dataset__stream': 'always', 'method__warmup': 5,
             'method__net_batch': 16} if given.stream else {}
  if given.experts:
    changes = EXPERTS
  with tempfile.TemporaryDirectory() as root:
    wrong = trials(pathlib.Path(root), given.runs, given.seed, **changes)
  sys.exit(1 if wrong else 0)


if __name__ == '__main__':
  main()
