r"""Tiny ImageNet (64x64, 200 classes), ConvNet-4: DASM on IDC, trajectories.

  python -m dasm_jax.main --config=configs/tiny_imagenet.py:ipc=10,method=dm

Arguments: ipc, method (idc, dc, dsa, dsac, dm, cafe, sre2l, mtt, ftd, tesla,
datm; or a coreset: rded, aligned, random, …), segments (0: by ipc, 1: the
plain method), factor (IDC's multi-formation), schedule (published, or short:
narrower and fewer networks; its rate is CIFAR-10's, not tried here), network
(another than the published), seed.

TFDS has no Tiny ImageNet. Prepare it as `tiny_imagenet` in the data directory,
or say what it is called there, --config.dataset.name=tiny_imagenet_20, or
unzip the original and give --config.dataset.name=folder:PATH.

Published, ConvNet-4, ipc 1 / 10 / 50: DM: 3.9 / 12.9 / 24.1; MTT: 8.8 / 23.2 /
28.0; FTD: 10.4 / 24.5 / -; DATM: 17.1 / 31.1 / 39.7 (trajectory methods: the
best over a run, on the validation split). IDC, DC, DSA and TESLA published
none: they have CIFAR-10's settings here, IDC's rate by its rule of size, and
TESLA has MTT's. SRe2L, ResNet-18, ipc 50 / 100: 41.1 / 49.7, by a teacher of
50 epochs.
"""

from dasm_jax.config import small_images, trajectories

# Columns: N, M, T+, image rate, rate of the student's rate, its start. Another
# ipc takes the row next to it. Nothing is whitened but DATM, as published.
MTT = {
    1: trajectories.mtt(10, 2, 10, 1e4, 1e-4, .01),
    10: trajectories.mtt(20, 2, 40, 1e4, 1e-4, .01, batch_syn=200),
    50: trajectories.mtt(20, 2, 40, 1e4, 1e-4, .01, batch_syn=300)}
FTD = {
    1: trajectories.ftd(30, 2, 10, 1e4, 1e-4, .01, alpha=1., average=.999),
    10: trajectories.ftd(20, 2, 40, 1e4, 1e-4, .01, batch_syn=500, alpha=1.,
                         average=.999)}
TESLA = {ipc: row._replace(steps=10_000) for ipc, row in MTT.items()}
# A student batch of 1000 is the whole set at ipc 1: 0.
DATM = {
    1: trajectories.datm(40, 2, 20, 1e4, 1e-4, lr_label=10., start_before=15,
                         expand=2000),
    10: trajectories.datm(40, 2, 50, 100., 1e-4, lr_label=10., first_epoch=10,
                          batch_syn=500),
    50: trajectories.datm(20, 2, 70, 100., 1e-4, lr_label=10., first_epoch=40,
                          batch_syn=1000)}
TRAJECTORIES = {'mtt': MTT, 'ftd': FTD, 'tesla': TESLA, 'datm': DATM}


def get_config(text=''):
  """The configuration for an argument string such as `ipc=1,method=dm`."""
  a = small_images.arguments(text)
  c = small_images.settings(a, name='tiny_imagenet', size=64, idc=dict(
      distance='mse', lr=5e-3, base_size=32, net_steps=32, short_lr=5e-2),
      trajectories=TRAJECTORIES, sre2l=small_images.SRE2L_TINY,
      recoveries=4000)
  # As published: one block more than at 32x32.
  if not a.network and c.network.name == 'convnet':
    c.network.depth = 4
  if a.method == 'rded':
    c.eval.batch = 100  # at every ipc
  return c
