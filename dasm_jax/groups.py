"""How many classes, or networks, a device works on at once.

An accelerator waits where it has little to do at a time, and fails where it has
too much: it takes as many classes as fit. A CPU takes one after the other.
"""

import math

import jax

from dasm_jax import flops, load, parallel, synthetic
from dasm_jax.errors import UserError

SHARE = 0.3  # of a device's memory; the estimate may be off by a factor of two
NAMES = ('auto', 'yes', 'no')


def check(path, text):
  """Raises `UserError` for what an entry that says how many cannot be."""
  if text not in NAMES and not (text.isdecimal() and int(text)):
    raise UserError(f'--config.{path}={text} is neither of '
                    f'{", ".join(NAMES)} nor a number, such as 4')


def of(job, segment, classes, split):
  """Of the classes on a device, those that are matched at once.

  Args:
    job: a `Job`.
    segment: a `Segment`.
    classes: on one device.
    split: a `load.Split`.

  Returns:
    A number from 1 to `classes`.
  """
  def fit():
    return 1 if split.turns else split.memory * SHARE // _bytes(job, segment)
  return number(job.config.run.batched, classes, fit)


def number(wanted, most, fit):
  """What `wanted` means: a number from 1 to `most`.

  fit: `() -> number` that there is room for.
  """
  known = {'auto': fit, 'no': lambda: 1, 'yes': lambda: most}
  found = known[wanted]() if wanted in known else int(wanted)
  return min(max(int(found), 1), most)


def networks(network, shape, batch, split):
  """Of networks on a device, those that are trained at once.

  Args:
    network: a `Network`.
    shape: of its images.
    batch: images of a training step.
    split: a `load.Split`.

  Returns:
    A number, however many there are.
  """
  if split.turns:
    return 1
  once = flops.forward(network, shape)
  each = load.activations(load.Work('gradient', 0, batch, 0), once)
  return max(1, int(split.memory * SHARE / each))


def here():
  """The `load.Split` of this machine."""
  return load.Split(parallel.count(), jax.default_backend() == 'cpu',
                    parallel.memory())


def together_here(network, recipe, shape):
  """How many networks of images of a shape a device trains at once."""
  return networks(network, shape, recipe.batch, here())


def spread(one, network, recipe, together=None, how=parallel.spread):
  """`parallel.spread` of networks, as many at once as there is room for.

  The last argument has images. together: how many instead, if not None. how:
  `parallel.held`, where the networks are split over the devices already.
  """
  made = {}
  def call(items, *shared):
    size = together
    if size is None:
      shape = shared[-1].images.shape[-3:]
      size = together_here(network, recipe, shape)
    if size not in made:
      made[size] = how(one, together=size)
    return made[size](items, *shared)
  return call


def _bytes(job, segment):
  """Of a step of one class."""
  once = flops.forward(job.network, job.shape)
  half = job.config.network.dtype != 'float32'
  return max(load.activations(load.Work(kind, 0, images, 0), once, half)
             for kind, images in of_class(
                 job.config.method, matched(job, segment)) if images)


def decoded(job, n, training=False):
  """Images a class that n stored ones decode to, in matching or training."""
  codec = job.codec
  if training and codec.kind == 'bound':
    codec = codec._replace(kind='single')
  return len(synthetic.sources(codec, n)) if n else 0


def matched(job, segment):
  """Decoded images a class that one sweep matches."""
  c, union = job.config, job.config.segments.match == 'union'
  parts = [segment.width] + [segment.slots.start] * union
  most = c.method.get('limit') or math.inf
  return sum(min(decoded(job, part), most) for part in parts)


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
