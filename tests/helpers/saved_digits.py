"""Saved sets of digits that no run has made."""

import jax.numpy as jnp
import numpy as np

from dasm_jax import config
from dasm_jax.distill import results, setup
from dasm_jax.evaluate import saved_set
from dasm_jax.types import Synthetic


def save(path, ipc=2, space='pixels', seed=0, **entries):
  """Writes one of random images, of IDC's settings but for `entries`."""
  c = config.defaults('idc')
  c.dataset.name, c.syn.ipc, c.seed = 'digits', ipc, seed
  c.network.depth, c.network.width, c.syn.space = 2, 4, space
  c.syn.factor, c.segments.number, c.method.batch = 2, 1, 8
  c.eval.recipe, c.eval.augment = 'dc', ''
  c.update_from_flattened_dict(entries)
  experiment = setup.build(c)
  labels = np.broadcast_to(np.eye(10)[:, None], (10, ipc, 10))
  images = np.random.default_rng(seed).uniform(size=(10, ipc, 8, 8, 1))
  syn = Synthetic(jnp.asarray(images, jnp.float32), jnp.asarray(labels), .01)
  path.parent.mkdir(parents=True, exist_ok=True)
  saved_set.save(path, syn, experiment.codec, experiment.dataset.class_names,
                 results.card(experiment, syn, {}))
  return syn
