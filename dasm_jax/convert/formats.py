"""Opening whatever set there is, and writing it in another format."""

import numpy as np

from dasm_jax import foreign, synthetic
from dasm_jax.convert import readme
from dasm_jax.distill import figures
from dasm_jax.evaluate import saved_set, subjects
from dasm_jax.evaluate.exported import folders, picture_files, table
from dasm_jax.runtime import npz, paths, records, text


def open_source(path, told=foreign.NOTHING, data_dir=None):
  """The `folders.Source` of whatever set is at a path.

  Args:
    path: a workdir, a synthetic.npz, an export (its folder or a file of it),
      or what `foreign.load` reads.
    told, data_dir: see `subjects.open_set`.

  Raises:
    UserError: no usable set.
  """
  set_ = subjects.open_set(path, told, data_dir)
  folder = folders.find(path)
  if folder is not None:
    return table.open_export(folder)
  if is_foreign(path):
    return folders.from_set(set_)
  # Bit by bit what the file has, of which soft labels are read to rounding.
  arrays = npz.read(saved_set.find(path))
  del arrays['card']
  return folders.Source(arrays, set_.card, set_)


def is_foreign(path):
  """Whether a set is of others: no run has left it, no export holds it."""
  return subjects.where(path) == (None, None)


def convert(source, to, out):
  """Writes a set in a format; a folder appears once it is whole.

  Args:
    source: an `folders.Source`.
    to: a key of `table.FORMATS`.
    out: a folder of this machine, where none is yet.

  Returns:
    Lines that tell what was done.

  Raises:
    UserError: what the format cannot hold; an `out` that is something else.
  """
  row = table.FORMATS[to]
  if row.pictures:
    picture_files.check(source, to)
  if folders.check_out(out, source, to):
    return [f'{out} holds this set already, as {to}: left as it is']
  out = paths.to_path(out, '--out')
  with folders.appearing(out) as folder:
    names, told = row.write(folder, source)
    rounding = told.get('rounding')
    _write_picture(folder, source.set)
    records.write_text(folder / folders.README,
                       readme.text(to, source, rounding))
    folders.write_card(folder, source, to, names, told)
    size = sum(path.stat().st_size for path in folder.rglob('*')
               if path.is_file())
  lines = [f'{to}: {out}, {text.size(size)}: {", ".join(sorted(names))}, '
           f'{folders.CARD}, {folders.README}, {folders.PICTURE}']
  if rounding is not None:
    lines.append(f'note: {picture_files.rounding_text(rounding)}; '
                 '--to=npz, safetensors, pt and card hold the set bit for bit')
  return lines


def _write_picture(folder, set_):
  if set_.shape[-1] not in (1, 3):
    return
  shown = np.asarray(synthetic.pixels(set_.codec, set_.syn.images))
  figures.image_grid(shown, folder / folders.PICTURE, set_.class_names)
