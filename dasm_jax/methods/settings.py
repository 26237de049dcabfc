"""Every entry of `config.method`: default, meaning, range and choices.

`registry` says which of them a method has, and where its defaults are others.
Rates, lengths and batch sizes are a matter of the data set: `configs` holds
the published ones.
"""

from dasm_jax import losses, objectives
from dasm_jax.errors import UserError
from dasm_jax.runtime.entries import (
  Entry,
  at_least,
  below_one,
  not_empty,
  not_negative,
  positive,
  share,
  shares,
)
from dasm_jax.training import recipes
from dasm_jax.transforms import augment

LARGEST_BATCH = 2 ** 16
OPS = 'names of `augment` joined by _, or none'
DSA = 'color_crop_cutout_flip_scale_rotate'
TRAIN_ON = ('real', 'synthetic')
# Which parameters a distance compares, by number of dimensions.
PARAMETERS = {
    'all': None,
    'kernels': objectives.KERNELS,
    'convolutions': (4,),
    'convolutions_linear': (4, 2),
    'convolutions_linear_bias': (4, 2, 1),
}



def operations(name, value):
  """The range of augmentations."""
  try:
    augment.parse(value)
  except UserError as error:
    raise UserError(f'--config.{name}={value}: {error}') from None


def _weights(name, values):
  not_empty(name, values)
  if min(values) < 0:
    raise UserError(f'--config.{name}={values} must not be negative')


ENTRIES = {
    # What is matched.
    'name': Entry('', 'of the method; ask for another by FILE.py:method=NAME'),
    'match': Entry('', 'what is matched'),
    'distance': Entry('mse', 'of gradients or features', None,
                      losses.DISTANCES),
    'parameters': Entry('kernels', 'whose gradients are compared', None,
                        PARAMETERS),
    'first_block': Entry(
        0, 'first block whose features are matched; -1: the last',
        at_least(-1)),
    'last_block': Entry(
        0, 'last block whose features are matched; -1: the last',
        at_least(-1)),
    'alone_share': Entry(
        0.0, 'share of the networks, the first, that begin with plain sweeps '
        '(DSAC)', share),
    'alone_sweeps': Entry(0, 'plain sweeps of these networks', at_least(0)),
    'batch': Entry(64, 'real images a class in a sweep', at_least(1),
                   most=LARGEST_BATCH),
    'limit': Entry(0, 'decoded images a class in a sweep; 0: all', at_least(0)),
    # From the last layer backwards; the final weight is for all before.
    'weights': Entry((1.0, 1.0, 0.1), 'of the layers (CAFE)', _weights),
    'discrimination': Entry(
        0.01, 'weight of the discrimination loss (CAFE)', not_negative),
    'statistics': Entry(
        0.01, 'weight of the batch-norm statistics (SRe2L)', not_negative),
    'first_layer': Entry(10.0, 'weight of the first layer\'s, others 1',
                         not_negative),
    # How the stored images move.
    'lr': Entry(0.1, 'rate of SGD (SRe2L: Adam) on the stored images',
                positive),
    'lr_per_image': Entry(
        False, 'the rate is for ten images a class, and grows with them'),
    'momentum': Entry(0.5, 'of SGD on the stored images (SRe2L: Adam)',
                      below_one),
    'steps': Entry(1000, 'sweeps over all segments', at_least(0)),
    'per_class_steps': Entry(
        False, 'as if images stepped after each class, not once a sweep'),
    # CAFE halves the rate at 1200, 1600 and 1800 of 2000.
    'drops': Entry((0.6, 0.8, 0.9),
                   'shares of the steps after which the rate falls', shares),
    'decay': Entry(0.5, 'what the rate is multiplied by at each of drops',
                   share),
    'augment': Entry('', f'of what is matched: {OPS}', operations),
    'augment_mode': Entry(
        'single', 'one operation at a time (mtt: with aligned corners), all, '
        'or IDC\'s way', None, augment.MODES),
    # The inner network, or the teacher.
    'inner': Entry(100, 'sweeps that a network lives', at_least(1)),
    'warmup': Entry(
        0, 'steps a network is trained before its first sweep', at_least(0)),
    'train_on': Entry('synthetic', 'what networks are trained on between '
                      'sweeps', None, TRAIN_ON),
    'net_steps': Entry(
        32, 'batches between two sweeps (passes, if synthetic)', at_least(0),
        most=10 ** 7),
    'net_lr': Entry(0.01, 'rate of networks between sweeps', positive),
    'net_momentum': Entry(0.0, 'momentum of networks between sweeps',
                          below_one),
    'net_weight_decay': Entry(0.0, 'weight decay of networks between sweeps',
                              not_negative),
    'net_batch': Entry(256, 'batch of networks between sweeps', at_least(1),
                       most=LARGEST_BATCH),
    'net_augment': Entry('', f'of networks between sweeps: {OPS}', operations),
    'net_cutmix': Entry(0.0, 'probability of CutMix between sweeps', share),
    'begin': Entry(
        'noise', 'each new network: noise, or one of those that order real '
        'images (judges: coreset.*); auto: judges of several segments', None,
        ('auto', 'judges', 'noise')),
    'pretrained': Entry(0, 'networks trained before, of which each new one is '
                        'one; 0: none', at_least(0), most=10 ** 5),
    'pretrained_epochs': Entry(
        5, 'epochs of real images that these are trained', at_least(1),
        most=recipes.MOST_EPOCHS),
    'watch_images': Entry(
        128, 'real images a class that accuracy is watched on; 0: networks '
        'live inner sweeps', at_least(0), most=LARGEST_BATCH),
    'watch_window': Entry(10, 'accuracies that count', at_least(2),
                          most=10 ** 4),
    # Both as in the program of CAFE.
    'watch_rest': Entry(
        0.04, 'a network ends once accuracies span less', share),
    'watch_move': Entry(
        0.03, 'training pauses once accuracies span more', share),
    'teach': Entry(
        20, 'steps of a segment that train its teacher; the last of them is '
        'the first that moves images', at_least(1)),
    'net_warm': Entry(
        0, 'of them those in which its rate grows from a hundredth',
        at_least(0)),
    'teacher': Entry(
        '', 'file of a trained teacher; empty: it is trained here'),
    'relabel': Entry(True, 'the teachers label every view of the evaluation'),
    'temperature': Entry(20.0, 'at which such labels are matched', positive),
    'label_views': Entry(0, 'views that one soft label is the mean of; 0: the '
                         'image', at_least(0), most=10 ** 5),
    # The student of trajectory matching.
    'frozen': Entry(
        False, 'a student\'s gradients do not depend on its path (TESLA)'),
    'image_factor': Entry(
        1.0, 'on the images\' gradient (TESLA\'s code: 0.5)', positive),
    'student_steps': Entry(30, 'steps of the student', at_least(1),
                           most=10 ** 5),
    'expert_epochs': Entry(
        2, 'epochs of the expert that the student is to match', at_least(1)),
    'first_epoch': Entry(
        0, 'first epoch of experts that students start from', at_least(0)),
    'start_last_epoch': Entry(
        -1, 'the last one at the first step; -1: last_epoch', at_least(-1)),
    'last_epoch': Entry(
        19, 'last epoch of experts that students start from', at_least(0)),
    'expand': Entry(0, 'steps over which it grows to last_epoch', at_least(0)),
    'batch_syn': Entry(0, 'images in a step of the student; 0: all',
                       at_least(0)),
    'starts': Entry(1, 'students of one step', at_least(1), most=10 ** 5),
    'lr_start': Entry(0.01, 'the student\'s rate at first', positive),
    'lr_lr': Entry(1e-5, 'rate at which the student\'s rate is learned',
                   positive),
    'lr_label': Entry(0.0, 'rate of the labels\' logits; 0: labels stay',
                      at_least(0)),
    'label_momentum': Entry(0.9, 'of SGD on the labels', below_one),
    'average': Entry(
        0.0, 'decay of the images\' moving average (FTD); 0: none', below_one),
    'skip_above': Entry(
        0.0, 'a start with a larger loss changes nothing; 0: off', at_least(0)),
    'assign': Entry(False, 'experts label the images at each step (TESLA)'),
}


def defaults(*names, **others):
  """`{name: default}` of some entries, and of `others` what they say."""
  return {name: ENTRIES[name].default for name in names} | others
