"""Formulas against arrays that are written out by hand."""

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
import toy

from dasm_jax import losses
from dasm_jax.errors import UserError

pytestmark = pytest.mark.usefixtures('quick_compiler')
LOG = np.log


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7)


def test_cross_entropy():
  logits = jnp.log(jnp.array([[.5, .25, .25], [.1, .1, .8]]))
  labels = jnp.array([[1., 0, 0], [0, .5, .5]])
  want = (LOG(2) - .5 * LOG(.1) - .5 * LOG(.8)) / 2
  close(losses.cross_entropy(logits, labels), want)
  # A soft label's own entropy is the least there is.
  close(losses.soft_cross_entropy(logits, logits),
        (.5 * LOG(2) + .5 * LOG(4) - .2 * LOG(.1) - .8 * LOG(.8)) / 2)
  assert np.isfinite(losses.cross_entropy(jnp.array([[1e4, -1e4]]),
                                          jnp.array([[0., 1]])))


def test_class_numbers_are_no_labels():
  with pytest.raises(UserError, match=r'one_hot\(numbers, 3\)'):
    losses.cross_entropy(jnp.ones((3, 3)), jnp.arange(3))


def test_soft_losses():
  logits, target = jnp.array([[0., 0]]), jnp.log(jnp.array([[.9, .1]]))
  close(losses.kl(logits, target), .9 * LOG(1.8) + .1 * LOG(.2))
  half = jnp.array([3., 1.]) / 4  # softmax of log([9, 1]) / 2
  close(losses.kl(logits, target, 2.0),
        half[0] * LOG(1.5) + half[1] * LOG(.5))
  close(losses.soft_cross_entropy(logits, target, 2.0), LOG(2))
  assert not np.asarray(jax.grad(losses.kl, 1)(logits, target)).any()
  assert np.asarray(jax.grad(losses.soft_cross_entropy, 1)(
      jnp.array([[1., 0]]), target)).any()


def test_mse_of_logits():
  a, b = jnp.array([[1., 2]]), jnp.array([[3., 2]])
  close(losses.mse_logits(a, b), 2)
  label = jnp.array([[0., 1]])
  close(losses.mse_logits(a, b, label, .1),
        2 + .1 * losses.cross_entropy(a, label))


A = {'kernel': jnp.array([[3., 0, 1], [4, 0, 0]]), 'bias': jnp.array([2., 0])}
B = {'kernel': jnp.array([[4., 1, -2], [3, 1, 0]]),
     'bias': jnp.array([-1., 0])}
BY_HAND = {
    # Rows are output units: columns of the kernel, entries of the bias.
    'layerwise_cosine': (1 - 24 / 25) + 1 + 2 + (2 + 1),
    'mse': 1 + 1 + 1 + 1 + 9 + 9,
    'l1': 1 + 1 + 1 + 1 + 3 + 3,
    'l1_mean': (1 + 1) / 2 + (1 + 1) / 2 + 3 / 2 + 3,
    'cosine': 1 - (24 - 2 - 2) / np.sqrt(30 * 32),
}


@pytest.mark.parametrize('name', losses.DISTANCES)
def test_distances_by_hand(name):
  function = losses.distance(name)
  np.testing.assert_allclose(function(A, B), BY_HAND[name], rtol=1e-5)
  same = function(B, B)
  # Rows of zeros have no direction: each counts one.
  np.testing.assert_allclose(
      same, 1 if name == 'layerwise_cosine' else 0, atol=1e-5)


@pytest.mark.parametrize('name', lanes.slow(
    ['layerwise_cosine'], losses.DISTANCES))
def test_dead_filters_have_a_gradient(name):
  zero = jax.tree.map(jnp.zeros_like, A)
  for a, b in ((zero, B), (A, zero), (zero, zero), (A, A)):
    for of in (0, 1):
      slope = jax.grad(losses.distance(name), of)(a, b)
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))
  # And so has the second derivative, which matching takes through norms.
  def twice(scale):
    return jax.grad(lambda s: losses.distance(name)(
        jax.tree.map(lambda x: s * x, zero), B))(scale)
  assert np.isfinite(jax.grad(twice)(1.0))


def test_l1_rests_where_equal():
  a, b = jnp.array([1., 2, 3]), jnp.array([1., 5, 0])
  for function in (losses.l1, losses.l1_mean):
    np.testing.assert_array_equal(jax.grad(function)(a, b), [0, -1, 1])


def test_norms():
  x = jnp.array([[3., 4], [0, 0]])
  close(losses.norm(x), 5)
  close(losses.norm(x, axis=1), [5, 0])
  slope = jax.grad(lambda x: losses.norm(x, axis=1).sum())(x)
  close(slope, [[.6, .8], [0, 0]])
  close(losses.tree_norm({'a': x, 'b': jnp.array([12.])}), 13)
  nothing = jax.tree.map(jnp.zeros_like, A)
  toward = jax.grad(losses.tree_norm)(nothing)
  assert all(not x.any() for x in jax.tree.leaves(toward))


@pytest.mark.parametrize('name', [*losses.DISTANCES, 'tree_norm'])
@pytest.mark.parametrize('dtype', lanes.slow(['bfloat16'], [
    'bfloat16', 'float32']))
def test_types_are_kept(name, dtype):
  a, b = (jax.tree.map(lambda x: x.astype(dtype), x) for x in (A, B))
  got = (losses.tree_norm(a) if name == 'tree_norm'
         else losses.distance(name)(a, b))
  assert got.dtype == jnp.dtype(dtype) and got.shape == ()


def test_select():
  tree = [jnp.zeros((2,) * n) for n in (1, 2, 3, 4)]
  assert [x.ndim for x in losses.select(tree, (2, 4))] == [2, 4]
  assert [x.ndim for x in losses.select(tree)] == [1, 2, 3, 4]


# ---- Layouts


def torch_lists(name):
  """Gradients of a published program's weights, in PyTorch's layout."""
  path = toy.ROOT / f'tests/golden/fixtures/{name}.npz'
  with np.load(path, allow_pickle=False) as file:
    keys = sorted(key for key in file if key.startswith('in/gw_syn/'))
    return ([jnp.asarray(file[key]) for key in keys],
            [jnp.asarray(file[key.replace('syn', 'real')]) for key in keys],
            {key: file[key] for key in file if key.startswith('f32/ours/')},
            [key[-2:] for key in keys])


@pytest.mark.parametrize('name', [
    'dc_match_loss', 'dc_match_loss_zero_rows'])
def test_published_distance_in_its_own_layout(name):
  syn, real, want, numbers = torch_lists(name)
  kept = [k for k, x in enumerate(syn) if x.ndim > 1]
  def value(syn, real):
    return losses.layerwise_cosine(
        [syn[k] for k in kept], [real[k] for k in kept], layout='OIHW')
  got, slopes = jax.value_and_grad(value)(syn, real)
  np.testing.assert_allclose(got, want['f32/ours/loss'], rtol=1e-5)
  for number, slope in zip(numbers, slopes, strict=True):
    expected = want[f'f32/ours/grad_syn/{number}']
    np.testing.assert_allclose(
        slope, expected, atol=1e-4 * max(abs(expected).max(), 1e-3))


def equinox_like(tree):
  """PyTorch's lists as equinox has them: convolutions' biases `[c, 1, 1]`."""
  return [x[:, None, None] if x.ndim == 1 and k < 6 else x
          for k, x in enumerate(tree)]


def test_equinox_biases_are_no_kernels():
  syn, real, want, _ = torch_lists('dc_match_loss')
  a, b = (losses.select(equinox_like(x), (2, 3, 4), 'OIHW')
          for x in (syn, real))
  assert [x.shape for x in a] == [
      (3, 3, 3, 8), (8, 3, 3, 8), (4, 4, 8), (4, 4, 8), (32, 5)]
  np.testing.assert_allclose(
      losses.layerwise_cosine(a, b), want['f32/ours/loss'], rtol=1e-5)
  # And they are what is meant by one dimension.
  assert len(losses.select(equinox_like(syn), (1,), 'OIHW')) == 5
  scale = jnp.ones((1, 1, 1, 8))  # haiku's batch norm
  assert not losses.select(scale, (2, 3, 4)) and losses.select(scale, (1,))
  # A linear layer of one input is one: PyTorch counts it.
  assert losses.select(jnp.ones((8, 1)), (2,), 'OIHW')


@pytest.mark.parametrize('name', losses.DISTANCES)
def test_distances_in_other_layouts(name):
  moved = [{'weight': x['kernel'].T, 'bias': x['bias']} for x in (A, B)]
  function = losses.distance(name)
  if name in ('layerwise_cosine', 'l1_mean'):
    close(function(*moved, layout='OIHW'), function(A, B))
    assert abs(function(*moved) - function(A, B)) > .1
    with pytest.raises(UserError, match="'NCHW'; choose from HWIO, OIHW"):
      function(*moved, layout='NCHW')
  else:
    close(function(*moved), function(A, B))


def test_unknown_distance():
  with pytest.raises(UserError, match="'cos'; choose from cosine, l1, l1_mea"):
    losses.distance('cos')
