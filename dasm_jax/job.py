"""A checked job: everything that a configuration says, built and agreed."""

from typing import NamedTuple

import numpy as np

from dasm_jax import (
  augment,
  checks,
  coreset,
  data,
  groups,
  intake,
  methods,
  models,
  parallel,
  photo,
  real,
  recipes,
  segments,
  synthetic,
  zca,
)
from dasm_jax.config import UNFLIPPED
from dasm_jax.errors import UserError
from dasm_jax.methods import slope


class Job(NamedTuple):
  """What a run needs besides its configuration; nothing here is a setting.

  dataset: host arrays; source, test: `Source` on every device.
  network, codec, choice, plan: of the matching.
  recipe: of the evaluation; probe: the same, shortened, for the probes and
    for the networks that choose coresets.
  """
  config: object
  dataset: data.Dataset
  network: object
  codec: synthetic.Codec
  choice: segments.Choice
  plan: list
  recipe: recipes.Recipe
  probe: recipes.Recipe

  @property
  def classes(self):
    """Number of classes."""
    return len(self.dataset.class_names)

  @property
  def shape(self):
    """(height, width, channels)."""
    return self.dataset.train.shape

  def phases(self, segment):
    """A `Segment` in its parts, each of some classes, in their order."""
    return segments.phases(segment, self.classes, self.config.syn.phases)

  def rows(self, segment):
    """The classes that a `Segment` fills, `[k]` int."""
    return np.arange(self.classes)[segment.rows]

  @property
  def streamed(self):
    """Whether train images are read from the disk as they are used."""
    return real.is_lazy(self.dataset.train)

  def close(self):
    """Ends the processes that read images."""
    if self.streamed:
      self.dataset.train.close()

  def at_rate(self, recipe, syn):
    """A recipe for a synthetic set: with its learned rate if eval.lr is 0."""
    return recipe if self.config.eval.lr else recipe._replace(lr=float(syn.lr))


def build(config, dataset=None):
  """Reads the data, unless they are given, and builds a `Job`.

  Raises:
    UserError: settings that do not fit the data.
  """
  c = config
  dataset = dataset or intake.dataset(c)
  if real.is_lazy(dataset.train):
    checks.check_streamed(c)
  shape = dataset.train.shape
  network = models.build(shape=shape, classes=len(dataset.class_names),
                         **c.network)
  codec = synthetic.codec(
      dataset.mean, dataset.std, space=c.syn.space, factor=c.syn.factor,
      kind=c.syn.formation, bound=c.syn.bound, shape=shape, whitening=(
          zca.fit(dataset.train.images, c.dataset.zca) if c.dataset.zca
          else None))
  names = ('gamma', 'hardest', 'share', 'first')
  choice = segments.Choice(
      c.segments.window, **{name: c.segments[name] for name in names})
  job = Job(c, dataset, network, codec, choice, checks.plan(c), *(
      _recipe(c, epochs, dataset)
      for epochs in (c.eval.epochs, c.segments.probe_epochs)))
  _check_pools(job)
  job.phases(job.plan[0])
  method(job, job.plan[0])
  return job


def _recipe(c, epochs, dataset):
  build_ = recipes.RECIPES[c.eval.recipe]
  strategy = c.eval.augment
  if strategy == 'auto':
    strategy = c.method.augment if c.eval.recipe != 'idc' else (
        'color_crop_scale_rotate' if c.dataset.name in UNFLIPPED
        else 'flip_color_crop_scale_rotate')
  given = {name: c.eval[name] for name in ('cutmix', 'weight_decay')
           if c.eval[name] >= 0}
  if c.eval.batch:
    given['batch'] = c.eval.batch
  # A learned rate is not known before it is learned, see `Job.at_rate`.
  if c.eval.lr >= 0:
    given['lr'] = c.eval.lr or LEARNED
  if c.eval.recipe == 'dc' and c.method.augment_mode in augment.ALIGNED:
    given['mode'] = c.method.augment_mode
  return build_(epochs, strategy=strategy, statistics=photo.statistics(
      strategy, dataset.mean, dataset.std, c.dataset.zca), **given)


LEARNED = 0.01  # of whatever is trained on real images when eval.lr is 0


def _check_pools(job):
  """No class may be smaller than what a step asks of it."""
  c = job.config
  counts = np.bincount(job.dataset.train.labels, minlength=job.classes)
  least = int(counts.argmin())
  where = f'class {job.dataset.class_names[least]!r} has {counts[least]}'
  if c.syn.ipc > counts[least]:
    raise UserError(f'--config.syn.ipc={c.syn.ipc} images a class, but {where} '
                    'real ones; set at most that')
  batch, each = c.method.get('batch', 0), c.syn.factor ** 2
  if c.syn.ipc * each > counts[least] and (
      c.syn.init in coreset.CORESETS or c.method.match == 'none'):
    raise UserError(
        f'--config.syn.ipc={c.syn.ipc} images a class, of {each} real ones '
        f'each at --config.syn.factor={c.syn.factor}, but {where}; lower one '
        'of them')
  if batch > counts[least]:
    raise UserError(
        f'--config.method.batch={batch} real images a class, but '
        f'{where}; set at most that')
  if c.method.get('train_on') == 'real' and (
      c.method.net_batch > counts.sum()):
    raise UserError(
        f'--config.method.net_batch={c.method.net_batch} real images a step, '
        f'but there are {counts.sum()}; set at most that')
  if c.segments.window == 'random' and (
      counts[least] < batch * len(job.plan)):
    raise UserError(
        f'--config.segments.window=random cuts class '
        f'{job.dataset.class_names[least]!r} of {counts[least]} images into '
        f'{len(job.plan)} parts, each smaller than --config.method.batch='
        f'{batch}; lower one of them')


def method(job, segment):
  """The `Method` of a segment, split over the devices."""
  c = job.config
  union = c.segments.match == 'union'
  images = segment.slots.stop if union else segment.width
  replay = c.segments.replay if len(job.plan) > 1 else 0.0
  return methods.build(
      job.network, job.classes, job.codec, c.method,
      correction(c, job, segment),
      images=images, replay=replay, union=union and segment.slots.start > 0,
      steps=steps(job, segment),
      batched=_batched(job, segment), axis_name=parallel.AXIS)


def _batched(job, segment):
  """How many classes are matched at once here."""
  if job.config.method.match in ('none', 'trajectory'):
    return None
  mine = -(-len(job.rows(segment)) // parallel.count())
  return groups.of(job, segment, mine, groups.here())


def correction(c, job, segment):
  """SDC's strength over one segment; the last one has lost `fall` of it."""
  relative = max(c.sdc.ratio, c.sdc.end_ratio) > 0
  start = c.sdc.ratio if relative else c.sdc.weight
  end = c.sdc.end_ratio if relative else c.sdc.end_weight
  end = start if end < 0 else end
  left = 1 - c.sdc.fall * segment.index / max(len(job.plan) - 1, 1)
  return slope.Correction(left * start, left * end, steps(job, segment),
                          relative, c.sdc.penalty)


def floor(job, segment):
  """The fewest real images a class that a window may hold."""
  return max(job.config.method.get('batch', 0), 2 * decoded(job, segment))


def decoded(job, segment):
  """Images a class that a segment decodes to, at the full factor."""
  return segment.width * job.codec.factor ** 2


def place(job):
  """The data of a job on the devices, see `real.place`."""
  return real.place(job.dataset, job.codec, job.config.run.buffer_mb)


def steps(job, segment):
  """Sweeps of one segment over the classes it fills."""
  return segments.steps(job.config.method.steps, len(job.plan), segment.index)


def total_steps(job):
  """Sweeps over all segments and phases."""
  return job.config.method.steps * job.config.syn.phases


def counted(job, segment, step):
  """How far a run is after `step` sweeps of a segment's phase.

  Returns:
    `(before, done, whole)`: sweeps of earlier segments, of this one in all
    phases, and how many it takes.
  """
  number = job.config.syn.phases
  before = sum(steps(job, one) for one in job.plan[:segment.index])
  here = steps(job, segment)
  return before * number, segment.phase * here + step, here * number


def images_per_step(job, segment):
  """Images that pass through networks in one sweep, for the speed shown."""
  return methods.images_per_step(
      job.config.method, len(job.rows(segment)), decoded(job, segment),
      steps(job, segment))
