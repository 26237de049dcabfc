r"""scikit-learn's digits (8x8): DASM on IDC, no download, two minutes on a CPU.

  python -m dasm_jax.main --config=configs/digits.py

Arguments: ipc, method (idc, dc, dsa, …; or a coreset: aligned, random,
herding, …), segments (0: by ipc; 1: the plain method), seed. Expected result:
see RESULTS.md.
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
  c.segments.number = a.segments or c.segments.number
  c.method.steps = min(c.method.steps, 300)
  c.method.inner = 50
  # So few images do best when matched together, and with little left out.
  c.segments.match = 'union'
  c.segments.gamma = 0.3
  c.method.lr = 5e-3 if a.method == 'idc' else 0.1
  c.method.net_steps = 8 if a.method == 'idc' else 10
  c.segments.probe_epochs = 60
  c.run.chunk = 25
  c.eval.epochs = 400
  return c
