"""Whether two commits leave the same sets and accuracies, bit for bit.

  python tests/same_runs.py OLD NEW               commits, or . for what is here
  python tests/same_runs.py OLD NEW --only=idc    the cases whose names have it

Runs small experiments by the program of each commit (every family, in memory
and streamed, on one device and on four) and evaluates a set. Prints a line a
case, and exits with status 1 if any differs. `--keep=DIR` keeps what a commit
gave, so that it need not run again.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from concurrent import futures

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Seconds of work; two segments where a method has them.
SMALL = {
    'network.width': 4, 'network.depth': 2, 'method.steps': 6,
    'method.inner': 3, 'method.net_steps': 1, 'method.batch': 8,
    'segments.probes': 2, 'segments.probe_epochs': 2,
    'coreset.epochs': 1, 'eval.epochs': 3, 'eval.networks': 2,
    'run.chunk': 2}
EXPERTS = {
    'experts.number': 2, 'experts.epochs': 4, 'experts.batch': 64,
    'method.expert_epochs': 1, 'method.last_epoch': 3,
    'method.student_steps': 3, 'method.starts': 2}
# What a method has not, or must have otherwise.
OWN = {
    'sre2l': {'method.teach': 2, 'method.inner': None, 'eval.epochs': 2},
    'herding': {'method.steps': None, 'method.inner': None,
                'method.net_steps': None, 'method.batch': None,
                'coreset.epochs': 2},
    'cafe': {'method.watch_images': 8, 'method.net_steps': 2},
    'idc': {'method.warmup': 3, 'sdc.weight': 0.01}}
TRAJECTORY = 'mtt', 'ftd', 'tesla', 'datm'
LISTED = 'idc', 'dm', 'mtt', 'sre2l', 'herding'
EVERY = 'dc', 'dsa', 'dsac', 'cafe', 'ftd', 'tesla', 'datm'


def cases():
  """`{name: (method, streamed, devices)}`."""
  found = {f'{method}{" streamed" * streamed} {devices}': (
      method, streamed, devices) for method in LISTED
           for streamed in (False, True) for devices in (1, 4)}
  return found | {f'{method} 1': (method, False, 1) for method in EVERY}


def entries(method, streamed):
  """`{dotted name: value}` of a case."""
  found = SMALL | OWN.get(method, {})
  if method in TRAJECTORY:
    gone = ('method.inner', 'method.net_steps', 'method.batch')
    found = {k: v for k, v in found.items() if k not in gone} | EXPERTS
  if streamed:
    found |= {'dataset.stream': 'always', 'run.buffer_mb': 1}
  return {name: value for name, value in found.items() if value is not None}


def checkout(commit, folder):
  """The sources of a commit, in `folder`."""
  if commit == '.':
    return ROOT
  path = folder / 'sources'
  path.mkdir(parents=True)
  tree = subprocess.run(['git', 'archive', commit], cwd=ROOT, check=True,
                        stdout=subprocess.PIPE).stdout
  subprocess.run(['tar', '-x'], cwd=path, input=tree, check=True)
  return path


def call(sources, devices, cache, *words):
  """Runs a command of the program; its errors end this one."""
  environment = os.environ | {
      'PYTHONPATH': str(sources), 'JAX_PLATFORMS': 'cpu',
      'JAX_NUM_CPU_DEVICES': str(devices), 'JAX_COMPILATION_CACHE_DIR': cache,
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1'}
  done = subprocess.run([sys.executable, '-m', *map(str, words)], cwd=sources,
                        env=environment, text=True, capture_output=True,
                        check=False)
  if done.returncode:
    sys.exit(f'{" ".join(map(str, words))}: {done.stderr[-2000:]}')


def run(sources, folder, cache, method, streamed, devices):
  """`{what: value}` that a run leaves, and an evaluation of its set."""
  # A folder for each: experts, which stand beside a workdir, are not shared.
  workdir = folder / f'{method}_{streamed}_{devices}' / 'run'
  call(sources, devices, cache, 'dasm_jax.main', '--config=configs/digits.py:'
       f'ipc=2,method={method}' + ',segments=2' * (method != 'herding'),
       f'--workdir={workdir}', *(
           f'--config.{name}={value}'
           for name, value in entries(method, streamed).items()))
  with np.load(workdir / 'synthetic.npz') as file:
    found = {name: hashlib.sha256(np.ascontiguousarray(file[name])).hexdigest()
             for name in ('images', 'labels', *{'told'} & set(file.files))}
  accuracy = json.loads((workdir / 'results.json').read_text())['accuracy']
  found |= {name: row['networks'] for name, row in accuracy.items()}
  if method == 'dm' and devices == 1 and not streamed:
    call(sources, devices, cache, 'dasm_jax.evaluate', f'--set={workdir}',
         '--networks=2', '--epochs=2', '--full', '--models=convnet,mlp')
    rows = json.loads((workdir / 'evaluation.json').read_text())['rows']
    # Rows that only DD-Ranking asks for are no part of older commits.
    found |= {f'{row["model"]} {row["set"]}': row['networks'] for row in rows
              if ',' not in row['set']}
  return found


def of_commit(commit, wanted, keep, cache):
  """`{case: what it gave}`, read from `keep` where it is there."""
  name = commit if commit == '.' else subprocess.run(
      ['git', 'rev-parse', commit], cwd=ROOT, check=True, text=True,
      stdout=subprocess.PIPE).stdout.strip()
  path = keep / f'{name}.json'
  found = json.loads(path.read_text()) if (
      name != '.' and path.exists()) else {}
  lacking = {case: what for case, what in wanted.items() if case not in found}
  with tempfile.TemporaryDirectory() as folder, (
      futures.ThreadPoolExecutor(2)) as pool:
    folder = pathlib.Path(folder)
    sources = checkout(commit, folder) if lacking else None
    made = {case: pool.submit(run, sources, folder, cache, *what)
            for case, what in lacking.items()}
    for case, one in made.items():
      found[case] = one.result()
      path.write_text(json.dumps(found))
  return found


def main():
  """The command."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('old')
  parser.add_argument('new')
  parser.add_argument('--only', default='')
  parser.add_argument('--keep', type=pathlib.Path,
                      default=pathlib.Path(tempfile.gettempdir()) / 'same_runs')
  a = parser.parse_args()
  a.keep.mkdir(parents=True, exist_ok=True)
  wanted = {k: v for k, v in cases().items() if a.only in k}
  old, new = (of_commit(x, wanted, a.keep, str(a.keep / 'xla'))
              for x in (a.old, a.new))
  bad = 0
  for case in wanted:
    differ = [k for k in old[case] | new[case]
              if old[case].get(k) != new[case].get(k)]
    bad += bool(differ)
    means = (f'{name} {np.mean(new[case][name]):.4f}'
             for name in ('synthetic', 'random'))
    print(f'{case:22} {"same" if not differ else "DIFFERENT"}  '
          f'{", ".join(means)}  {" ".join(differ)}')
  print(f'{len(wanted) - bad} of {len(wanted)} the same')
  sys.exit(bad > 0)


if __name__ == '__main__':
  main()
