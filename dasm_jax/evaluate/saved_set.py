"""What makes a distilled set usable without the run that made it."""

import json
import zipfile
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import dasm_jax
from dasm_jax import synthetic
from dasm_jax.errors import UserError, unknown
from dasm_jax.runtime import paths, text
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.training import recipes
from dasm_jax.transforms import zca
from dasm_jax.types import Batch, SoftLabelled, Synthetic

USE = ' '.join('''
images [classes, ipc, height, width, channels]. storage.space pixels: on [0,
1], subtract mean and divide by std before training; normalised: use as they
are. Where there is a zca_matrix, (x - zca_mean) @ zca_matrix of each flattened
image takes the place of mean and std, for real images too. factor f > 1: cut
each image into f x f cells, row by row, and enlarge each bilinearly
(half-pixel centres) to the whole size first. labels [classes, ipc] are class
numbers, or label_kind soft: [classes, ipc, classes], probabilities. label_kind
told: array told [epochs, decoded images, classes], a teacher's logits for the
images as each epoch shows them to who draws order, augmentation and CutMix as
dasm_jax.train.fit does by the seed of lessons; the loss is KL of both sides'
logits over the temperature of lessons. Real images enter as value / 255, minus
mean, divided by std (digits: 0 to 16 is first brought to 0 to 255). recipe:
SGD with momentum and weight_decay (on all parameters), or AdamW (first
average: momentum), on cross-entropy, a new order each epoch, epochs + extra in
all; the rate lr is multiplied by decay after each epoch of drops (restart:
momentum is zeroed there); cosine: it falls to 0 besides. Augmentation
(strategy, on normalised images, one draw an image; strengths as in DSA,
2102.08259): mode single, one operation drawn for each batch; idc, flip and
color always, then one of crop, scale and rotate; before it, where named: rrc,
rrc08, torchvision's RandomResizedCrop from 0.5, 0.08 of the area; on pixels
(image * std + mean) jitter3, brightness, contrast and saturation by 0.4 in any
order, and lighting, AlexNet's, of strength 0.1; then CutMix (1905.04899) with
probability cutmix for each batch. network: convnet is depth blocks of 3x3
convolution (width channels, bias, padding 1; 3 in the first for 28x28x1), norm
with scale and bias, activation, 2x2 pooling; then one linear layer; PyTorch
default initialisation. accuracy: fresh networks after the last epoch on split,
mean and population std.
'''.split())

FORMAT = 1  # of the card; a program reads no other


class SavedSet(NamedTuple):
  """A saved set, as `load` returns it: NumPy, no device is touched yet.

  syn: `Synthetic` as stored; codec: how networks read it.
  network: settings of `models.build`; recipe: how it is meant to be trained,
    called recipe_name in `recipes.RECIPES`.
  data: settings of `data.load` for what it is of; class_names: one per label.
  card: all that is known of it.
  told: `[epochs, n, classes]` logits for the decoded images, or None.
  """
  syn: Synthetic
  codec: synthetic.Codec
  network: dict
  recipe: recipes.Recipe
  recipe_name: str
  data: dict
  class_names: tuple
  card: dict
  told: np.ndarray | None = None

  def __repr__(self):
    size = 'x'.join(map(str, self.shape))
    return (f'<{self.card["method"]} on {self.data["name"]}: '
            f'{text.plural(self.ipc, "image")} of {size} for each of '
            f'{len(self.class_names)} classes>')

  @property
  def shape(self):
    """(height, width, channels)."""
    return self.syn.images.shape[2:]

  @property
  def ipc(self):
    """Stored images a class."""
    return self.syn.images.shape[1]

  @property
  def batch(self):
    """All images decoded, as networks see them, `[n, …]` of JAX.

    A `Batch`, or a `SoftLabelled` if a teacher told labels for each epoch.
    """
    plain = map(jnp.asarray, synthetic.training_inputs(self.codec, self.syn))
    if self.told is None:
      return Batch(*plain)
    lessons = self.card['lessons']
    return SoftLabelled(*plain, jnp.asarray(self.told),
                        jnp.uint32(lessons['seed']),
                        jnp.float32(lessons['temperature']))

  @property
  def real_lr(self):
    """Rate for real images, where that of the recipe was learned for these."""
    return self.card.get('real_lr', self.recipe.lr)

  def real(self, images):
    """Real images, 8-bit integers, as networks trained on the set see them."""
    plain = self.codec._replace(space='pixels')
    return synthetic.normalise(plain, np.asarray(images, np.float32) / 255)


def save(experiment, syn, results, path, batch=None):
  """Saves a set that is usable without its run, as an npz without pickles.

  batch: the set as networks are trained on it, where that is a `SoftLabelled`.
  """
  c, codec, settings = experiment.config, experiment.codec, json.loads(
      experiment.config.to_json())
  labels, kind = synthetic.class_numbers(syn.labels), synthetic.label_kind(
      syn.labels, getattr(batch, 'told', None))
  lessons, told = {}, {}
  if isinstance(batch, SoftLabelled):
    lessons = {'lessons': {'seed': int(batch.seed),
                           'temperature': float(batch.temperature)}}
    told = {'told': np.asarray(batch.told)}
  card = {
      'format': FORMAT, 'dataset': experiment.dataset.name, 'data': {
          'name': c.dataset.name, 'size': c.dataset.size,
          'holdout': c.dataset.holdout, 'seed': c.seed,
          'classes': c.dataset.classes},
      'method': c.method.name, 'ipc': c.syn.ipc,
      'segments': len(experiment.plan), 'seed': c.seed,
      'network': settings['network'],
      'recipe': experiment.at_rate(experiment.recipe, syn)._asdict(),
      'recipe_name': c.eval.recipe, 'real_lr': experiment.recipe.lr,
      'accuracy': results['accuracy'],
      'config_hash': workdirs.fingerprint(settings, ('run',)),
      'storage': {'space': codec.space, 'factor': codec.factor,
                  'formation': codec.kind,
                  'zca': experiment.config.dataset.zca},
      'split': f'{len(experiment.dataset.test.labels)} test images',
      'label_kind': kind, 'use': USE, 'version': dasm_jax.__version__,
      **lessons}
  with open(path, 'wb') as file:
    np.savez(
        file, images=np.asarray(syn.images, np.float32),
        labels=np.asarray(syn.labels, np.float16) if labels is None else labels,
        label_kind=np.array(kind),
        class_names=np.array(experiment.dataset.class_names),
        mean=np.array(codec.mean, np.float32),
        std=np.array(codec.std, np.float32),
        factor=np.int32(codec.factor), space=np.array(codec.space), **told, **(
            {} if codec.zca is None else {
                'zca_mean': np.float32(codec.zca.mean),
                'zca_matrix': np.float32(codec.zca.matrix)}),
        card=np.array(json.dumps(card)))


def load(path):
  """Reads a saved set with all that its use needs.

  Args:
    path: a synthetic.npz, or the workdir of a finished run.

  Returns:
    A `SavedSet`.

  Raises:
    UserError: no such file, not a set, or a card of another format.
  """
  path = find(path)
  try:
    # Opened here: NumPy forgets to close a file that it cannot read.
    with path.open('rb') as raw, np.load(raw, allow_pickle=False) as file:
      arrays = dict(file)
    card = json.loads(str(arrays['card']))
    written = card.get('format')
  except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError,
          zipfile.BadZipFile, zlib.error) as error:
    raise UserError(
        f'{str(path)!r} is not a whole synthetic.npz: {type(error).__name__}; '
        'give one that a run has left, or its workdir') from error
  if written != FORMAT:
    raise UserError(
        f'{str(path)!r} has a card of format {written}, and dasm_jax '
        f'{dasm_jax.__version__} reads {FORMAT}; use the version that wrote it'
        f', {card.get("version", "unknown")}')
  try:
    return _read(arrays, card)
  except (KeyError, TypeError, ValueError, IndexError) as error:
    why = ' '.join(str(error).split())
    if isinstance(error, KeyError):
      why = f'it has no {why}'
    raise UserError(f'{str(path)!r} is no usable set: {why}; make it '
                    'anew') from error


def find(path):
  """The synthetic.npz that `path` means: itself, or that of a workdir.

  path: of this machine, or of a bucket.

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


def _read(arrays, card):
  """The `SavedSet` of an npz; raises what `load` turns into a `UserError`."""
  images, names = arrays['images'], tuple(map(str, arrays['class_names']))
  if images.ndim != 5 or len(images) != len(names):
    raise ValueError(f'images of shape {images.shape} for {len(names)} classes')
  labels, kind = arrays['labels'], str(arrays['label_kind'])
  if kind not in synthetic.LABEL_KINDS:
    raise unknown('kind of labels', kind, synthetic.LABEL_KINDS)
  if labels.ndim == 2:
    labels = np.eye(len(names), dtype=np.float32)[labels]
  if labels.shape != (*images.shape[:2], len(names)):
    raise ValueError(f'{kind} labels of shape {labels.shape} for images of '
                     f'{images.shape[:2]} and {len(names)} classes')
  labels = synthetic.stored_labels(labels)
  recipe = {**card['recipe'], 'drops': tuple(card['recipe']['drops'])}
  recipe, name = recipes.recipe(**recipe), card['recipe_name']
  if name not in recipes.RECIPES:
    raise unknown('recipe', name, recipes.RECIPES)
  data = {key: card['data'][key] for key in ('name', 'size', 'holdout', 'seed')}
  data['classes'] = card['data'].get('classes', '')  # not in old ones
  syn = Synthetic(images, labels, np.float32(recipe.lr))
  codec = _codec(arrays, card['storage'])
  told = _stored_logits(arrays['told'], codec, syn,
                        card) if kind == 'told' else None
  return SavedSet(syn, codec, card['network'], recipe, name, data, names, card,
                  told)


def _stored_logits(told, codec, syn, card):
  """The logits of a set of which a teacher told labels for each epoch."""
  want = jax.eval_shape(lambda syn: synthetic.training_inputs(codec, syn),
                        syn)[1].shape
  if told.ndim != 3 or told.shape[1:] != want:
    raise ValueError(f'labels told of shape {told.shape} for {want[0]} images '
                     f'and {want[1]} classes')
  card['lessons']['seed'], card['lessons']['temperature']
  return told


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
