r"""ImageNet-10, ImageNet-100 and ImageNet-1K: DASM on IDC, and others.

  python -m dasm_jax.main --config=configs/imagenet.py
  python -m dasm_jax.main --config=configs/imagenet.py:classes=100,ipc=20

Arguments: classes (10, 100: IDC's; 1000), ipc, method (idc, dc, dsa, dsac, dm,
cafe, sre2l, mtt, ftd, tesla, datm, or a coreset), segments (0: by ipc, 1: the
plain method), factor (IDC's multi-formation; 3 is published), size (0: 224, or
128 for trajectory methods, 64 for TESLA on all classes), schedule (published,
or short: a narrow network and fewer sweeps, to see that it runs), network
(another than the published), seed.

Data: TFDS's imagenet2012 in the data directory, or
--config.dataset.name=folder:PATH with PATH/train/n01440764/*.JPEG and PATH/val;
only the classes asked for are read (10: 2 GB, 100: 20 GB of memory, or as they
are used where that does not fit; --config.dataset.cache=DIR decodes them once).

Published, ResNet-AP-10, 224x224, ipc 10 / 20 (IDC's README and paper).
ImageNet-10: IDC factor 3: 72.8 / 76.6; IDC factor 1: 61.4 / 65.5; DM: 52.3 /
59.3; DSA: 52.7 / 57.4; herding: 50.4 / 57.5; random: 46.9 / 51.8; all: 90.8.
ImageNet-100: IDC factor 3: 46.7 / 53.7; factor 1: 29.2 / 34.5; DM: 22.3 / 30.4;
DSA: 21.8 / 30.7; herding: 22.6 / 31.1; random: 20.7 / 29.7; all: 82.0.
ImageNet-1K: SRe2L, ResNet-18, soft labels, ipc 10 / 50: 21.3 / 46.8; TESLA,
ConvNet-4, 64x64, ipc 1 / 10 / 50: 7.7 / 17.8 / 27.9. IDC has no row for 1K, and
DC, DSA, DM none with settings: they have CIFAR-10's. SRe2L's teacher is trained
by the run itself, for 40,000 batches of 128; the published figures need one
that was trained for 90 epochs, such as torchvision's:
--config.method.teacher=FILE.npz, see `training/weights_file.py`.

Time of the authors: IDC, ImageNet-10: about 8 hours to its best on one RTX 3090
(24 GB), before all of these sweeps; linear in classes. ImageNet-100: more than
100 GPU hours, in five parts of 20 classes on one such GPU each (here one after
the other: --config.syn.phases=5; all at once is the same set, sooner). Ours is
not measured. IDC's networks: 500 of 100 sweeps, each trained before for 10
epochs on real images. ImageNet-100's, as in its program, are drawn from ten
that were trained for 5 epochs once (method.pretrained; they are kept beside the
workdir; --config.method.pretrained=0 --config.method.warmup=5075 trains each
anew instead), and so are ImageNet-1K's. ImageNet-100 and 1K compute in bfloat16
(--config.network.dtype=float32 is IDC's).
"""

from dasm_jax.config import imagenet, small_images
from dasm_jax.errors import unknown

# Keys of `data.registry.CLASS_LISTS`; '' is all that there are.
CLASSES = {10: 'imagenet10', 100: 'imagenet100', 1000: ''}


def get_config(text=''):
  """The configuration for an argument string such as `classes=100,ipc=20`."""
  a = small_images.arguments(text, classes=10, size=0)
  if a.classes not in CLASSES:
    raise unknown('number of classes', a.classes, CLASSES)
  return imagenet.settings(a, CLASSES[a.classes])
