"""Published settings on ImageNet and its subsets.

`configs` calls `settings`; sources: IDC (2205.14959) with its program, MTT
(2203.11932), SRe2L (2306.13092), RDED (2312.03526).
"""

from dasm_jax.config import small_images, trajectories
from dasm_jax.data.registry import CLASS_LISTS

# MTT's one row: 128x128, ConvNet-5, ten classes. FTD and TESLA published none
# that we found: they have MTT's windows and rates here. DATM's program has rows
# for ImageNette; their windows do not grow.
_MTT = (20, 2, 10, 1000., 1e-6)
TRAJECTORIES = {
    'mtt': {1: trajectories.mtt(*_MTT, .01)},
    'ftd': {1: trajectories.ftd(*_MTT, .01, alpha=1., average=.9995)},
    'tesla': {1: trajectories.tesla(*_MTT, .01)},
    'datm': {
        1: trajectories.datm(20, 2, 10, 1e4, 1e-6, lr_start=.001, lr_label=1e3,
                             zca=False),
        10: trajectories.datm(40, 2, 10, 1e5, 1e-6, lr_label=5., skip_above=2.,
                              zca=False),
        200: trajectories.datm(60, 2, 40, 50., 1e-6, lr_start=.001, zca=False,
                               lr_label=10., first_epoch=30, batch_syn=100)}}

# TESLA's on ImageNet-1K, 64x64 and ConvNet-4, with soft labels.
THOUSAND = trajectories.tesla(10, 3, 10, 1e4, 1e-4, .01, batch_syn=100,
                              number=50)
AUGMENT = 'rrc_flip_jitter3_lighting'  # IDC's, of the evaluation
CROP = 'rrc08_flip'  # SRe2L's, of what is trained; of recovery, rolled besides
# The teacher's 40,000 batches in steps that hold few images, where streamed.
SHORT_TEACHING = {'method.teach': 2000, 'method.net_steps': 20}
PER_CLASS = 1300  # real images, at most


def evaluation_epochs(decoded, classes=10):
  """Epochs of IDC's evaluation on ImageNet, for decoded images a class.

  3000 for one, 2000 up to 10, 1500 up to 50, 1000 up to 200, 500 up to 500,
  300 beyond; from 100 classes on two thirds, cut to hundreds.
  """
  steps = (1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500)
  found = next((many for most, many in steps if decoded <= most), 300)
  return found if classes < 100 else found * 2 // 3 // 100 * 100


def settings(a, classes):
  """The configuration of a set of ImageNet's classes.

  Trajectory methods: MTT's, squashed to 128x128, ConvNet-5, evaluated by DSA's
  recipe; TESLA's on all 1000 classes, 64x64 and ConvNet-4 with labels by its
  experts. SRe2L, and RDED above 128x128: ResNet-18 with batch norm, their own
  recipes. The others:
  ResNet-AP-10, evaluated by IDC's recipe. `a.size` of 128 or less means
  ConvNet-5 for them too.

  Args:
    a: `small_images.arguments` with size (0: by the method).
    classes: of `config.dataset.classes`; '' is all 1000.

  Raises:
    UserError: an unknown schedule or method.
  """
  count = len(CLASS_LISTS[classes]) if classes else 1000
  many, short = count >= 100, a.schedule == 'short'
  tesla = a.method == 'tesla' and count > 100
  size = a.size or (
      64 if tesla else 128 if a.method in TRAJECTORIES else 224)
  a.factor = a.factor or {'idc': 3, 'rded': 2}.get(a.method, 1)
  c = small_images.settings(
      a, name='imagenet2012', size=size, idc=dict(
          distance='l1', lr=1e-3 if many else 3e-3, base_size=224,
          net_steps=4 if many else 8, short_lr=3e-2),
      trajectories=TRAJECTORIES | ({'tesla': {1: THOUSAND}} if tesla else {}),
      sre2l=SHORT_TEACHING, recoveries=4000)
  c.dataset.size, c.dataset.classes = size, classes
  # As IDC's program, for memory: at most 128 decoded images a class.
  if c.syn.factor > 2 and a.ipc >= 20:
    c.syn.formation = 'bound'
  if not a.network:
    _network(c, size, short)
  c.network.dtype = 'bfloat16' if many else 'float32'
  if tesla:
    c.method.assign = True
    c.network.depth = c.network.depth if a.network else 4
  # These are evaluated by the default recipe, with the rate that they learn.
  if a.method in TRAJECTORIES:
    # MTT's program, FTD's too, resizes tensors to 128x128, whatever their form.
    c.dataset.resize = 'crop' if tesla else 'squash'
    return c
  if a.method == 'sre2l':
    m, e = c.method, c.eval
    c.dataset.test_crop = 224 / 256  # of its validation
    m.augment, m.net_augment = f'{CROP}_roll32', CROP
    # What moves the images is rolled, what is trained on them is not.
    e.augment, e.networks = CROP, 3
    e.batch = 1024 if count > 100 else 128
    return c
  if a.method == 'rded':
    _rded(c, size, count)
    return c
  if a.method == 'idc':
    _idc(c.method, count, short)
  _evaluation(c, count, short)
  return c


def subset(text, classes):
  """`settings` of one list of classes, for a config file's argument string.

  MTT's one row is what was published of them.
  """
  return settings(small_images.arguments(
      text, method='mtt', ipc=1, size=0), classes)


def _network(c, size, short):
  if c.method.name == 'sre2l' or c.method.name == 'rded' and size > 128:
    c.network = dict(name='resnet', depth=18, widen=.25 if short else 1.,
                     norm='batch')
  elif size <= 128:
    c.network.depth = 5
  else:
    c.network = dict(name='resnet_ap', depth=10, widen=.25 if short else 1.,
                     norm='instance')


def _rded(c, size, count):
  """Its images of validation are enlarged by a seventh and cut, by its rule."""
  c.dataset.test_crop = size / (size // 7 * 8)
  c.method.net_augment = CROP
  c.eval.networks = 3
  c.eval.batch = small_images.rded_batch(c.syn.ipc, count)
  # Of all classes its teacher is torchvision's, which had so many.
  if count > 100:
    c.coreset.epochs = min(c.coreset.epochs, 90)


def _idc(m, count, short):
  """CutMix always; each network begins with some epochs on real images.

  Of 100 classes it is one of ten that had them once, in the published program;
  so here of 1000, where 500 networks would each have 50,780 batches.
  """
  m.net_cutmix, m.begin = 1.0, 'noise'
  if count >= 100:
    m.net_lr, m.net_weight_decay, m.net_batch = 0.1, 1e-4, 128
  if short:
    m.warmup = 50
    return
  m.steps = 50_000
  if count >= 100:
    m.pretrained, m.pretrained_epochs = 10, 5
  else:
    m.warmup = 10 * (count * PER_CLASS // m.net_batch)


def _evaluation(c, count, short):
  e = c.eval
  e.recipe, e.augment, e.cutmix, e.networks = 'idc', AUGMENT, 1.0, 3
  e.lr, e.weight_decay, e.batch = (
      (0.1, 1e-4, 128) if count >= 100 else (0.01, 5e-4, 64))
  if not short:
    e.epochs = evaluation_epochs(c.syn.ipc * c.syn.factor ** 2, count)
