r"""FashionMNIST: DASM on IDC, and the trajectory methods.

  python -m dasm_jax.main --config=configs/fashion_mnist.py:ipc=10,method=idc

Arguments: ipc, method (idc, dc, dsa, dsac, dm, cafe, sre2l, mtt, ftd, tesla,
datm; or a coreset: aligned, random, herding, …), segments (0: by ipc, 1: the
plain method), factor (IDC's multi-formation; 2 is published), schedule
(published, or short: narrower and fewer networks; its rate is MNIST's, not
tried here), network (another than the published), seed.

TFDS downloads and prepares the data (30 MB) in the data directory.

Published, ConvNet-3 (IDC README; DC, DSA papers), ipc 1 / 10 / 50:
IDC factor 2: 81.0 / 86.0 / 86.2; IDC factor 1: 70.7 / 85.3 / 89.1;
DC: 70.5 / 82.3 / 83.6; DSA: 70.6 / 84.6 / 88.7; CAFE: 77.1 / 83.0 /
84.8; herding: 67.0 / 71.1 / 71.9; random: 51.4 / 73.8 / 82.5; all: 93.5.
Trajectory methods published no settings: they have CIFAR-10's of the nearest
ipc, without whitening.
"""

from dasm_jax.config import files, small_images, trajectories

TRAJECTORIES = trajectories.without_whitening(
    files.beside(__file__, 'cifar10')['TRAJECTORIES'])


def get_config(text=''):
  """The configuration for an argument string such as `ipc=1,method=dc`."""
  a = small_images.arguments(text)
  # IDC's program takes 32 for its base here, 28 on MNIST alone: the rate is .77
  # of what is written. Its 500 images between two sweeps are 8 batches of 64.
  return small_images.settings(a, name='fashion_mnist', size=28, idc=dict(
      distance='l1', lr=1e-4, base_size=32, net_steps=8, short_lr=3e-3),
      trajectories=TRAJECTORIES)
