"""Networks that look at all real images: probes, scores, coreset choosers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import coresets, difficulty, streams
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices
from dasm_jax.streams import Stream
from dasm_jax.training import ensemble, recipes, train_step


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


class Scored(NamedTuple):
  """What networks say of real images, in NumPy, means over the networks.

  scores: `[n]`, higher is harder. accuracy: `[classes]`. right: `[n]`, the
  share of the networks that are right.
  """
  scores: np.ndarray
  accuracy: np.ndarray
  right: np.ndarray


def difficulty_scores(network, name, block=SCORING_BLOCK,
                      references=REFERENCE_IMAGES):
  """Difficulty of every image for a group of networks.

  Args:
    network: a `Network`.
    name: a key of `difficulty.SCORES`.
    block: images that are scored at once.
    references: real images, at most, whose loss influence is upon.

  Returns:
    `(probes, data) -> Scored`; no augmentation.
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
    return Scored(values, accuracy, hits)
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


# ---- Networks trained on real images


class Learning(NamedTuple):
  """Networks that learn all real images.

  trained: their `ensemble.TrainState`. correct: `[k, epochs, n]` bool, what
  each got right after an epoch, as far as they are; `[k, 0, n]` where nobody
  looks.
  """
  trained: ensemble.TrainState
  correct: np.ndarray

  @property
  def done(self):
    """Epochs that are behind."""
    return self.trained.done


def learning_shapes(network, recipe, epochs, n, networks):
  """The shapes of a `Learning` of n images; epochs: that are looked at."""
  return Learning(ensemble.state_shapes(network, recipe, networks),
                  jax.ShapeDtypeStruct((networks, epochs, n), bool))


def train_choosers(network, recipe, epochs, history=False):
  """Networks trained on a data set, and what they got right on the way.

  Args:
    network: a `Network`.
    recipe: a `recipes.Recipe`, of which the rate, batches and augmentation
      count; the rate stays, and the momentum from epoch to epoch.
    epochs: passes over the data.
    history: whether to look after each of them, without augmentation.

  Returns:
    `(keys, data, seen=None, start=None) -> (Variables [k, …], correct
    [k, epochs, n] bool)`, one network a key, `data` a `Source` or one of
    `streaming`; without a history `[k, 0, n]`. `seen(done, state, loss,
    within)` is called after each piece of an epoch: epochs done, `() ->
    Learning`, `() -> [k]` losses, batches of the next epoch. start: a
    `Learning` to go on from.
  """
  run = ensemble.epoch_trainer(network, recipe)
  begin = devices.spread(network.init)
  (lr, *_), _ = recipes.rates(recipe._replace(
      epochs=1, extra=0, drops=(), cosine=False, warmup=0))
  right = correct_predictions(network)

  def call(keys, data, seen=lambda *_: None, start=None):
    first, rest = jnp.moveaxis(
        jax.vmap(jax.random.split)(streams.typed(keys)), 1, 0)
    rest = jax.vmap(lambda key: jax.random.split(key, epochs))(rest)
    # Every epoch has the keys of a `fit` of one epoch, see `fit_epochs`.
    def of(key):
      return jax.random.fold_in(jax.random.split(key)[1], 0)
    rest = jax.vmap(jax.vmap(of))(rest)
    correct = np.zeros(
        (len(keys), epochs if history else 0, len(data.labels)), bool)
    if start is not None:
      correct[:] = start.correct
    def look(done, state, loss, within):
      if history and not within:
        correct[:, done - 1] = right(state().variables, data).T > .5
      seen(done, lambda: Learning(state(), correct), loss, within)
    trained = start.trained if start is not None else (
        ensemble.states_from(recipe, begin(first)))
    variables = run(trained, [ensemble.EpochPlan(
        rest[:, epoch], lr) for epoch in range(epochs)], data, look)
    return variables, correct
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


def selection_values(name, network, score):
  """What the selection called `name` is made by.

  Args:
    name: a key of `coresets.CORESETS`.
    network: a `Network`.
    score: a key of `difficulty.SCORES`, of those that go by any.

  Returns:
    `(learned, data) -> values` as `coresets.choose` takes them: features side
    by side, mean scores, histories; None for `random`. learned: what
    `train_choosers` gives, with a history if that is what is needed.
  """
  need = coresets.CORESETS[name].needs

  def call(learned, data):
    if need is None:
      return None
    networks, correct = learned
    if need == 'history':
      return correct
    networks = devices.replicate(networks)
    if need == 'features':
      return embeddings(network)(networks, data)
    return difficulty_scores(
        network, score if need == 'scores' else need)(networks, data).scores
  return call


FORGETTING = 'forgetting'  # beside difficulty.SCORES: by what they forgot


def real_scores(network, name):
  """`(learned, data) -> Scored` by networks that learned all real images.

  Args:
    network: a `Network`.
    name: a key of `difficulty.SCORES`, or `forgetting`.
  """
  def call(learned, data):
    networks, correct = learned
    scored = difficulty_scores(
        network, 'loss' if name == FORGETTING else name)(
            devices.replicate(networks), data)
    if name == FORGETTING:
      return scored._replace(
          scores=coresets.forgetting_events(correct).mean(0))
    return scored
  return call
