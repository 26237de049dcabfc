"""Which files of a published set hold what, method by method.

Recognised by names and contents, never by running anything. What a layout
implies (IDC stores pixels, DC what networks see) is told in `Found`; the rest
is `guess`'s.

Sections: what is found, folders, files of tensors, names and shapes.
"""

import hashlib
import re
from typing import NamedTuple

import numpy as np

from dasm_jax.errors import UserError
from dasm_jax.foreign import files, torch_file
from dasm_jax.runtime import paths

# What the help, the page and errors call them.
KNOWN = (
    'DC/DSA/DM res_*.pt', 'IDC data.pt', 'NCFM data_*.pt',
    'MTT/FTD/TESLA/DC-BENCH *images*.pt + *labels*.pt', 'DATM with lr_*.pt',
    'KIP and FRePo .npz', 'SRe2L and RDED class folders',
    "any .pt, .npz, .safetensors of images and labels, Hugging Face's .parquet")
TORCH = ('.pt', '.pth', '.pkl', '.bin', '.tar')
IMAGE_KEYS = ('images', 'image', 'image_syn', 'images_syn', 'image_tensor',
              'syn_images', 'x', 'x_syn', 'data', 'x_proto')
LABEL_KEYS = ('labels', 'label', 'soft_labels', 'label_syn', 'labels_syn',
              'syn_labels', 'y', 'y_syn', 'targets', 'target', 'y_proto')
RATE_KEYS = ('lr', 'syn_lr', 'lr_best')


class Found(NamedTuple):
  """What the files of a set hold.

  images: `[n, h, w, c]` as they are there.
  labels: `[n]` class numbers, or `[n, classes]`; None: none are there.
  layout: in words.
  paths: all files that were read.
  label_kind: `hard`, `probabilities`, `logits`, `centred`; '' nobody knows.
  lr: the rate that was learned with the images, or None.
  space: that the layout implies, or ''.
  factor: likewise, or 0. cells: whether there may be several in an image.
  whitens: whether its program can whiten, and does not say in the file.
  classes: names of the classes in the order of the labels, or ().
  method: a word for rows and recipes, or ''.
  notes: what was decided, a line each.
  """
  images: np.ndarray
  labels: np.ndarray | None
  layout: str
  paths: tuple
  label_kind: str = ''
  lr: float | None = None
  space: str = ''
  factor: int = 0
  cells: bool = False
  whitens: bool = False
  classes: tuple = ()
  method: str = ''
  notes: tuple = ()

  def digest(self):
    """sha256 of all that was read, as hexadecimal digits."""
    sums = hashlib.sha256()
    for array in (self.images, self.labels):
      if array is not None:
        sums.update(f'{array.dtype.str} {array.shape}'.encode())
        sums.update(np.ascontiguousarray(array))
    return sums.hexdigest()


def find(path, number=0):
  """What is in a file or folder.

  Args:
    path: as a user gives it.
    number: which of several sets in a file, from 1; 0: the last.

  Returns:
    A `Found`, with images in the order of the file.

  Raises:
    UserError: nothing there, or nothing that is known.
  """
  path = existing(path)
  with paths.remote_access(path):
    found = (_of_folder if path.is_dir() else _of_file)(path, number)
  if number and not any(note.startswith('sets') for note in found.notes):
    raise UserError(f'{str(path)!r} holds one set; leave out #{number}')
  return _checked(found, path)


def existing(path):
  """What a text names, here or remote; `UserError` if nothing is there."""
  path = paths.to_path(path)
  with paths.remote_access(path):
    if path.exists():
      return path
  several = ', one at a time' * (',' in str(path))
  raise UserError(f'{str(path)!r} does not exist; give a synthetic.npz, or the '
                  f'workdir of a finished run{several}; or {_known()}')


def _known():
  return f'what others publish ({"; ".join(KNOWN)})'


def unknown(path, what):
  """`UserError` for a file in which no set is recognised."""
  return UserError(f'{str(path)!r} is no set that is known: it holds {what}; '
                   f'known are a run of dasm_jax, {"; ".join(KNOWN)}')


def _checked(found, path):
  images, labels = found.images, found.labels
  if not images.size:
    raise unknown(path, f'images of shape {images.shape}')
  if images.dtype.kind not in 'fiu':
    raise unknown(path, f'images of type {images.dtype}')
  if images.dtype.kind == 'f' and not np.isfinite(images).all():
    raise UserError(f'{str(path)!r} ({found.layout}) has images with values '
                    'that are not finite; fetch it again, or distil it anew')
  if labels is not None and len(labels) != len(images):
    raise UserError(f'{str(path)!r} ({found.layout}) has {len(images)} images '
                    f'and {len(labels)} labels; find those that belong '
                    'together')
  if labels is not None and labels.dtype.kind == 'f' and (
      not np.isfinite(labels).all()):
    raise UserError(f'{str(path)!r} ({found.layout}) has labels that are not '
                    'finite; fetch it again')
  return found


# ---- Folders


def _of_folder(folder, number):
  entries = sorted(folder.iterdir(), key=files.by_number)
  names = [entry.name for entry in entries]
  tensors = [entry for entry in entries if entry.suffix in TORCH]
  if (phases := _phases(folder, entries)):
    return _of_phases(phases)
  if 'data.pt' in names:
    return _of_file(folder / 'data.pt', number)
  if tensors:
    return _of_file(_one_of(folder, tensors), number)
  for suffix in ('.npz', '.safetensors'):
    alike = [entry for entry in entries if entry.suffix == suffix]
    if len(alike) == 1:
      return _of_file(alike[0], number)
  tables = [entry for entry in entries if entry.suffix == '.parquet']
  if not tables and 'data' in names and (folder / 'data').is_dir():
    tables = sorted((folder / 'data').glob('*.parquet'))
  if tables:
    trains = [x for x in tables if x.name.startswith('train')]
    return _of_parquet(trains or tables)
  if (classes := files.class_folders(folder)):
    return _of_classes(folder, classes)
  if 'distilled_data' in names:
    return _of_folder(folder / 'distilled_data', number)
  raise UserError(
      f'{str(folder)!r} holds no synthetic.npz, nor another set: give a '
      'finished run, finish this one with the command that began it, or give '
      f'{_known()}')


def _phases(folder, entries):
  """Folders `…_phase0`, `…_phase1`, … that hold IDC's parts of the classes."""
  match = re.fullmatch(r'(.*_phase)\d+', folder.name)
  if match and (folder / 'data.pt').exists():
    entries = [x for x in folder.parent.iterdir()
               if x.name.startswith(match[1])]
  parts = [x for x in entries if re.fullmatch(r'.*_phase\d+', x.name)
           and (x / 'data.pt').exists()]
  return sorted(parts, key=files.by_number)


def _one_of(folder, tensors):
  """The file of a folder of tensors that stands for the set."""
  images = [x for x in tensors
            if 'image' in x.name.lower() and 'zca' not in x.name.lower()]
  for choice in (
      [x for x in images if 'best' in x.name and not x.name.startswith('ema')],
      [x for x in images if 'best' in x.name], images,
      [x for x in tensors if x.name.startswith('res_')],
      [x for x in tensors if re.fullmatch(r'data_.*\.pt', x.name)], tensors):
    # Parts of one set are found from the first of them.
    if len({re.sub(r'_\d+(\.\w+)$', r'\1', x.name)
            if 'best' in x.name else x.name for x in choice}) == 1:
      return choice[0]
    if choice:
      shown = ', '.join(x.name for x in choice[:4])
      raise UserError(f'{str(folder)!r} holds several sets ({shown}, …); give '
                      'one of these files')
  raise AssertionError('a folder of no tensors')


def _of_phases(phases):
  parts = [_of_file(phase / 'data.pt', 0) for phase in phases]
  labels, notes = [part.labels for part in parts], []
  if len(parts) > 1 and all(set(x) == set(labels[0]) for x in labels):
    # Each part counts its own classes from 0.
    each = len(set(labels[0]))
    labels = [x + k * each for k, x in enumerate(labels)]
    notes.append(f'classes   those of part k are counted on from {each} k')
  if len({part.images.shape[1:] for part in parts}) > 1:
    raise UserError(f'{str(phases[0].parent)!r} (IDC in phases) has images of '
                    'several sizes; find those that belong together')
  return parts[0]._replace(
      images=np.concatenate([part.images for part in parts]),
      labels=np.concatenate(labels), layout='IDC in phases',
      paths=sum((part.paths for part in parts), ()),
      notes=(f'phases    {len(parts)}, one after the other', *notes))


def _of_classes(folder, classes):
  names = [name for name, _ in classes]
  numbers = [re.fullmatch(r'(?:new)?(\d+)', name) for name in names]
  layout = 'SRe2L class folders' if names[0].startswith('new') else (
      'class folders of images')
  if all(numbers):
    ranks, names = [int(match[1]) for match in numbers], ()
  else:
    ranks = range(len(names))
  listed = [file for _, part in classes for file in part]
  labels = np.concatenate([np.full(len(part), rank) for rank, (_, part) in zip(
      ranks, classes, strict=True)])
  return Found(files.read_images(listed), labels, layout, tuple(listed),
               label_kind='hard', space='255', factor=1, classes=tuple(names),
               method='sre2l' if layout.startswith('SRe2L') else '')


def _of_parquet(tables):
  images, labels, names = files.read_parquet(tables)
  return Found(images, labels, 'Hugging Face parquet', tuple(tables),
               label_kind='hard', space='255', factor=1, classes=names)


# ---- Files of tensors


def _of_file(path, number):
  if path.suffix == '.npz':
    return _of_npz(path)
  if path.suffix == '.safetensors':
    return _of_arrays(path, files.read_safetensors(path), 'safetensors')
  if path.suffix == '.parquet':
    return _of_parquet([path])
  if path.suffix not in TORCH:
    raise unknown(path, f'a file of the kind {path.suffix or path.name!r}')
  tree = torch_file.read(path)
  if isinstance(tree, dict) and isinstance(tree.get('data'), list):
    return _of_experiments(path, tree['data'], number)
  if isinstance(tree, list | tuple) and len(tree) == 2 and all(
      isinstance(x, np.ndarray) for x in tree):
    return _of_pair(path, *tree)
  if isinstance(tree, np.ndarray):
    return _of_tensor(path, tree)
  if isinstance(tree, dict):
    return _of_arrays(path, tree, 'a dict of tensors')
  raise unknown(path, _brief(tree))


def _of_experiments(path, pairs, number):
  if not pairs or not all(
      isinstance(pair, list | tuple) and len(pair) == 2
      and all(isinstance(x, np.ndarray) for x in pair) for pair in pairs):
    raise unknown(path, "'data' that is no list of images and labels")
  if number > len(pairs):
    raise UserError(f'{str(path)!r} (DC, DSA, DM) holds {len(pairs)} sets; '
                    f'#{number} is none of them: choose from #1 to '
                    f'#{len(pairs)}')
  images, labels = pairs[number - 1]
  which = f'#{number}' if number else f'the last, #{len(pairs)}'
  return Found(_channels_last(images, path), _flat(labels, path), 'DC, DSA, DM',
               (path,), label_kind='' if labels.ndim > 1 else 'hard',
               space='normalised', factor=1, method='dc',
               notes=(f'sets      {len(pairs)} in the file, this is {which}; '
                      '#k behind its name takes another',))


def _of_pair(path, images, labels):
  if images.ndim not in (3, 4):
    raise unknown(path, _brief([images, labels]))
  ncfm = re.fullmatch(r'data_.*', path.stem)
  layout = 'NCFM' if ncfm else 'IDC' if path.stem == 'data' else (
      'a list of images and labels')
  known = layout != 'a list of images and labels'
  return Found(_channels_last(images, path), _flat(labels, path), layout,
               (path,), label_kind='hard' if labels.ndim == 1 else '',
               space='pixels' if known else '', cells=known,
               factor=0 if known else 1, method='idc' if known else '')


def _of_tensor(path, tensor):
  """Of `images_best.pt`, `labels_best.pt` and their like, beside each other."""
  if tensor.ndim < 3:
    partner = _beside(path, 'label', 'image')
    if partner is None:
      raise unknown(path, f'a tensor of shape {tensor.shape}, and no file of '
                    'images lies beside it')
    return _of_file(partner, 0)
  if re.match(r'(ema_)?images_zca', path.name):
    raise UserError(
        f'{str(path)!r} (MTT) is the copy for viewing, no longer whitened; '
        f'give {path.name.replace("_zca", "")!r}, with --zca=0.1')
  stem = re.fullmatch(r'(.*best)_\d+', path.stem)
  parts = [path] if stem is None else sorted(
      (x for x in path.parent.glob(f'{stem[1]}_*{path.suffix}')
       if re.fullmatch(r'_\d+', x.stem.removeprefix(stem[1]))),
      key=files.by_number)
  tensors = [tensor if x == path else _tensor_of(x) for x in parts]
  beside = [_beside(x, 'image', 'label') for x in parts]
  if any(x is None for x in beside):
    labels = None
    if len(parts) > 1:
      raise UserError(f'{str(path.parent)!r} (MTT in parts) lacks labels of '
                      'some parts; fetch them all')
  else:
    labels = np.concatenate([_flat(_tensor_of(x), x) for x in beside])
  rate_path = _beside(path, 'images', 'lr')
  rate = None if rate_path is None else _rate(_tensor_of(rate_path), rate_path)
  soft = labels is not None and labels.ndim == 2
  normalised = 'normalize' in path.stem  # so DC-BENCH calls its subsets
  layout = ('images without labels' if labels is None else
            'DATM' if soft and rate is not None else
            'MTT, FTD, TESLA' if re.match(r'(ema_)?images_(best|\d)', path.stem)
            else 'DC-BENCH')
  notes = (f'parts     {len(parts)}, one after the other',) * (len(parts) > 1)
  return Found(
      _channels_last(np.concatenate(tensors), path), labels, layout,
      tuple(x for x in (*parts, *beside, rate_path) if x is not None),
      label_kind='logits' if layout == 'DATM' else '' if soft else 'hard',
      lr=rate, space='normalised' if normalised else '', factor=1,
      whitens=not normalised, notes=notes,
      method='datm' if layout == 'DATM' else 'mtt' if labels is not None and (
          'best' in path.stem) else '')


def _tensor_of(path):
  tree = torch_file.read(path)
  if not isinstance(tree, np.ndarray):
    raise unknown(path, _brief(tree))
  return tree


def _beside(path, word, other):
  """The file whose name has the other word in the place of one, or None."""
  for one, two in ((word, other), (word.capitalize(), other.capitalize())):
    head, found, tail = path.name.rpartition(one)
    if found:
      partner = path.with_name(f'{head}{two}{tail}')
      if partner.exists():
        return partner
  return None


def _of_npz(path):
  arrays = files.read_npz(path)
  words = set(re.split(r'[^a-z0-9]+', path.stem.lower()))
  found = _of_arrays(path, arrays, 'an .npz of arrays')
  if set(arrays) == {'image', 'label'} and found.labels.ndim == 2:
    return found._replace(layout='FRePo', method='frepo', whitens=True)
  if 'kip' in words and found.labels is not None and found.labels.ndim == 2:
    if 'zca' in words:
      raise UserError(
          f'{str(path)!r} (KIP) is whitened after each image was brought to '
          'mean 0 and length 1, which is not done to test images here; give a '
          'KIP set without zca')
    return found._replace(
        layout='KIP', method='kip', labels=found.labels.argmax(1),
        label_kind='hard', notes=(
            'labels    the largest of each row, as DC-BENCH takes them',))
  return found


def _of_arrays(path, arrays, layout):
  arrays = {name: value for name, value in arrays.items()
            if isinstance(value, np.ndarray | float | int)}
  lower = {str(name).lower(): value for name, value in arrays.items()}
  images = next((lower[key] for key in IMAGE_KEYS if key in lower), None)
  labels = next((lower[key] for key in LABEL_KEYS if key in lower), None)
  rate = next((lower[key] for key in RATE_KEYS if key in lower), None)
  if not isinstance(images, np.ndarray) or images.ndim not in (3, 4):
    raise unknown(path, _brief(arrays))
  if 'image_tensor' in lower or 'soft_labels' in lower:
    layout = 'DD-Ranking'
  labels = None if labels is None else _flat(np.asarray(labels), path)
  return Found(
      _channels_last(images, path), labels, layout, (path,),
      label_kind='' if labels is not None and labels.ndim == 2 else 'hard',
      lr=None if rate is None else _rate(rate, path), factor=1, whitens=True)


# ---- Names and shapes


def _channels_last(images, path):
  """`[n, h, w, c]` of images in any order; one channel or three."""
  if images.ndim == 3:
    return images[..., None]
  if images.ndim != 4:
    raise unknown(path, f'images of shape {images.shape}')
  if images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
  if images.shape[3] in (1, 3):
    return images
  raise unknown(path, f'images of shape {images.shape}, none of whose sides is '
                'one channel or three')


def _flat(labels, path):
  """`[n]` whole numbers, or `[n, classes]` as they are."""
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  if labels.ndim == 2:
    return labels.astype(np.float32)
  if labels.ndim != 1 or labels.dtype.kind not in 'fiu' or (
      labels != np.floor(labels)).any() or (labels < 0).any():
    raise unknown(path, f'labels of shape {labels.shape} that are no class '
                  'numbers')
  return labels.astype(np.int64)


def _rate(value, path):
  value = np.asarray(value, np.float64).reshape(-1)
  if value.size != 1 or not 0 < value[0] < 1e6:
    raise UserError(f'{str(path)!r} holds the rate {str(value)[:40]}, which is '
                    'none; remove it to train by the recipe\'s')
  return float(value[0])


def _brief(tree):
  """What a tree is, in words."""
  if isinstance(tree, np.ndarray):
    return f'a tensor of shape {tree.shape}'
  if isinstance(tree, dict):
    keys = ', '.join(map(str, list(tree)[:6])) or 'nothing'
    return f'a dict of {keys}{", …" * (len(tree) > 6)}'
  if isinstance(tree, list | tuple):
    shapes = ', '.join(_brief(x) for x in tree[:3])
    return f'a list of {len(tree)} ({shapes}{", …" * (len(tree) > 3)})'
  return f'a {type(tree).__name__}'
