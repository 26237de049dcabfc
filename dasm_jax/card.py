"""What makes a distilled set usable without the run that made it."""

import hashlib
import json

import numpy as np

import dasm_jax

USE = ' '.join('''
images [classes, ipc, height, width, channels]. storage.space pixels: on [0,
1], subtract mean and divide by std before training; normalised: use as they
are. factor f > 1: cut each image into f x f cells, row by row, and enlarge
each bilinearly (half-pixel centres) to the whole size first. labels [classes,
ipc] are class numbers (label_kind hard), or [classes, ipc, classes]
probabilities (soft), the targets of the cross-entropy. Real images enter as
value / 255, minus mean, divided by std (digits: 0 to 16 is first brought to 0
to 255). recipe: SGD with momentum and weight_decay (on all parameters) on
cross-entropy, a new order each epoch, epochs + extra in all; the rate lr is
multiplied by decay after each epoch of drops (restart: momentum is zeroed
there). Augmentation (strategy, on normalised images, one draw an image;
strengths as in DSA, 2102.08259): mode single, one operation drawn for each
batch; idc, flip and color always, then one of crop, scale and rotate; then
CutMix (1905.04899) with probability cutmix for each batch. network: convnet is
depth blocks of 3x3 convolution (width channels, bias, padding 1; 3 in the
first for 28x28x1), norm with scale and bias, activation, 2x2 pooling; then one
linear layer; PyTorch default initialisation. accuracy: fresh networks after
the last epoch on split, mean and population std.
'''.split())


def fingerprint(settings, free):
  """Short hash of a configuration, without the entries that may change."""
  kept = json.loads(json.dumps(settings))
  for path in free:
    *groups, name = path.split('.')
    node = kept
    for group in groups:
      node = node[group]
    node.pop(name, None)
  text = json.dumps(kept, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def label_kind(labels):
  """`hard` if every row of `[…, classes]` is one-hot, else `soft`."""
  labels = np.asarray(labels)
  hard = (labels.max(-1) == 1).all() and ((labels == 0) | (labels == 1)).all()
  return 'hard' if hard else 'soft'


def stored(labels):
  """Labels `[…, classes]` as they are kept: class numbers, or float16."""
  labels = np.asarray(labels)
  if label_kind(labels) == 'hard':
    return labels.argmax(-1).astype(np.int32)
  return labels.astype(np.float16)


COUNTED = {'hard': 'one byte a label', 'soft': 'two bytes a label and class'}


def size(syn):
  """Bytes of the set as 8-bit pixels, and of its labels.

  A hard label is one byte, a soft one two bytes for each class; labels of
  several epochs `[epochs, classes, ipc, classes]` all count.
  """
  kind = label_kind(syn.labels)
  labels = stored(syn.labels).size * (1 if kind == 'hard' else 2)
  return {'images': int(np.prod(syn.images.shape)), 'labels': labels,
          'counted': f'one byte a pixel and channel, {COUNTED[kind]}'}


def save(job, syn, results, path):
  """Saves a set that is usable without its run, as an npz without pickles."""
  c, codec, settings = job.config, job.codec, json.loads(job.config.to_json())
  card = {
      'dataset': job.dataset.name, 'method': c.method.name, 'ipc': c.syn.ipc,
      'segments': len(job.plan), 'seed': c.seed,
      'network': settings['network'], 'recipe': job.recipe._asdict(),
      'accuracy': results['accuracy'],
      'config_hash': fingerprint(settings, ('run',)),
      'storage': {'space': codec.space, 'factor': codec.factor,
                  'formation': codec.kind},
      'split': f'{len(job.dataset.test.labels)} test images',
      'label_kind': label_kind(syn.labels), 'use': USE,
      'version': dasm_jax.__version__}
  with open(path, 'wb') as file:
    np.savez(
        file, images=np.asarray(syn.images, np.float32),
        labels=stored(syn.labels), label_kind=np.array(card['label_kind']),
        class_names=np.array(job.dataset.class_names),
        mean=np.array(codec.mean, np.float32),
        std=np.array(codec.std, np.float32),
        factor=np.int32(codec.factor), space=np.array(codec.space),
        card=np.array(json.dumps(card)))
