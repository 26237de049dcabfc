r"""Times reading: python tests/benchmarks/reading.py NAME [--size=224]

NAME: what `data.open` takes: a TFDS set, a directory of one, folder:PATH.
Compares the reader that runs use with bare decoding on the same cores: the
same files and the same decode in a plain loop, in one thread and in as many as
the reader has. Prints images/s, rounds interleaved, medians, and their ratio.

With --cache=DIR the reader keeps what it has decoded there; bare decoding does
not.

With --minutes the reader alone goes on, reading ahead of a consumer that does
nothing, and tells its resident memory (its processes' too): that must stay
where it is. To one core: taskset -c 1.

With --step=0.5 the consumer is busy elsewhere for that long after each --images
(as an accelerator is), and how long it then waits for the next ones is told.
"""

import argparse
import concurrent.futures
import statistics
import time

import numpy as np
import psutil

from dasm_jax import data
from dasm_jax.data import workers
from dasm_jax.pipeline import prefetch

STEPS = 60  # of --step


def bare(split, rows, threads):
  """Decodes rows by a plain loop in each of some threads, block by block."""
  store = split.part.store

  def loop(rows):
    out = np.empty((workers.BLOCK, *split.shape), np.uint8)
    for at in range(0, len(rows), workers.BLOCK):
      wanted = split.part.rows[rows[at:at + workers.BLOCK]]
      items = store.items(wanted.tolist())
      store.decode(items, out, range(len(items)))

  if threads < 2:
    loop(rows)
    return
  with concurrent.futures.ThreadPoolExecutor(threads) as threaded:
    list(threaded.map(loop, np.array_split(rows, threads)))


def speed(call, parts):
  """Images a second, and a second of the processor's time."""
  count = sum(map(len, parts))
  wall, busy = time.perf_counter(), sum(usage()[0])
  for part in parts:
    call(part)
  return (count / (time.perf_counter() - wall),
          count / max(sum(usage()[0]) - busy, 0.01))


def usage():
  """Seconds of the processor, and resident MB, of this process and its own."""
  processes = [psutil.Process(), *psutil.Process().children()]
  return ([sum(one.cpu_times()[:2]) for one in processes],
          sum(one.memory_info().rss for one in processes) / 2 ** 20)


def compare(split, given):
  """Prints the table."""
  lanes = given.workers or given.threads or workers.cores()
  random = np.random.RandomState(0)
  ways = {'bare, 1 thread': lambda rows: bare(split, rows, 1)}
  if lanes > 1:
    ways[f'bare, {lanes} threads'] = lambda rows: bare(split, rows, lanes)
  others = list(ways)
  ways['reader'] = split.read
  found = {way: [] for way in ways}
  for round_ in range(given.rounds + 1):
    # The reader decodes a repeated image once: so none twice in one read.
    parts = [random.permutation(len(split))[:given.images] for _ in range(
        -(-given.images // len(split)))]
    for way, call in ways.items():
      pair = speed(call, parts)
      if round_:  # The first warms files, imports and processes.
        found[way].append(pair)
  print(f'{"":20}{"images/s":>12}{"least":>9}{"most":>9}{"a CPU second":>15}')
  for way, pairs in found.items():
    wall, busy = zip(*pairs, strict=True)
    print(f'{way:20}{statistics.median(wall):12.0f}{min(wall):9.0f}'
          f'{max(wall):9.0f}{statistics.median(busy):15.0f}', flush=True)
  for way in others:
    ratios = [[reader[k] / other[k] for reader, other in zip(
        found['reader'], found[way], strict=True)] for k in range(2)]
    print(f'reader / {way}: {statistics.median(ratios[0]):.2f}, of CPU time '
          f'{statistics.median(ratios[1]):.2f}')


def watch(split, given):
  """Reads for some minutes; prints memory every few seconds."""
  random = np.random.RandomState(0)
  start = said = time.monotonic()
  print(f'{"seconds":>8}{"images":>12}{"images/s":>12}{"waited s":>12}'
        f'{"resident MB":>14}')
  steps = iter(int, 1)  # Without end.
  with prefetch.Prefetcher(split, lambda step: random.randint(
      0, len(split), given.images), steps) as found:
    for _ in found:
      now = time.monotonic()
      if now - said >= 5:
        said = now
        print(f'{now - start:8.0f}{found.images:12}{found.rate:12.0f}'
              f'{found.wait:12.1f}{usage()[1]:14.0f}', flush=True)
      if now - start > 60 * given.minutes:
        return


def wait(split, given):
  """Prints how long steps of some seconds waited for their images."""
  random = np.random.RandomState(0)
  waits = []
  with prefetch.Prefetcher(split, lambda step: random.randint(
      0, len(split), given.images), range(STEPS)) as found:
    for _ in range(STEPS):
      began = time.perf_counter()
      next(found)
      waits.append(time.perf_counter() - began)
      time.sleep(given.step)
    rate = found.rate
  print(f'steps of {given.step:g} s ask for {given.images / given.step:.0f} '
        f'images/s, the reader gives {rate:.0f}')
  print(f'waited {waits[0]:.3f} s for the first; of the other {STEPS - 1} '
        f'{statistics.median(waits[1:]):.4f} s (median), '
        f'{max(waits[1:]):.4f} s at most, '
        f'{sum(x > .001 for x in waits[1:])} longer than a millisecond')


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('name')
  parser.add_argument('--data_dir')
  parser.add_argument('--size', type=int, default=224)
  parser.add_argument('--holdout', type=float, default=0.0)
  parser.add_argument('--threads', type=int)
  parser.add_argument('--workers', type=int, default=0)
  parser.add_argument('--cache', default='')
  parser.add_argument('--images', type=int, default=1000)
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--minutes', type=float, default=0.0)
  parser.add_argument('--step', type=float, default=0.0)
  given = parser.parse_args()
  split = data.open(
      given.name, data_dir=given.data_dir, size=given.size,
      holdout=given.holdout, options=data.ReadOptions(
          given.threads, given.workers, given.cache, print)).train
  print(f'{given.name}: {len(split)} images at {split.shape}, '
        f'{workers.cores()} cores')
  (watch if given.minutes else wait if given.step else compare)(split, given)
  split.close()


if __name__ == '__main__':
  main()
