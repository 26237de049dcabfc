"""Real images that a job reads from the disk, where they are streamed.

Counted from the configuration and the plan, as `work` counts what networks see.
An image that a call looks at twice is read once: this is the most.
"""

import math

from dasm_jax import config, coreset, groups, intake, segments
from dasm_jax import job as jobs
from dasm_jax.groups import decoded


def images(job, split_):
  """`{phase: images}` read by all processes together, by `cost.phases`' names.

  A phase that reads nothing is left out.

  Args:
    job: a `Job`.
    split_: a `load.Split`.
  """
  found = {'experts': _experts(job), 'segments': 0, 'distillation': 0,
           'evaluation': _evaluation(job, split_)}
  for segment in job.plan:
    found['segments'] += _beginning(job, segment)
    found['distillation'] += sum(
        _sweeps(job, phase) for phase in job.phases(segment))
  return {phase: int(number) for phase, number in found.items() if number}


def _experts(job):
  """Each goes through all images in an order of its own."""
  c = config.experts(job.config)
  return c.number * c.epochs * len(job.dataset.train.labels) if c else 0


def _beginning(job, segment):
  """What probes and those who choose look at."""
  c, n = job.config, len(job.dataset.train.labels)
  who, found = segments.scorer(job.choice, segment.index), 0
  if who == 'previous' or (who == 'real' and not segment.index):
    found += n
    if who == 'real':
      found += c.segments.probes * c.segments.probe_real_steps * (
          job.probe.batch)
  need = coreset.CORESETS.get(c.syn.init, (None,))[0]
  if need:
    looks = c.coreset.epochs if need == 'history' else 1
    found += (c.coreset.networks * c.coreset.epochs + looks) * n
  if c.syn.init == 'known':  # by one expert at least
    found += n
  if c.syn.labels == 'experts':
    found += c.experts.number * job.classes * decoded(job, segment.width)
  return found


def _sweeps(job, phase):
  """What is matched, and what matching networks are trained on."""
  m, n = job.config.method, jobs.steps(job, phase)
  if m.match in ('none', 'trajectory'):
    return 0
  if m.match == 'statistics':
    return m.teach * m.net_steps * m.net_batch
  found = n * len(job.rows(phase)) * m.batch
  found += -(-n // m.inner) * m.warmup * m.net_batch
  if m.train_on == 'real':  # but after the last sweep of a network
    found += (n - n // m.inner) * m.net_steps * m.net_batch
  return found


def _evaluation(job, split_):
  """Random subsets, and the test images for each group of networks."""
  c = job.config
  found = c.eval.networks * job.classes * c.syn.ipc
  if intake.streams_tests(job.dataset, split_.memory):
    around = split_.devices * groups.networks(
        job.network, job.shape, job.recipe.batch, split_)
    found += 2 * math.ceil(c.eval.networks / around) * len(
        job.dataset.test.labels)
  return found
