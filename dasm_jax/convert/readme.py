"""The README.md of an export: what it is, how good it is, how to read it."""

import json

from dasm_jax.convert import snippets
from dasm_jax.evaluate.exported import picture_files
from dasm_jax.evaluate.exported.folders import PICTURE
from dasm_jax.runtime.text import plural

_FILES = {
    'card': '`synthetic.npz`: as dasm_jax keeps a set; `python -m '
            'dasm_jax.evaluate --set=.` trains networks on it',
    'npz': '`set.npz`: arrays of NumPy, no pickles',
    'safetensors': '`set.safetensors`: arrays',
    'pt': '`set.pt`: tensors, for `torch.load(…, weights_only=True)`; images '
          'are channels first',
    'folder': '`train/<class>/<number>.png`: for whatever takes a folder for '
              'each class',
    'hf': '`data/*.parquet`: for `datasets.load_dataset` of this folder',
    'tfds': '`1.0.0/`: prepared by TFDS as array_record; '
            '`--config.dataset.name=FOLDER --config.dataset.holdout=.1` of '
            'dasm_jax distils it'}


def text(to, source, rounding=None):
  """The page.

  Args:
    to: the name of the format. source: an `folders.Source`.
    rounding: of `picture_files.rounded`, where images are pictures.
  """
  set_, card = source.set, source.card
  parts = [_head(source) if to == 'hf' else '', _title(source),
           f'![Images of the set, one row a class]({PICTURE})\n',
           _files(to, source, rounding), _accuracy(card),
           _training(set_), _published(card),
           '## In JAX\n\n```python\n' + snippets.code('jax', to, source)
           + '\n```\n',
           '## In PyTorch\n\n```python\n' + snippets.code('torch', to, source)
           + '\n```\n', _way_back(to)]
  return '\n'.join(filter(None, parts))


def _title(source):
  set_, card = source.set, source.card
  size = 'x'.join(map(str, set_.shape))
  return (f'# {card.get("dataset", set_.data["name"])}, {card["method"]}, '
          f'{plural(set_.ipc, "image")} a class\n\nA distilled data set: '
          f'{plural(set_.ipc * len(set_.class_names), "image")} of {size}, '
          f'{set_.ipc} for each of {len(set_.class_names)} classes, to train '
          'networks on in the place of all real images. `card.json` says all '
          'that is known of it.\n')


def _files(to, source, rounding):
  set_, lines = source.set, [_FILES[to] + '.']
  if rounding is not None:
    lines.append(
        f'Images are {picture_files.rounding_text(rounding)}. dasm_jax can '
        'make a set of them again, but not the same one.')
    if to == 'folder' and sorted(set_.class_names) != [*set_.class_names]:
      lines.append('Programs that number the folders by their names number '
                   'the classes otherwise than the card does.')
    if source.card['label_kind'] == 'soft':
      column = ('`labels.npy`, rows in the order of the code below'
                if to == 'folder' else '`probabilities`')
      lines.append(f'Labels are probabilities of each class ({column}); a '
                   'folder or class number is what an image was made for.')
    if set_.codec.zca is not None:
      lines.append('Networks see images whitened by `zca.npz`.')
  else:
    where = {'pixels': 'pixels on [0, 1]', 'normalised': 'as networks see them'}
    decoding = source.card.get('decoding', '')
    lines.append(
        f'Images are float32, {where[set_.codec.space]}, class after class; '
        'the same bits as those of the set.')
    if set_.codec.factor > 1 and decoding:
      lines.append(f'Each holds several, which the code cuts out: {decoding}.')
    if set_.logits is not None:
      lines.append(
          f'`told` `{list(set_.logits.shape)}` are logits of a teacher for '
          'each epoch and image, of views that dasm_jax draws by the seed of '
          '`lessons` in the card (docs/FORMAT.md there). The code below leaves '
          'them out: it trains on the plain labels.')
    elif source.card['label_kind'] == 'soft':
      lines.append('Labels are probabilities of each class.')
  return '\n\n'.join(lines) + '\n'


def _accuracy(card):
  """The table of what was measured, or ''."""
  rows = card.get('accuracy') or {}
  names = {'synthetic': 'this set', 'random': 'random real images'}
  lines = [f'| {names.get(name, name)} | {row["mean"]:.2%} | '
           f'{row["std"]:.2%} | {len(row["networks"])} |'
           for name, row in rows.items()
           if isinstance(row, dict) and row.keys() >= {
               'mean', 'std', 'networks'}]
  if not lines:
    return ''
  return '\n'.join([
      'Fresh networks, trained as below; measured on '
      f'{card.get("split", "test images")}.\n',
      '| trained on | accuracy | std | networks |', '|---|---|---|---|',
      *lines]) + '\n'


def _training(set_):
  """How it is meant to be trained, a paragraph."""
  r, network = set_.recipe, dict(set_.network)
  name = network.pop('name')
  told = ', '.join(f'{key} {value}' for key, value in network.items()
                   if value is not None)
  optimizer = {'sgd': f'SGD with momentum {r.momentum:g}',
               'adamw': 'AdamW'}[r.optimizer]
  rate = f'{r.lr:g}'
  if r.drops:
    rate += f', times {r.decay:g} after epochs {_joined(r.drops)}'
  if r.cosine:
    rate += ', falling as a cosine'
  augment = f'augmentation `{r.strategy}` ({r.mode})' if r.strategy else (
      'no augmentation')
  mixed = f', CutMix in {r.cutmix:.0%} of the batches' * bool(r.cutmix)
  mixed += f', Mixup {r.mixup:g}' * bool(r.mixup)
  return (f'It is meant for: {name} ({told}), {optimizer}, weight decay '
          f'{r.weight_decay:g}, rate {rate}, batches of {r.batch}, '
          f'{r.epochs + r.extra} epochs, {augment}{mixed}.\n')


def _published(card):
  """What was found in files of others, and decided, or ''."""
  told = card.get('source')
  if not isinstance(told, dict) or not told.get('notes'):
    return ''
  return ('It was read by dasm_jax from files that others published '
          f'({", ".join(told.get("files", ()))}):\n\n```\n'
          + '\n'.join(told['notes']) + '\n```\n')


def _joined(values):
  return ' and '.join(map(str, values))


def _way_back(to):
  if to == 'card':
    return ('`python -m dasm_jax.convert --set=. --to=safetensors --out=../as` '
            'takes it into another format.\n')
  return ('`python -m dasm_jax.convert --set=. --to=card --out=../again` makes '
          'it a set of dasm_jax again.\n')


def _head(source):
  """What the Hub and `datasets` read of the page."""
  count = source.set.ipc * len(source.set.class_names)
  sizes = {10 ** 3: 'n<1K', 10 ** 4: '1K<n<10K', 10 ** 5: '10K<n<100K'}
  size = next((name for most, name in sizes.items() if count < most),
              '100K<n<1M')
  names = '\n'.join(f"          '{number}': {json.dumps(name)}" for number, name
                    in enumerate(source.set.class_names))
  soft = '' if source.card['label_kind'] != 'soft' else (
      '  - name: probabilities\n    sequence: float32\n'
      f'    length: {len(source.set.class_names)}\n')
  return f'''---
task_categories:
- image-classification
tags:
- dataset-distillation
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
{names}
{soft}---
'''
