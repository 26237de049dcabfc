r"""CIFAR-10: DASM on IDC.

  python -m dasm_jax.main --config=configs/cifar10.py:ipc=10,method=idc

Arguments: ipc, method (a row of dasm_jax.methods.METHODS), segments (0: by
ipc, 1: the plain method), factor (IDC's multi-formation; 2 is published),
schedule (published, or short: some 30 minutes on two CPU cores), seed.

Published, ConvNet-3 (IDC README; DC, DSA papers), ipc 1 / 10 / 50:
IDC factor 2: 50.6 / 67.5 / 74.5; IDC factor 1: 36.7 / 58.3 / 69.5;
DC: 28.3 / 44.9 / 53.9; DSA: 28.8 / 52.1 / 60.6. Measured: RESULTS.md.
"""

from dasm_jax import config


def get_config(text=''):
  """The configuration for an argument string such as `ipc=1,method=dc`."""
  a = config.arguments(text, ipc=10, method='idc', segments=0, factor=0,
                       schedule='published', seed=0)
  return config.published(a, name='cifar10', size=32, idc=dict(
      distance='mse', lr=5e-3, base_size=32, net_steps=32, short_lr=5e-2))
