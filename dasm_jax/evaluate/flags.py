"""The flags of commands that train networks on a set.

Which set, how many networks for how long, where rows are kept; and what a set
of others does not say itself.
"""

import argparse

from dasm_jax import streams
from dasm_jax.foreign import Told, guess
from dasm_jax.methods import registry
from dasm_jax.runtime import cli
from dasm_jax.training import recipes

FACTOR = cli.int_at_least(1, 99)


def add_set(parser, name):
  """Adds to a parser which set is measured, how, and where rows are kept.

  Args:
    parser: of a command.
    name: of the file of rows beside the set.
  """
  add = parser.add_argument
  add('--set', required=True, metavar='PATH', help='workdir of a finished run, '
      'its synthetic.npz, a file or folder that others published (path#2: the '
      'second set in it), or real:DATASET:SELECTION:IPC, such as '
      f'real:mnist:herding:10 (selections: {", ".join(registry.selections())})')
  add('--networks', type=cli.int_at_least(1), default=5, metavar='N',
      help='how many are trained of each kind (default 5)')
  add('--epochs', type=cli.int_at_least(0, recipes.MOST_EPOCHS), default=0,
      metavar='N', help='how long; 0, as the set says (default). Rates drop '
      'accordingly')
  add('--seed', type=cli.int_at_least(0, streams.LARGEST_SEED), default=0,
      metavar='N', help='of weights, order and random subsets (default 0)')
  add('--out', default='', metavar='FILE.json', help='where rows are kept; '
      f'{name} beside the set if not given')
  add('--data_dir', default=None, metavar='PATH', help='where TFDS sets are; '
      'that of the run if not given, else TFDS_DATA_DIR')
  add('--size', type=cli.int_at_least(0), default=0, metavar='N',
      help='of a real subset: make images squares of this many pixels')
  add_flags(parser)


def add_flags(parser):
  """Adds to a parser of a command what `told_by` reads."""
  add = parser.add_argument_group(
      'sets that others published',
      'What their files do not say is guessed and said, a line each; these\n'
      '  flags say it instead.').add_argument
  add('--dataset', default='', metavar='NAME', help='what such a set is of, '
      'such as cifar10 or folder:PATH; for a set of ours, where its data are '
      'now, if not where its card says')
  add('--space', default='', choices=guess.SPACES, help='of its values: '
      'pixels on [0, 1], normalised by mean and std, or from 0 to 255')
  add('--zca', type=_eps, default=None, metavar='EPS', help='of the whitening '
      'that its images are in (MTT\'s --zca: 0.1); 0: they are not whitened')
  add('--factor', type=FACTOR, default=0, metavar='N', help='cells along a '
      'side of a stored image (IDC)')
  add('--labels', default='', choices=guess.LABELS, help='what rows of numbers '
      'are')
  add('--recipe', default='', choices=guess.RECIPES, help='by which networks '
      'are trained on such a set, or on a real subset (idc if not given); a '
      'set of ours has its own')


def told_by(options):
  """The `Told` of parsed arguments."""
  return Told(options.dataset, options.space, options.zca, options.factor,
              options.recipe, options.labels)


def _eps(text):
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value < 1e3:
    raise argparse.ArgumentTypeError(
        f'{text!r} is no number from 0; MTT\'s programs have 0.1')
  return value
