"""How many classes a device matches at once.

An accelerator waits where it has little to do at a time, and fails where it has
too much: it takes as many classes as fit. A CPU takes one after the other.
"""

import math

from dasm_jax import flops, work
from dasm_jax.errors import UserError

SHARE = 0.3  # of a device's memory; the estimate may be off by a factor of two
NAMES = ('auto', 'yes', 'no')


def check(text):
  """Raises `UserError` for what `--config.run.batched` cannot be."""
  if text not in NAMES and not (text.isdecimal() and int(text)):
    raise UserError(f'--config.run.batched={text} is neither of '
                    f'{", ".join(NAMES)} nor a number of classes, such as 4')


def of(job, segment, classes, split):
  """Of the classes on a device, those that are matched at once.

  Args:
    job: a `Job`.
    segment: a `Segment`.
    classes: on one device.
    split: a `work.Split`.

  Returns:
    A number from 1 to `classes`.
  """
  wanted = job.config.run.batched
  if wanted == 'auto':
    wanted = 'no' if split.turns else split.memory * SHARE // _bytes(
        job, segment)
  most = {'no': 1, 'yes': classes}.get(wanted) or int(wanted)
  return min(max(most, 1), classes)


def _bytes(job, segment):
  """Of a step of one class."""
  once = flops.forward(job.network, job.shape)
  half = job.config.network.dtype != 'float32'
  return max(work.activations(work.Work(kind, 0, images, 0), once, half)
             for kind, images in of_class(
                 job.config.method, matched(job, segment)) if images)


def matched(job, segment):
  """Decoded images a class that one sweep matches."""
  c, union = job.config, job.config.segments.match == 'union'
  parts = [segment.width] + [segment.slots.start] * union
  most = c.method.get('limit') or math.inf
  return sum(min(work.decoded(job, part), most) for part in parts)


def of_class(c, matched_):
  """(kind, images) of one class in one sweep."""
  return {
      'gradient': [('gradient', c.get('batch')), ('second', matched_)],
      # The stage before has gradients of both, see `coupled.contrastive`.
      'contrast': [('gradient', c.get('batch')), ('gradient', matched_),
                   ('second', matched_)],
      'feature': [('forward', c.get('batch')), ('inward', matched_)],
      # Two stages look at the real and one at the synthetic images.
      'discriminate': [('forward', 2 * c.get('batch')), ('forward', matched_),
                       ('inward', matched_)],
      'statistics': [('forward', matched_), ('inward', matched_)]}[c.match]
