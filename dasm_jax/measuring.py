"""The evaluation of a run: network by network, so that it can be stopped."""

import json

import jax.numpy as jnp
import numpy as np

from dasm_jax import evaluate, groups, hosts, parallel
from dasm_jax.real import fetch_own
from dasm_jax.words import many
from dasm_jax.workdir import write

KEPT = 'accuracies.json'  # of the networks trained so far


def measure(job, syn, batch, real, test, place, log, stopping):
  """Accuracies of the synthetic set and of random real images, `{name: […]}`.

  Both under the same recipe and with the same number of networks; a rate that
  was learned for the set is its own. What was measured is kept in the workdir,
  from which the same call goes on.

  Args:
    job: a `Job`; syn: its `Synthetic`; batch: as networks see it.
    real: one of `real`; test: a `Source` on every device.
    place: a `mirror.Place`; log, stopping: of the run.

  Raises:
    stop.Stopped: asked to stop.
  """
  c = job.config.eval
  together = _together(job)
  kept = place.path / KEPT
  def keep():
    write(kept, json.dumps(found))
    place.push()
  found = hosts.once(lambda: _read(kept))
  log.say(f'evaluating: {many(c.networks, "fresh network")} on the synthetic '
          'set, then as many on random real images')
  size = min(c.networks, parallel.count() * together)
  for name, run in _runs(
      job, syn, batch, real, test, together, size).items():
    have = found.setdefault(name, [])
    while len(have) < c.networks:
      part = slice(len(have), min(len(have) + size, c.networks))
      have.extend(float(x) for x in run(part))
      hosts.once(keep)
      log.progress(1 + (name == 'random'), 2, len(have), c.networks,
                   what='evaluation', unit='network')
      stopping.hear()
      stopping.leave_if_asked(f'{len(have)} of {c.networks} networks trained '
                              f'on the {name} set')
  return {name: np.array(values) for name, values in found.items()}


def _together(job):
  """How many networks a device trains at once."""
  c = job.config.eval
  return groups.number(c.together, c.networks, lambda: evaluate.together_here(
      job.network, job.recipe, job.shape))


def _runs(job, syn, batch, real, test, together, size):
  """`{name: slice of networks -> accuracies}`, `size` of them at most."""
  c = job.config.eval
  keys = evaluate.keys(job.config.seed, c.networks)
  subsets = evaluate.random_subsets(
      job.dataset.train.labels, job.classes, job.config.syn.ipc, c.networks,
      [job.config.seed, 2])
  ours = evaluate.accuracies(job.network, job.at_rate(job.recipe, syn),
                             together)
  theirs = evaluate.accuracies_of_subsets(job.network, job.recipe, together)
  batch = parallel.replicate(batch)

  def random(part):
    chosen = subsets[part]
    images = fetch_own(real, chosen, size)
    return theirs((keys[part], jnp.asarray(chosen, jnp.int32)), images, test)
  return {'synthetic': lambda part: ours(keys[part], batch, test),
          'random': random}


def _read(path):
  """What was kept; nothing where that cannot be read."""
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
