"""Every network against its layers written out in NumPy, in float64.

ResNet and ResNet-AP have theirs in test_resnet, which asks more of them.
"""

import functools
import math

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import pytest
from golden_files import quick

from dasm_jax import models
from dasm_jax.models import resnet

SIDES = 32, 48, 80, 128, 224
# Of these sides, those that the released networks take: others do not fit their
# classifiers. See `test_the_last_average_is_of_the_whole_map`.
RELEASED = {'alexnet': [32], 'convnet': SIDES, 'densenet': [32, 48],
            'lenet': [32], 'mlp': [32], 'resnet18': [32, 48],
            'resnet18_ap': [32], 'vgg11': [32, 48]}
# Narrow, and of few blocks where those are alike.
SMALL = {
    'alexnet': {'widen': 1 / 32},
    'convnet': {'width': 4},
    'densenet': {'blocks': (1, 2, 1, 1), 'growth': 4},
    'lenet': {},
    'mlp': {'width': 8},
    'resnet18': {'widen': 1 / 32},
    'resnet18_ap': {'widen': 1 / 32},
    'vgg11': {'widen': 1 / 32},
    'vit': {'width': 4, 'depth': 1, 'heads': 2, 'patch': 16},
}


class Layers:
  """The layers of a network, each with the next of its parameters."""

  def __init__(self, variables):
    self.params, self.stats = variables
    self.seen = dict.fromkeys(('Conv', 'Dense', 'Norm', 'LayerNorm'), 0)

  def next(self, kind):
    """The name of the next layer of a kind."""
    self.seen[kind] += 1
    return f'{kind}_{self.seen[kind] - 1}'

  def conv(self, x, padding, stride=1):
    """Zeros of `padding` on each side."""
    leaves = self.params[self.next('Conv')]
    k = len(leaves['kernel'])
    x = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
    x = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))
    x = np.tensordot(x[:, ::stride, ::stride], leaves['kernel'],
                     ((4, 5, 3), (0, 1, 2)))
    return x + leaves.get('bias', 0)

  def dense(self, x):
    """Of the last axis."""
    leaves = self.params[self.next('Dense')]
    return x @ leaves['kernel'] + leaves['bias']

  def norm(self, x):
    """Batch norm by its running averages where it has some, else instance."""
    name = self.next('Norm')
    stats = self.stats.get(name) or {
        'mean': x.mean((1, 2), keepdims=True),
        'var': x.var((1, 2), keepdims=True)}
    x = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
    return x * self.params[name]['scale'] + self.params[name]['bias']

  def layer_norm(self, x):
    """Of the last axis."""
    leaves = self.params[self.next('LayerNorm')]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
        x.var(-1, keepdims=True) + 1e-5)
    return x * leaves['scale'] + leaves['bias']


def relu(x):
  return np.maximum(x, 0)


def pool(x, of, side=2):
  """Windows side by side; what is left over is dropped."""
  n, height, width, c = x.shape
  x = x[:, :height // side * side, :width // side * side]
  return of(x.reshape(
      n, height // side, side, width // side, side, c), (2, 4))


def flat(x):
  return x.reshape(len(x), -1)


def padding(x, gray, other):
  """Of the first convolution: MNIST's images are made 32x32 by it."""
  return gray if x.shape[1:] == (28, 28, 1) else other


def convnet(net, x):
  for d in range(3):
    pad = 1 if d else padding(x, 3, 1)
    x = pool(relu(net.norm(net.conv(x, pad))), np.mean)
  return net.dense(flat(x))


def alexnet(net, x):
  x = pool(relu(net.conv(x, padding(x, 4, 2))), np.max)
  x = pool(relu(net.conv(x, 2)), np.max)
  for _ in range(3):
    x = relu(net.conv(x, 1))
  return net.dense(flat(pool(x, np.max)))


def vgg11(net, x):
  for convolutions in (1, 1, 2, 2, 2):
    for _ in range(convolutions):
      x = relu(net.norm(net.conv(x, padding(x, 3, 1))))
    x = pool(x, np.max)
  return net.dense(flat(x))


def lenet(net, x):
  for _ in range(2):
    x = pool(relu(net.conv(x, padding(x, 2, 0))), np.max)
  return net.dense(relu(net.dense(relu(net.dense(flat(x))))))


def mlp(net, x):
  return net.dense(relu(net.dense(relu(net.dense(flat(x))))))


def densenet(net, x, last=None):
  """last: the side of the last pooling's window; None is the whole map."""
  x = net.conv(x, 1)
  for stage, blocks in enumerate((1, 2, 1, 1)):
    if stage:
      x = pool(net.conv(relu(net.norm(x)), 0), np.mean)
    for _ in range(blocks):
      new = net.conv(relu(net.norm(x)), 0)
      new = net.conv(relu(net.norm(new)), 1)
      x = np.concatenate([new, x], -1)
  x = relu(net.norm(x))
  return net.dense(flat(pool(x, np.mean, last or x.shape[1])))


def block(net, x, halve, pooled):
  stride = 2 if halve and not pooled else 1
  def rest(x):
    return pool(x, np.mean) if halve and pooled else x
  out = rest(relu(net.norm(net.conv(x, 1, stride))))
  out = net.norm(net.conv(out, 1))
  if halve:
    # As released: the convolution, then the pooling, then the norm.
    x = net.norm(rest(net.conv(x, 0, stride)))
  return relu(out + x)


def resnet18(net, x, pooled=False, last=None):
  """last: see `densenet`."""
  x = relu(net.norm(net.conv(x, 1)))
  for stage in range(4):
    x = block(net, x, stage > 0, pooled)
  if not pooled:
    x = pool(x, np.mean, last or x.shape[1])
  return net.dense(flat(x))


resnet18_ap = functools.partial(resnet18, pooled=True)


def vit(net, x):
  n, side, patch, heads = len(x), x.shape[1] // 16, 16, 2
  x = x.reshape(n, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
  x = net.dense(x.reshape(n, side * side, -1)) + net.params['positions']
  q, k, v = np.split(net.dense(net.layer_norm(x)), 3, -1)
  out = []
  for head in np.split(np.arange(x.shape[-1]), heads):
    scores = q[..., head] @ k[..., head].transpose(0, 2, 1)
    scores = np.exp(scores / math.sqrt(len(head)))
    out.append(scores / scores.sum(-1, keepdims=True) @ v[..., head])
  x = x + net.dense(np.concatenate(out, -1))
  hidden = net.dense(net.layer_norm(x))
  erf = np.vectorize(math.erf)
  x = x + net.dense(hidden * (1 + erf(hidden / math.sqrt(2))) / 2)
  return net.dense(net.layer_norm(x).mean(1))


WRITTEN_OUT = {
    'alexnet': alexnet, 'convnet': convnet, 'densenet': densenet,
    'lenet': lenet, 'mlp': mlp, 'resnet18': resnet18,
    'resnet18_ap': resnet18_ap, 'vgg11': vgg11, 'vit': vit}


def test_no_network_is_left_out():
  assert {*WRITTEN_OUT, *resnet.STEMS} == set(models.MODELS)


def built(name, side, channels=3, **settings):
  module = models.MODELS[name](
      (side, side, channels), 5, **SMALL[name] | settings)
  if isinstance(module, resnet.ResNet):
    module = module.clone(blocks=(1, 1, 1, 1))
  return models.pure(module, (side, side, channels))


def drawn(network, side, channels=3):
  """Variables and images in float64, nothing in them 0 or 1."""
  rng = np.random.default_rng(side)
  def draw(x):
    return rng.uniform(.5, 1.5, x.shape) * rng.choice([-1, 1], x.shape) / (
        math.sqrt(math.prod(x.shape[:-1])))
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  variables = shapes._replace(
      params=jax.tree.map(draw, shapes.params),
      stats=jax.tree.map(lambda x: rng.uniform(.5, 1.5, x.shape),
                         shapes.stats))
  return variables, rng.normal(size=(1, side, side, channels))


def logits(network, variables, images):
  with jax.enable_x64(True):
    return np.asarray(quick(lambda *given: network.apply(*given)[0])(
        jax.tree.map(jnp.asarray, variables), jnp.asarray(images)))


def agrees(name, side, channels=3):
  network = built(name, side, channels)
  variables, images = drawn(network, side, channels)
  want = WRITTEN_OUT[name](Layers(variables), images)
  np.testing.assert_allclose(
      logits(network, variables, images), want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('side', lanes.slow_but([48], SIDES))
@pytest.mark.parametrize('name', WRITTEN_OUT)
def test_logits(name, side):
  agrees(name, side)


@pytest.mark.slow
@pytest.mark.parametrize('name', [
    'alexnet', 'convnet', 'lenet', 'mlp', 'resnet18', 'resnet18_ap', 'vgg11'])
def test_logits_of_mnist(name):
  agrees(name, 28, 1)


@pytest.mark.parametrize('name', [
    'alexnet', 'convnet', 'lenet', 'mlp', 'resnet18_ap', 'vgg11'])
def test_classifiers_fit_the_map(name):
  """The released ones have one size, that of 32 pixels, but for ConvNet."""
  def inputs(side):
    shapes = jax.eval_shape(built(name, side).init, jax.random.key(0))
    return shapes.params['Dense_0']['kernel'].shape[0]
  sizes = {side: inputs(side) for side in SIDES}
  if name == 'convnet':
    assert sizes == {side: 4 * (side // 8) ** 2 for side in SIDES}
  else:
    assert RELEASED[name] == [
        side for side in SIDES if sizes[side] == sizes[32]]


@pytest.mark.parametrize('name', ['densenet', 'resnet18'])
def test_the_last_average_is_of_the_whole_map(name):
  """The released one is over 4x4: at 48 pixels over the first of 6x6."""
  for side in (32, 48, 80):
    variables, images = drawn(built(name, side), side)
    run = functools.partial(WRITTEN_OUT[name], Layers(variables), images)
    if side in RELEASED[name]:
      close = np.allclose(run(), WRITTEN_OUT[name](
          Layers(variables), images, last=4), rtol=1e-9)
      assert close == (side == 32)
    else:
      with pytest.raises(ValueError, match='matmul'):
        run(last=4)
