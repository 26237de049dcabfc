"""Published settings of data sets of small images, for every method.

`configs` calls `settings`; sources: DC (2006.05929), DSA (2102.08259), DM
(2110.04181), CAFE (2203.01531), IDC (2205.14959), SRe2L (2306.13092), their
programs, RDED (2312.03526) and its, and `trajectories` for trajectory methods.
"""

from dasm_jax import config
from dasm_jax.config.trajectories import apply_row, nearest_row, shortened
from dasm_jax.data.registry import DATASETS
from dasm_jax.errors import unknown

# DC, DSA, DSAC: image updates a network lives, and epochs between them, by ipc.
LOOPS_BY_IPC = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20),
                40: (40, 15), 50: (50, 10)}
# DCC's program, DSAC's, lets a network live as long at ipc 1 as it warms up.
LOOPS = {'dc': LOOPS_BY_IPC, 'dsa': LOOPS_BY_IPC,
         'dsac': LOOPS_BY_IPC | {1: (10, 5)}}


# Methods whose loops do not depend on ipc.
SINGLE = {
    'dm': {'method.steps': 20_000, 'method.batch': 256, 'method.lr': 1.0},
    'cafe': {'method.steps': 20_000, 'method.batch': 256, 'method.lr': 0.1,
             'eval.epochs': 600},
    # Two hundred steps that teach, of 200 batches.
    'sre2l': {'method.lr': 0.25, 'method.teach': 200, 'method.net_steps': 200,
              'eval.epochs': 300},
    # Two hundred epochs of the teacher, as SRe2L's: its own is told nowhere.
    'rded': {'coreset.epochs': 200, 'method.net_lr': 0.1, 'eval.epochs': 300},
}
# SRe2L's program for CIFAR-100: a step that teaches is an epoch of 50,000
# images in batches of 128.
SRE2L_CIFAR = {
    'method.augment': 'roll4', 'method.net_lr': 0.1, 'method.net_steps': 391,
    'method.temperature': 30.0, 'eval.recipe': 'sre2l_cifar', 'eval.batch': 0,
    'eval.augment': 'flip_crop', 'eval.epochs': 400}
# That for Tiny ImageNet: of 100,000 in batches of 256; its teacher has 50.
SRE2L_TINY = {
    'method.lr': 0.1, 'method.statistics': 1.0,
    'method.augment': 'rrc08_flip_roll4both', 'method.teach': 50,
    'method.net_warm': 5, 'method.net_lr': 0.2,
    'method.net_weight_decay': 1e-4, 'method.net_batch': 256,
    'method.net_steps': 391, 'method.net_augment': 'rrc08_flip',
    'eval.recipe': 'sre2l_tiny', 'eval.batch': 0, 'eval.augment': 'rrc08_flip',
    'eval.epochs': 100}
# Their network; its stem is 3x3, and no pooling follows.
RESNET18 = {'name': 'resnet', 'depth': 18, 'norm': 'batch',
            'variant': 'imagenet', 'stem': 'small'}


# RDED: images of a batch by ipc, twice as many from 100 classes on; the program
# says no other ipc: here the nearest.
RDED_BATCHES = {1: 10, 10: 50, 50: 100}


def rded_batch(ipc, classes):
  """Images of a batch on RDED's set; never more than there are."""
  nearest = min(RDED_BATCHES, key=lambda known: abs(known - ipc))
  batch = RDED_BATCHES[nearest] * (2 if classes >= 100 else 1)
  return min(batch, ipc * classes)


def arguments(text, **more):
  """The argument string of a config file, with what all of them take.

  more: further keys with their defaults, see `config.arguments`.
  """
  return config.arguments(
      text, **{'ipc': 10, 'method': 'idc', 'segments': 0, 'factor': 0,
               'network': '', 'schedule': 'published', 'seed': 0, **more})


def settings(a, *, name, size, idc, trajectories, sre2l=(), recoveries=1000):
  """The published settings of a small-image data set.

  DC, DSA, DSAC: 1000 networks of T updates, batch 256, evaluation of 300 epochs
  (DC) or 1000 with augmentation (DSA). DM: 20,000 networks of one update. CAFE:
  2000 networks of 10 updates at least; here 20,000 updates, which end more
  networks or fewer. SRe2L: 1000 updates, and a teacher a segment; ResNet-18
  where `sre2l` has settings of its own. RDED: 300 epochs of `rded_batch`
  images. IDC: 2000
  networks of 100 sweeps, rate `lr * (ipc / 10) * (size / base_size)^2`, factor
  2. Trajectory methods: the row of the nearest ipc. `schedule=short` has
  narrower and fewer networks, for two CPU cores. A method that is not named
  here keeps the settings of its row in `methods.registry`.

  Args:
    a: `arguments`.
    name, size: of the data set and its images.
    idc: IDC's distance, lr, base_size and net_steps for it, and the rate of
      the short schedule, whose few sweeps must go further.
    trajectories: `{method: {ipc: trajectories.TrajectoryRow}}`.
    sre2l: entries of SRe2L, of a data set that it published one for.
    recoveries: its updates.

  Raises:
    UserError: an unknown schedule or method.
  """
  if a.schedule not in ('published', 'short'):
    raise unknown('schedule', a.schedule, ('published', 'short'))
  c = config.defaults(a.method)
  c.seed, c.dataset.name = a.seed, name
  c.syn.ipc, c.segments.number = a.ipc, a.segments or c.segments.number
  c.syn.factor = a.factor or (2 if a.method == 'idc' else 1)
  config.set_network(c, a.network)
  m = c.method
  if a.method == 'idc':
    m.distance, m.net_steps = idc['distance'], idc['net_steps']
    m.lr = idc['lr'] * (size / idc['base_size']) ** 2
    m.inner, m.steps = 100, 200_000
  elif a.method in trajectories:
    row = nearest_row(trajectories[a.method], a.ipc)
    apply_row(c, shortened(row) if a.schedule == 'short' else row)
  elif a.method in SINGLE:
    c.update_from_flattened_dict(SINGLE[a.method])
    if a.method == 'rded':
      _rded(c, DATASETS[name], a.network)
    if a.method == 'sre2l':
      m.steps = recoveries
      c.update_from_flattened_dict(dict(sre2l))
      if sre2l and not a.network:
        config.set_network(c, 'resnet')
        c.network.update(RESNET18)
  elif a.method in LOOPS:
    # DC's program knows no other ipc; here the nearest.
    loops = LOOPS[a.method]
    m.inner, m.net_steps = loops[min(loops, key=lambda ipc: abs(ipc - a.ipc))]
    m.steps, m.batch = 1000 * m.inner, 256
    c.eval.epochs = 300 if a.method == 'dc' else 1000
    # As the readme of its program asks for this network.
    if a.method == 'dc' and a.network == 'mlp':
      m.lr = 0.01
  if name in config.UNFLIPPED:
    config.remove_flips(c)
  if a.schedule == 'short':
    _shorten(c)
    if a.method == 'idc':
      m.lr = idc['short_lr']
  elif a.method in LONG:
    c.run.chunk = 100
  return c


def _rded(c, known, network):
  """What depends on the data set, a `TfdsSet`: statistics, batches, rates."""
  # Its cells are shuffled, and never cut apart.
  c.coreset.cells, c.syn.factor = c.syn.factor, 1
  c.eval.batch = rded_batch(c.syn.ipc, known.classes)
  if len(known.mean) == 3:
    c.dataset.statistics = 'imagenet'
  if network == 'resnet':
    c.network.update(RESNET18)


# Between two calls the host takes some 2 ms, in which an accelerator rests: of
# ten of DM's sweeps a tenth. These have 20,000 and more.
LONG = 'dm', 'cafe', 'idc'


def _shorten(c):
  """For two CPU cores: fewer sweeps, a narrower network."""
  if 'width' in c.network:
    c.network.width = 32
  elif 'widen' in c.network:
    c.network.widen = 0.25
  for name, most in (('steps', 300), ('inner', 25), ('net_steps', 8)):
    if name in c.method:
      c.method[name] = min(c.method[name], most)
  if 'teach' in c.method:
    c.method.teach, c.method.net_steps = 20, 40
  c.segments.probe_epochs = 60
  c.coreset.epochs = min(c.coreset.epochs, 20)
  c.eval.epochs = 150
