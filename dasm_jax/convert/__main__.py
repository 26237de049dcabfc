r"""Takes a distilled set anywhere: into a format of others, or back.

  python -m dasm_jax.convert --set=runs/digits --to=safetensors --out=digits

Leaves a folder with the set, a card, a picture and a page that says how to read
it in JAX and in PyTorch without this package. docs/sharing.md tells of each
format.
"""

from dasm_jax import foreign
from dasm_jax.convert import formats
from dasm_jax.evaluate.exported import table
from dasm_jax.evaluate.flags import add_flags, told_by
from dasm_jax.runtime import cli
from dasm_jax.runtime.logging import Terminal


def _parser():
  parser = cli.Parser('convert', __doc__)
  add = parser.add_argument
  add('--set', required=True, metavar='PATH', help='workdir of a finished run, '
      'its synthetic.npz, what this command has made, or a set that others '
      'published')
  add('--to', required=True, choices=[*table.FORMATS], help='; '.join(
      f'{name}: {row.about}' for name, row in table.FORMATS.items()))
  add('--out', required=True, metavar='PATH', help='a folder that is not there '
      'yet; nothing is overwritten')
  add('--data_dir', default=None, metavar='PATH', help='where TFDS sets are; '
      'TFDS_DATA_DIR if not given')
  add_flags(parser)
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
  source = formats.open_source(options.set, told_by(options),
                               options.data_dir)
  if formats.is_foreign(options.set):
    for note in foreign.notes(source.set):
      screen.say(note)
  screen.say(f'{options.set}: {source.set!r}'.replace('<', '').replace('>', ''))
  for line in formats.convert(source, options.to, options.out):
    screen.say(line)


def command():
  """The whole program, as `dasm-jax-convert` calls it."""
  cli.exit_process(main())


if __name__ == '__main__':
  command()
