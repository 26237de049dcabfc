"""What a job does besides its sweeps, in images that its network sees.

A phase is a list of `Work` of the busiest device. It is counted from the
configuration, the shapes and the plan, the way the modules that do the work
split it over the devices: experts, probes and networks of the evaluation, and
blocks of images that are scored.
"""

import math

from dasm_jax import (
  blocks,
  config,
  coreset,
  difficulty,
  evaluate,
  groups,
  models,
  segments,
)
from dasm_jax.experts import ASKED
from dasm_jax.groups import decoded
from dasm_jax.load import TREES, Work


def block(job, images, split_):
  """Images of a training batch whose activations are alive at once."""
  if not split_.turns or models.normalises_batches(job.network):
    return images
  return -(-images // blocks.split(images, math.prod(job.shape[:2])))


def experts(job, split_):
  """`[Work]` of the experts, or of the networks that others begin as."""
  c, n = config.experts(job.config), len(job.dataset.train.labels)
  if c is None:
    return []
  mine, size = split_.share(c.number), min(c.batch, n)
  around = split_.together(min(c.at_once, mine))
  twice = 2 if c.rho else 1  # two gradients a step (FTD)
  steps = twice * mine * c.epochs * math.ceil(n / size)
  return [Work('gradient', twice * mine * c.epochs * n,
               around * block(job, size, split_), steps / around,
               TREES * around)]


def beginning(job, segment, split_):
  """`[Work]` before a segment's first sweep: probes, scores, coresets."""
  c, works = job.config, []
  real, all_ = len(job.dataset.train.labels), split_.share(1)
  who = segments.scorer(job.choice, segment.index)
  if who == 'previous' or (who == 'real' and not segment.index):
    if who == 'real':
      size, epochs = job.probe.batch, 1
      every = c.segments.probe_real_steps * size
    else:
      every = job.classes * decoded(job, segment.slots.start, training=True)
      size, epochs = job.probe.batch, job.probe.epochs + job.probe.extra
    works += [training(job, c.segments.probes, epochs, every, size, split_),
              *_scoring(job, c.segments.score, c.segments.probes, split_)]
  if coreset.CORESETS.get(c.syn.init, (None,))[0]:
    works += _choosing(job, split_)
  if c.syn.init == 'known':  # by one expert at least
    works.append(Work('forward', real, ASKED, all_ * real / ASKED))
  if c.syn.labels == 'experts':
    asked = job.classes * decoded(job, segment.width)
    works.append(Work('forward', c.experts.number * asked, min(ASKED, asked),
                      c.experts.number))
  return works


def training(job, count, epochs, every, size, split_):
  """`Work` of `count` networks on `every` images, batches of `size`."""
  mine, size = split_.share(count), min(size, every)
  around = min(mine, groups.networks(job.network, job.shape, size, split_))
  return Work('gradient', mine * epochs * every,
              around * block(job, size, split_),
              mine / around * epochs * math.ceil(every / size), TREES * around)


def _looking(job, count, n, split_, chunk):
  """`Work` of `count` networks that classify n images, a device the same."""
  chunk = min(chunk, n)
  around = min(count, groups.networks(
      job.network, job.shape, job.recipe.batch, split_))
  return Work('forward', count * n, around * chunk,
              count / around * math.ceil(n / chunk), around)


def _scoring(job, score, count, split_):
  """Difficulty and accuracy of all real images under `count` networks."""
  n = split_.share(len(job.dataset.train.labels))
  size = min(evaluate.SCORING, n)
  calls = count * math.ceil(n / size)
  kind, times, at_once = {
      'gradient_norm': ('norms', 1, difficulty.CHUNK_GRADIENTS),
      'influence': ('norms', 1, difficulty.CHUNK_GRADIENTS),
      'fisher': ('norms', job.classes, difficulty.CHUNK_GRADIENTS)}.get(
          score, ('forward', 1, size))
  trees = count + at_once * (kind == 'norms')
  return [Work(kind, count * n * times, at_once, calls * times, trees),
          Work('forward', count * n, size, calls, count)]


def _choosing(job, split_):
  """Networks that choose a coreset, and what they look at."""
  c, n = job.config.coreset, len(job.dataset.train.labels)
  need = coreset.CORESETS[job.config.syn.init][0]
  trained = training(job, c.networks, c.epochs, n, job.probe.batch, split_)
  if need == 'scores':
    return [trained, *_scoring(
        job, job.config.segments.score, c.networks, split_)]
  times = c.epochs if need == 'history' else 1
  look = _looking(job, c.networks, split_.share(n), split_, evaluate.SCORING)
  return [trained, look._replace(images=times * look.images,
                                 calls=times * look.calls)]


def evaluation(job, split_):
  """`[Work]` of measuring the set and random real images, each alike."""
  c, recipe = job.config, job.recipe
  sets = (job.classes * decoded(job, c.syn.ipc, training=True),
          job.classes * c.syn.ipc)
  works = [training(job, c.eval.networks, recipe.epochs + recipe.extra, every,
                    recipe.batch, split_) for every in sets]
  tested = _looking(job, c.eval.networks, split_.share(
      len(job.dataset.test.labels)), split_, evaluate.SCORING)
  if c.method.get('relabel'):  # one epoch after the other, by each teacher
    mine = split_.share(recipe.epochs + recipe.extra)
    size = min(recipe.batch, sets[0])
    calls = len(job.plan) * mine * math.ceil(sets[0] / size)
    works.append(Work('forward', len(job.plan) * mine * sets[0], size, calls))
  return [*works, tested, tested]
