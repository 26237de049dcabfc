"""The convolution: derivatives as lax's, and no slow one inside the loop."""

import functools
import re

import golden_files
import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
import toy
from convolutions import RNG, arrays, by_lax, second

from dasm_jax import losses, models, objectives
from dasm_jax.cost import hlo_counts
from dasm_jax.models import fast_conv
from dasm_jax.runtime import devices
from dasm_jax.training import train_step
from dasm_jax.types import Batch, Synthetic

CASES = [(padding, shape) for padding in (-1, 0, 1, 2, 3)
         for shape in ((7, 9, 2, 4), (8, 8, 17, 3))]


@pytest.mark.parametrize('padding, shape, unfold', lanes.slow_but(
    [(1, (7, 9, 2, 4), True), (1, (7, 9, 2, 4), False)],
    [(*case, unfold) for unfold in (True, False) for case in CASES]))
def test_derivatives_are_those_of_lax(padding, shape, unfold):
  with jax.enable_x64(True):
    given = arrays(*shape)
    got = jax.jit(second(functools.partial(
        fast_conv.convolution, unfold=unfold), padding))(*given)
    want = jax.jit(second(by_lax, padding))(*given)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      assert x.dtype == jnp.float64
      np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('k, padding, stride', [
    (1, 0, 2), (1, 1, 2), (3, 1, 2), (4, 0, 3)])
def test_strides_are_those_of_lax(k, padding, stride):
  with jax.enable_x64(True):
    given = arrays(8, 9, 3, 2, k=k)
    got, want = (
        jax.jit(second(functools.partial(f, stride=stride), padding),
                compiler_options=golden_files.ORDERS[0])(*given)
        for f in (fast_conv.convolution, by_lax))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)


def test_blocks_of_rows():
  # Many small images are unfolded some at a time; a prime number one by one.
  with jax.enable_x64(True):
    for n in (12, 13):
      images, kernel = arrays(16, 16, 2, 3, n)
      out = jnp.asarray(RNG.normal(size=(n, 16, 16, 3)))
      assert 1 < fast_conv.ROWS // (16 * 16) < n  # not all at once
      got = fast_conv.weight_gradient(images, out, 1, 3)
      _, back = jax.vjp(functools.partial(
          by_lax, images, padding=1), kernel)
      want = back(out)[0]
      np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize('unfold', [True, False])
def test_mapped(unfold):
  ours = functools.partial(fast_conv.convolution, unfold=unfold)
  with jax.enable_x64(True):
    images, kernel = arrays(6, 5, 2, 3)
    images = jnp.stack([images, 2 * images])
    kernels = jnp.stack([kernel, kernel + 1])
    for axes in ((0, None), (None, 0), (0, 0)):
      given = (images if axes[0] == 0 else images[0],
               kernels if axes[1] == 0 else kernel)
      got = jax.jit(jax.vmap(second(ours, 1), axes))(*given)
      for row in range(2):
        want = second(by_lax, 1)(
            images[row if axes[0] == 0 else 0],
            kernels[row if axes[1] == 0 else 0])
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want),
                        strict=True):
          np.testing.assert_allclose(x[row], y, rtol=1e-9, atol=1e-9)


def test_the_target_decides():
  images, kernel = arrays(4, 4, 1, 1)
  def text(**options):
    def size(kernel):
      return jnp.sum(fast_conv.convolution(images, kernel, 1, **options) ** 2)
    return str(jax.make_jaxpr(jax.grad(size))(kernel))
  assert text() == text(unfold=True) != text(unfold=False)
  with devices.building_for(devices.Target('gpu', 2 ** 30)):
    assert text() == text(unfold=False)
  assert text() == text(unfold=True)


def test_matching_does_no_work_on_zeros():
  """Where classes are batched XLA's own derivatives do, here half as much."""
  network = toy.network(side=SIDE, width=WIDTH)
  lift = objectives.per_class(objectives.gradient_matching(
      train_step.loss_fn(network), losses.layerwise_cosine), batched=True)
  labels = jnp.broadcast_to(jnp.eye(3)[:, None], (3, 2, 3))
  given = jax.eval_shape(lambda: (
      jnp.zeros((3, 2, SIDE, SIDE, 1)), network.init(jax.random.key(0)),
      Batch(jnp.zeros((3, 8, SIDE, SIDE, 1)), jnp.zeros((3, 8, 3)))))
  def step(images, variables, real):
    return jax.grad(lambda images: lift(
        Synthetic(images, labels, jnp.float32(0)), variables, real,
        jax.random.key(0))[0])(images)
  with devices.building_for(devices.Target('gpu', 2 ** 30)):
    ours, useful = (f(step, *given) for f in (
        hlo_counts.traced_flops, hlo_counts.useful_flops))
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(fast_conv, 'convolution', by_lax)
    theirs, same = (f(step, *given) for f in (
        hlo_counts.traced_flops, hlo_counts.useful_flops))
  assert useful == same
  assert ours < 1.05 * useful and theirs > 1.4 * useful


# ---- the cliff


def windows(program):
  """Sides of the windows of all convolutions in a compiled program."""
  return {max(map(int, size.split('x')))
          for size in re.findall(r'convolution\([^\n]*size=([\dx]+)', program)}


SIDE, WIDTH = 16, 32


def class_steps(loss, params):
  """DC's gradient of three classes in turn, compiled: its HLO as text.

  loss: `(params, Batch) -> scalar`. params: their shapes.
  """
  lift = objectives.per_class(
      objectives.gradient_matching(loss, losses.layerwise_cosine),
      batched=False)
  def step(images, params, real):
    labels = jnp.broadcast_to(jnp.eye(3)[:, None], (3, 2, 3))
    def of(images):
      syn = Synthetic(images, labels, jnp.float32(0))
      return lift(syn, params, real, jax.random.key(0))[0]
    return jax.grad(of)(images)
  images, real = jax.eval_shape(lambda: (
      jnp.zeros((3, 2, SIDE, SIDE, 1)),
      Batch(jnp.zeros((3, 8, SIDE, SIDE, 1)), jnp.zeros((3, 8, 3)))))
  return jax.jit(step).lower(images, params, real).compile().as_text()


@pytest.mark.slow
def test_no_slow_weight_gradient_in_the_loop():
  # XLA writes a weight gradient as a convolution whose window is as large as
  # the image; in a loop on CPU that is 27-68 times slower than it need be.
  # (A convolution may also become a call into a library: none may be left.)
  network = toy.network(side=SIDE, width=WIDTH)
  with_ours = class_steps(
      train_step.loss_fn(network),
      jax.eval_shape(network.init, jax.random.key(0)))
  assert ' while(' in with_ours
  assert windows(with_ours) == {3}


@pytest.mark.slow
def test_the_slow_one_is_seen():
  # The test above can fail: two layers by hand, with XLA's derivatives.
  shapes = [jax.ShapeDtypeStruct(shape, jnp.float32)
            for shape in ((3, 3, 1, WIDTH), (3, 3, WIDTH, 3))]
  def loss(kernels, batch, fast):
    x = batch.images
    for kernel in kernels:
      x = jnp.tanh((fast_conv.convolution if fast else by_lax)(x, kernel, 1))
    return losses.cross_entropy(x.mean((1, 2)), batch.labels)
  ours, theirs = (windows(class_steps(
      functools.partial(loss, fast=fast), shapes)) for fast in (True, False))
  assert ours == {3} and max(theirs) >= 8


def test_models_use_it():
  network = models.build('convnet', shape=(8, 8, 1), classes=2, depth=1,
                         width=4)
  variables = jax.eval_shape(network.init, jax.random.key(0))
  text = str(jax.make_jaxpr(network.apply)(variables, jnp.zeros((1, 8, 8, 1))))
  assert 'custom_vjp' in text


@pytest.mark.parametrize('backend, c_in, k, barriers', [
    ('tpu', 3, 7, 1), ('tpu', 16, 7, 0), ('tpu', 3, 3, 0), ('gpu', 3, 7, 0)])
def test_a_tpu_makes_what_a_narrow_gradient_reads_once(
    backend, c_in, k, barriers):
  """A second derivative passes through, and says what it says elsewhere."""
  images, kernel = arrays(8, 8, c_in, 16, n=2, k=k)

  def penalty(images, kernel):
    def value(images):
      return jnp.sum(jnp.tanh(fast_conv.convolution(images, kernel, k // 2)))
    return jnp.sum(jax.grad(value)(images) ** 2)
  want = jax.grad(penalty, (0, 1))(images, kernel)
  with devices.building_for(devices.Target(backend, 2 ** 30)):
    grad = jax.make_jaxpr(jax.grad(lambda images: jnp.sum(
        fast_conv.convolution(images, kernel, k // 2) ** 2)))(images)
    got = jax.grad(penalty, (0, 1))(images, kernel)
  assert str(grad).count('optimization_barrier') == barriers
  for x, y in zip(got, want, strict=True):
    np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-3)
