r"""Predicted cost of single programs: python tests/benchmarks/cost_steps.py

For each network and kind of work: CPU seconds of a compiled program, the least
of its runs, over those that `cost` predicts, and its temporaries over the
predicted activations. CPU seconds do not run while others have the core, so a
shared machine does little harm. Pin it: taskset -c 1 python …
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import steps

from dasm_jax import difficulty, losses, models, objectives
from dasm_jax.cost import estimate, machine
from dasm_jax.models import flops
from dasm_jax.training import ensemble, experts, packing, recipes, train_step
from dasm_jax.types import Batch, Synthetic

NETWORKS = {
    'digits': ((8, 8, 1), {'depth': 2, 'width': 32}),
    'mnist': ((28, 28, 1), {'depth': 3, 'width': 32}),
    'cifar_short': ((32, 32, 3), {'depth': 3, 'width': 32}),
    'cifar': ((32, 32, 3), {'depth': 3, 'width': 128})}
BLOCK = 8192  # positions of a training block, see `dasm_jax.blocks`


def _set(shape, ipc):
  images = jax.random.normal(jax.random.key(1), (10, ipc, *shape))
  return images, jnp.broadcast_to(jnp.eye(10)[:, None], (10, ipc, 10))


def _flat(shape, n):
  images, labels = _set(shape, n // 10)
  return Batch(images.reshape(n, *shape), labels.reshape(n, 10))


def programs(network, variables, shape):
  """`{name: (function, arguments, [Work])}`."""
  recipe = recipes.recipe(1, batch=64)
  chunk = max(1, min(64, BLOCK // (shape[0] * shape[1])))
  syn = Synthetic(*_set(shape, 10), jnp.float32(0))
  real, key = Batch(*_set(shape, 64)), jax.random.key(3)
  def matched(objective):
    return steps.in_images(objectives.per_class(objective), syn)
  gradient = matched(objectives.gradient_matching(train_step.loss_fn(network)))
  feature = matched(objectives.feature_matching(
      network.features, losses.mse, first=-1))
  chase = objectives.trajectory_matching(
      experts.student_loss_fn(network), 10, batch=50)
  target = jax.tree.map(lambda x: x + 0.01, variables)
  flat = Synthetic(*_flat(shape, 100), jnp.float32(0.01))

  def look(variables, batch):
    return difficulty.chunked(
        lambda v, x: network.apply(v, x)[0].argmax(-1), variables,
        batch.images, 256)
  return {
      'training': (functools.partial(ensemble.fit, network, recipe),
                   (key, _flat(shape, 1280), variables),
                   [packing.Work('gradient', 1280, chunk, 1)]),
      'forward': (look, (variables, _flat(shape, 2560)),
                  [packing.Work('forward', 2560, 256, 1, 1)]),
      'gradient matching': (gradient, (syn.images, real, variables, key), [
          packing.Work('gradient', 640, 64, 1), packing.Work('second', 100, 10,
                                                             1)]),
      'feature matching': (feature, (syn.images, real, variables, key), [
          packing.Work('forward', 640, 64, 1), packing.Work('inward', 100, 10,
                                                            1)]),
      'trajectory': (jax.value_and_grad(chase, has_aux=True),
                     (flat, variables, target, key),
                     [packing.Work('student', 500, 50, 1, 16)]),
      'gradient norms': (functools.partial(
          difficulty.gradient_norms, train_step.loss_fn(network)),
                         (variables, _flat(shape, 640)),
                         [packing.Work('norms', 640, 8, 1, 9)])}


def measure(function, arguments, least):
  """`(CPU seconds, bytes of temporaries)` of a program."""
  compiled = jax.jit(function).lower(*arguments).compile()
  jax.block_until_ready(compiled(*arguments))
  best, end, runs = float('inf'), time.time() + least, 0
  while time.time() < end or runs < 3:
    began, runs = time.process_time(), runs + 1
    jax.block_until_ready(compiled(*arguments))
    best = min(best, time.process_time() - began)
  return best, compiled.memory_analysis().temp_size_in_bytes


def main():
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--only', default=','.join(NETWORKS))
  parser.add_argument('--seconds', type=float, default=1.0)
  given = parser.parse_args()
  here = machine.measure_machine()
  print(f'{here.speed / 1e9:.0f} GFLOP/s in a matrix product')
  print('| network | program | seconds | of model | memory | of model |')
  print('|---|---|---|---|---|---|')
  for name in given.only.split(','):
    shape, settings = NETWORKS[name]
    network = models.build('convnet', shape=shape, classes=10, **settings)
    once = flops.forward_cost(network, shape)
    variables = network.init(jax.random.key(0))
    for what, (function, arguments, works) in programs(
        network, variables, shape).items():
      taken, memory = measure(function, arguments, given.seconds)
      guess = estimate.work_seconds(works, once, here)
      room = max(packing.activations(one, once) for one in works)
      print(f'| {name} | {what} | {taken:.3f} | {taken / guess:.2f} | '
            f'{memory / 1e6:.1f} MB | {memory / room:.2f} |', flush=True)


if __name__ == '__main__':
  main()
