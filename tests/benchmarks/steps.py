r"""Times the inner steps: python tests/benchmarks/steps.py [--only=NAME,…]

Prints for each step the median, least and most seconds of its runs, seconds
to compile, peak MB (arguments, results and temporaries of the compiled
program), images/s, and its share of a matrix product's speed measured in the
same run: absolute times move between machines, shares much less.

Shapes: ConvNet-3 of width 128, instance norm, 32x32x3 images. On a CPU, pin
it: taskset -c 0 python tests/benchmarks/steps.py
"""

import argparse
import functools
import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from dasm_jax import difficulty, losses, models, objectives, synthetic
from dasm_jax.cost import machine
from dasm_jax.training import ensemble, experts, packing, recipes, train_step
from dasm_jax.transforms import augment
from dasm_jax.types import Batch, Synthetic

CLASSES, SHAPE = 10, (32, 32, 3)
# GFLOP an image: forward, and the multiples of it in `training.packing`.
FORWARD = 0.10
GRADIENT, SECOND, BACK = (
    FORWARD * x for x in (packing.GRADIENT, packing.SECOND, packing.BACK))


def network():
  """The network of all benchmarks and one set of weights."""
  net = models.build('convnet', shape=SHAPE, classes=CLASSES)
  return net, net.init(jax.random.key(0))


def _set(classes, ipc, seed):
  images = jax.random.normal(jax.random.key(seed), (classes, ipc, *SHAPE))
  labels = jnp.broadcast_to(jnp.eye(CLASSES)[:classes, None],
                            (classes, ipc, CLASSES))
  return images, labels


def in_images(match, syn):
  """Loss and image gradient of a class-major objective."""
  def step(images, real, variables, key):
    def value(images):
      return match(syn._replace(images=images), variables, real, key)
    return jax.value_and_grad(value, has_aux=True)(images)
  return step


def dc_step():
  """DC: all classes, 64 real images each, ipc 10, layer-wise cosine."""
  net, variables = network()
  match = objectives.per_class(
      objectives.gradient_matching(train_step.loss_fn(net)))
  syn = Synthetic(*_set(CLASSES, 10, 1), jnp.float32(0))
  real = Batch(*_set(CLASSES, 64, 2))
  work = CLASSES * (64 * GRADIENT + 10 * (GRADIENT + SECOND))
  step = in_images(match, syn)
  return step, (syn.images, real, variables, jax.random.key(3)), 740, work


def _idc(flat, work):
  """IDC: one class, 64 real and 40 decoded images, augmented alike."""
  _, variables = network()
  codec = synthetic.codec((0.5,) * 3, (0.25,) * 3, factor=2)
  change = augment.build('color_crop_cutout', 'idc')
  match = objectives.per_class(
      objectives.decoded(objectives.augmented(flat, change), codec, 128))
  images, labels = _set(1, 10, 1)
  syn = Synthetic(jax.nn.sigmoid(images), labels, jnp.float32(0))
  real = Batch(*_set(1, 64, 2))
  step = in_images(match, syn)
  return step, (syn.images, real, variables, jax.random.key(3)), 104, work


def idc_gradient():
  """IDC's gradient matching: squared distance of convolution gradients."""
  net, _ = network()
  flat = objectives.gradient_matching(
      train_step.loss_fn(net), losses.mse, ndims=(4,))
  return _idc(flat, 64 * GRADIENT + 40 * (GRADIENT + SECOND))


def idc_feature():
  """IDC's feature matching: squared distance of mean block outputs."""
  net, _ = network()
  flat = objectives.feature_matching(net.features, losses.mse, first=0, last=2)
  return _idc(flat, 64 * FORWARD + 40 * 2 * FORWARD)


def gradient_norms():
  """Per-sample gradient norms of 256 images."""
  net, variables = network()
  images, _ = _set(1, 256, 1)
  batch = Batch(images[0], jnp.eye(CLASSES)[jnp.arange(256) % CLASSES])
  norms = functools.partial(difficulty.gradient_norms, train_step.loss_fn(net))
  return norms, (variables, batch), 256, 256 * GRADIENT


def dm_step():
  """DM: all classes, 64 real images each, ipc 10, without augmentation."""
  net, variables = network()
  match = objectives.per_class(objectives.feature_matching(
      net.features, losses.mse, first=-1))
  syn = Synthetic(*_set(CLASSES, 10, 1), jnp.float32(0))
  real = Batch(*_set(CLASSES, 64, 2))
  work = CLASSES * (64 * FORWARD + 10 * 2 * FORWARD)
  step = in_images(match, syn)
  return step, (syn.images, real, variables, jax.random.key(3)), 740, work


def mtt_step(steps=10):
  """MTT: 10 student steps on 50 of 100 images; images' and rate's gradient."""
  net, start = network()
  target = jax.tree.map(lambda x: x + 0.01, start)
  images, labels = _set(CLASSES, 10, 1)
  syn = Synthetic(images.reshape(100, *SHAPE), labels.reshape(100, CLASSES),
                  jnp.float32(0.01))
  match = objectives.trajectory_matching(
      experts.student_loss_fn(net), steps, batch=50)

  def step(syn, start, target, key):
    return jax.value_and_grad(match, has_aux=True)(syn, start, target, key)
  count = 50 * steps
  return (step, (syn, start, target, jax.random.key(3)), count,
          count * (GRADIENT + BACK))


def evaluation_epoch():
  """One epoch of evaluation training on 500 images with DSA, batch 256."""
  net, variables = network()
  recipe = recipes.dc_recipe(
      1, strategy='color_crop_cutout_flip_scale_rotate')._replace(extra=0)
  images, _ = _set(1, 500, 1)
  batch = Batch(images[0], jnp.eye(CLASSES)[jnp.arange(500) % CLASSES])

  def epoch(key, batch, variables):
    return ensemble.fit(net, recipe, key, batch, variables)
  return epoch, (jax.random.key(1), batch, variables), 500, 500 * GRADIENT


BENCHMARKS = {f.__name__: f for f in (
    dc_step, idc_gradient, idc_feature, gradient_norms, evaluation_epoch,
    mtt_step, dm_step)}


def measure(name, runs):
  """One row of the table, a dict."""
  function, arguments, images, work = BENCHMARKS[name]()
  start = time.perf_counter()
  compiled = jax.jit(function).lower(*arguments).compile()
  compile_seconds = time.perf_counter() - start
  jax.block_until_ready(compiled(*arguments))
  # The product's speed is taken around the runs: a shared machine drifts.
  before = machine.matmul_speed(1024)
  times = machine.call_seconds(lambda: compiled(*arguments), runs)
  speed = max(before, machine.matmul_speed(1024)) / 1e9
  memory = compiled.memory_analysis()
  peak = (memory.temp_size_in_bytes + memory.argument_size_in_bytes
          + memory.output_size_in_bytes) / 1e6
  median = statistics.median(times)
  return {'name': name, 'median': median, 'min': times[0], 'max': times[-1],
          'compile': compile_seconds, 'peak_mb': peak,
          'images_per_second': images / median,
          'gflops': work / median, 'product_gflops': speed,
          'share': work / median / speed}


def main():
  """Prints the table, or one JSON object a line."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--only', default=','.join(BENCHMARKS))
  parser.add_argument('--runs', type=int, default=5)
  parser.add_argument('--json', action='store_true')
  given = parser.parse_args()
  unknown = set(given.only.split(',')) - set(BENCHMARKS)
  if unknown:
    sys.exit(f'error: unknown benchmark {", ".join(sorted(unknown))}; choose '
             f'from {", ".join(BENCHMARKS)}')
  if not given.json:
    device = jax.devices()[0]
    print(f'{device.device_kind} ({device.platform}), jax {jax.__version__}')
    print(f'{"name":17}{"median":>9}{"min":>9}{"max":>9}{"compile":>9}'
          f'{"peak MB":>9}{"images/s":>10}{"of product":>12}')
  for name in given.only.split(','):
    row = measure(name, given.runs)
    if given.json:
      print(json.dumps(row), flush=True)
    else:
      print(f'{name:17}{row["median"]:9.3f}{row["min"]:9.3f}{row["max"]:9.3f}'
            f'{row["compile"]:9.1f}{row["peak_mb"]:9.0f}'
            f'{row["images_per_second"]:10.1f}{row["share"]:12.0%}',
            flush=True)


if __name__ == '__main__':
  main()
