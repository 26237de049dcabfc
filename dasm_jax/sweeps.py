"""What the sweeps of a job do, in images that its network sees.

See `work`. Classes are split over the devices, and the starts of trajectory
matching; the matching network's training only where its batches are of real
images, divide evenly, and no batch norm looks across them.
"""

import math

from dasm_jax import difficulty, groups, models
from dasm_jax import job as jobs
from dasm_jax.groups import decoded
from dasm_jax.load import Work
from dasm_jax.methods import networks
from dasm_jax.work import block


def distil(job, segment, split_):
  """`[Work]` of a segment's sweeps, in all its phases."""
  return [work for phase in job.phases(segment)
          for work in _phase(job, phase, split_)]


def _phase(job, segment, split_):
  c, n = job.config.method, jobs.steps(job, segment)
  if c.match == 'none':
    return []
  if c.match == 'trajectory':
    return _students(job, segment, n, split_)
  matched = groups.matched(job, segment)
  if c.match == 'statistics':
    return _recovery(job, segment, n, matched, split_)
  classes = split_.share(len(job.rows(segment)))
  around = groups.of(job, segment, classes, split_)
  works = [Work(kind, n * classes * images, around * images,
                n * classes / around)
           for kind, images in groups.of_class(c, matched) if images]
  works += _corrected(job, segment, n, matched, classes, split_)
  return works + _between(job, segment, n, split_)


def _corrected(job, segment, n, matched, classes, split_):
  """SDC: gradient norms of the matched images, and their derivative."""
  c = job.config.sdc
  if not max(c.weight, c.ratio, c.end_weight, c.end_ratio) > 0:
    return []
  single = c.penalty.startswith('sample')
  chunk = min(difficulty.CHUNK_GRADIENTS if single else matched, matched)
  at_once = groups.of(job, segment, classes, split_) * chunk
  return [Work('second', n * classes * matched, at_once,
               n * math.ceil(classes * matched / at_once),
               4 + 3 * at_once * single)]


def _between(job, segment, n, split_):
  """The matching network's warm-up, averages, and training between sweeps."""
  c, size = job.config.method, job.config.method.net_batch
  batch_norm = models.normalises_batches(job.network)
  even = not batch_norm and size % split_.devices == 0
  real = size // split_.devices if even else size
  works = []
  def add(steps, images):
    works.append(Work('gradient', steps * images, block(job, images, split_),
                      steps))
  if c.warmup:
    add(-(-n // c.inner) * c.warmup, real)
  if batch_norm:
    averaged = networks.STATISTICS * job.classes
    works.append(Work('forward', n * averaged, averaged, n))
  lived = n * (1 - 1 / c.inner)  # no training after a network's last sweep
  watched = c.get('watch_images', 0)
  passes = c.net_steps
  if watched:
    # Training ends as soon as it has done something: half-way between the
    # fewest and the most passes, as one run on digits did.
    passes, lived = min(passes, (c.watch_window + passes) / 2), n
    looks = n * (1 + passes) * split_.share(job.classes)
    works.append(Work('forward', looks * watched, watched, looks))
  if c.train_on == 'real':
    add(lived * passes, real)
  else:
    every = job.classes * decoded(job, segment.width, training=True)
    works.append(Work('gradient', lived * passes * every,
                      block(job, min(size, every), split_),
                      lived * passes * math.ceil(every / size)))
  return [work for work in works if work.images]


def _recovery(job, segment, n, matched, split_):
  """SRe2L: the teacher, the images, their labels."""
  c = job.config.method
  size, classes = c.net_batch, split_.share(job.classes)
  around = groups.of(job, segment, classes, split_)
  sweeps, labelled = n - c.teach + 1, decoded(job, segment.width)
  return [
      Work('gradient', c.teach * c.net_steps * size, size,
           c.teach * c.net_steps),
      Work('forward', sweeps * classes * matched, around * matched,
           sweeps * classes / around),
      Work('inward', sweeps * classes * matched, around * matched,
           sweeps * classes / around),
      Work('forward', classes * labelled * max(c.label_views, 1), labelled,
           classes)] + _corrected(
               job, segment, sweeps, matched, classes, split_)


def _students(job, segment, n, split_):
  c, sdc = job.config.method, job.config.sdc
  union = job.config.segments.match == 'union'
  stored = segment.slots.stop if union else segment.width
  every = job.classes * decoded(job, stored, training=True)
  size, starts = min(c.batch_syn or every, every), split_.share(c.starts)
  steps = n * starts * c.student_steps
  # Every step keeps the weights that it began with.
  kept = dict(at_once=size, calls=2 * steps, trees=c.student_steps + 6)
  kinds = ['second' if c.frozen else 'student']
  if max(sdc.weight, sdc.ratio, sdc.end_weight, sdc.end_ratio) > 0:
    kinds.append('second')
  return [Work(kind, steps * size, **kept) for kind in kinds]
