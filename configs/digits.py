r"""scikit-learn's digits (8x8): DASM on IDC, no download, two minutes on a CPU.

  python -m dasm_jax.main --config=configs/digits.py

Arguments: ipc, method (a row of dasm_jax.methods.METHODS), segments (0: by
ipc; 1: the plain method), seed. Expected result: see RESULTS.md.
"""

from dasm_jax import config


def get_config(text=''):
  """The configuration for an argument string such as `ipc=1,segments=1`."""
  a = config.arguments(text, ipc=3, method='idc', segments=0, seed=0)
  c = config.defaults(a.method)
  c.seed = a.seed
  c.dataset.name = 'digits'
  config.unflip(c)
  c.network.depth = 2
  c.network.width = 32
  c.syn.ipc = a.ipc
  c.segments.number = a.segments
  c.method.steps = 300
  # So few images do best when matched together, and with little left out.
  c.segments.match = 'union'
  c.segments.gamma = 0.3
  if a.method not in config.SINGLE:  # the others' loops are their own
    c.method.inner = 50
    c.method.lr = 5e-3 if a.method == 'idc' else 0.1
    c.method.net_steps = 8 if a.method == 'idc' else 10
  c.segments.probe_epochs = 60
  c.run.chunk = 25
  c.eval.epochs = 400
  return c
