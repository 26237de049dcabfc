"""Code that reads an export without this package: for JAX, and for PyTorch.

It leaves `x`, `y`: images and labels as networks are trained on them, and
`see`, which real images on [0, 1] go through. Its lines are put together by
what the set is: its format, factor, space, whitening, kind of labels. Images
are channels last in JAX, first in PyTorch.
"""

from dasm_jax import synthetic
from dasm_jax.evaluate.exported import array_files, picture_files

PICTURES = ('folder', 'hf', 'tfds')  # which are pixels that are decoded
LIBRARIES = ('jax', 'torch')
_IMPORTS = {'jax': ['import jax, jax.numpy as jnp'],
            'torch': ['import torch, torch.nn.functional as F']}
_MAKE = {'jax': 'jnp.array({})', 'torch': 'torch.tensor({})'}


def code(library, to, source):
  """Lines for one of `LIBRARIES`, to be run in the folder of the export.

  to: the name of the format; source: an `folders.Source`.
  """
  parts = [_reading(library, to, source), _statistics(library, to, source)]
  imports = [line for more, _ in parts for line in more]
  lines = [line for _, more in parts for line in more]
  if to not in PICTURES:
    lines += _decoding(library, source)
  # Those of the standard library first, each once.
  imports = sorted(dict.fromkeys(imports), key=lambda line: line not in (
      'import json', 'import pathlib', 'import zipfile'))
  return '\n'.join([*imports, *_IMPORTS[library], *lines,
                    *_labels(library, source), *_seeing(library, to, source)])


# ---- Reading: each returns `(imports, lines)`


def _reading(library, to, source):
  """What leaves `x` and `y`, as stored or, of pictures, on [0, 1]."""
  torch = library == 'torch'
  if to in PICTURES:
    imports, lines = _PICTURES[to](source)
    made = _MAKE[library]
    lines.append(f'x, y = {made.format("x")} / 255, {made.format("y")}')
  elif to == 'pt' and not torch:
    return _zip_reading(source)
  elif to in ('pt', 'safetensors'):
    imports = [] if to == 'pt' else [
        f'from safetensors.{"torch" if torch else "numpy"} import load_file']
    call = ("torch.load('set.pt', weights_only=True)" if to == 'pt' else
            "load_file('set.safetensors')")
    made = '{}' if torch else _MAKE[library]
    lines = [f'd = {call}', 'x, y = ' + ', '.join(
        made.format(f"d['{name}']") for name in ('images', 'labels'))]
  else:
    imports = ['import numpy as np']
    file = 'set.npz' if to == 'npz' else 'synthetic.npz'
    each = 'd[k]' if to == 'npz' else 'np.concatenate(d[k])'
    lines = [f"d = np.load('{file}')",
             f'x, y = ({_MAKE[library].format(each)} '
             "for k in ('images', 'labels'))"]
  if torch and to != 'pt':
    lines.append('x = x.permute(0, 3, 1, 2)  # channels first')
  return imports, lines


def _folder(source):
  return (['import json', 'import pathlib', 'import numpy as np',
           'from PIL import Image'],
          ["names = json.load(open('card.json'))['export']['folders']",
           'files = [(k, file) for k, name in enumerate(names)',
           "         for file in sorted(pathlib.Path('train', name)"
           ".glob('*.png'))]",
           'x = np.stack([np.array(Image.open(file)) for _, file in files])',
           _as_images(source), f"y = np.load('{picture_files.SOFT}')"
           if _soft(source) else 'y = np.array([k for k, _ in files])'])


def _hf(source):
  column = 'probabilities' if _soft(source) else 'label'
  return (['import pathlib', 'import numpy as np',
           'from datasets import load_dataset'],
          ["folder = pathlib.Path('.').resolve()  # of this page",
           "d = load_dataset(str(folder))['train']",
           "x = np.stack([np.array(image) for image in d['image']])",
           _as_images(source), f"y = np.array(d['{column}'])"])


def _tfds(source):
  column = 'probabilities' if _soft(source) else 'label'
  return (['import numpy as np', 'import tensorflow_datasets as tfds'],
          ["d = tfds.builder_from_directory('1.0.0').as_data_source('train')",
           "x = np.stack([row['image'] for row in d])",
           f"y = np.stack([row['{column}'] for row in d])"])


_PICTURES = {'folder': _folder, 'hf': _hf, 'tfds': _tfds}


def _as_images(source):
  # Gray ones have no axis of channels yet.
  return f'x = x.reshape(-1, {", ".join(map(str, source.set.shape))})'


def _zip_reading(source):
  """Of a .pt without PyTorch: it is a zip file of arrays."""
  lines = ["file = zipfile.ZipFile('set.pt')",
           'def read(k, kind, *shape):',
           "  data = file.read(f'set/data/{k}')",
           '  return jnp.array(np.frombuffer(data, kind).reshape(shape))']
  names = {'images': 'x', 'labels': 'y'} | {
      name: name for name in _statistics_of(source)}
  for number, (name, array) in enumerate(
      array_files.flat(source.arrays).items()):
    shape, then = array.shape, ''
    if name == 'images':
      shape, then = (shape[0], shape[3], *shape[1:3]), '.transpose(0, 2, 3, 1)'
    if name in names:
      arguments = ', '.join(map(repr, (number, array.dtype.name, *shape)))
      lines.append(f'{names[name]} = read({arguments}){then}')
  return ['import zipfile', 'import numpy as np'], lines


def _statistics_of(source):
  return (('mean', 'std') if source.set.codec.zca is None
          else ('zca_mean', 'zca_matrix'))


def _statistics(library, to, source):
  """What leaves what images are normalised with."""
  if to == 'pt' and library == 'jax':
    return [], []  # read with the rest
  names = _statistics_of(source)
  made = ('{}' if library == 'torch' and to in ('pt', 'safetensors')
          else _MAKE[library])
  imports, lines, where = [], [], 'd'
  if to in PICTURES and source.set.codec.zca is not None:
    imports = ['import numpy as np']
    lines = [f"d = np.load('{picture_files.ZCA}')"]
  elif to in PICTURES:
    imports, where = ['import json'], 'card'
    lines = ["card = json.load(open('card.json'))['export']"]
  return imports, [*lines, *(
      f'{name} = ' + made.format(f"{where}['{name}']") for name in names)]


# ---- Decoding


def _decoding(library, source):
  codec = synthetic.training_codec(source.set.codec)
  factors = (tuple(range(1, codec.factor + 1)) if codec.kind == 'multi'
             else (codec.factor,))
  if factors == (1,):
    return []
  lines = {
      'jax': [
          '  n, h, w, c = x.shape',
          '  sides = (0, 0), (0, -h % f), (0, -w % f), (0, 0)',
          '  x = jnp.pad(x, sides, constant_values=.5)',
          '  x = [p for row in jnp.split(x, f, 1) '
          'for p in jnp.split(row, f, 2)]',
          '  x = jnp.concatenate(x)',
          "  return jax.image.resize(x, (n * f * f, h, w, c), 'bilinear')"],
      'torch': [
          '  h, w = x.shape[2:]',
          '  x = F.pad(x, (0, -w % f, 0, -h % f), value=.5)',
          '  x = [p for row in x.chunk(f, 2) for p in row.chunk(f, 3)]',
          "  return F.interpolate(torch.cat(x), (h, w), mode='bilinear')"],
  }[library]
  count = sum(f * f for f in factors)
  cut = ', '.join(f'cut(x, {f})' for f in factors)
  if len(factors) > 1:
    join = {'jax': 'jnp.concatenate', 'torch': 'torch.cat'}[library]
    cut = f'{join}([{cut}])'
  times = count if _hard(source) else f'({count}, 1)'
  tile = {'jax': 'jnp.tile(y, {})', 'torch': 'torch.tile(y, {})'}[library]
  if library == 'torch' and _hard(source):
    times = f'({count},)'
  return ['def cut(x, f):  # into f x f cells, row by row, as large as x each',
          *lines, f'x, y = {cut}, {tile.format(times)}']


# ---- Labels, and what networks see


def _hard(source):
  return source.arrays['labels'].ndim == 2


def _soft(source):
  return source.card['label_kind'] == 'soft'


def _labels(library, source):
  if _hard(source):
    return {'jax': [], 'torch': ['y = y.long()']}[library]
  kind = {'jax': 'y.astype(jnp.float32)', 'torch': 'y.float()'}[library]
  # Of half precision they do not quite add up to one.
  return [f'y = {kind}',
          'y = y / y.sum(-1)[:, None]  # probabilities of each class']


def _seeing(library, to, source):
  """`see`, and `x` through it where that is pixels."""
  codec = source.set.codec
  if codec.zca is None:
    at = {'jax': '', 'torch': '[:, None, None]'}[library]
    body = [f'  return (x - mean{at}) / std{at}']
  elif library == 'jax':
    body = ['  flat = x.reshape(len(x), -1) - zca_mean',
            "  flat = jnp.matmul(flat, zca_matrix, precision='highest')",
            '  return flat.reshape(x.shape)']
  else:
    height, width, channels = source.set.shape
    body = ['  flat = x.permute(0, 2, 3, 1).flatten(1) - zca_mean',
            '  x = (flat @ zca_matrix).reshape(-1, '
            f'{height}, {width}, {channels})',
            '  return x.permute(0, 3, 1, 2)']
  lines = ['def see(x):  # real images on [0, 1] go through this, too', *body]
  if to in PICTURES or codec.space == 'pixels':
    return [*lines, 'x = see(x)']
  return [*lines, '# x is as networks see it already']
