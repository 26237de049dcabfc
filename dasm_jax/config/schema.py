"""Every entry of a configuration: default, meaning, range and choices.

Each is said once, here or, of `config.method`, in `methods.settings`: what
builds a configuration (`config.defaults`), checks one (`validate`), and writes
the help reads these tables.
"""

from dasm_jax import (
  coresets,
  difficulty,
  models,
  segments,
  streams,
  synthetic,
)
from dasm_jax.data import images
from dasm_jax.data import registry as data_registry
from dasm_jax.errors import UserError
from dasm_jax.methods import registry, settings
from dasm_jax.methods.settings import OPS
from dasm_jax.models import layers, resnet
from dasm_jax.pipeline import loading
from dasm_jax.runtime import trackers
from dasm_jax.runtime.entries import (
  Entry,
  at_least,
  below_one,
  each,
  not_empty,
  not_negative,
  positive,
  share,
  unless,
)
from dasm_jax.training import expert_store, packing, recipes, scoring
from dasm_jax.transforms import augment


def _augment(name, value):
  """`auto`, or operations."""
  if value != 'auto':
    settings.operations(name, value)


def _blocks(name, values):
  not_empty(name, values)
  if not all(isinstance(value, int) for value in values):
    raise UserError(f'--config.{name}={values} must be whole numbers')
  each(at_least(1))(name, values)


def _part(name, value):
  """A share that is not nothing."""
  positive(name, value)
  share(name, value)


NETWORKS = 10 ** 5
EPOCHS = recipes.MOST_EPOCHS
SIDE = 2 ** 14  # of images: 16k, of which one takes a gigabyte in a network

DATASET = {
    'name': Entry('', 'a data set, a directory, folder:PATH or npz:PATH'),
    'moved_to': Entry('', 'where the data of name are now; may change between '
                      'calls'),
    'data_dir': Entry('', 'where TFDS has its data; TFDS_DATA_DIR if empty'),
    'size': Entry(0, 'side that images are resized to; 0: as they are',
                  at_least(0), most=SIDE),
    'resize': Entry('crop', 'to size by the centre square, antialiased, or by '
                    'squashing both sides, not antialiased (MTT, FTD)', None,
                    images.RESIZES),
    'test_crop': Entry(
        1.0, 'share of their side that images of the test split keep, around '
        'the centre (.875 at size 224: to 256, then cut)', _part),
    'background': Entry('white', 'what is put behind transparent image files',
                        None, images.BACKGROUNDS),
    'holdout': Entry(
        0.0, 'share of train that takes the place of the test split',
        below_one),
    'statistics': Entry(
        'auto', 'that images are normalised with: ImageNet\'s, their own, or '
        '(auto) the field\'s, and ImageNet\'s of folders with colours; image '
        'rates in normalised space scale with std^2', None,
        data_registry.STATISTICS),
    'zca': Entry(0.0, 'whitening, regularised by this; 0: none', not_negative),
    'classes': Entry(
        '', 'some classes: names joined by +, or a list; empty: all'),
    'stream': Entry('auto', 'whether images are read as they are used', None,
                    loading.STREAM_CHOICES),
    'workers': Entry(0, 'processes that decode images; 0: threads of this one',
                     at_least(0), most=1024),
    'cache': Entry('', 'directory that keeps decoded images; empty: none'),
}

# Those of a convnet; other networks have their own, see `models.settings_of`.
NETWORK = {
    'name': Entry('convnet', 'that matches, and is evaluated', None,
                  models.MODELS),
    'depth': Entry(3, 'blocks of a convnet, layers of others', at_least(1),
                   most=1000),
    'width': Entry(128, 'channels', at_least(1), most=2 ** 16),
    'norm': Entry('instance', 'after each convolution', None, layers.NORMS),
    'activation': Entry('relu', 'after each norm', None, layers.ACTIVATIONS),
    'pooling': Entry('avg', 'after each block', None, layers.POOLINGS),
    'dtype': Entry('float32', 'that networks compute in', None, models.DTYPES),
}
OTHER_NETWORKS = {
    'widen': Entry(1.0, 'factor on the channels', positive, most=100),
    'stem': Entry(None, 'first layers of a ResNet', None,
                  resnet.STEMS['resnet']),
    'variant': Entry(None, 'of a ResNet', None, resnet.WIDTHS),
    'first_padding': Entry(None, 'of the first convolution', at_least(0),
                           most=64),
    'blocks': Entry((), 'layers of each dense block', _blocks, most=100),
    'growth': Entry(12, 'channels that a dense layer adds', at_least(1),
                    most=2 ** 12),
    'reduction': Entry(0.5, 'factor on channels between dense blocks',
                       _part),
    'patch': Entry(4, 'side of a patch of a ViT', at_least(1)),
    'heads': Entry(4, 'of a ViT\'s attention', at_least(1), most=2 ** 12),
}

SYN = {
    'ipc': Entry(10, 'images a class', at_least(1)),
    'init': Entry('real', 'what images begin as', None,
                  ('real', 'easiest', 'noise', 'known', 'rded',
                   *coresets.CORESETS)),
    'labels': Entry('hard', 'class numbers; or soft ones, from all experts '
                    'that know an image, or from the first expert', None,
                    ('hard', 'experts', 'expert')),
    'space': Entry('normalised', 'what is stored: inputs of networks, or '
                   'pixels from 0 to 1', None, synthetic.SPACES),
    'factor': Entry(
        1, 'cells along a side of a stored image (multi-formation)',
        at_least(1)),
    'formation': Entry(
        'single', 'cut by factor; by 1 to factor; or up to syn.bound images',
        None, synthetic.FORMATIONS),
    'bound': Entry(128, 'decoded images a class, of formation bound',
                   at_least(1)),
    'phases': Entry(1, 'parts of the classes that are distilled one by one',
                    at_least(1)),
}

# SDC's paper has one strength, `weight`; the rest is ours. A ratio can be
# carried over from method to method, a weight cannot: a tenth of the matching's
# gradient was a weight of .3 to 6 in DC, of .02 to .03 in MTT.
SDC = {
    'weight': Entry(
        0.0, 'of the difficulty of the synthetic images; 0: no SDC',
        not_negative),
    'end_weight': Entry(
        -1.0, 'weight at the end of a segment; -1: the same',
        unless(-1, not_negative)),
    'ratio': Entry(0.0, 'instead: its share of the matching\'s image gradient',
                   not_negative),
    'end_ratio': Entry(-1.0, 'ratio at the end of a segment; -1: the same',
                       unless(-1, not_negative)),
    'fall': Entry(
        0.0, 'share of the strength that is gone by the last segment', share),
    'penalty': Entry(
        'sample_norm', 'what is difficult: norm or square of the gradient of '
        'each image, or of their batch; or another score', None,
        difficulty.PENALTIES),
}

# Of DASM the paper gives the principle only: these defaults are ours. What was
# measured of them is in RESULTS.md.
ORDERS = (*difficulty.SCORES, scoring.FORGETTING, 'none')
BUDGETS = 'total', 'each'
SEGMENTS = {
    'number': Entry(0, 'of DASM; 0: by ipc, 1: the plain method',
                    at_least(0)),
    'shares': Entry((), 'sizes of segments, shares that add up to 1, 100 or '
                    'syn.ipc; empty: equal', each(positive)),
    'window': Entry(
        'frontier', 'which real images a segment is matched with', None,
        segments.WINDOWS),
    'order': Entry('loss', 'how networks trained on real images (coreset.*) '
                   'put them in order; none: by chance', None, ORDERS),
    'gamma': Entry(
        0.6, 'aligned drops the easiest gamma x accuracy of a class', share),
    'hardest': Entry(0.03, 'aligned drops this share of the hardest', share),
    'share': Entry(
        0.2, 'what slide, static, reversed and hardest keep; frontier and ccfs '
        'of their candidates', share),
    'first': Entry(
        1.0, 'share that the first segment of aligned, frontier and ccfs sees',
        share),
    'replay': Entry(0.0, 'share of a batch from the whole class', share),
    'match': Entry('auto', 'new images, or their union with finished ones; '
                   'auto: union below 40 decoded images a class', None,
                   ('auto', 'new', 'union')),
    'score': Entry('loss', 'how difficulty is measured', None,
                   difficulty.SCORES),
    # Several, as a network that is trained on few images is a noisy judge.
    'probes': Entry(3, 'networks that judge difficulty', at_least(1),
                    most=NETWORKS),
    'probe_epochs': Entry(
        100, 'epochs they are trained on finished segments', at_least(1),
        most=EPOCHS),
    'rates': Entry((), 'factors on the images\' rate, one a segment; 0: they '
                   'stay as they are; empty: 1', each(not_negative)),
    'moving': Entry(1.0, 'share of a segment\'s images that move, the first',
                    _part),
    'budget': Entry('total', 'whether segments share method.steps, or have as '
                    'many each', None, BUDGETS),
    'networks': Entry(
        0.0, 'share of inner networks that begin as the probes of the segments '
        'before', share),
}

CORESET = {
    'skip': Entry(
        0.0, 'share of each class\'s hardest images that those which go by '
        'difficulty (highest, el2n, forgetting, ccs, …) leave out', below_one),
    'networks': Entry(
        3, 'trained on real images, to choose some (k_center, herding, …) or '
        'to put them in order (segments.order)', at_least(1),
        most=NETWORKS),
    'epochs': Entry(10, 'that these are trained', at_least(1),
                    most=EPOCHS),
    'pool': Entry(300, 'real images a class that rded crops; the class if it '
                  'has fewer', at_least(1)),
    'crops': Entry(5, 'random crops of each of them (rded)', at_least(1),
                   most=10 ** 4),
    'cells': Entry(1, 'crops along a side of a decoded image (rded)', None,
                   recipes.RDED_AUGMENT),
}

EVAL = {
    'recipe': Entry('dc', 'how networks of the evaluation are trained', None,
                    recipes.RECIPES),
    'epochs': Entry(1000, 'of the set', at_least(1), most=EPOCHS),
    'networks': Entry(5, 'fresh ones, each with its own accuracy; 0: none',
                      at_least(0), most=NETWORKS),
    'prefixes': Entry(
        1, 'fresh ones besides for the first segment alone, the first two, …: '
        'the accuracy after each segment; 0: none', at_least(0), most=NETWORKS),
    'full': Entry(
        0, 'fresh ones besides for all real images, epochs and all: they may '
        'take longer than everything else', at_least(0), most=NETWORKS),
    'lr': Entry(-1.0, 'their rate; 0: the one that was learned, -1: the '
                'recipe\'s', unless(-1, not_negative)),
    'weight_decay': Entry(-1.0, 'their weight decay; -1: the recipe\'s',
                          unless(-1, not_negative)),
    'batch': Entry(0, 'their batch; 0: the recipe\'s', at_least(0),
                   most=settings.LARGEST_BATCH),
    'augment': Entry('auto', f'{OPS}; auto: the method\'s or the recipe\'s',
                     _augment),
    'cutmix': Entry(-1.0, 'probability of CutMix; -1: the recipe\'s',
                    unless(-1, share)),
    'together': Entry('auto', 'networks trained at once on a device',
                      packing.check_together),
}

# Of methods that match experts' trajectories.
EXPERTS = {
    'dir': Entry('', 'where they are kept; empty: beside the workdir'),
    'number': Entry(100, 'how many', at_least(1), most=NETWORKS),
    'epochs': Entry(50, 'each, whose weights after each are kept', at_least(1),
                    most=EPOCHS),
    'lr': Entry(0.01, 'their rate', positive),
    'momentum': Entry(0.0, 'their momentum', below_one),
    'weight_decay': Entry(0.0, 'their weight decay', not_negative),
    'batch': Entry(256, 'their batch', at_least(1),
                   most=settings.LARGEST_BATCH),
    'rho': Entry(
        0.0, 'how far FTD\'s sharpness-aware steps climb; 0: plain SGD',
        not_negative),
    'alpha': Entry(
        0.0, 'how much of the orthogonal part GSAM takes away', not_negative),
    'seed': Entry(0, 'of their own, so that runs of all seeds share them',
                  at_least(0), most=streams.LARGEST_SEED),
    'at_once': Entry(1, 'trained together on a device', at_least(1),
                     most=NETWORKS),
    'dtype': Entry('float32', 'that they are kept in', None,
                   expert_store.DTYPES),
    'augment': Entry('', OPS, settings.operations),
    'mode': Entry('mtt', 'how operations are put together', None,
                  augment.MODES),
}

ASKING = 'auto', 'always', 'never'
# What may change between the calls of one run.
RUN = {
    'chunk': Entry(10, 'sweeps of a row of metrics, and most of one call',
                   at_least(1)),
    'save_seconds': Entry(30.0, 'between two checkpoints', not_negative),
    'buffer_mb': Entry(512, 'of images kept ahead, when streaming',
                       at_least(1), most=2 ** 20),
    'batched': Entry('auto', 'classes matched at once on a device',
                     packing.check_together),
    'ask': Entry('auto', 'whether a new run of above a day needs --yes: at a '
                 'terminal, anywhere, or not', None, ASKING),
    'track': Entry('tensorboard', 'where numbers and pictures go beside '
                   'metrics.jsonl, joined by commas: tensorboard, csv, wandb',
                   trackers.check),
}

# By group, in the order of the help. Methods have some of `settings.ENTRIES`,
# and only those that match experts have the group `experts`.
GROUPS = {
    'dataset': DATASET, 'network': NETWORK, 'syn': SYN, 'sdc': SDC,
    'segments': SEGMENTS, 'coreset': CORESET, 'eval': EVAL, 'experts': EXPERTS,
    'run': RUN}
ENTRIES = {
    'seed': Entry(0, 'of everything that is random', at_least(0),
                  most=streams.LARGEST_SEED),
    **{f'method.{name}': entry for name, entry in settings.ENTRIES.items()},
    **{f'network.{name}': entry for name, entry in OTHER_NETWORKS.items()},
    **{f'{group}.{name}': entry for group, table in GROUPS.items()
       for name, entry in table.items()}}

# Those that only the rows of all methods can tell.
ENTRIES |= {
    f'method.{name}': ENTRIES[f'method.{name}']._replace(choices=table)
    for name, table in (('name', registry.METHODS),
                        ('match', registry.MATCHES))}

# Entries that say what a configuration was built for: the others are made for
# their value, so that a config file's argument chooses it, not a flag.
LABELS = {'method.name': 'method', 'network.name': 'network'}
# Entries that arguments of config files set, with what the files know for them.
ARGUMENTS = {'syn.ipc': 'ipc', 'syn.factor': 'factor',
             'segments.number': 'segments', 'dataset.size': 'size'}


def defaults(group):
  """`{name: default}` of a group."""
  return {name: entry.default for name, entry in GROUPS[group].items()}


def filled(there, here):
  """Settings of an older version, as this one would have written them.

  An entry that was not known then had what is its default now.

  Args:
    there: nested settings of a file; here: those that they are compared with,
      which tell the entries.

  Returns:
    `there` with what it lacks.
  """
  there = {**there}
  for name, entry in ENTRIES.items():
    group, dot, key = name.partition('.')
    if dot and key in here.get(group, ()) and isinstance(
        there.get(group), dict):
      there[group] = {key: entry.default, **there[group]}
  return there
