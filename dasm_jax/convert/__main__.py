r"""Takes a distilled set anywhere: into a format of others, or back.

  python -m dasm_jax.convert --set=runs/digits --to=safetensors --out=digits

Leaves a folder with the set, a card, a picture and a page that says how to read
it in JAX and in PyTorch without this package. docs/sharing.md tells of each
format.
"""

from dasm_jax.convert import formats
from dasm_jax.foreign import Told
from dasm_jax.runtime import cli
from dasm_jax.runtime.logging import Terminal
from dasm_jax.training import recipes


def _parser():
  parser = cli.Parser('convert', __doc__)
  add = parser.add_argument
  add('--set', required=True, metavar='PATH', help='workdir of a finished run, '
      'its synthetic.npz, what this command has made, or a set that others '
      'published')
  add('--to', required=True, choices=[*formats.FORMATS], help='; '.join(
      f'{name}: {row.about}' for name, row in formats.FORMATS.items()))
  add('--out', required=True, metavar='PATH', help='a folder that is not there '
      'yet; nothing is overwritten')
  add('--dataset', default='', metavar='NAME', help='what a set of others is '
      'of, such as cifar10; of ours, where its data are now')
  add('--data_dir', default=None, metavar='PATH', help='where TFDS sets are; '
      'TFDS_DATA_DIR if not given')
  add('--space', default='', help='of others: the values of its images')
  add('--zca', type=float, default=None, metavar='EPS', help='of others: the '
      'eps of the whitening that its images are in; 0: of none')
  add('--factor', type=cli.int_at_least(0), default=0, metavar='N',
      help='of others: cells along a side of a stored image')
  add('--recipe', default='', choices=sorted(recipes.RECIPES),
      help='of others: how networks are trained on it')
  return parser


def main(argv=None):
  """The command; returns its exit status."""
  return cli.run_command(lambda: run(_parser().parse_args(argv)),
                         'nothing was written')


def run(options):
  """Converts as the parsed `options` say.

  Raises:
    UserError: whatever the user can mend.
  """
  screen = Terminal()
  told = Told(dataset=options.dataset, space=options.space, zca=options.zca,
              factor=options.factor, recipe=options.recipe)
  source = formats.open_source(options.set, told, options.data_dir)
  for note in source.card.get('source', {}).get('notes', ()):
    screen.say(note)
  screen.say(f'{options.set}: {source.set!r}'.replace('<', '').replace('>', ''))
  for line in formats.convert(source, options.to, options.out):
    screen.say(line)


if __name__ == '__main__':
  cli.exit_process(main())
