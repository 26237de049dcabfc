r"""MNIST: DASM on IDC.

  python -m dasm_jax.main --config=configs/mnist.py:ipc=10,method=idc

Arguments: ipc, method (a row of dasm_jax.methods.METHODS), segments (0: by
ipc, 1: the plain method), factor (IDC's multi-formation; 2 is published),
schedule (published, or short: some 30 minutes on two CPU cores), seed.

Published, ConvNet-3 (IDC README; DC, DSA papers), ipc 1 / 10 / 50:
IDC factor 2: 94.2 / 98.4 / 99.1; IDC factor 1: 88.9 / 98.0 / 98.8;
DC: 91.7 / 97.4 / 98.8; DSA: 88.7 / 97.8 / 99.2. Measured: RESULTS.md.
"""

from dasm_jax import config


def get_config(text=''):
  """The configuration for an argument string such as `ipc=1,method=dc`."""
  a = config.arguments(text, ipc=10, method='idc', segments=0, factor=0,
                       schedule='published', seed=0)
  c = config.published(a, name='mnist', size=28, idc=dict(
      distance='l1', lr=1e-4, base_size=28, net_steps=8, short_lr=3e-3))
  if a.method == 'dc':
    # The reference's own augmentation, for MNIST alone.
    c.eval.augment = 'jitter'
    if a.schedule == 'published':
      c.eval.epochs = 1000
  if a.method == 'idc' and c.syn.factor > 1:
    # As published: the box would hide whole cells of a digit.
    c.method.augment = 'color_crop'
    c.method.net_cutmix = 0.0
    c.eval.cutmix = 0.0
  return c
