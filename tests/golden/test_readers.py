"""The readers of fixtures: networks that no published fixture has.

The fixtures are written here, by their formulas (README 4.5, 4.10) in XLA's own
operations and PyTorch's layout.
"""

import json

import golden_groups
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import quick

KEY = jax.random.key(0)
DIMENSIONS = 'NCHW', 'OIHW', 'NCHW'


def weights(rng, depth, width, classes, side):
  """Parameters of a normed ConvNet of halving blocks, in PyTorch's order."""
  shapes, channels = {}, 3
  for d in range(depth):
    shapes |= {f'features.{4 * d}.weight': (width, channels, 3, 3),
               f'features.{4 * d}.bias': (width,),
               f'features.{4 * d + 1}.weight': (width,),
               f'features.{4 * d + 1}.bias': (width,)}
    channels = width
  inputs = width * (side >> depth) ** 2
  shapes |= {'classifier.weight': (classes, inputs),
             'classifier.bias': (classes,)}
  return {name: jnp.asarray(rng.normal(.1, .5, shape).astype('f'), float)
          for name, shape in shapes.items()}


def forward(params, x, depth, groups):
  """`(logits, embedded, [each block's ReLU])` of 2x2 max pooling."""
  blocks = []
  for d in range(depth):
    kernel, scale = (params[f'features.{4 * d + k}.weight'] for k in (0, 1))
    bias, shift = (params[f'features.{4 * d + k}.bias'] for k in (0, 1))
    x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1),) * 2, dimension_numbers=DIMENSIONS)
    x = x + bias[:, None, None]
    split = x.reshape(len(x), groups or len(bias), -1)
    mean, variance = split.mean(2, keepdims=True), split.var(2, keepdims=True)
    x = ((split - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)
    blocks.append(jax.nn.relu(
        x * scale[:, None, None] + shift[:, None, None]))
    x = jax.lax.reduce_window(blocks[-1], -jnp.inf, jax.lax.max, (1, 1, 2, 2),
                              (1, 1, 2, 2), 'VALID')
  flat = x.reshape(len(x), -1)
  return flat @ params['classifier.weight'].T + params[
      'classifier.bias'], flat, blocks


def entropies(logits, labels):
  return -jnp.take_along_axis(
      jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def write(path, params, arrays, **meta):
  np.savez(path, **{f'param/{name}': np.float32(x)
                    for name, x in params.items()},
           param_names=np.array(list(params)),
           meta_json=json.dumps({'repo': 'none', **meta}), **arrays)


def cafe_arrays(params, real, syn, wanted):
  """What a fixture of CAFE holds; wanted: weights from the last map back."""
  classes, labels = 10, jnp.repeat(jnp.arange(10), real.shape[1])

  def all_of(syn):
    logits, flat, blocks = forward(
        params, real.reshape(-1, *real.shape[2:]), 3, 0)
    _, other, others = forward(params, syn, 3, 0)
    def means(x):
      return x.reshape(classes, -1, *x.shape[1:]).mean(1)
    centres = [((means(a) - means(b)) ** 2).sum() for a, b in zip(
        (flat, *blocks[::-1]), (other, *others[::-1]), strict=True)]
    told = flat @ means(other).T
    middle = sum(w * x for w, x in zip(wanted, centres, strict=True))
    apart = entropies(told, labels).sum()
    output = centres[0] + .01 * apart
    own = entropies(logits, labels).mean()
    return middle + output + own, {
        'loss_middle': middle, 'loss_real': own, 'loss_output': output,
        'discrimination_logits': told, 'discrimination_ce_sum': apart,
        'feature_center_mse_sum': centres[0], **{
            f'middle_unweighted/{name}': x for name, x in zip(
                ('third_block_pool', 'third_block_relu', 'second_block_relu',
                 'first_block_relu'), centres, strict=True)}}

  (loss, found), slope = quick(jax.value_and_grad(all_of, has_aux=True))(syn)
  return {'in/images_real': np.float32(real), 'in/images_syn': np.float32(syn),
          'f64/loss': loss, 'f64/grad_images_syn': slope,
          **{f'f64/{name}': x for name, x in found.items()}}


def sdc_arrays(params, x, labels, groups):
  """What a fixture of SDC holds, by gradients of one image after the other."""
  def loss(params, x, labels):
    return entropies(forward(params, x, 1, groups)[0], labels).mean()
  def size(tree):
    return sum((leaf ** 2).sum() for leaf in tree.values())
  gradient = jax.grad(loss)

  def norms(params, x):
    return jnp.sqrt(jnp.stack([
        size(gradient(params, x[k:k + 1], labels[k:k + 1]))
        for k in range(len(x))]))
  penalties = {
      'mean_sample_norm': lambda p, x: norms(p, x).mean(),
      'mean_sample_sqnorm': lambda p, x: (norms(p, x) ** 2).mean(),
      'batch_norm': lambda p, x: jnp.sqrt(size(gradient(p, x, labels))),
      'batch_sqnorm': lambda p, x: size(gradient(p, x, labels))}
  weight = .002

  def all_of(params, x):
    logits = forward(params, x, 1, groups)[0]
    total, slope = jax.value_and_grad(lambda p: loss(
        p, x, labels) + weight * penalties['mean_sample_norm'](p, x))(params)
    out = {'logits': logits, 'losses': entropies(logits, labels),
           'grand': norms(params, x), 'total/value': total,
           'el2n': jnp.sqrt(((jax.nn.softmax(logits) - jax.nn.one_hot(
               labels, 5)) ** 2).sum(1))}
    for name, penalty in penalties.items():
      value, by_x = jax.value_and_grad(penalty, 1)(params, x)
      out |= {f'reg/{name}/value': weight * value,
              f'reg/{name}/grad_x': weight * by_x}
    return out | {f'total/grad_param/{name}': x for name, x in slope.items()}
  return {'in/x': np.float32(x), 'in/labels': np.asarray(labels, int),
          'in/lambda': np.float64(weight), **{
              f'f64/{name}': value for name, value in quick(all_of)(
                  params, x).items()}}


@pytest.fixture
def rng():
  with jax.enable_x64(True):
    yield np.random.default_rng(0)


def images(rng, *shape):
  """As files hold them: in float32."""
  return jnp.asarray(rng.normal(size=shape).astype('f'), float)


def test_cafe_with_max_pooling(rng, tmp_path):
  params = weights(rng, 3, 4, 10, 8)
  wanted = {'first_weight': 1., 'second_weight': .5, 'third_weight': .2,
            'fourth_weight': .1}
  arrays = cafe_arrays(params, images(rng, 10, 2, 3, 8, 8),
                       images(rng, 10, 3, 8, 8), wanted.values())
  path = tmp_path / 'cafe_step_max.npz'
  write(path, params, arrays, batch_real=2, ipc=1, net_depth=3, net_width=4,
        num_classes=10, pool='maxpooling',
        weights=wanted | {'inner_weight': .01})
  assert len(golden_groups.check(path, 64)) == len(arrays) - 2


def test_sdc_with_group_norm_and_max_pooling(rng, tmp_path):
  params = weights(rng, 1, 8, 5, 4)
  arrays = sdc_arrays(params, images(rng, 2, 3, 4, 4), jnp.array([4, 0]), 4)
  path = tmp_path / 'sdc_gn_max.npz'
  write(path, params, arrays, depth=1, width=8, norm='groupnorm', lam=.002,
        n=2, nclass=5, shape=[3, 4, 4], pool='maxpooling')
  assert len(golden_groups.check(path, 64)) == len(arrays) - 3
