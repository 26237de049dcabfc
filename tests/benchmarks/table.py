r"""Every method on one data set: python tests/benchmarks/table.py

Runs each method plain, with SDC, with DASM and with both, at every ipc, then
real images (random, herding, and all of them) by the same recipe, and prints
the table of RESULTS.md. Every run has its workdir below --out: started again,
the script goes on, and finished runs cost nothing. Two processes may share the
work by --methods; those that train the same experts belong to one of them.
"""

import argparse
import json
import pathlib
import subprocess
import sys

METHODS = ('dc', 'dsa', 'dsac', 'idc', 'dm', 'cafe', 'sre2l', 'mtt', 'tesla',
           'ftd', 'datm', 'herding')
VARIANTS = {'plain': (1, 0.0), 'SDC': (1, 0.1), 'DASM': (2, 0.0),
            'DASM + SDC': (2, 0.1)}  # segments, ratio
# One evaluation for all, and no image holds several: methods are compared.
SAME = {'eval.recipe': 'dc', 'eval.batch': 256, 'eval.lr': 0.01,
        'eval.augment': 'color_crop_cutout_scale_rotate', 'eval.networks': 3,
        'network.width': 32}
EPOCHS = {1: 300, 10: 75}  # of the evaluation
# Small enough for a minute or two on one CPU core.
CLASSES = {'steps': 100, 'batch': 32}
EXPERTS = {'steps': 60, 'student_steps': 5, 'expert_epochs': 2,
           'first_epoch': 0, 'last_epoch': 1}
SMALL = {'cafe': CLASSES | {'steps': 40}, 'herding': {},
         'sre2l': {'steps': 300, 'relabel': False},
         **dict.fromkeys(('mtt', 'tesla', 'ftd'), EXPERTS),
         'datm': EXPERTS | {'start_last_epoch': -1, 'expand': 0}}
BUFFER = {'experts.number': 1, 'experts.epochs': 4}


def cases(ipcs, methods, variants=tuple(VARIANTS)):
  """`(method, variant, ipc)` of all runs; one image has no two segments."""
  return [(method, variant, ipc) for ipc in ipcs for method in methods
          for variant in variants if VARIANTS[variant][0] <= ipc
          and (method != 'herding' or variant == 'plain')]


def command(case, a):
  """The command line of a run."""
  method, variant, ipc = case
  segments, ratio = VARIANTS[variant]
  if segments > 1:
    segments = a.segments
  small = SMALL.get(method, CLASSES)
  entries = SAME | {'eval.epochs': EPOCHS.get(ipc, 75)} | {
      f'method.{name}': value for name, value in small.items()}
  if 'student_steps' in small:
    entries |= BUFFER
  if ratio:
    entries |= {'sdc.ratio': ratio, 'sdc.fall': float(segments > 1)}
  return [sys.executable, '-m', 'dasm_jax.main',
          f'--workdir={workdir(case, a)}',
          f'--config={a.config}:method={method},ipc={ipc},segments={segments},'
          f'factor=1,schedule=short,seed={a.seed}',
          *(f'--config.{name}={value}' for name, value in entries.items()),
          *(f'--{flag}' for flag in a.flags)]


def workdir(case, a):
  """Where a run leaves its results."""
  method, variant, ipc = case
  name = f'{method}_{variant.replace(" + ", "_").lower()}_{ipc}'
  return pathlib.Path(a.out) / name


def row(case, a):
  """A line of the table, or None if the run has not ended."""
  path = workdir(case, a) / 'results.json'
  if not path.exists():
    return None
  found = json.loads(path.read_text())
  ours, random = (found['accuracy'][x] for x in ('synthetic', 'random'))
  method, variant, ipc = case
  return (f'| {ipc} | {method} | {variant} | {100 * ours["mean"]:.1f} ± '
          f'{100 * ours["std"]:.1f} | {100 * random["mean"]:.1f} ± '
          f'{100 * random["std"]:.1f} | {found["seconds"]:.0f} |')


def main():
  """Runs what is missing, then prints what there is."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--config', default='configs/mnist.py')
  parser.add_argument('--out', default='runs/table')
  parser.add_argument('--ipcs', default='1,10')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--variants', default=','.join(VARIANTS))
  parser.add_argument('--segments', type=int, default=2, help='of DASM')
  parser.add_argument('--print', action='store_true')
  parser.add_argument('flags', nargs='*', help='config.method.steps=50, …')
  a = parser.parse_args()
  every = cases([int(ipc) for ipc in a.ipcs.split(',')], a.methods.split(','),
                a.variants.split(','))
  for case in [] if a.print else every:
    done = subprocess.run(command(case, a), stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode:
      print(*case, done.stderr[-300:], sep='\n', file=sys.stderr, flush=True)
  print('| ipc | method | variant | accuracy | random | seconds |')
  print('|---|---|---|---|---|---|')
  print('\n'.join(filter(None, (row(case, a) for case in every))))


if __name__ == '__main__':
  main()
