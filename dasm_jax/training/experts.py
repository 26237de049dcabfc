"""Experts: networks trained on real data, whose weights are kept by epoch.

Flat parameters, what experts say of images, and training those that are
missing.
"""

import functools
import hashlib
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dasm_jax import difficulty, losses, streams
from dasm_jax.pipeline import loading, streaming
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import devices, environment, processes, text, timing
from dasm_jax.streams import Stream
from dasm_jax.training import ensemble, expert_store, recipes, resumable, sam
from dasm_jax.transforms import photometric
from dasm_jax.types import Variables

LABEL_BLOCK = 200  # images that experts label at a time


# ---- Flat parameters, and students


def flat_parameters(network):
  """`(ravel, unravel)`: a network's parameters as one vector, and back.

  `ravel` takes `Variables` and gives `[parameters]`; `unravel` gives
  `Variables` whose running averages are those of a fresh network.
  """
  key = jax.random.key(0)
  shapes = jax.eval_shape(network.init, key)
  _, back = ravel_pytree(
      jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.params))
  # Only batch norm has any, and is worth compiling the start for.
  stats = jax.jit(network.init)(key).stats if shapes.stats else shapes.stats

  def ravel(variables):
    return ravel_pytree(variables.params)[0]

  def unravel(vector):
    return Variables(back(vector), stats)
  return ravel, unravel


def flat_variables(network):
  """`(ravel, unravel)`: parameters and running averages as one vector.

  Without batch norm there are no averages, and it is that of
  `flat_parameters`.
  """
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  _, unravel = ravel_pytree(
      jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
  return lambda variables: ravel_pytree(variables)[0], unravel


def student_loss_fn(network):
  """`(variables, batch) -> scalar` of a network in training.

  Batch norm takes the statistics of the batch, so that students need no
  running averages.
  """
  logits = student_logits_fn(network)
  return lambda variables, batch: losses.cross_entropy(
      logits(variables, batch.images), batch.labels)


def student_logits_fn(network):
  """`(variables, images) -> logits` by the statistics of the images."""
  return lambda variables, images: network.apply(
      variables, images, train=True)[0]


# ---- What experts say of images


def expert_logits(network, chunk):
  """`(variables, data, indices) -> [len(indices), classes]`, for a `Source`.

  Batch norm takes the statistics of `chunk` images: experts keep none.
  """
  def run(variables, data, indices):
    def part(variables, indices):
      images = sources.take(data, indices).images
      return student_logits_fn(network)(variables, images)
    return difficulty.chunked(part, variables, indices, chunk)
  return jax.jit(run)


def known_by_experts(experiment, store, data, each):
  """Real images that experts classify correctly in the end, `[n]` bool.

  By the first expert, then the next, until every class has `each` of them or
  nobody is left to ask (DATM).
  """
  labels = experiment.dataset.train.labels
  right = np.zeros(len(labels), bool)
  for out in _final_logits(experiment, store, data, np.arange(len(labels))):
    right |= out.argmax(-1) == labels
    if np.bincount(labels[right], minlength=experiment.classes).min() >= each:
      break
  return right


def soft_labels(experiment, store, data, chosen, one=False):
  """Probabilities of each image from all experts that know it.

  The softmax of the mean logits of the experts that classify it correctly; of
  all experts where none does.

  Args:
    chosen: int of any shape, into the real images.
    one: ask the first expert alone, which may be wrong.

  Returns:
    `[*chosen.shape, classes]` float32.

  Source: DATM (2310.05773), section 3.3; `one`: its program's `real` start.
  """
  # Two means in one pass over the experts: of those that classify an image
  # correctly, and of all.
  flat = chosen.reshape(-1)
  truth = experiment.dataset.train.labels[flat]
  sums = np.zeros((2, len(flat), experiment.classes))
  counts = np.zeros((2, len(flat), 1))
  asked = store._replace(number=1) if one else store
  for out in _final_logits(experiment, asked, data, flat):
    right = (out.argmax(-1) == truth)[:, None]
    for k, use in enumerate((right, np.ones_like(right))):
      sums[k] += use * out
      counts[k] += use
  mean = np.where(counts[0] > 0, sums[0], sums[1]) / np.where(
      counts[0] > 0, counts[0], counts[1])
  odds = np.exp(mean - mean.max(-1, keepdims=True))
  soft = odds / odds.sum(-1, keepdims=True)
  return soft.reshape(*chosen.shape, experiment.classes).astype(np.float32)


def _final_logits(experiment, store, data, indices):
  """Yields the logits `[len(indices), classes]` of each finished expert."""
  _, unravel = flat_parameters(experiment.network)
  ask = expert_logits(experiment.network, LABEL_BLOCK)
  # Whole chunks, or batch norm would see others.
  blocks = -(-len(indices) // LABEL_BLOCK)
  size = LABEL_BLOCK * streaming.pieces_with_room(data, blocks, LABEL_BLOCK)
  starts = range(0, len(indices), size)
  for expert in range(store.number):
    row, = expert_weights(store, [expert], [store.epochs])
    variables = unravel(jnp.asarray(row))
    with streaming.prefetched(data, starts, lambda at: (
        indices[at:at + size], min(size, len(indices)))) as coming:
      yield np.concatenate([np.asarray(ask(
          variables, source, jnp.asarray(indices[at:at + size])))
          for at, source in coming])


# ---- Training those that are missing

DIGEST_SAMPLE = 1000  # images, at most, by which a data set is known again


def open_experts(experiment, c, home, data, log, keeper):
  """The `ExpertStore` of a run, with all its experts; None if it needs none.

  Args:
    experiment: an `Experiment`; c: settings of its experts, or None.
    home: the folder below which they are, unless the settings say where.
    data: the real images, one of `streaming`.
    log: of the run; keeper: its `resumable.Keeper`.

  Raises:
    UserError: what `expert_store.claim_store` refuses.
    preemption.Stopped: asked to stop; experts stay, those in training too.
  """
  if c is None:
    return None
  last = 'last' in c
  folder, about, digest = find_folder(experiment, c, home)
  with resumable.folder_for_all_runs(
      folder, '--workdir' if last else '--config.experts.dir', keeper, log.say):
    ravel = _ravel(experiment.network, c)
    size = jax.eval_shape(
        lambda key: ravel(experiment.network.init(key)), jax.random.key(0)).size
    stored = processes.on_leader(lambda: expert_store.claim_store(
        folder, about, c.number, c.epochs, size, c.dtype, last).epochs)
    store = expert_store.ExpertStore(
        folder, c.number, stored, size, c.dtype, last)
    missing = processes.on_leader(store.missing)
    if missing:
      log.say(f'experts   {len(missing)} of {c.number} to train, '
              f'{store.epochs} epochs each, '
              f'{text.size(len(missing) * store.bytes)} in {store.folder}')
    # Beside them, as other runs may go on with them.
    _train_missing(experiment, c, store, missing, data, log, keeper._replace(
        folder=folder / 'unfinished', of=digest, owner=''))
  return store


def _ravel(network, c):
  """`Variables -> [n]`, what is kept of an expert."""
  # Students have no use for averages; networks that begin as one of the last
  # epoch do.
  return (flat_variables if 'last' in c else flat_parameters)(network)[0]


def missing_share(experiment, c, home):
  """Which share of the experts is not there yet; see `open_experts`."""
  folder, _, _ = find_folder(experiment, c, home)
  store = expert_store.ExpertStore(folder, c.number, c.epochs, 0, c.dtype)
  return len(store.missing()) / c.number


def find_folder(experiment, c, home):
  """`(folder, about, digest)`: where experts are, and what they are made of."""
  # Epochs only help to name the folder: a store of more of them, where
  # `experts.dir` names one, is as good.
  about = _identity(experiment, c)
  digest = hashlib.sha256(json.dumps(
      about | {'epochs': c.epochs}, sort_keys=True).encode()).hexdigest()
  name = f'{pathlib.Path(experiment.dataset.name).name}_{digest[:8]}'
  folder = environment.expand(c.dir, '--config.experts.dir') or home / name
  return pathlib.Path(folder), about, digest


def _identity(experiment, c):
  """What experts are made of; a store of anything else is refused."""
  return identity(experiment, {f'experts.{name}': c[name] for name in (
      'lr', 'momentum', 'weight_decay', 'batch', 'augment', 'rho', 'alpha',
      'seed', 'mode', 'cutmix', 'last') if name in c})


def identity(experiment, training):
  """What networks trained on real images are made of, a flat dict.

  training: the part of it that tells how they are trained.
  """
  split = experiment.dataset.train
  # Alike whether the images are in memory or not.
  n = len(split.labels)
  some = np.linspace(0, n - 1, min(n, DIGEST_SAMPLE)).astype(int)
  digest = hashlib.sha256(np.ascontiguousarray(split.read(some)))
  digest.update(np.ascontiguousarray(split.labels))
  network = {f'network.{name}': value
             for name, value in experiment.config.network.items()}
  # Only where it is seldom: experts that are there stay.
  statistics = loading.statistics_of(experiment.config, experiment.dataset)
  if statistics != 'auto':
    training = training | {'dataset.statistics': statistics}
  return {'dataset': experiment.dataset.name, 'images': digest.hexdigest()[:16],
          'shape': list(experiment.shape), 'classes': experiment.classes,
          'zca': experiment.config.dataset.zca, **network, **training}


def expert_recipe(c, codec):
  """The `recipes.Recipe` of experts, of `config.expert_settings`."""
  return recipes.recipe(
      1, lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay,
      batch=c.batch, strategy=c.augment, mode=c.mode,
      cutmix=c.get('cutmix', 0.0), statistics=photometric.pixel_statistics(
          c.augment, codec.mean, codec.std, codec.zca))


def _train_missing(experiment, c, store, numbers, data, log, keeper):
  """Trains experts, as many together as there is room for.

  keeper: a `resumable.Keeper`: those in training go on from what it keeps.
  """
  network, recipe = experiment.network, expert_recipe(c, experiment.codec)
  # All groups run the same programs.
  step = sam.sam_step(c.rho, c.alpha)
  begin = jax.jit(jax.vmap(network.init))
  train = ensemble.epoch_trainer(network, recipe, step)
  ravel = jax.jit(jax.vmap(_ravel(network, c)))
  size = devices.count() * c.at_once
  shapes = functools.partial(ensemble.state_shapes, network, recipe)
  speed = timing.Throughput(1)
  while numbers:
    group = resumable.next_group(keeper, 'experts', numbers, size, shapes)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        streams.key(c.seed, Stream.EXPERTS), jnp.asarray(group.numbers))
    # Keys are those of an expert's own number: who is trained with whom changes
    # nothing.
    plan = [ensemble.EpochPlan(jax.vmap(jax.random.fold_in, (0, None))(
        keys, done), recipe.lr) for done in range(1, store.epochs + 1)]
    def run(start, seen, keys=keys, plan=plan):
      if start is None:
        start = ensemble.states_from(recipe, begin(keys))
        # Row 0 of an expert is its weights before the first epoch.
        seen(0, lambda: start, None)
      train(start, plan, data, seen)
    numbers, began = numbers[len(group.numbers):], time.time()
    rest = -(-len(numbers) // size) * store.epochs
    _write_group(run, ravel, store, keeper, group,
                 _reporter(store, group, log, speed, rest))
    log.say(f'experts   {group.numbers[-1] + 1}/{store.number} trained, '
            f'{text.duration(time.time() - began)}')
    processes.on_leader(keeper.push)
    resumable.stop_if_asked(keeper, _finished(store))


def _reporter(store, group, log, speed, rest):
  """The `report` of a group; rest: epochs of experts that are not begun."""
  def report(done, within, loss):
    if not (done or within):
      return None
    if not within:
      speed.add(1)
    log.progress((group.numbers[0] + 1, store.number, done, store.epochs),
                 loss().mean(), None, speed.left(store.epochs - done + rest),
                 what='expert', unit='epoch')
    return None if done >= store.epochs else lambda: (
        f'{_finished(store)}, and {len(group.numbers)} in training at epoch '
        f'{done} of {store.epochs}')
  return report


def _write_group(run, ravel, store, keeper, group, report):
  """Writes what `run(start, seen)` makes of experts, row by row.

  ravel: `Variables [k, …] -> [k, parameters]`. report: see
  `resumable.train_networks`.
  """
  writers = []

  def flush():
    processes.on_leader(lambda: [writer.flush() for writer in writers] and None)

  def train(start, seen):
    rows = 0 if start is None else int(start.done) + 1
    # Rows may be gone that a state kept elsewhere takes for written.
    if rows > processes.on_leader(
        lambda: min(map(store.begun, group.numbers))):
      rows, start = 0, None

    def write(done, state, loss, within=0):
      # Gathered by all processes, written by the first.
      if not within:
        row = state().variables
        processes.on_leader(lambda: _add_rows(writers, ravel(row)))
      seen(done, state, loss, within)

    try:
      processes.on_leader(lambda: writers.extend(
          expert_store.ExpertWriter(store, k, rows) for k in group.numbers))
      run(start, write)
      processes.on_leader(
          lambda: [writer.finish() for writer in writers] and None)
    finally:
      for writer in writers:
        writer.close()

  resumable.train_networks(train, keeper, group, report, flush)


def _finished(store):
  """How many experts there are, in words."""
  there = store.number - processes.on_leader(lambda: len(store.missing()))
  return f'{text.plural(there, "expert")} of {store.number}'


def _add_rows(writers, rows):
  for writer, row in zip(writers, np.asarray(rows), strict=True):
    writer.add(row)


def expert_weights(store, who, when):
  """`expert_store.read_rows`, read by the first process for all."""
  # `on_leader` passes on JSON alone: the rows follow by a broadcast, for which
  # the other processes give an array of the same shape.
  read = []
  processes.on_leader(
      lambda: read.append(expert_store.read_rows(store, who, when)))
  return processes.broadcast(read.pop() if read else np.zeros(
      (len(who), store.size), np.float32))
