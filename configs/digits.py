r"""scikit-learn's digits (8x8): DASM on IDC, no download, two minutes on a CPU.

  python -m dasm_jax.main --config=configs/digits.py

Arguments: ipc, method (idc, dc, dsa, dsac, dm, cafe, sre2l, mtt, ftd, tesla,
datm; or a coreset: aligned, random, herding, …), segments (0: two; 1: the plain
method), network (convnet), seed. Expected result: see RESULTS.md.
"""

from dasm_jax import config

# What is not as the method's defaults, which are made for larger images.
DC = {'method.inner': 50, 'method.net_steps': 10}
EXPERTS = {'method.student_steps': 10, 'method.last_epoch': 9,
           'method.lr': 100.0, 'method.lr_start': 0.02, 'method.steps': 300,
           'experts.number': 5, 'experts.epochs': 20, 'experts.lr': 0.02,
           'experts.batch': 64}
OWN = {
    'idc': {'method.inner': 50, 'method.net_steps': 8, 'method.lr': 5e-3},
    'dc': DC, 'dsa': DC, 'dsac': DC,
    'mtt': EXPERTS, 'ftd': EXPERTS | {'experts.rho': 0.01,
                                      'experts.alpha': 0.3},
    'tesla': EXPERTS, 'datm': EXPERTS}


def get_config(text=''):
  """The configuration for an argument string such as `ipc=1,segments=1`."""
  a = config.arguments(text, ipc=3, method='idc', segments=0,
                       network='', seed=0)
  c = config.defaults(a.method)
  c.seed = a.seed
  c.dataset.name = 'digits'
  config.remove_flips(c)
  c.network.depth = 2
  c.network.width = 32
  config.set_network(c, a.network)
  c.syn.ipc = a.ipc
  c.segments.number = a.segments or c.segments.number
  # To show what DASM does: so few images do as well without (RESULTS.md).
  if c.method.steps and a.ipc > 1 and not a.segments:
    c.segments.number = 2
  c.method.steps = min(c.method.steps, 300)
  # So few images do best when matched together, and with little left out.
  c.segments.match = 'union'
  c.segments.gamma = 0.3
  c.segments.probe_epochs = 60
  c.run.chunk = 25
  c.eval.epochs = 400
  c.update_from_flattened_dict(OWN.get(a.method, {}))
  return c
