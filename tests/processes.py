"""Steps on all devices of some processes.

  python tests/processes.py OUT.npz COORDINATOR PROCESSES ID

The first process leaves the states of toys after three steps, and what
`parallel` made of a few arrays.
"""

import sys

import jax
import numpy as np
import toy

from dasm_jax import hosts, parallel

FAMILIES = ('dm',)


def states():
  """`{name: array}` of all that must not depend on who computes it."""
  found = {}
  for name in FAMILIES:
    made = toy.on_devices(toy.toy(name, axis_name=parallel.AXIS))
    state, metrics = parallel.chunk(made.method)(
        made.state, made.data, made.pool, made.key, 3)
    state = toy.gather(made, state)
    found |= {f'{name} {jax.tree_util.keystr(path)}': np.asarray(x)
              for path, x in jax.tree_util.tree_leaves_with_path(
                  (state, metrics))}
  sums = parallel.spread(lambda i: parallel.total(
      5, lambda k: k * 1., parallel.AXIS))
  found['total'] = np.asarray(sums(np.arange(4)))
  run = parallel.spread(lambda x, y: x * y)
  for n in (1, 4, 5):
    found[f'spread {n}'] = np.asarray(run(
        np.arange(n, dtype=np.float32), parallel.replicate(np.float32(2))))
  me = jax.process_index()
  found['highest'] = np.array(hosts.highest(me, -me))
  found['once'] = np.array(hosts.once(lambda: [jax.process_index(), 7]))
  found['agree'] = np.asarray(hosts.agree(np.full((0, 3), me)))
  return found


def main():
  """Joins, computes, and leaves it."""
  out, coordinator, processes, number = sys.argv[1:]
  if int(processes) > 1:
    hosts.join(coordinator, int(processes), int(number))
  found = states()
  hosts.once(lambda: np.savez(out, **found))


if __name__ == '__main__':
  main()
