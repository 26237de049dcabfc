"""What makes a distilled set usable without the run that made it."""

import json
import math
import zipfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import dasm_jax
from dasm_jax import data, synthetic
from dasm_jax.errors import UserError, unknown
from dasm_jax.pipeline import loading
from dasm_jax.runtime import environment, npz, paths, records
from dasm_jax.saved import SavedSet
from dasm_jax.training import recipes, train_step
from dasm_jax.transforms import zca
from dasm_jax.types import Batch, SoftLabelled, Synthetic

__all__ = ['SavedSet', 'find', 'load', 'save']

# What the card tells who reads a set without this package.
USE = 'docs/FORMAT.md of dasm_jax says how to read and train this'
# Of the card; a program reads no other. `told` (teachers' logits) and `lessons`
# (how they were made) are names of this format, and stay.
FORMAT = 1


def save(path: Any, syn: Synthetic, codec: synthetic.Codec,
         class_names: Sequence[str], card: dict,
         batch: Batch | SoftLabelled | None = None) -> None:
  """Saves a set that is usable without its run, as an npz without pickles.

  Args:
    path: of the npz.
    syn: a `Synthetic` as stored; codec: how networks read it.
    class_names: one per label.
    card: all else that `SavedSet` tells: `dataset`, `data`, `method`, `ipc`,
      `network`, `recipe`, `recipe_name`, `real_lr`, what else one likes to say.
    batch: the set as networks are trained on it, where that is a
      `SoftLabelled`.

  Raises:
    UserError: it cannot be written; a set that was there stays.
  """
  arrays, card = to_arrays(syn, codec, class_names, card, batch)
  write(path, arrays, card)


def to_arrays(syn: Synthetic, codec: synthetic.Codec,
              class_names: Sequence[str], card: dict,
              batch: Batch | SoftLabelled | None = None
              ) -> tuple[dict[str, np.ndarray], dict]:
  """`(arrays, card)` of a set as files hold them; arguments as of `save`.

  Args:
    syn, codec, class_names, card, batch: as of `save`.

  Returns:
    `({name: array}, card)`.
  """
  # Whatever is no array of numbers becomes one of text: objects would need
  # pickle, which runs what a file of unknown origin says.
  logits = getattr(batch, 'logits', None)
  numbers = synthetic.class_numbers(syn.labels)
  kind = synthetic.label_kind(syn.labels, logits)
  card = {'format': FORMAT, **environment.versions(), **card,
          'decoding': synthetic.decoding_text(codec, syn.images.shape[2:]),
          'label_kind': kind, 'use': USE, 'version': dasm_jax.__version__}
  arrays = {
      'images': np.asarray(syn.images, np.float32),
      'labels': (np.asarray(syn.labels, np.float16) if numbers is None
                 else numbers),
      'label_kind': np.array(kind), 'class_names': np.array(class_names),
      'mean': np.array(codec.mean, np.float32),
      'std': np.array(codec.std, np.float32), 'factor': np.int32(codec.factor),
      'space': np.array(codec.space)}
  if logits is not None:
    card['lessons'] = {'seed': int(batch.seed), 'draws': train_step.DRAWS,
                       'temperature': float(batch.temperature)}
    arrays['told'] = np.asarray(logits)
  if codec.zca is not None:
    arrays |= {'zca_mean': np.float32(codec.zca.mean),
               'zca_matrix': np.float32(codec.zca.matrix)}
  return arrays, card


def through_json(card: dict) -> dict:
  """A card as a file gives it back: lists in the place of tuples.

  Args:
    card: a dict.

  Returns:
    A dict.
  """
  return json.loads(json.dumps(card))


def write(path: Any, arrays: dict[str, np.ndarray], card: dict) -> None:
  """Writes what `to_arrays` returned as an npz; see `save`.

  Args:
    path: of the npz.
    arrays, card: as `to_arrays` returns them.
  """
  with records.replacing(path) as file:
    np.savez(file, **arrays, card=np.array(json.dumps(card)))


def load(path: Any, dataset: str = '') -> SavedSet:
  """Reads a saved set with all that its use needs.

  Args:
    path: a synthetic.npz, or the workdir of a finished run.
    dataset: the name by which its data are found now; '' as the card says.

  Returns:
    A `SavedSet`.

  Raises:
    UserError: no such file, not a set, or a card of another format.
  """
  given, path = path, find(path)
  # Of a run the way out is its command, which makes a lost set again.
  way = ('the command that began this run makes it again'
         if path != paths.to_path(given) or not paths.is_remote(path)
         and path.with_name('config.json').is_file()
         else 'give one that a run has left, or its workdir')
  try:
    arrays = npz.read(path)
    # Before all else: a card of another format may lack any of the rest.
    card = json.loads(str(arrays['card']))
    card.get('format')
  except npz.FAULTS as error:
    why = getattr(error, 'strerror', None) or 'it is cut, damaged or another'
    raise UserError(f'{str(path)!r} is not a whole synthetic.npz: {why}; '
                    f'{way}') from error
  found = from_arrays(arrays, card, path, way)
  return found._replace(data=found.data | {
      'name': data.absolute(dataset)}) if dataset else found


def from_arrays(arrays: dict[str, np.ndarray], card: dict, path: Any, way: str
                ) -> SavedSet:
  """The `SavedSet` of what `to_arrays` returned, or a file has told.

  Args:
    arrays, card: of any contents.
    path: that they are from; way: what to do about it, for errors.

  Returns:
    A `SavedSet`.

  Raises:
    UserError: a card of another format, or no set.
  """
  try:
    written, version = card.get('format'), card.get('version', 'unknown')
  except AttributeError as error:
    raise UserError(f'{str(path)!r} has no card; {way}') from error
  if written != FORMAT:
    raise UserError(
        f'{str(path)!r} has a card of format {written}, and dasm_jax '
        f'{dasm_jax.__version__} reads {FORMAT}; use the version that wrote it'
        f', {version}')
  try:
    return _read(arrays, card)
  except (KeyError, TypeError, ValueError, IndexError, AttributeError,
          OverflowError) as error:
    why = ' '.join(str(error).split())
    if isinstance(error, KeyError):
      why = f'it has no {why}'
    raise UserError(f'{str(path)!r} is no usable set: {why}; {way}') from error


def find(path: Any) -> Any:
  """The synthetic.npz that `path` means: itself, or that of a workdir.

  Args:
    path: of this machine, or of a bucket.

  Returns:
    A path.

  Raises:
    UserError: there is none.
  """
  path = paths.to_path(path)
  with paths.remote_access(path):
    folder, found = path.is_dir(), path.exists()
    whole = folder and (path / 'synthetic.npz').exists()
  if folder:
    if not whole:
      raise UserError(f'{str(path)!r} holds no synthetic.npz; give a finished '
                      'run, or finish this one with the command that began it')
    return path / 'synthetic.npz'
  if not found:
    several = ', one at a time' * (',' in str(path))
    raise UserError(f'{str(path)!r} does not exist; give a synthetic.npz, or '
                    f'the workdir of a finished run{several}')
  return path


def is_ours(path: Any) -> bool:
  """Whether `find` and `load` are to open `path`, or to say what is wrong.

  Not so a file that another program wrote, or a folder that is no workdir.

  Args:
    path: of this machine, or of a bucket.

  Returns:
    A bool.
  """
  path = paths.to_path(path)
  with paths.remote_access(path):
    if path.is_dir():
      return (path / 'synthetic.npz').exists() or _is_workdir(path)
    if path.suffix != '.npz' or not path.exists():
      return path.name == 'synthetic.npz'
    try:
      with path.open('rb') as raw, zipfile.ZipFile(raw) as file:
        return 'card.npy' in file.namelist()
    except npz.FAULTS:
      return True


def _is_workdir(path):
  # Others have files of that name, too.
  try:
    return '"segments"' in (path / 'config.json').read_text()
  except (OSError, ValueError):
    return False


def _check_types(what, tree, like):
  """Raises ValueError for a value that is of another type than in `like`."""
  kinds = {tuple: list, float: int | float}
  for name, value in tree.items():
    kind = type(like.get(name, value))
    fits = isinstance(value, kinds.get(kind, kind)) and (
        kind is bool or not isinstance(value, bool))
    if not fits or isinstance(value, float) and not math.isfinite(value):
      raise ValueError(f'{name} of its {what} is {str(value)[:40]!r}')


def _read(arrays, card):
  """The `SavedSet` of an npz; raises what `load` turns into a `UserError`."""
  images, names = arrays['images'], tuple(map(str, arrays['class_names']))
  if images.ndim != 5 or len(images) != len(names) or not images.size:
    raise ValueError(f'images of shape {images.shape} for {len(names)} classes')
  if images.dtype != np.float32:
    raise ValueError(f'images of type {images.dtype}')
  labels, kind = arrays['labels'], str(arrays['label_kind'])
  if kind not in synthetic.LABEL_KINDS:
    raise unknown('kind of labels', kind, synthetic.LABEL_KINDS)
  if labels.ndim == 2:
    if labels.min() < 0:
      raise ValueError(f'a label of {labels.min()}')
    labels = np.eye(len(names), dtype=np.float32)[labels]
  if labels.shape != (*images.shape[:2], len(names)):
    raise ValueError(f'{kind} labels of shape {labels.shape} for images of '
                     f'{images.shape[:2]} and {len(names)} classes')
  # Of half precision rows no longer sum to one. The run evaluates the labels
  # that are read here, by the same function.
  labels = synthetic.stored_labels(labels)
  # A list, say, could be no key of a table.
  _check_types('card', card, {
      'method': '', 'network': {}, 'recipe': {}, 'recipe_name': '', 'data': {},
      'storage': {}})
  _check_types('recipe', card['recipe'],
               {'epochs': 1, **recipes.Recipe._field_defaults})
  _check_types('data', card['data'], {
      'name': '', 'size': 0, 'holdout': 0.0, 'seed': 0, 'classes': ''})
  _check_types('storage', card['storage'], {
      'space': '', 'formation': '', 'factor': 0, 'zca': 0.0})
  sizes = card.get('segment_images')
  if sizes is not None and not (
      all(type(x) is int and x > 0 for x in sizes)
      and sum(sizes) == images.shape[1]):
    raise ValueError(f'segments of {str(sizes)[:40]} images in a set of '
                     f'{images.shape[1]} a class')
  recipe = {**card['recipe'], 'drops': tuple(card['recipe']['drops'])}
  recipe, name = recipes.recipe(**recipe), card['recipe_name']
  if name not in recipes.RECIPES:
    raise unknown('recipe', name, recipes.RECIPES)
  written = card['data']
  origin = {key: written[key] for key in ('name', 'size', 'holdout', 'seed')}
  origin['classes'] = written.get('classes', '')  # not in old ones
  origin |= {key: written[key] for key in (*loading.SELDOM, 'cut')
             if key in written}
  syn = Synthetic(images, labels, np.float32(recipe.lr))
  codec = _codec(arrays, card['storage'])
  logits = (
      _logits(arrays['told'], codec, syn, card) if kind == 'told' else None)
  return SavedSet(syn, codec, card['network'], recipe, name, origin, names,
                  card, logits)


def _logits(logits, codec, syn, card):
  """The teachers' logits of a set that they label for each epoch, checked."""
  want = jax.eval_shape(
      lambda syn: synthetic.training_inputs(codec, syn), syn)[1].shape
  if logits.ndim != 3 or logits.shape[1:] != want:
    raise ValueError(f'labels told of shape {logits.shape} for {want[0]} '
                     f'images and {want[1]} classes')
  # Raises KeyError if the card lacks one of them.
  made = {name: card['lessons'][name] for name in ('seed', 'temperature')}
  _check_types('lessons', made, {'seed': 0, 'temperature': 1.0})
  # Labels would stand beside other views than those that they are of.
  if card['lessons'].get('draws', 1) != train_step.DRAWS:
    raise ValueError(
        'its labels, one for each epoch, are of images as another version of '
        f'dasm_jax draws them; use that, {card.get("version", "unknown")}')
  return logits


def _codec(arrays, storage):
  """What `storage` and the arrays say of stored and real images.

  A whitening is read back from its float32 matrix.
  """
  whitening = None
  if 'zca_matrix' in arrays:
    mean, matrix = (np.float64(arrays[f'zca_{x}']) for x in ('mean', 'matrix'))
    whitening = zca.Zca(mean, matrix, np.linalg.inv(matrix))
  return synthetic.codec(
      map(float, arrays['mean']), map(float, arrays['std']),
      space=storage['space'], factor=storage['factor'],
      kind=storage['formation'], shape=arrays['images'].shape[2:],
      whitening=whitening)
