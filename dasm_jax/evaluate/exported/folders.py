"""A folder that holds a set in some format: what makes it whole, and its own.

Each has `card.json` (the card of the set and, under `export`, what its data
files do not say), `README.md`, `images.png`, and data files of which the card
has a digest. A folder appears under its name once it is whole.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

import dasm_jax
from dasm_jax import data
from dasm_jax.errors import UserError
from dasm_jax.evaluate import saved_set
from dasm_jax.runtime import paths, records

CARD, README, PICTURE = 'card.json', 'README.md', 'images.png'
EXPORT = 'export'  # of the card: what is said of the folder
FORMAT = 1
_DEEP = 3  # folders down to the last file of an export


class Source(NamedTuple):
  """A set that is converted.

  arrays, card: see `saved_set.to_arrays`; what is bit for bit the same in
    formats that hold arrays.
  set: the `SavedSet` of them.
  """
  arrays: dict
  card: dict
  set: saved_set.SavedSet

  @property
  def digest(self):
    """That tells it from other sets, hexadecimal digits."""
    digest = hashlib.sha256()
    for name, array in sorted(self.arrays.items()):
      array = np.ascontiguousarray(array)
      digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
      digest.update(array.tobytes())
    digest.update(json.dumps(self.card, sort_keys=True).encode())
    return digest.hexdigest()


def from_set(set_):
  """The `Source` of a `SavedSet` that is in no file of ours."""
  storage = {'zca': 0.0, **set_.card.get('storage', {}),
             'space': set_.codec.space, 'factor': set_.codec.factor,
             'formation': set_.codec.kind}
  recipe = set_.recipe._asdict()
  known = {'dataset': set_.data['name'], 'ipc': set_.ipc, **set_.card}
  arrays, card = saved_set.to_arrays(
      set_.syn, set_.codec, set_.class_names, known | {
          'data': set_.data | {'name': data.absolute(set_.data['name'])},
          'network': set_.network, 'recipe': recipe,
          'recipe_name': set_.recipe_name, 'real_lr': set_.real_lr,
          'storage': storage},
      set_.batch if set_.logits is not None else None)
  return from_arrays(arrays, saved_set.through_json(card), set_.data['name'],
                     'give another')


def from_arrays(arrays, card, path, way):
  """The `Source` of arrays and a card; see `saved_set.from_arrays`."""
  return Source(arrays, card, saved_set.from_arrays(arrays, card, path, way))


# ---- Writing


def check_out(out, source, to):
  """Whether `out` holds this export already; raises if it is anything else.

  Args:
    out: a path. source: a `Source`. to: the name of the format.

  Raises:
    UserError: it is there, and no whole export of this set in this format.
  """
  if paths.is_remote(out):
    raise UserError(f'--out={out} is in a bucket; give a folder of this '
                    'machine, and copy it there')
  out = paths.to_path(out, '--out')
  if not (out.exists() or out.is_symlink()):
    return False
  if out.is_dir() and not any(out.iterdir()):
    return False
  found = read_card(out) if (out / CARD).is_file() else None
  told = found.get(EXPORT) if found else None
  way = 'nothing is overwritten: give another --out, or move that away'
  if not told:
    raise UserError(f'--out={out} exists and is no export; {way}')
  if (told.get('set'), told.get('to')) != (source.digest, to):
    raise UserError(f'--out={out} holds another set or format '
                    f'(--to={told.get("to")}); {way}')
  if _digest_of(out, told['data']) != told['digest']:
    raise UserError(f'--out={out} holds this set, but its files are damaged '
                    f'or changed; {way}')
  return True


@contextlib.contextmanager
def appearing(out):
  """Yields a folder beside `out` that takes its name once it is whole.

  Nothing that is there is replaced, but an empty folder.

  Raises:
    UserError: it cannot be written; what was there stays.
  """
  out = pathlib.Path(out).absolute()
  aside = out.with_name(f'.{out.name}.part-{os.getpid()}')
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)  # of a process of that number
    aside.mkdir()
    try:
      yield aside
      os.rename(aside, out)
    except BaseException:
      shutil.rmtree(aside, ignore_errors=True)
      raise
  except (OSError, UserError) as error:
    # What writes a file within has made one line of it, of a run.
    cause = error.__cause__ if isinstance(error, UserError) else error
    if not isinstance(cause, OSError):
      raise
    raise UserError(f'--out={out} cannot be written: '
                    f'{cause.strerror or cause}; give a folder that may be '
                    'written, where there is room') from error


def write_card(folder, source, to, names, told):
  """Writes card.json, last of the files of an export.

  Args:
    folder: a path. source: a `Source`. to: the name of the format.
    names: of the data files and folders in it.
    told: what the format has to say besides, a dict.
  """
  set_ = source.set
  export = {
      'format': FORMAT, 'to': to, 'set': source.digest,
      'class_names': list(set_.class_names),
      'shape': list(set_.shape), 'label_kind': source.card['label_kind'],
      'mean': source.arrays['mean'].tolist(),
      'std': source.arrays['std'].tolist(), **told, 'data': sorted(names),
      'digest': _digest_of(folder, names), 'version': dasm_jax.__version__}
  records.write_text(folder / CARD, json.dumps(
      {**source.card, EXPORT: export}, indent=1) + '\n')


# ---- Reading


def find(path):
  """The folder of an export that `path` is, or is in; None if none.

  What lies beside the files of an export is not of it.
  """
  if paths.is_remote(path):
    return None
  path = paths.to_path(path)
  for folder in (path, *path.absolute().parents[:_DEEP]):
    if not (folder / CARD).is_file():
      continue
    try:
      told = read_card(folder).get(EXPORT)
    except UserError:
      if folder == path:
        raise
      continue  # it may be anybody's
    if isinstance(told, dict):
      rest = path.absolute().relative_to(folder.absolute()).parts
      ours = (CARD, README, PICTURE, *told.get('data', ()))
      return folder if not rest or rest[0] in ours else None
  return None


def read_card(folder):
  """The card.json of a folder; UserError if it is no JSON object."""
  path = folder / CARD
  try:
    card = json.loads(path.read_text())
    if not isinstance(card, dict):
      raise ValueError('it holds no object')
  except (OSError, ValueError, RecursionError) as error:
    why = ' '.join(str(getattr(error, 'strerror', None) or error).split())
    raise UserError(f'cannot read {str(path)!r}: {why}; convert the set again '
                    'to another --out') from error
  return card


def checked_card(folder):
  """`(card, what it says of the export)` of a whole export.

  Raises:
    UserError: it is cut or changed, or of a later version.
  """
  card = read_card(folder)
  told = card.pop(EXPORT)
  if told.get('format') != FORMAT:
    raise UserError(f'{str(folder)!r} is an export of format '
                    f'{told.get("format")}, and dasm_jax '
                    f'{dasm_jax.__version__} reads {FORMAT}; use version '
                    f'{told.get("version", "unknown")}')
  try:
    whole = _digest_of(folder, told['data']) == told['digest']
  except (KeyError, TypeError, ValueError, OSError) as error:
    raise UserError(f'{str(folder)!r} is no whole export: '
                    f'{" ".join(str(error).split())}; {WAY}') from error
  if not whole:
    raise UserError(f'{str(folder)!r} is no whole export: its data files are '
                    f'not those of its {CARD}; {WAY}')
  return card, told


WAY = 'convert the set again, or get the folder again'


def _digest_of(folder, names):
  """sha256 over the names and contents of files, those of folders as well.

  names: of the folder's own; raises ValueError for a path to elsewhere.
  """
  digest = hashlib.sha256()
  for name in sorted(names):
    for path in sorted(_files(folder / plain_name(name))):
      with path.open('rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
      digest.update(f'{path.relative_to(folder).as_posix()} {found}\n'.encode())
  return digest.hexdigest()


def plain_name(name):
  """A name that leads out of no folder; raises ValueError for another."""
  if not isinstance(name, str) or name in ('', '.', '..') or (
      '/' in name or '\\' in name or '\0' in name):
    raise ValueError(f'{name!r} is no name of a file of its own')
  return name


def _files(path):
  # What begins with a dot is of the machine, such as .DS_Store.
  if path.is_dir():
    return [file for file in path.rglob('*')
            if file.is_file() and not file.name.startswith('.')]
  return [path] if path.is_file() else []
