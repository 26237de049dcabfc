"""The evaluation of a run: network by network, so that it can be stopped."""

import functools
import json

import jax.numpy as jnp
import numpy as np

from dasm_jax import (
  evaluate,
  fitting,
  groups,
  hosts,
  pace,
  parallel,
  unfinished,
)
from dasm_jax.real import fetch_own
from dasm_jax.words import many
from dasm_jax.workdir import write

KEPT = 'accuracies.json'  # of the networks trained so far


def measure(job, syn, batch, real, test, place, log, keeper):
  """Accuracies of the synthetic set and of random real images, `{name: […]}`.

  Both under the same recipe and with the same number of networks; a rate that
  was learned for the set is its own. What was measured, and networks that are
  half trained, are kept in the workdir, from which the same call goes on.

  Args:
    job: a `Job`; syn: its `Synthetic`; batch: as networks see it.
    real: one of `real`; test: a `Source` on every device.
    place: a `mirror.Place`; log: of the run; keeper: an `unfinished.Keeper`.

  Raises:
    stop.Stopped: asked to stop.
  """
  c = job.config.eval
  at_once = _together(job)
  kept = place.path / KEPT
  def keep():
    write(kept, json.dumps(found))
    place.push()
  found = hosts.once(lambda: _read(kept))
  log.say(f'evaluating: {many(c.networks, "fresh network")} on the synthetic '
          'set, then as many on random real images')
  size = min(c.networks, parallel.count() * at_once)
  speed = pace.Pace(1)
  for name, run in _runs(
      job, syn, batch, real, test, at_once, size).items():
    have = found.setdefault(name, [])
    while len(have) < c.networks:
      def save(values, have=have):
        have.extend(values)
        hosts.once(keep)
      _train(job, name, run, len(have), size, log, keeper, speed, save)
      log.progress(1 + (name == 'random'), 2, len(have), c.networks,
                   what='evaluation', unit='network')
      unfinished.leave_if_asked(keeper, f'{len(have)} of {c.networks} networks '
                                f'trained on the {name} set')
  return {name: np.array(values) for name, values in found.items()}


def _train(job, name, run, have, size, log, keeper, speed, save):
  """Trains some networks more than `have`, by one of `_runs`.

  speed: a `pace.Pace` of epochs. save: is given their accuracies, a list.
  """
  networks, recipe = job.config.eval.networks, job.recipe
  like = functools.partial(fitting.like, job.network, recipe)
  numbers = unfinished.together(
      keeper, name, range(have, networks), size, like)
  with unfinished.training(keeper, name, numbers, like) as (start, keep):
    epochs = recipe.epochs + recipe.extra
    # Groups of networks that are not begun, of this set and of the next.
    rest = -(-(networks - have - len(numbers)) // size) + (
        -(-networks // size) if name == 'synthetic' else 0)
    before = int(start.done) if start else 0
    def seen(done, stand, loss):
      nonlocal before
      speed.add(done - before)
      before = done
      if done < epochs:
        note = f'epoch {done}/{recipe.epochs}'  # some recipes add one
        log.progress(1 + (name == 'random'), 2, have, networks, loss().mean(),
                     None, speed.left(epochs - done + rest * epochs),
                     what='evaluation', unit='network', note=note)
        keep(stand, lambda: (
            f'{have} of {networks} networks trained on the {name} set, and '
            f'{len(numbers)} at {note}'))
    part = slice(have, have + len(numbers))
    save([float(x) for x in run(part, start=start, seen=seen)])


def _together(job):
  """How many networks a device trains at once."""
  c = job.config.eval
  return groups.number(c.together, c.networks, lambda: groups.together_here(
      job.network, job.recipe, job.shape))


def _runs(job, syn, batch, real, test, together, size):
  """`{name: (slice of networks, …) -> accuracies}`, of `size` at most.

  What else is given goes to `fitting`.
  """
  c = job.config.eval
  keys = evaluate.keys(job.config.seed, c.networks)
  subsets = evaluate.random_subsets(
      job.dataset.train.labels, job.classes, job.config.syn.ipc, c.networks,
      [job.config.seed, 2])
  ours = evaluate.accuracies(job.network, job.at_rate(job.recipe, syn),
                             together)
  theirs = evaluate.accuracies_of_subsets(job.network, job.recipe, together)
  batch = parallel.replicate(batch)

  def synthetic(part, **how):
    return ours(keys[part], batch, test, **how)

  def random(part, **how):
    chosen = subsets[part]
    images = fetch_own(real, chosen, max(size, len(chosen)))
    return theirs((keys[part], jnp.asarray(chosen, jnp.int32)), images, test,
                  **how)
  return {'synthetic': synthetic, 'random': random}


def _read(path):
  """What was kept; nothing where that cannot be read."""
  try:
    return dict(json.loads(path.read_text()))
  except (OSError, ValueError, TypeError):
    return {}
