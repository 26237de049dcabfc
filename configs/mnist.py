r"""MNIST: DASM on IDC, and the trajectory methods.

  python -m dasm_jax.main --config=configs/mnist.py:ipc=10,method=idc

Arguments: ipc, method (idc, dc, dsa, dsac, dm, cafe, sre2l, mtt, ftd, tesla,
datm; or a coreset: aligned, random, herding, …), segments (0: by ipc, 1: the
plain method), factor (IDC's multi-formation; 2 is published), schedule
(published, or short: some 30 minutes on two CPU cores), network (another than
the published), seed.

Published, ConvNet-3 (IDC README; DC, DSA papers), ipc 1 / 10 / 50:
IDC factor 2: 94.2 / 98.4 / 99.1; IDC factor 1: 88.9 / 98.0 / 98.8;
DC: 91.7 / 97.4 / 98.8; DSA: 88.7 / 97.8 / 99.2; DM: 89.7 /
97.5 / 98.6; CAFE: 93.1 / 97.2 / 98.6; herding: 89.2 / 93.7 / 94.8; random: 64.9
/ 95.1 / 97.9; all: 99.6. Trajectory methods published no settings: they have
CIFAR-10's of the nearest ipc, without whitening. Measured: RESULTS.md.
"""

from dasm_jax.config import files, small_images, trajectories

TRAJECTORIES = trajectories.without_whitening(
    files.beside(__file__, 'cifar10')['TRAJECTORIES'])


def get_config(text=''):
  """The configuration for an argument string such as `ipc=1,method=dc`."""
  a = small_images.arguments(text)
  c = small_images.settings(a, name='mnist', size=28, idc=dict(
      distance='l1', lr=1e-4, base_size=28, net_steps=8, short_lr=3e-3),
      trajectories=TRAJECTORIES)
  if a.method in ('dc', 'cafe'):
    # Their programs' own augmentation, for MNIST alone, and its epochs.
    c.eval.augment = 'jitter'
    if a.schedule == 'published':
      c.eval.epochs = 1000
  if a.method == 'idc' and c.syn.factor > 1:
    # As published: the box would hide whole cells of a digit.
    c.method.augment = 'color_crop'
    c.method.net_cutmix = 0.0
  if c.eval.recipe == 'idc' and c.syn.factor > 1:
    c.eval.cutmix = 0.0
  return c
