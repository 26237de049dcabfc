r"""What other libraries make of every export, by hand, in two environments:

  PYTHONPATH=.:tests/helpers python tests/convert/by_hand.py write DIR
  python tests/convert/by_hand.py check DIR

The first is ours; the second has torch, safetensors, datasets, pyarrow, Pillow,
and tensorflow_datasets or not, but needs nothing of this package. Each page's
PyTorch code is run, and leaves what networks are trained on here; then the
libraries' own loaders are asked for the numbers.
"""

import json
import os
import pathlib
import sys
import traceback

import numpy as np


def write(root):
  """Every kind of set in every format, each with the arrays it must give."""
  import exported

  from dasm_jax.convert import formats
  from dasm_jax.evaluate.exported import table
  for kind in exported.KINDS:
    source = exported.source(kind)
    order = np.array(exported.order_of_code(kind))
    for to, row in table.FORMATS.items():
      if row.pictures and kind == 'told':
        continue
      out = root / f'{to}-{kind}'
      formats.convert(source, to, out)
      batch = source.set.batch
      x, y = np.asarray(batch.images), np.asarray(batch.labels)
      if row.pictures:
        x = np.asarray(formats.open_source(out).set.batch.images)
      else:
        x, y = x[order], y[order]
      np.savez(root / f'{to}-{kind}.npz', x=x, y=y, **{
          f'stored_{name}': array for name, array in source.arrays.items()})


def check(root):
  """Compares; returns how many differ."""
  bad = 0
  for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    want = dict(np.load(root / f'{folder.name}.npz'))
    try:
      compare(folder, want)
      compare_loaders(folder, want)
      print('same', folder.name)
    except ImportError as error:
      print('----', folder.name, error)
    except Exception:
      traceback.print_exc()
      print('DIFFERENT', folder.name)
      bad += 1
  return bad


def compare(folder, want):
  """The PyTorch code of the page leaves x, y."""
  os.chdir(folder)
  page = pathlib.Path('README.md').read_text()
  code = page.split('## In PyTorch')[1].split('```python\n')[1].split('```')[0]
  names = {}
  exec(compile(code, 'README.md', 'exec'), names)  # noqa: S102
  x = names['x'].permute(0, 2, 3, 1).numpy()
  np.testing.assert_allclose(x, want['x'], atol=5e-5)
  y = names['y'].numpy()
  if y.ndim == 1:
    y = np.eye(want['y'].shape[1])[y]
  np.testing.assert_allclose(y, want['y'], atol=1e-3)
  loss = names['torch'].nn.functional.cross_entropy(
      names['torch'].zeros(want['y'].shape), names['y'])
  assert np.isclose(float(loss), np.log(want['y'].shape[1]), atol=1e-4)


def compare_loaders(folder, want):
  """The libraries' loaders have the stored numbers."""
  to = folder.name.split('-')[0]
  images = want['stored_images'].reshape(-1, *want['stored_images'].shape[2:])
  if to == 'pt':
    import torch
    found = torch.load(folder / 'set.pt', weights_only=True)
    np.testing.assert_array_equal(found['images'].numpy(),
                                  np.moveaxis(images, -1, 1))
    assert found['class_names'] == want['stored_class_names'].tolist()
  elif to == 'safetensors':
    from safetensors.numpy import load_file
    found = load_file(folder / 'set.safetensors')
    np.testing.assert_array_equal(found['images'], images)
  elif to == 'hf':
    from datasets import load_dataset
    found = load_dataset(str(folder))['train']
    names = want['stored_class_names'].tolist()
    assert found.features['label'].names == names
    assert len(found) == len(want['x'])
  elif to == 'folder':
    from datasets import load_dataset
    found = load_dataset('imagefolder', data_dir=str(folder))['train']
    card = json.loads((folder / 'card.json').read_text())
    assert found.features['label'].names == sorted(card['export']['folders'])
    assert len(found) == len(want['x'])


if __name__ == '__main__':
  what, place = sys.argv[1], pathlib.Path(sys.argv[2]).absolute()
  sys.exit(write(place) if what == 'write' else check(place))
