"""Networks that look at all real images: probes, scores, coreset choosers."""

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import coresets, difficulty, streams
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices
from dasm_jax.streams import Stream
from dasm_jax.training import ensemble, packing, recipes, train_step


def accuracy(network, variables, source, chunk=250):
  """Share of a `Source`'s images that are classified correctly, a scalar."""
  return jnp.mean(difficulty.chunked(
      lambda variables, indices: train_step.is_correct(
          network, variables, source, indices),
      variables, jnp.arange(len(source.labels)), chunk))


SCORING_BLOCK = 200  # images a block of the scoring pass
REFERENCE_IMAGES = 1000  # real images, at most, whose loss influence is upon


def correct_predictions(network):
  """`(variables [P, …], data) -> [n, P]`: 1 where a network is right, or 0."""
  def block(indices, networks, data):
    return jax.lax.map(lambda variables: train_step.is_correct(
        network, variables, data, indices), networks).T
  run = map_images(block)
  return lambda variables, data: run(devices.replicate(variables), data)


def train_probes(network, recipe, steps, together=None):
  """Networks trained for `steps` batches of real images.

  Returns:
    `(keys, data, heard=None) -> Variables [P, …]`, one a key; data a `Source`,
    or one of `streaming`. `heard()` is called now and then.
  """
  begin, step = train_step.random_batch_trainer(network, recipe)
  first = devices.spread(begin, together=together)

  def some(item, data):
    carry, keys = item
    return jax.lax.scan(
        lambda carry, key: (step(carry, key, data), None), carry, keys)[0]
  run = packing.spread_networks(some, network, recipe, together)

  def call(keys, data, heard=lambda: None):
    # A key for each step, drawn before: how the steps are cut changes nothing.
    start, rest = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    rest = jax.vmap(lambda key: jax.random.split(key, steps))(rest)
    carry, n = first(start), len(data.labels)
    size = streaming.pieces_with_room(data, steps, devices.most_local(
        len(keys)) * recipe.batch)
    # The draws of `random_batch_trainer`, on the host: images are read ahead
    # while the devices train.
    drawn = jax.jit(jax.vmap(jax.vmap(
        lambda key: train_step.random_batch_indices(recipe, n, key))))
    def wanted(at):
      return streaming.local_rows(drawn(devices.on_host(rest[:, at:at + size])))
    with streaming.prefetched(data, range(0, steps, size), wanted) as coming:
      for at, source in coming:
        carry = run((carry, rest[:, at:at + size]), source)
        heard()
    return carry[0]
  return call


def map_images(function, block=SCORING_BLOCK):
  """Maps `function` over all images of a data set, split over the devices.

  Args:
    function: `(indices, networks, data) -> [len(indices), …]`, or a pytree.
    block: images that it is given at once.

  Returns:
    `(networks, data) -> [n, …]`, NumPy; networks on every device, `data` a
    `Source` there, or one of `streaming`.
  """
  # Blocks in turn: all at once would be all images, which need not fit.
  run = devices.spread(function, together=False)

  def call(networks, data):
    n = len(data.labels)
    size = min(block, n)
    whole, count = -(-n // size), devices.count()
    # Where streamed, as many blocks at a time as have room on every device. The
    # last ones begin again with the first images, which are cut off in the end.
    some = min(whole, count * streaming.pieces_with_room(
        data, -(-whole // count), devices.most_local(count) * size))
    parts = -(-whole // some)
    blocks = np.resize(np.arange(n), (parts, some, size)).astype(np.int32)
    with streaming.prefetched(data, range(parts), lambda at: (
        streaming.local_rows(blocks[at]))) as coming:
      found = [jax.tree.map(np.asarray, run(
          jnp.asarray(blocks[at]), networks, source)) for at, source in coming]
    return jax.tree.map(lambda *x: np.concatenate(
        [y.reshape(-1, *y.shape[2:]) for y in x])[:n], *found)
  return call


def difficulty_scores(network, name, block=SCORING_BLOCK,
                      references=REFERENCE_IMAGES):
  """Difficulty of every image for a group of networks.

  Args:
    network: a `Network`.
    name: a key of `difficulty.SCORES`.
    block: images that are scored at once.
    references: real images, at most, whose loss influence is upon.

  Returns:
    `(probes, data) -> (scores [n], accuracy [classes])`, NumPy, means over
    the networks; no augmentation.
  """
  score = difficulty.score(name, train_step.loss_fn(network),
                           train_step.logits_fn(network))

  # The images of a block are taken once for all networks, which then look at
  # them in turn.
  def score_block(indices, networks, data):
    batch = sources.take(data, indices)
    def of(item):
      variables, reference = item
      return score(variables, batch, reference), train_step.is_correct(
          network, variables, data, indices)
    return jax.tree.map(lambda x: x.mean(0), jax.lax.map(of, networks))

  run = map_images(score_block, block)
  refer = _reference_gradients(network, references)

  def call(probes, data):
    labels = np.asarray(data.labels)
    reference = refer(probes, data) if name in difficulty.REFERRING else None
    values, hits = run((probes, reference), data)
    classes = sources.class_count(data)
    accuracy = np.array([hits[labels == c].mean() for c in range(classes)])
    return values, accuracy
  return call


def _reference_gradients(network, most):
  """`(probes, data) -> gradients [P, …]` of the loss on `most` real images."""
  loss_fn = train_step.loss_fn(network)

  def one(variables, indices, data):
    return difficulty.mean_gradient(
        loss_fn, variables, sources.take(data, indices))
  run = devices.spread(one, together=False)

  def call(probes, data):
    # The same images in every segment and run.
    rng = np.random.default_rng(streams.seed(0, Stream.REFERENCE))
    chosen = rng.permutation(len(data.labels))[:most]
    return devices.replicate(run(
        probes, jnp.asarray(chosen, jnp.int32), streaming.fetch(data, chosen)))
  return call


def train_choosers(network, recipe, epochs, history=False, together=None):
  """Networks trained on a data set, and what they got right on the way.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`, of which the rate, batches and augmentation
      count; the rate stays, and the momentum from epoch to epoch.
    epochs: passes over the data.
    history: whether to look after each of them, without augmentation.
    together: how many a device trains at once, see `packing.spread_networks`.

  Returns:
    `(keys, data, heard=None) -> (Variables [P, …], correct [P, epochs, n]
    bool)`, one network a key, `data` a `Source` or one of `streaming`; no
    history is None. `heard()` is called after each piece of an epoch.
  """
  run = ensemble.epoch_trainer(network, recipe, together=together)
  begin = devices.spread(network.init, together=together)
  (lr, *_), _ = recipes.rates(recipe._replace(epochs=1, extra=0, drops=()))
  right = correct_predictions(network)

  def call(keys, data, heard=lambda: None):
    start, rest = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    rest = jax.vmap(lambda key: jax.random.split(key, epochs))(rest)
    # Every epoch has the keys of a `fit` of one epoch, see `fit_epochs`.
    def of(key):
      return jax.random.fold_in(jax.random.split(key)[1], 0)
    rest, seen = jax.vmap(jax.vmap(of))(rest), []
    def look(done, state, loss, within):
      del done, loss
      if history and not within:
        seen.append(right(state().variables, data).T > .5)
      heard()
    begun = ensemble.states_from(recipe, begin(start))
    variables = run(begun, [ensemble.EpochPlan(
        rest[:, epoch], lr) for epoch in range(epochs)], data, look)
    return variables, np.stack(seen, 1) if history else None
  return call


def embeddings(network, block=SCORING_BLOCK):
  """`(variables [P, …], data) -> [n, P * d]`: embeddings side by side.

  block: images that are embedded at once.
  """
  def embed_block(indices, networks, data):
    images = sources.take(data, indices).images
    each = jax.lax.map(lambda v: network.embed(v, images), networks)
    return jnp.moveaxis(each, 0, 1).reshape(len(images), -1)
  return map_images(embed_block, block)


def selection_values(name, network, recipe, *, epochs, score):
  """What the selection called `name` is made by.

  Args:
    name: a key of `coresets.CORESETS`.
    network, recipe, epochs: see `train_choosers`.
    score: a key of `difficulty.SCORES`, of those that go by scores.

  Returns:
    `(keys, data, heard=None) -> values` as `coresets.choose` takes them, of one
    network a key: features side by side, mean scores, histories; None for
    `random`. heard: see `train_choosers`.
  """
  need = coresets.CORESETS[name][0]

  def call(keys, data, heard=lambda: None):
    if need is None:
      return None
    networks, history = train_choosers(
        network, recipe, epochs, need == 'history')(keys, data, heard)
    if need == 'history':
      return np.asarray(history)
    networks = devices.replicate(networks)
    if need == 'features':
      return embeddings(network)(networks, data)
    return difficulty_scores(network, score)(networks, data)[0]
  return call
