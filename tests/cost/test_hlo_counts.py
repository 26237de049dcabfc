"""What the counts of compiled programs are, on texts of the compilers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dasm_jax.cost import hlo_counts

# As the compilers write them: a gradient in the filter, of a GPU and of a TPU.
GPU = '''HloModule jit_f, is_scheduled=true

%fused (p.1: f32[128,3,3,128]) -> f32[3,3,128,128] {
  %p.1 = f32[128,3,3,128]{3,2,1,0} parameter(0)
  ROOT %t = f32[3,3,128,128]{3,2,1,0} transpose(%p.1), dimensions={1,2,3,0}
}

%part (p.2: f32[8,4], p.3: f32[1,4]) -> f32[8,4] {
  %p.2 = f32[8,4]{1,0} parameter(0)
  %p.3 = f32[1,4]{1,0} parameter(1)
  %zero = s32[] constant(0)
  ROOT %put = f32[8,4]{1,0} dynamic-update-slice(%p.2, %p.3, %zero, %zero)
}

%body (c: (s32[], f32[8,4], f32[1,4])) -> (s32[], f32[8,4], f32[1,4]) {
  %c = (s32[], f32[8,4]{1,0}, f32[1,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%c), index=1
  %y = f32[1,4]{1,0} get-tuple-element(%c), index=2
  %put.1 = f32[8,4]{1,0} fusion(%x, %y), kind=kLoop, calls=%part
  %g = (f32[8,6]{1,0}, s8[64]{0}) custom-call(%x, %w), \
custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":\
{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],\
"rhs_contracting_dimensions":["0"]}}}
  ROOT %again = (s32[], f32[8,4]{1,0}, f32[1,4]{1,0}) tuple(%i, %put.1, %y)
}

%end (c.1: (s32[], f32[8,4], f32[1,4])) -> pred[] {
  %c.1 = (s32[], f32[8,4]{1,0}, f32[1,4]{1,0}) parameter(0)
  ROOT %no = pred[] constant(false)
}

%yes (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  %b = f32[2]{0} copy(%a)
  ROOT %c.2 = f32[2]{0} copy(%b)
}

%no.1 (a.1: f32[2]) -> f32[2] {
  ROOT %a.1 = f32[2]{0} parameter(0)
}

ENTRY %main (x.1: f32[64,32,32,128], y.1: f32[64,32,32,128]) -> f32[2] {
  %x.1 = f32[64,32,32,128]{3,2,1,0} parameter(0)
  %y.1 = f32[64,32,32,128]{3,2,1,0} parameter(1)
  %conv = (f32[128,3,3,128]{3,2,1,0}, u8[0]{0}) custom-call(%x.1, %y.1), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardFilter"
  %first = f32[128,3,3,128]{3,2,1,0} get-tuple-element(%conv), index=0
  %turned = f32[3,3,128,128]{3,2,1,0} fusion(%first), kind=kInput, calls=%fused
  %start = (s32[], f32[8,4]{1,0}, f32[1,4]{1,0}) tuple()
  %loop = (s32[], f32[8,4]{1,0}, f32[1,4]{1,0}) while(%start), \
condition=%end, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %unknown = (s32[], f32[8,4]{1,0}, f32[1,4]{1,0}) while(%loop), \
condition=%end, body=%body
  ROOT %either = f32[2]{0} conditional(%p, %q, %q), \
true_computation=%yes, false_computation=%no.1
}
'''
TPU = '''HloModule jit_f
%fused_computation (p.0: f32[64,32,32,128]) -> f32[3,3,128,128] {
  %p.0 = f32[64,32,32,128]{3,2,1,0:T(8,128)} parameter(0)
  %f = f32[64,32,32,128]{3,0,2,1:T(8,128)} fusion(), kind=kLoop, calls=%other
  ROOT %conv.0 = f32[3,3,128,128]{3,2,1,0:T(8,128)} convolution(%p.0, %f), \
window={size=32x32 pad=1_1x1_1}, dim_labels=f01b_i01o->01bf
}

%other () -> f32[64,32,32,128] {
  ROOT %one = f32[64,32,32,128]{3,0,2,1:T(8,128)} constant({...})
}

ENTRY %main.1 (x: f32[64,32,32,128]) -> f32[3,3,128,128] {
  %x = f32[64,32,32,128]{3,2,1,0:T(8,128)} parameter(0)
  ROOT %fusion = f32[3,3,128,128]{3,2,1,0:T(8,128)} fusion(%x), kind=kOutput, \
calls=%fused_computation, backend_config={"window_config":\
{"estimated_cycles":"162527"}}
}
'''
PLAIN = 2 * 64 * 32 * 32 * 9 * 128 * 128


def test_a_program_of_a_gpu():
  found = hlo_counts.count(GPU)
  # The filter, its transpose; a product and a slice, six times; two copies.
  assert found.kernels == 2 + 6 * 2 + 2 and found.in_loops == 12
  assert found.conditionals == 2  # the loop whose end is not known, the branch
  assert found.convolution_flops == PLAIN
  assert found.product_flops == 6 * 2 * 8 * 6 * 4
  # What is put into an array is written, not the array.
  assert found.written == 2 * 4 * 9 * 128 ** 2 + 6 * (
      4 * 4 + 4 * 8 * 6 + 64) + 2 * 4 * 2


def test_a_program_of_a_tpu():
  found = hlo_counts.count(TPU)
  assert found.kernels == 1 and found.cycles == 162527
  # A window as large as the image, over the kernel: the same work.
  assert found.convolution_flops == PLAIN


@pytest.mark.parametrize('branches, cycles', [
    (2, 700), (3, (100 + 700 + 100) / 3)])
def test_time_of_branches_is_of_the_dearer_or_of_all_that_are_drawn(
    branches, cycles):
  # The one with the most kernels takes the least.
  def branch(name, *each):
    lines = ''.join(
        f'  %{name}{i} = f32[2]{{0}} copy(%{name}p), '
        f'backend_config={{"estimated_cycles":"{x}"}}\n'
        for i, x in enumerate(each))
    return (f'%{name} ({name}p: f32[2]) -> f32[2] {{\n'
            f'  %{name}p = f32[2]{{0}} parameter(0)\n{lines}}}\n\n')
  names = ['a', 'b', 'c'][:branches]
  each = zip(names, ([50, 50], [700], [100]), strict=False)
  text = 'HloModule jit_f\n' + ''.join(branch(n, *x) for n, x in each) + (
          'ENTRY %main (x: f32[2]) -> f32[2] {\n'
          '  %x = f32[2]{0} parameter(0)\n'
          '  ROOT %out = f32[2]{0} conditional(%i, %x, %x, %x), '
          f'branch_computations={{{", ".join("%" + n for n in names)}}}\n}}\n')
  found = hlo_counts.count(text)
  assert found.kernels == 2 and found.cycles == pytest.approx(cycles)


def test_a_loop_and_groups_of_a_tpu():
  """Its compiler says no number of turns; groups are a side with holes."""
  found = hlo_counts.count('''HloModule jit_g
%end (c: (s32[], f32[4])) -> pred[] {
  %n = s32[]{:T(128)} constant(32)
  %c = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body (b: (s32[], f32[4])) -> (s32[], f32[4]) {
  %b = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %x = f32[10,6,6,8,3]{4,3,2,1,0:T(8,128)} fusion(%b), kind=kLoop, calls=%f
  %w = f32[10,3,3,3,5]{4,3,2,1,0:T(8,128)} fusion(%b), kind=kLoop, calls=%f
  %y = f32[10,6,6,8,5]{4,3,2,1,0:T(8,128)} convolution(%x, %w), \
window={size=3x3x10 stride=1x1x9 pad=1_1x1_1x0_0 lhs_dilate=1x1x10}, \
dim_labels=201bf_201io->201bf
  ROOT %t = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%b)
}

%f (p: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x.1 = f32[4]{0:T(128)} parameter(0)
  %start = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%x.1)
  %while = (s32[]{:T(128)}, f32[4]{0:T(128)}) while(%start), \
condition=%end, body=%body
  ROOT %out = f32[4]{0:T(128)} get-tuple-element(%while), index=1
}
''')
  assert found.kernels == 32 * 3 and found.conditionals == 0
  assert found.convolution_flops == 32 * 2 * 10 * 8 * 36 * 9 * 3 * 5


def test_a_program_that_is_here():
  def function(x, y):
    def body(carry, row):
      return jnp.tanh(carry @ y), row.sum()
    return jax.lax.scan(body, x, jnp.ones((7, 3)))
  given = jnp.ones((4, 5)), jnp.ones((5, 5))
  assert hlo_counts.useful_flops(function, *given) == 7 * 2 * 4 * 5 * 5
  text = jax.jit(function).lower(*given).compile().as_text()
  assert hlo_counts.count(text).kernels >= 1


@pytest.mark.parametrize('stride', [1, 2])
def test_derivatives_of_any_order_take_as_much(stride):
  """Twice the forward pass more for each of both; whatever form they have."""
  images = jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 3, 5), np.float32)
  def forward(images, kernel):
    return jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), [(1, 1)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  def size(images, kernel):
    return (forward(images, kernel) ** 2).sum()
  once = 2 * 2 * (8 // stride) ** 2 * 9 * 3 * 5
  def work(function):
    return hlo_counts.useful_flops(function, images, kernel)
  assert work(forward) == once
  assert work(jax.grad(size, 1)) == 2 * once  # the images' is not asked for
  assert work(jax.grad(size, (0, 1))) == 3 * once
  def second(images, kernel):
    return (jax.grad(size, 1)(images, kernel) ** 2).sum()
  # Forward twice, the gradient, and what its two factors do to the images.
  assert work(jax.grad(second)) >= 4 * once
  if stride == 1:
    assert hlo_counts.traced_flops(
        jax.grad(second), images, kernel) > work(jax.grad(second))
