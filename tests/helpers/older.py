"""Runs as earlier versions left them."""

import json

from dasm_jax.runtime import records


def _change(workdir, change):
  """Writes config.json with what `change(settings)` did to it; its value."""
  path = workdir / 'config.json'
  tree = json.loads(path.read_text())
  run = records.owner_of(tree)
  del tree[records.FIELD]
  value = change(tree)
  records.write(path, 'config', run, tree, indent=2)
  return value


def forget(workdir, group, key):
  """Takes an entry out of a run's config.json; returns its value."""
  return _change(workdir, lambda tree: tree[group].pop(key))


def said(workdir, group, **entries):
  """Has a run's config.json say other values."""
  _change(workdir, lambda tree: tree[group].update(entries))
