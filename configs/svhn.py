r"""SVHN (cropped digits): DASM on IDC, and the trajectory methods.

  python -m dasm_jax.main --config=configs/svhn.py:ipc=10,method=idc

Arguments: ipc, method (idc, dc, dsa, dsac, dm, cafe, sre2l, mtt, ftd, tesla,
datm; or a coreset: aligned, random, herding, …), segments (0: by ipc, 1: the
plain method), factor (IDC's multi-formation; 2 is published), schedule
(published, or short: narrower and fewer networks; its rate is CIFAR-10's, not
tried here), network (another than the published), seed.

TFDS downloads and prepares the data (1.5 GB) in the data directory.

Published, ConvNet-3 (IDC README; DC, DSA papers), ipc 1 / 10 / 50:
IDC factor 2: 68.5 / 87.5 / 90.1; IDC factor 1: 46.7 / 77.0 / 87.9;
DC: 31.2 / 76.1 / 82.3; DSA: 27.5 / 79.2 / 84.4; CAFE: 42.6 / 75.9 /
81.3; herding: 20.9 / 50.5 / 72.6; random: 14.6 / 35.1 / 70.9; all: 95.4.
Trajectory methods published no settings: they have CIFAR-10's of the nearest
ipc, without whitening.
"""

from dasm_jax.config import files, small_images, trajectories

TRAJECTORIES = trajectories.without_whitening(
    files.beside(__file__, 'cifar10')['TRAJECTORIES'])


def get_config(text=''):
  """The configuration for an argument string such as `ipc=1,method=dc`."""
  a = small_images.arguments(text)
  c = small_images.settings(a, name='svhn', size=32, idc=dict(
      distance='mse', lr=5e-3, base_size=32, net_steps=8, short_lr=5e-2),
      trajectories=TRAJECTORIES)
  if a.method == 'idc' and c.syn.factor == 1 and a.ipc == 1:
    # As IDC's program evaluates its smallest set: a box is cut out instead.
    c.eval.cutmix = 0.0
    c.eval.augment = 'color_crop_cutout_scale_rotate'
  return c
