"""What each entry of a configuration means, for `--help`."""

import textwrap

from dasm_jax import losses, methods, models, synthetic
from dasm_jax.config import validate
from dasm_jax.models import layers
from dasm_jax.transforms import augment

# Values of the entries whose choices `checks` leaves to who uses them.
CHOICES = {
    **validate.CHOICES,
    'network.name': models.MODELS, 'network.dtype': models.DTYPES,
    'network.norm': layers.NORMS, 'network.pooling': layers.POOLINGS,
    'network.activation': layers.ACTIVATIONS,
    'syn.space': synthetic.SPACES, 'syn.formation': synthetic.FORMATIONS,
    'method.distance': losses.DISTANCES, 'method.augment_mode': augment.MODES,
    'experts.mode': augment.MODES,
    'method.parameters': methods.PARAMETERS}

INDENT = 36  # of meanings
OPS = 'names of `augment` joined by _, or none'

MEANINGS = {
    'seed': 'of everything that is random',

    'dataset.name': 'a data set, a directory, or folder:PATH',
    'dataset.data_dir': 'where TFDS has its data; TFDS_DATA_DIR if empty',
    'dataset.size': 'side that images are resized to; 0: as they are',
    'dataset.holdout': 'share of train that takes the place of the test split',
    'dataset.zca': 'whitening, regularised by this; 0: none',
    'dataset.classes': 'some classes: names joined by +, or a list; empty: all',
    'dataset.stream': 'whether images are read as they are used',
    'dataset.workers': 'processes that decode images; 0: threads',
    'dataset.cache': 'directory that keeps decoded images; empty: none',

    'network.name': 'that matches, and is evaluated',
    'network.depth': 'blocks of a convnet, layers of others',
    'network.width': 'channels',
    'network.norm': 'after each convolution',
    'network.activation': 'after each norm',
    'network.pooling': 'after each block',
    'network.dtype': 'that networks compute in',
    'network.widen': 'factor on the channels',
    'network.stem': 'first layers of a ResNet',
    'network.variant': 'of a ResNet',
    'network.first_padding': 'of the first convolution',
    'network.blocks': 'layers of each dense block',
    'network.growth': 'channels that a dense layer adds',
    'network.reduction': 'factor on channels between dense blocks',
    'network.patch': 'side of a patch of a ViT',
    'network.heads': 'of a ViT\'s attention',

    'syn.ipc': 'images a class',
    'syn.init': 'what images begin as',
    'syn.labels': 'class numbers, or soft ones from experts',
    'syn.space': 'what is stored: inputs of networks, or pixels from 0 to 1',
    'syn.factor': 'cells along a side of a stored image (multi-formation)',
    'syn.formation': 'cut by factor; by 1 to factor; or up to syn.bound images',
    'syn.bound': 'decoded images a class, of formation bound',
    'syn.phases': 'parts of the classes that are distilled one by one',

    'method.name': 'of the method; ask for another by FILE.py:method=NAME',
    'method.match': 'what is matched',
    'method.distance': 'of gradients or features',
    'method.parameters': 'whose gradients are compared',
    'method.first_block': 'first block whose features are matched',
    'method.last_block': 'last block whose features are matched; -1: the last',
    'method.alone_networks': 'networks that begin with plain sweeps (DSAC)',
    'method.alone_sweeps': 'plain sweeps of these networks',
    'method.batch': 'real images a class in a sweep',
    'method.limit': 'decoded images a class in a sweep; 0: all',
    'method.lr': 'rate of SGD (SRe2L: Adam) on the stored images',
    'method.lr_per_image': 'the rate is for ten images a class, and grows with '
                           'them',
    'method.momentum': 'of SGD on the stored images (SRe2L: Adam)',
    'method.steps': 'sweeps over all segments',
    'method.inner': 'sweeps that a network lives',
    'method.warmup': 'steps a network is trained before its first sweep',
    'method.per_class_steps': 'as if images stepped after each class, not once '
                              'a sweep',
    'method.augment': f'of what is matched: {OPS}',
    'method.augment_mode': 'one operation at a time (mtt: with aligned '
                           'corners), all, or IDC\'s way',
    'method.train_on': 'what networks are trained on between sweeps',
    'method.net_steps': 'batches between two sweeps (passes, if synthetic)',
    'method.net_lr': 'rate of networks between sweeps',
    'method.net_momentum': 'momentum of networks between sweeps',
    'method.net_weight_decay': 'weight decay of networks between sweeps',
    'method.net_batch': 'batch of networks between sweeps',
    'method.net_augment': f'of networks between sweeps: {OPS}',
    'method.net_cutmix': 'probability of CutMix between sweeps',
    'method.pretrained': 'networks trained before, of which each new one is '
                         'one; 0: none',
    'method.pretrained_epochs': 'epochs of real images that these are trained',
    'method.weights': 'of the layers (CAFE)',
    'method.discrimination': 'weight of the discrimination loss (CAFE)',
    'method.drops': 'shares of the steps after which the rate falls',
    'method.decay': 'what the rate is multiplied by at each of drops',
    'method.watch_images': 'real images a class that accuracy is watched on; '
                           '0: networks live inner sweeps',
    'method.watch_window': 'accuracies that count',
    'method.watch_rest': 'a network ends once accuracies span less',
    'method.watch_move': 'training pauses once accuracies span more',
    'method.statistics': 'weight of the batch-norm statistics (SRe2L)',
    'method.first_layer': 'weight of the first layer\'s, others 1',
    'method.teach': 'of the steps those that train the teacher',
    'method.relabel': 'the teachers label every view of the evaluation',
    'method.temperature': 'at which such labels are matched',
    'method.label_views': 'views that one soft label is the mean of; 0: the '
                          'image',
    'method.frozen': 'a student\'s gradients do not depend on its path (TESLA)',
    'method.image_factor': 'on the images\' gradient (TESLA\'s code: 0.5)',
    'method.student_steps': 'steps of the student',
    'method.expert_epochs': 'epochs of the expert that the student is to match',
    'method.first_epoch': 'first epoch of experts that students start from',
    'method.last_epoch': 'last epoch of experts that students start from',
    'method.start_last_epoch': 'the last one at the first step; -1: last_epoch',
    'method.expand': 'steps over which it grows to last_epoch',
    'method.batch_syn': 'images in a step of the student; 0: all',
    'method.starts': 'students of one step',
    'method.lr_start': 'the student\'s rate at first',
    'method.lr_lr': 'rate at which the student\'s rate is learned',
    'method.lr_label': 'rate of the labels\' logits; 0: labels stay',
    'method.label_momentum': 'of SGD on the labels',
    'method.average': 'decay of the images\' moving average (FTD); 0: none',
    'method.skip_above': 'a start with a larger loss changes nothing; 0: off',
    'method.assign': 'experts label the images at each step (TESLA)',

    'sdc.weight': 'of the gradient norm of the synthetic images; 0: no SDC',
    'sdc.end_weight': 'weight at the end of a segment; -1: the same',
    'sdc.ratio': 'instead: its share of the matching\'s image gradient',
    'sdc.end_ratio': 'ratio at the end of a segment; -1: the same',
    'sdc.fall': 'share of the strength that is gone by the last segment',
    'sdc.penalty': 'norm or square, of each image or of their batch',

    'segments.number': 'of DASM; 0: by ipc, 1: the plain method',
    'segments.window': 'which real images a segment is matched with',
    'segments.gamma': 'aligned drops the easiest gamma x accuracy of a class',
    'segments.hardest': 'aligned drops this share of the hardest',
    'segments.share': 'what slide, static, reversed and hardest keep',
    'segments.first': 'share that the first segment of aligned sees',
    'segments.replay': 'share of a batch from the whole class',
    'segments.match': 'new images, or their union with finished ones',
    'segments.score': 'how difficulty is measured',
    'segments.probes': 'networks that judge difficulty',
    'segments.probe_epochs': 'epochs they are trained on finished segments',
    'segments.probe_real_steps': 'steps where they are trained on real images',

    'coreset.networks': 'that choose (k_center, forgetting, herding, …)',
    'coreset.epochs': 'of real images that they are trained',

    'eval.recipe': 'how networks of the evaluation are trained',
    'eval.epochs': 'of the set',
    'eval.networks': 'fresh ones, each with its own accuracy',
    'eval.lr': 'their rate; 0: the one that was learned, -1: the recipe\'s',
    'eval.weight_decay': 'their weight decay; -1: the recipe\'s',
    'eval.batch': 'their batch; 0: the recipe\'s',
    'eval.augment': f'{OPS}; auto: the method\'s or the recipe\'s',
    'eval.cutmix': 'probability of CutMix; -1: the recipe\'s',
    'eval.together': 'networks trained at once on a device',

    'experts.dir': 'where they are kept; empty: beside the workdir',
    'experts.number': 'how many',
    'experts.epochs': 'each, whose weights after each are kept',
    'experts.lr': 'their rate',
    'experts.momentum': 'their momentum',
    'experts.weight_decay': 'their weight decay',
    'experts.batch': 'their batch',
    'experts.rho': 'how far FTD\'s sharpness-aware steps climb; 0: plain SGD',
    'experts.alpha': 'how much of the orthogonal part GSAM takes away',
    'experts.seed': 'of their own, so that runs of all seeds share them',
    'experts.at_once': 'trained together on a device',
    'experts.dtype': 'that they are kept in',
    'experts.augment': OPS,
    'experts.mode': 'how operations are put together',

    'run.chunk': 'most sweeps of one call',
    'run.save_seconds': 'between two checkpoints',
    'run.buffer_mb': 'of images kept ahead, when streaming',
    'run.batched': 'classes matched at once on a device',
}


def help_lines(entries, width=80):
  """Yields the lines of `--help` for `(name, value)` of `config.entries`.

  An entry stands to the left of its meaning and choices, or above where it is
  long. width: of the terminal.
  """
  for name, value in entries:
    # Networks have settings of their own, which a config may name.
    entry, meaning = f'  --config.{name}={value}', MEANINGS.get(name, '')
    if name in CHOICES:
      meaning += f': {", ".join(sorted(CHOICES[name]))}'
    text = textwrap.wrap(meaning, max(width - INDENT, 20),
                         break_on_hyphens=False)
    if text and len(entry) < INDENT - 1:
      entry, text = f'{entry:<{INDENT}}{text[0]}', text[1:]
    yield entry
    yield from (f'{"":<{INDENT}}{line}' for line in text)
