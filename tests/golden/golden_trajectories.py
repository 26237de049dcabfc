"""Checks of `mtt_*`, `tesla_*`, `datm_*` (README 4.8)."""

import itertools

import golden_augment
import jax
import jax.numpy as jnp
import layout
import numpy as np
from golden_files import GoldenError
from golden_nets import SETTINGS, Net

from dasm_jax import losses, objectives
from dasm_jax.types import Batch, Synthetic

# Their programs: does a gradient count earlier weights as constants, and by
# which factor is the image gradient less than that of the loss.
METHODS = {'mtt': (False, 1.0), 'tesla': (True, 0.5), 'datm': (False, 1.0),
           'datm_tesla': (True, 1.0)}
LOGITS = 'learnable logits, SoftCrossEntropy (softmax applied to the labels)'
LABELS = ('hard int', 'soft probabilities, torch CrossEntropyLoss', LOGITS)
META = {'align_corners': (False, True), 'batch_syn': int, 'dsa': (False, True),
        'ipc': int, 'labels': LABELS, 'method': METHODS, 'net': dict,
        'num_classes': int, 'ops': list, 'syn_steps': int}


def check(golden):
  """The loss, its gradients and the student's weights under given draws."""
  meta = golden.settings(META)
  images = golden.images('in/images')
  net = Net(golden, golden['in/images'].shape[1:], meta['num_classes'],
            golden.settings(SETTINGS, meta['net']), 'param_start/')
  start, target = net.variables, net.layout.variables(
      golden.under('param_target/'), {}, golden.dtype)
  runs = _runs(golden, meta)
  augment = _augment(golden, meta)
  labels = golden['in/labels']
  labels = (golden.onehot(labels, meta['num_classes']) if labels.ndim == 1
            else golden.real('in/labels'))

  def loss_fn(params, batch: Batch):
    logits = net.network.apply(params, batch.images, train=True)[0]
    return losses.cross_entropy(logits, batch.labels)

  def end(leaves, start, frozen, runs):
    images, labels, lr = leaves
    if meta['labels'] == LOGITS:
      labels = jax.nn.softmax(labels)
    return objectives.student(
        loss_fn, Synthetic(images, labels, lr), start, runs,
        augment=augment, frozen=frozen)[0]

  def loss(leaves, start, target, frozen):
    return objectives.distance(end(leaves, start, frozen, runs), start,
                               target)

  leaves = images, labels, golden.real('in/lr')
  frozen, factor = METHODS[meta['method']]
  wanted = {prefix: which for prefix, which in (
      ('', frozen), ('unrolled/', False), ('exact_frozen/', True))
            if golden.outputs(prefix + 'grad_images')}
  slopes = golden.jit(lambda *given: {
      which: jax.value_and_grad(loss)(*given, which)
      for which in set(wanted.values())})(leaves, start, target)
  for prefix, which in wanted.items():
    _check(golden, prefix, slopes[which], 1 if prefix else factor)
  # A row for the weights before each step, and one after the last.
  one = golden.jit(lambda leaves, params, *run: end(
      leaves, params, False, [objectives.StudentSteps(*run)]))
  rows = [start]
  for run in runs:
    for k in range(len(run.keys)):
      rows.append(one(leaves, rows[-1], run.indices[k:k + 1],
                      run.keys[k:k + 1]))
  golden.check('student_params', np.stack([np.concatenate([
      net.layout.theirs(params.params, name).ravel() for name in net.names])
      for params in rows]), 'unrolled')


def _check(golden, prefix, found, factor):
  """Compares what the file holds under `prefix`."""
  value, (images, labels, lr) = found
  for name, given in (('grand_loss', value), ('grad_lr', lr),
                      ('grad_labels', labels),
                      ('grad_images', factor * layout.nchw(images))):
    if golden.outputs(prefix + name):
      golden.check(prefix + name, given, 'unrolled')


def _runs(golden, meta):
  """The file's minibatches, each numbered by its key."""
  rows = golden.under('in/indices/')
  if sorted(rows, key=int) != [str(k) for k in range(meta['syn_steps'])]:
    raise GoldenError(f'{golden.name}: minibatches {sorted(rows)} are not '
                      f'those of {meta["syn_steps"]} steps')
  numbered = [(k, rows[str(k)]) for k in range(meta['syn_steps'])]
  # Theirs are drawn; ours must have their sizes, in their order.
  own = objectives.minibatches(jax.random.key(0), len(golden['in/images']),
                               meta['batch_syn'], meta['syn_steps'])
  sizes = [len(row) for run in own for row in run.indices]
  if sizes != [len(row) for _, row in numbered]:
    raise GoldenError(f'{golden.name}: minibatches of other sizes than ours, '
                      f'{sizes}')
  groups = [list(group) for _, group in itertools.groupby(
      numbered, lambda pair: len(pair[1]))]
  return [objectives.StudentSteps(jnp.array([row for _, row in group]),
                                  jnp.array([k for k, _ in group]))
          for group in groups]


def _augment(golden, meta):
  """`(step, images, shared) -> images`: each step's operation, or None."""
  if meta['dsa'] != bool(meta['ops']) or (
      meta['dsa'] and len(meta['ops']) != meta['syn_steps']):
    raise GoldenError(f'{golden.name}: operations {meta["ops"]}')
  if not meta['dsa']:
    return None
  steps = []
  for k, name in enumerate(meta['ops']):
    op = str(golden[f'draw/step{k}/op'])
    if op != name:
      raise GoldenError(f'{golden.name}: step {k} is {op!r}, not {name!r}')
    values = golden_augment.draws(golden, op, f'draw/step{k}/', False)
    steps.append((len(golden[f'in/indices/{k}']), golden_augment.operation(
        op, values, meta['align_corners'])))

  def apply(step, images, shared):
    assert not shared, 'each image has its own draw'
    # Only steps on as many images can be meant.
    return jax.lax.switch(step, [
        change if size == len(images) else lambda x: x
        for size, change in steps], images)
  return apply
