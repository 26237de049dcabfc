"""Runs as earlier versions left them."""

import json

from dasm_jax.runtime import records


def forget(workdir, group, key):
  """Takes an entry out of a run's config.json; returns its value."""
  path = workdir / 'config.json'
  tree = json.loads(path.read_text())
  run = records.owner_of(tree)
  del tree[records.FIELD]
  value = tree[group].pop(key)
  records.write(path, 'config', run, tree, indent=2)
  return value
