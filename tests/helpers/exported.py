"""Small distilled sets of every kind, as the command `convert` opens them."""

import functools
import json

import numpy as np

from dasm_jax import config, synthetic
from dasm_jax.evaluate import saved_set
from dasm_jax.evaluate.exported import folders
from dasm_jax.training import recipes
from dasm_jax.transforms import zca
from dasm_jax.types import SoftLabelled, Synthetic

# space, factor, formation, channels, kind of labels, whitened?
KINDS = {
    'plain': ('pixels', 1, 'single', 1, 'hard', False),
    'packed': ('pixels', 2, 'single', 3, 'hard', False),
    'multi': ('pixels', 3, 'multi', 1, 'soft', False),
    'normalised': ('normalised', 2, 'single', 3, 'soft', False),
    'whitened': ('normalised', 1, 'single', 3, 'hard', True),
    'whitened_pixels': ('pixels', 2, 'single', 3, 'soft', True),
    'told': ('pixels', 2, 'single', 1, 'told', False)}
NAMES = ('crane', 'a/b: "ä"', 'Crane')
IPC, SIDES = 2, (7, 5)


@functools.cache
def source(kind):
  """The `folders.Source` of one of `KINDS`."""
  space, factor, formation, channels, labels, whitened = KINDS[kind]
  rng = np.random.default_rng(0)
  shape = (len(NAMES), IPC, *SIDES, channels)
  images = rng.uniform(0, 1, shape).astype(np.float32)
  one_hot = np.broadcast_to(np.eye(3, dtype=np.float32)[:, None], (3, IPC, 3))
  whitening = zca.fit(rng.uniform(0, 1, (40, *shape[2:]))) if whitened else None
  codec = synthetic.codec(
      (.4, .5, .6)[:channels], (.2, .25, .3)[:channels], space=space,
      factor=factor, kind=formation, shape=shape[2:], whitening=whitening)
  if space == 'normalised':
    images = np.asarray(synthetic.normalise_pixels(
        codec, images.reshape(-1, *shape[2:]))).reshape(shape)
  soft = rng.dirichlet(np.ones(3), (3, IPC)).astype(np.float32)
  syn = Synthetic(images, soft if labels == 'soft' else one_hot, np.float32(.1))
  logits = None
  if labels == 'told':
    count = len(synthetic.training_inputs(codec, syn)[1])
    logits = SoftLabelled(None, None, rng.normal(size=(4, count, 3)).astype(
        np.float16), np.uint32(5), np.float32(2))
  c = config.defaults('idc')
  arrays, written = saved_set.to_arrays(syn, codec, NAMES, {
      'dataset': 'cranes', 'method': 'idc', 'ipc': IPC,
      'data': {'name': 'folder:/nowhere/cranes', 'size': 0, 'holdout': 0.0,
               'seed': 0},
      'network': c.network.to_dict(),
      'recipe': recipes.idc_recipe(30)._asdict(), 'recipe_name': 'idc',
      'real_lr': .01, 'segment_images': [1, 1], 'accuracy': {
          'synthetic': {'mean': .75, 'std': .01, 'networks': [.74, .76]}},
      'storage': {'space': space, 'factor': factor, 'formation': formation,
                  'zca': .1 * whitened}, 'split': '9 test images'},
      logits)
  return folders.from_arrays(arrays, json.loads(json.dumps(written)), 'a test',
                             'mend it')


def order_of_code(kind):
  """Which rows of `SavedSet.batch` the code of a page leaves, in its order.

  The batch is class after class; the code cuts out the same cell of all images.
  """
  _, factor, formation, *_ = KINDS[kind]
  factors = range(1, factor + 1) if formation == 'multi' else [factor]
  rows = [(number, g, cell, image) for number in range(3) for g in factors
          for cell in range(g * g) for image in range(IPC)]
  code = [(number, g, cell, image) for g in factors for cell in range(g * g)
          for number in range(3) for image in range(IPC)]
  return [rows.index(row) for row in code]
