"""Weights in a file: ours come back, PyTorch's by their order, others not."""

import jax
import jax.numpy as jnp
import layout
import numpy as np
import pytest
import toy

from dasm_jax import models
from dasm_jax.errors import UserError
from dasm_jax.training import weights_file

SHAPE = (8, 8, 1)
NETWORKS = {
    'convnet': dict(depth=2, width=4, norm='batch'),
    'resnet': dict(depth=18, widen=1 / 16, norm='batch', variant='imagenet',
                   stem='small')}


def trained(name):
  """A network, and variables of which none are as they begin."""
  network = models.build(name, shape=SHAPE, classes=3, **NETWORKS[name])
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  return network, jax.tree.map(
      lambda x: rng.uniform(.5, 1, x.shape).astype('f4'), shapes)


@pytest.mark.parametrize('name', NETWORKS)
def test_ours_come_back(name, tmp_path):
  network, variables = trained(name)
  weights_file.save(tmp_path / 'w.npz', variables)
  assert [path.name for path in tmp_path.iterdir()] == ['w.npz']
  toy.leaves_equal(weights_file.load(tmp_path / 'w.npz', network, SHAPE),
                   variables)


def pytorch(name):
  """PyTorch's names and shapes of a network, in the order of a state_dict."""
  def norm(at, width):
    return {f'{at}.weight': (width,), f'{at}.bias': (width,),
            f'{at}.running_mean': (width,), f'{at}.running_var': (width,),
            f'{at}.num_batches_tracked': ()}
  if name == 'convnet':
    return {'features.0.weight': (4, 1, 3, 3), 'features.0.bias': (4,),
            **norm('features.1', 4), 'features.4.weight': (4, 4, 3, 3),
            'features.4.bias': (4,), **norm('features.5', 4),
            'classifier.weight': (3, 16), 'classifier.bias': (3,)}
  found = {'module.conv1.weight': (4, 1, 3, 3), **norm('module.bn1', 4)}
  before = 4
  for stage, width in enumerate((4, 8, 16, 32), 1):
    for block in range(2):
      at = f'module.layer{stage}.{block}'
      found |= {f'{at}.conv1.weight': (width, before, 3, 3),
                **norm(f'{at}.bn1', width),
                f'{at}.conv2.weight': (width, width, 3, 3),
                **norm(f'{at}.bn2', width)}
      if before != width:
        found |= {f'{at}.downsample.0.weight': (width, before, 1, 1),
                  **norm(f'{at}.downsample.1', width)}
      before = width
  return found | {'module.fc.weight': (3, 32), 'module.fc.bias': (3,)}


@pytest.mark.parametrize('name', NETWORKS)
def test_pytorch_s_are_taken_in_their_order(name, tmp_path):
  network, _ = trained(name)
  rng = np.random.default_rng(1)
  given = {key: rng.uniform(.5, 1, shape).astype('f4')
           for key, shape in pytorch(name).items()}
  np.savez(tmp_path / 'w.npz', **given)
  got = weights_file.load(tmp_path / 'w.npz', network, SHAPE)
  features = jax.eval_shape(network.features, got, jnp.zeros((1, *SHAPE)))
  maps = [SHAPE, *(x.shape[1:] for x in features)]
  buffers = {key: x for key, x in given.items() if 'running' in key}
  weights = {key: x for key, x in given.items()
             if key not in buffers and 'tracked' not in key}
  want = layout.Layout({key: x.shape for key, x in weights.items()},
                       maps).variables(weights, buffers, jnp.float32)
  toy.leaves_equal(got, want)


@pytest.mark.slow
def test_what_cannot_be_taken(tmp_path):
  network, variables = trained('convnet')
  path = tmp_path / 'w.npz'
  def refusal():
    with pytest.raises(UserError) as caught:
      weights_file.load(path, network, SHAPE)
    assert '\n' not in str(caught.value) and 'w.npz' in str(caught.value)
    return str(caught.value)
  assert 'no file' in refusal()
  path.write_bytes(b'PK')
  assert 'cannot read the weights' in refusal()
  np.savez(path, x=np.array([{}], object))  # a pickle is not opened
  assert 'cannot read the weights' in refusal()
  weights_file.save(path, variables._replace(stats={}))
  assert 'stats/Norm_0/mean is missing, not (4,)' in refusal()
  other = models.build('convnet', shape=SHAPE, classes=4,
                       **NETWORKS['convnet'])
  weights_file.save(path, other.init(jax.random.key(0)))
  assert 'params/Dense_0/bias is (4,), not (3,)' in refusal()
  np.savez(path, **{'features.0.bias': np.zeros(4)})
  assert "'features.0' without a weight" in refusal()
