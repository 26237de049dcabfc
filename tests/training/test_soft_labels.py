"""TESLA's labels: what the expert of a step makes of the images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from dasm_jax import synthetic
from dasm_jax.errors import UserError
from dasm_jax.methods import registry
from dasm_jax.training import experts, soft_labels
from dasm_jax.types import Synthetic

pytestmark = pytest.mark.usefixtures('quick_compiler')


def by_hand(made, state, factor):
  """One expert, all images, cells of a stored image together."""
  network = toy.network()
  expert = experts.flat_parameters(network)[1](made.data.target[0])
  codec = synthetic.codec((.5,), (.3,), space='normalised', factor=factor,
                          shape=(8, 8, 1))
  rows = []
  for images in state.learned.images:
    logits = np.asarray(network.apply(
        expert, synthetic.decode(codec, images), train=True)[0], np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    rows.append(shares.reshape(factor ** 2, len(images), -1).mean(0))
  return np.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize('factor', [1, 2])
def test_labels_are_the_experts(factor):
  made = toy.toy('tesla', assign=True, factor=factor)
  plain = toy.toy('tesla', factor=factor)
  want = by_hand(made, made.state, factor)
  assert abs(want - np.asarray(made.state.syn.labels)).max() > .1
  step = jax.jit(lambda state: toy.step(made, made.method, state))
  after, _ = step(made.state)
  np.testing.assert_allclose(after.syn.labels, want, atol=1e-5)
  # Its student has learned these, and the images have moved by them.
  same = made.state._replace(syn=made.state.syn._replace(
      labels=jnp.asarray(want, 'float32')))
  other, _ = jax.jit(lambda state: toy.step(plain, plain.method, state))(same)
  toy.leaves_close(after.learned.images, other.learned.images,
                   rtol=1e-4, atol=1e-5)
  # And they follow the images.
  last, _ = step(after)
  np.testing.assert_allclose(last.syn.labels, by_hand(made, after, factor),
                             atol=1e-5)


@pytest.mark.slow
def test_labels_of_images_that_are_held_stay():
  made = toy.toy('tesla', assign=True, moving=1)
  after, _ = jax.jit(lambda state: toy.step(made, made.method, state))(
      made.state)
  moved = np.abs(after.syn.labels - made.state.syn.labels).max((0, 2))
  assert moved[0] > .1 and moved[1] == 0


def test_every_image_is_told_however_many_are_matched():
  whole = synthetic.codec((.5,), (.3,), space='normalised', factor=2,
                          shape=(8, 8, 1))
  syn = Synthetic(jax.random.normal(jax.random.key(0), (3, 4, 8, 8, 1)),
                  jnp.full((3, 4, 3), 1 / 3), jnp.float32(0))
  def logits(params, images):
    return images[:, :3, 0, 0] * params
  one, other = (soft_labels.assigned_labels(logits, codec)(2., syn)
                for codec in (whole, whole._replace(kind='bound', bound=9)))
  np.testing.assert_array_equal(one, other)


def test_one_way_to_have_soft_labels():
  with pytest.raises(UserError, match='assign and .lr_label are two ways'):
    registry.check_method(toy.settings('datm', assign=True))
