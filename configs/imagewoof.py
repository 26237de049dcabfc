r"""ImageWoof (ten breeds of dogs): MTT, and the other methods.

  python -m dasm_jax.main --config=configs/imagewoof.py:method=mtt,ipc=1

Arguments: ipc (1), method (mtt; ftd, tesla, datm, idc, dc, dsa, dsac, dm, cafe,
sre2l, or a coreset), segments (0: by ipc, 1: the plain method), factor (IDC's
multi-formation; 3 is published), size (0: 128 with ConvNet-5 for trajectory
methods, 224 with ResNet-AP-10 for the others; 128: ConvNet-5 for all), schedule
(published, or short: to see that it runs), network (another than the
published), seed.

Data: these classes of TFDS's imagenet2012, tested on its validation images as
MTT does, or --config.dataset.name=folder:PATH with PATH/train/n…/*.JPEG and
PATH/val.

Published, 128x128, ConvNet-5, ipc 1 / 10: MTT: 28.6 / 35.8; FTD: 30.1 / 38.8.
Ipc 1 under one later protocol: MTT: 29.7; IDC: 34.5; all images: 67.0. MTT's
row is that of its one command for ten classes at ipc 1; other ipc, FTD
and TESLA have it too; DATM has its own of ImageNette, IDC ImageNet-10's
settings. MTT's authors: one or two RTX 3090, 1 to 5 hours. Ours is not
measured.
"""

from dasm_jax.config import imagenet

TRAJECTORIES = imagenet.TRAJECTORIES


def get_config(text=''):
  """The configuration for an argument string such as `ipc=1,method=mtt`."""
  return imagenet.subset(text, 'imagewoof')
