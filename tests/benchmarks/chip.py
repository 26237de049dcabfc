r"""What an accelerator makes of published jobs: python tests/benchmarks/chip.py

Runs the first sweeps of each job as a user would, in float32 and bfloat16, its
classes at once and in turn, and prints seconds a sweep, the share of a matrix
product's speed, memory, and the hours that the published schedule would take.
--profile leaves a trace of each, for xprof. --accuracy also compares what
networks learn from a set that was distilled in either precision.

Every run has its workdir below --out: started again, the script goes on. On a
CPU it says so; --tiny shows there that it works.
"""

import argparse
import json
import pathlib
import runpy
import subprocess
import sys

import jax

from dasm_jax.cost import dry_run, estimate, machine
from dasm_jax.models import flops
from dasm_jax.training import packing

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHORT = {'eval.networks': 1, 'eval.epochs': 1, 'segments.number': 1}
# The shapes are the published ones, and the schedule is cut: experts grow two
# epochs old, and every student starts from the first.
BUFFER = {'experts.number': 1, 'experts.epochs': 4, 'method.first_epoch': 0,
          'method.last_epoch': 1, 'method.steps': 100}
JOBS = {
    'idc': ('cifar10.py:method=idc,ipc=10', {'method.steps': 200}),
    'idc_50': ('cifar10.py:method=idc,ipc=50', {'method.steps': 200}),
    'dsa': ('cifar10.py:method=dsa,ipc=10', {'method.steps': 200}),
    'dm': ('cifar10.py:method=dm,ipc=10', {'method.steps': 400}),
    'mtt': ('cifar10.py:method=mtt,ipc=10', BUFFER),
    'imagenet10': ('imagenet.py:ipc=10', {'method.steps': 20,
                                          'method.warmup': 20})}
TINY = {'idc': ('digits.py:method=idc,ipc=2', {'method.steps': 20}),
        'mtt': ('digits.py:method=mtt,ipc=2', BUFFER | {'method.steps': 20})}
# (dtype, classes at once)
VARIANTS = (('float32', 'yes'), ('bfloat16', 'yes'), ('float32', 'no'),
            ('bfloat16', 'no'))
ACCURACY = {'method.steps': 2000, 'eval.networks': 5}


def cases(jobs, accuracy):
  """`{name: (config, entries, whether it is for its accuracy)}`."""
  out = {}
  for name, (config, entries) in jobs.items():
    for dtype, batched in VARIANTS:
      # Of trajectories no classes are matched.
      if 'mtt' in name and batched == 'no':
        continue
      out[f'{name}_{dtype}_{batched}'] = config, SHORT | entries | {
          'network.dtype': dtype, 'run.batched': batched}, False
  if accuracy:
    config = jobs['idc'][0]
    for dtype in ('float32', 'bfloat16'):
      out[f'accuracy_{dtype}'] = config, {
          'segments.number': 1, 'network.dtype': dtype} | (
              {} if jobs is TINY else ACCURACY), True
  return out


def command(config, entries, workdir, a):
  """The command line of a run."""
  return [sys.executable, '-m', 'dasm_jax.main', f'--workdir={workdir}',
          f'--config={ROOT / "configs" / config}',
          *(['--profile'] if a.profile else []),
          *(f'--config.{name}={value}' for name, value in entries.items()),
          *(f'--config.{entry}' for entry in a.entries)]


def settings(config, entries, a):
  """The configuration of a run, and the sweeps of its published schedule."""
  path, _, text = config.partition(':')
  c = runpy.run_path(str(ROOT / 'configs' / path))['get_config'](text)
  published = c.method.steps
  given = dict(entry.split('=', 1) for entry in a.entries)
  c.update_from_flattened_dict(entries | given)
  return c, published


def row(name, case, a, here):
  """A line of the table, or None if the run has not ended."""
  config, entries, _ = case
  path = a.out / name / 'results.json'
  if not path.exists():
    return None
  found = json.loads(path.read_text())['costs']
  c, published = settings(config, entries, a)
  job = dry_run.outline(c)
  once = flops.forward_cost(job.network, job.shape)
  total = sum(one.images * packing.PASS_KINDS[one.kind].passes
              for one in estimate.phase_work(job, here)[
                  'distillation']) * once.flops
  each = found['step_seconds']
  speed = total / c.method.steps / each
  return (f'| {name} | {found["compile_seconds"]:.0f} | {each:.4f} | '
          f'{found["images_per_second"]:.0f} | {speed / 1e12:.2f} | '
          f'{speed / here.speed:.1%} | {found["input_wait_seconds"]:.1f} | '
          f'{found["peak_memory_bytes"] / 2 ** 30:.2f} | '
          f'{published * each / 3600:.2f} |')


def learned(name, a):
  """A line on accuracy, or None if the run has not ended."""
  path = a.out / name / 'results.json'
  if not path.exists():
    return None
  found = json.loads(path.read_text())['accuracy']
  ours, random = ([100 * found[x][key] for key in ('mean', 'std')]
                  for x in ('synthetic', 'random'))
  return (f'| {name} | {ours[0]:.2f} ± {ours[1]:.2f} | '
          f'{random[0]:.2f} ± {random[1]:.2f} |')


def parsed():
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--out', type=pathlib.Path, default='runs/chip')
  parser.add_argument('--only', default='', help='jobs, by commas')
  parser.add_argument('--tiny', action='store_true')
  parser.add_argument('--profile', action='store_true')
  parser.add_argument('--accuracy', action='store_true')
  parser.add_argument('--print', action='store_true')
  parser.add_argument('entries', nargs='*', help='method.steps=50, …')
  a = parser.parse_args()
  jobs = TINY if a.tiny else JOBS
  unknown = set(filter(None, a.only.split(','))) - set(jobs)
  if unknown:
    sys.exit(f'error: unknown job {", ".join(sorted(unknown))}; choose from '
             f'{", ".join(jobs)}')
  return a, {name: job for name, job in jobs.items()
             if not a.only or name in a.only.split(',')}


def main():
  """Runs what is missing, then prints what there is."""
  a, jobs = parsed()
  every = cases(jobs, a.accuracy and 'idc' in jobs)
  for name, (config, entries, _) in {} if a.print else every.items():
    done = subprocess.run(command(config, entries, a.out / name, a), cwd=ROOT,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True)
    if done.returncode:
      print(name, done.stderr[-300:], sep='\n', file=sys.stderr, flush=True)
  # Only now: until then this process keeps off the device's memory.
  here = machine.measure_machine()
  print(f'{here.kind}, {here.speed / 1e12:.2f} TFLOP/s in a float32 product at '
        f'the default precision; jax {jax.__version__}')
  if here.backend == 'cpu':
    print('no accelerator here: these are numbers of a CPU')
  print('| run | compile s | s a sweep | images/s | TFLOP/s | of the product | '
        'waited s | peak GiB | published h |\n|---|---|---|---|---|---|---|---|'
        '---|')
  print('\n'.join(filter(None, (
      row(name, case, a, here) for name, case in every.items()
      if not case[2]))))
  if a.accuracy:
    print('\n| run | distilled % | random % |\n|---|---|---|')
    print('\n'.join(filter(None, (
        learned(name, a) for name, case in every.items() if case[2]))))


if __name__ == '__main__':
  main()
