"""The formats by name, and opening what one of them holds."""

from collections.abc import Callable
from typing import NamedTuple

from dasm_jax.errors import UserError
from dasm_jax.evaluate.exported import array_files, folders, picture_files
from dasm_jax.runtime import npz


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


def open_export(folder):
  """The `folders.Source` of an export.

  folder: as `folders.find` returns it.

  Raises:
    UserError: it is cut or changed, or of another version.
  """
  card, said = folders.checked_card(folder)
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
                    f'{folders.WAY}') from error
  arrays, card = found if row.pictures else (found, card)
  return folders.from_arrays(arrays, card, folder, folders.WAY)
