"""Steps on all devices of some processes.

  python tests/helpers/process_steps.py OUT.npz COORDINATOR PROCESSES ID

The first process leaves the states of toys after three steps, and what
`parallel` made of a few arrays.
"""

import sys

import jax
import numpy as np
import toy

from dasm_jax.runtime import devices, processes

FAMILIES = ('dm',)


def states():
  """`{name: array}` of all that must not depend on who computes it."""
  found = {}
  for name in FAMILIES:
    made = toy.on_devices(toy.toy(name, axis_name=devices.AXIS, augment=''))
    state, metrics = devices.chunk(made.method)(
        made.state, made.data, made.pool, made.key, 3)
    state = toy.gather(made, state)
    found |= {f'{name} {jax.tree_util.keystr(path)}': np.asarray(x)
              for path, x in jax.tree_util.tree_leaves_with_path(
                  (state, metrics))}
  sums = devices.spread(lambda i: devices.sum_over(
      5, lambda k: k * 1., devices.AXIS))
  found['total'] = np.asarray(sums(np.arange(4)))
  run = devices.spread(lambda x, y: x * y)
  for n in (1, 4, 5):
    found[f'spread {n}'] = np.asarray(run(
        np.arange(n, dtype=np.float32), devices.replicate(np.float32(2))))
  me = jax.process_index()
  found['highest'] = np.array(processes.maximum(me, -me))
  found['once'] = np.array(processes.on_leader(lambda: [jax.process_index(),
                                                        7]))
  found['agree'] = np.asarray(processes.broadcast(np.full((0, 3), me)))
  return found


def main():
  """Joins, computes, and leaves it."""
  out, coordinator, count, number = sys.argv[1:]
  if int(count) > 1:
    processes.join(coordinator, int(count), int(number))
  found = states()
  processes.on_leader(lambda: np.savez(out, **found))


if __name__ == '__main__':
  main()
