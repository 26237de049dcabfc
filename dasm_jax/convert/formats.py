"""The formats by name; opening whatever there is, and converting it."""


from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dasm_jax import foreign, synthetic
from dasm_jax.convert import array_files, exports, picture_files, readme
from dasm_jax.distill import figures
from dasm_jax.errors import UserError
from dasm_jax.evaluate import saved_set, subjects
from dasm_jax.runtime import npz, paths, records, text


class Format(NamedTuple):
  """A format.

  write: `(folder, source) -> (names of data files, what the card says of
    them)`.
  read: `(folder, card, what the card says) -> arrays`; of pictures `(arrays,
    card)`.
  about: what it is, in words.
  pictures: whether it holds 8-bit images, not the arrays of the set.
  """
  write: Callable
  read: Callable
  about: str
  pictures: bool = False


FORMATS = {
    'card': Format(array_files.write_card_set, array_files.read_card_set,
                   'our synthetic.npz'),
    'npz': Format(array_files.write_npz, array_files.read_npz,
                  'plain arrays'),
    'safetensors': Format(array_files.write_safetensors,
                          array_files.read_safetensors, 'the same'),
    'pt': Format(array_files.write_pt, array_files.read_pt,
                 'tensors for torch.load'),
    'folder': Format(picture_files.write_folder, picture_files.read_folder,
                     'PNGs, a folder a class', True),
    'hf': Format(picture_files.write_hf, picture_files.read_hf,
                 'a Hugging Face dataset (parquet of PNGs)', True),
    'tfds': Format(picture_files.write_tfds, picture_files.read_tfds,
                   'a TFDS data set (array_record of PNGs)', True)}


def open_source(path, told=foreign.NOTHING, data_dir=None):
  """The `exports.Source` of whatever set is at a path.

  Args:
    path: a workdir, a synthetic.npz, an export (its folder or a file of it),
      or what `foreign.load` reads.
    told, data_dir: see `subjects.open_set`.

  Raises:
    UserError: no usable set.
  """
  folder = exports.find(path)
  if folder is None:
    set_ = subjects.open_set(path, told, data_dir)
    if is_foreign(path):
      return exports.from_set(set_)
    # Bit by bit what the file has, of which soft labels are read to rounding.
    arrays = npz.read(saved_set.find(path))
    del arrays['card']
    return exports.Source(arrays, set_.card, set_)
  for name, value in told._replace(dataset='')._asdict().items():
    if value != getattr(foreign.NOTHING, name):
      raise UserError(f'--{name}={value} is not for exports of dasm_jax, whose '
                      'cards say it; leave it out')
  card, said = exports.checked_card(folder)
  row = FORMATS.get(said.get('to'))
  if row is None:
    raise UserError(f'{str(folder)!r} is an export to {said.get("to")!r}; this '
                    f'version reads {", ".join(FORMATS)}')
  try:
    found = row.read(folder, card, said)
  except (*npz.FAULTS, IndexError, OverflowError) as error:
    if isinstance(error, UserError):
      raise
    why = ' '.join(str(error).split())
    raise UserError(f'{str(folder)!r} is no usable export: {why}; '
                    f'{exports.WAY}') from error
  arrays, card = found if row.pictures else (found, card)
  return exports.from_arrays(arrays, card, folder, exports.WAY)


def is_foreign(path):
  """Whether a set is of others: no run has left it, no export holds it."""
  return exports.find(path) is None and not saved_set.is_ours(path)


def convert(source, to, out):
  """Writes a set in a format; a folder appears once it is whole.

  Args:
    source: an `exports.Source`.
    to: a key of `FORMATS`.
    out: a folder of this machine, where none is yet.

  Returns:
    Lines that tell what was done.

  Raises:
    UserError: what the format cannot hold; an `out` that is something else.
  """
  row = FORMATS[to]
  if row.pictures:
    picture_files.check(source, to)
  if exports.check_out(out, source, to):
    return [f'{out} holds this set already, as {to}: left as it is']
  out = paths.to_path(out, '--out')
  with exports.appearing(out) as folder:
    names, told = row.write(folder, source)
    rounding = told.get('rounding')
    _write_picture(folder, source.set)
    records.write_text(folder / exports.README,
                       readme.text(to, source, rounding))
    exports.write_card(folder, source, to, names, told)
    size = sum(path.stat().st_size for path in folder.rglob('*')
               if path.is_file())
  lines = [f'{to}: {out}, {text.size(size)}: {", ".join(sorted(names))}, '
           f'{exports.CARD}, {exports.README}, {exports.PICTURE}']
  if rounding is not None:
    lines.append(f'note: {picture_files.rounding_text(rounding)}; '
                 '--to=npz, safetensors, pt and card hold the set bit for bit')
  return lines


def _write_picture(folder, set_):
  if set_.shape[-1] not in (1, 3):
    return
  shown = np.asarray(synthetic.pixels(set_.codec, set_.syn.images))
  figures.image_grid(shown, folder / exports.PICTURE, set_.class_names)
