r"""CIFAR-100: DASM on IDC, and the trajectory methods.

  python -m dasm_jax.main --config=configs/cifar100.py:ipc=10,method=idc

Arguments: ipc, method (idc, dc, dsa, dsac, dm, cafe, sre2l, mtt, ftd, tesla,
datm; or a coreset: rded, aligned, random, …), segments (0: by ipc, 1: the
plain method), factor (IDC's multi-formation; 2 is published), schedule
(published, or short: narrower and fewer networks; its rate is CIFAR-10's, not
tried here), network (another than the published), seed.

TFDS downloads and prepares the data (160 MB) in the data directory.

Published, ConvNet-3 (IDC README; DC, DSA, DM as in FTD's tables), ipc 1 / 10 /
50: IDC factor 2: - / 45.1 / -; IDC factor 1: - / 36.6 / -; DC: 12.8 / 25.2 /
-; DSA: 13.9 / 32.3 / 42.8; DM: 11.4 / 29.7 / 43.6; CAFE: 12.9 / 27.8 / 37.9;
MTT: 24.3 / 40.1 / 47.7; FTD: 25.2 / 43.4 / 50.7; TESLA: 24.8 / 41.7 / 47.9;
DATM: 27.9 / 47.2 / 55.0, ipc 100: 57.5 (trajectory methods: the best over a
run, on the test split).
SRe2L, ResNet-18, ipc 1 / 10 / 50: 6.6 / 27.0 / 50.2 (teacher: 78.72 after 200
epochs, its README). Here the teacher's labels of each view are made before.
IDC and, without whitening, MTT normalise with CIFAR-10's statistics; we with
CIFAR-100's own, as DC.
"""

from dasm_jax.config import small_images, trajectories
from dasm_jax.config.trajectories import nearest_row

# Columns: N, M, T+, image rate, rate of the student's rate, its start. Another
# ipc takes the row next to it. FTD's commands state whitening for ipc 10, the
# others have MTT's.
MTT = {
    1: trajectories.mtt(20, 3, 20, 1000., 1e-5, .01, zca=True),
    10: trajectories.mtt(20, 2, 20, 1000., 1e-5, .01),
    50: trajectories.mtt(80, 2, 40, 1000., 1e-5, .01, batch_syn=125, zca=True)}
FTD = {
    1: trajectories.ftd(40, 3, 20, 1000., 1e-5, .01, zca=True, alpha=1.,
                        average=.9995),
    10: trajectories.ftd(20, 2, 40, 1000., 1e-5, .01, zca=True, alpha=1.,
                         average=.9995),
    50: trajectories.ftd(80, 2, 40, 1000., 1e-5, .01, batch_syn=1000, zca=True,
                         alpha=1., average=.999)}
# Its README gives ipc 50 alone; the others are MTT's, for as many iterations.
TESLA = {
    1: MTT[1]._replace(steps=10_000), 10: MTT[10]._replace(steps=10_000),
    50: trajectories.tesla(80, 2, 40, 1000., 1e-5, .01, batch_syn=125,
                           zca=True)}
# A student batch of 1000 is the whole set at ipc 1 and 10: 0.
DATM = {
    1: trajectories.datm(40, 3, 20, 1000., 1e-5, lr_label=10., start_before=10,
                         expand=1000),
    10: trajectories.datm(80, 2, 50, 1000., 1e-5, lr_label=10., start_before=30,
                          expand=2000),
    50: trajectories.datm(80, 2, 70, 1000., 1e-5, lr_label=10., first_epoch=20,
                          batch_syn=1000),
    100: trajectories.datm(80, 2, 70, 50., 1e-5, lr_label=10., first_epoch=30,
                           batch_syn=1000)}
TRAJECTORIES = {'mtt': MTT, 'ftd': FTD, 'tesla': TESLA, 'datm': DATM}


def get_config(text=''):
  """The configuration for an argument string such as `ipc=1,method=dc`."""
  a = small_images.arguments(text)
  c = small_images.settings(a, name='cifar100', size=32, idc=dict(
      distance='mse', lr=5e-3, base_size=32, net_steps=32, short_lr=5e-2),
      trajectories=TRAJECTORIES, sre2l=small_images.SRE2L_CIFAR)
  # DATM's command for ipc 50 differs from its others: any real images, and the
  # labels of one expert, right or wrong.
  if a.method == 'datm' and nearest_row(DATM, a.ipc) is DATM[50]:
    c.syn.init, c.syn.labels = 'real', 'expert'
  # As its program has this one network; the others are as on CIFAR-10.
  if a.method == 'rded' and c.network.name == 'convnet':
    c.eval.lr, c.eval.batch = 0.002, 25
  return c
