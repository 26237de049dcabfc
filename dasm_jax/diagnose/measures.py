"""What is measured of sets: by age, by diversity, by thirds of test images.

Sections: the sets and what they are measured with, the measures, networks that
are kept until all is measured.
"""

import functools
import hashlib
import json
from typing import NamedTuple

import jax
import numpy as np

from dasm_jax import models, streams, synthetic
from dasm_jax.diagnose import ageing
from dasm_jax.evaluate import comparison, diagnostics, subjects
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import devices, text
from dasm_jax.streams import Stream
from dasm_jax.training import ensemble, resumable
from dasm_jax.types import Batch

# ---- Sets, and what they are measured with


def origin(found):
  """Which real data a set was distilled from, for `loading.load_again`."""
  # The seed says only which images are held out.
  drawn = found.data['holdout'] or found.data.get('cut')
  return found.data if drawn else {**found.data, 'seed': 0}


class Bench(NamedTuple):
  """Sets, and what they are measured with.

  sets: `{name: saved_set.SavedSet}` that agree. dataset: the `Dataset` they are
  of. network: a `Network`. data, test: see `streaming.place_dataset`. networks:
  how many of each kind. seed: of all that is random.
  """
  sets: dict
  dataset: object
  network: object
  data: object
  test: object
  networks: int
  seed: int

  @property
  def first(self):
    """The set by whose recipe networks see real images."""
    return next(iter(self.sets.values()))

  @property
  def classes(self):
    """How many."""
    return len(self.first.class_names)


def prepare(sets, dataset, networks, seed):
  """A `Bench` of sets; images are placed on the devices."""
  one = next(iter(sets.values()))
  network = models.build(
      shape=one.shape, classes=len(one.class_names), **one.network)
  return Bench(sets, dataset, network, *streaming.place_dataset(
      dataset, one.codec), networks, seed)


# ---- The measures


def by_age(bench, ages, real, say=lambda age: None):
  """Difficulty of sets, their segments and real images at each age.

  Args:
    bench: a `Bench`.
    ages: ascending steps; real: how many real images.
    say: called with each age that is measured.

  Returns:
    `{name: [SCORES, ages, networks]}`, NumPy: the sets, each before its
    segments where it has several; the last is `real`.
  """
  one = bench.first
  each = max(1, real // bench.classes)
  (chosen,) = comparison.random_subsets(
      bench.dataset.train.labels, bench.classes, each, 1,
      streams.seed(bench.seed, Stream.MEASURED_IMAGES))
  # The labels that are stored, also where a teacher has others for each epoch.
  batches = [Batch(*x.batch[:2]) for x in bench.sets.values()]
  batches = devices.replicate([*batches, sources.take(
      streaming.fetch(bench.data, chosen), chosen)])
  run = ageing.difficulty_by_age(
      bench.network, one.recipe._replace(lr=one.real_lr))
  keys = jax.random.split(
      streams.key(bench.seed, Stream.DIAGNOSED), bench.networks)
  *values, judged = run(keys, bench.data, batches, ages, say)
  out = {}
  for (name, found), each in zip(bench.sets.items(), values, strict=True):
    out[name] = each.mean(-1)
    segment = segment_of_images(found)
    for number in range(len(found.segment_images)) if segment.any() else ():
      out[segment_name(name, number)] = each[..., segment == number].mean(-1)
  return {**out, 'real': judged.mean(-1)}


def segment_name(name, number):
  """What a set's segment is called; number: from 0."""
  # No set's name has a comma: --set would cut it there.
  return f'{name}, segment {number + 1}'


def segment_of_images(found):
  """The segment, from 0, of each decoded image of a `SavedSet`, `[n]` int."""
  sizes = found.segment_images
  stored = np.repeat(np.arange(len(sizes)), sizes)
  decoded = synthetic.decoded_from(
      synthetic.training_codec(found.codec), found.ipc)
  return np.tile(stored[decoded], len(found.class_names))


def diversities(bench, judges):
  """`diagnostics.diversity` of sets and of as many random images.

  Args:
    bench: a `Bench`; judges: `Variables` `[k, …]`, trained on real images.

  Returns:
    `{name: {images, set, random}}`: how many images a class, the others `[k]`.
  """
  out, labels = {}, np.asarray(bench.dataset.train.labels)
  for name, found in bench.sets.items():
    images = found.batch.images
    each = len(images) // bench.classes
    (chosen,) = comparison.random_subsets(
        labels, bench.classes, each, 1,
        streams.seed(bench.seed, Stream.MEASURED_IMAGES, each))
    # A class that is too small repeats images, which have no distance.
    chosen = np.unique(chosen)
    real = sources.take(streaming.fetch(bench.data, chosen), chosen).images
    out[name] = {
        'images': each,
        'set': diagnostics.diversity(bench.network, judges, images, np.repeat(
            np.arange(bench.classes), each)),
        'random': diagnostics.diversity(
            bench.network, judges, real, labels[chosen])}
  return out


def accuracies(bench, judges, train):
  """Accuracies by third of test images, of networks trained on sets.

  Args:
    bench: a `Bench`; judges: `Variables` `[k, …]`, trained on real images.
    train: `(name, comparison.Comparison, of) -> Variables`: what `trained(of)`
      of that gives; who keeps them meanwhile, does it there.

  Returns:
    `{name: {kind: values}}` of the sets, values as of
    `diagnostics.accuracy_by_third`; kind is `set`, `random` for random images
    of as many a class by the same recipe, `real` for the judges.
  """
  third = diagnostics.thirds_of_test(bench.network, judges, bench.test)
  def of(variables):
    return diagnostics.accuracies_by_third(
        bench.network, variables, bench.test, third)
  out, alike, real = {}, {}, of(judges)
  for name, found in bench.sets.items():
    compared = comparison.Comparison(
        network=bench.network, networks=bench.networks, seed=bench.seed,
        batch=lambda found=found: devices.replicate(found.batch),
        recipe=found.recipe, ipc=found.ipc, data=bench.data, test=bench.test,
        real_recipe=found.recipe._replace(lr=found.real_lr))
    # Random images are those of all sets of one size and recipe.
    same = compared.ipc, compared.real_recipe
    if same not in alike:
      alike[same] = of(train(name, compared, 'random'))
    out[name] = {'set': of(train(name, compared, 'set')),
                 'random': alike[same], 'real': real}
  return out


# ---- Networks that are kept until all is measured


class Training:
  """Trains the networks of a command, which keeps them until it ends."""

  def __init__(self, bench, held, keeper, screen):
    """held: an `ExitStack`; keeper: of `keeper_beside`; screen: a `Terminal`.

    bench: a `Bench`.
    """
    self._bench, self._held, self._screen = bench, held, screen
    # Saved as soon as may be: all of these wait for the last of them.
    self._keeper = keeper and keeper._replace(seconds=0.)
    self._rows = 0

  def judges(self, epochs):
    """`Variables` of networks trained on all real images for some epochs."""
    bench = self._bench
    recipe = subjects.recipe_for(bench.first, epochs)._replace(
        lr=bench.first.real_lr)
    keys = jax.random.split(
        streams.key(bench.seed, Stream.JUDGES), bench.networks)
    train = ensemble.train_on_all(bench.network, recipe)
    return self._kept(
        functools.partial(train, keys, bench.data), 'judges', recipe, '')

  def on_set(self, name, compared, of):
    """What `accuracies` asks for."""
    found = self._bench.sets[name]
    digest = hashlib.sha256()
    for x in (found.syn.images, found.syn.labels, found.logits):
      digest.update(np.ascontiguousarray(x) if x is not None else b'')
    recipe, told = {
        'set': (compared.recipe, digest.hexdigest()),
        'random': (compared.real_recipe, found.ipc)}[of]
    return self._kept(
        functools.partial(compared.trained, of), of, recipe, told)

  def _kept(self, train, what, recipe, of):
    bench, self._rows = self._bench, self._rows + 1
    identity = json.loads(json.dumps({
        'what': what, 'of': of, 'recipe': recipe._asdict(), 'seed': bench.seed,
        'networks': bench.networks, 'data': origin(bench.first),
        'settings': bench.first.network}))
    self._screen.say(
        f'training {text.plural(bench.networks, "network")} for '
        f'{text.plural(recipe.epochs, "epoch")}: ' + {
            'judges': 'on all real images', 'random': 'on random images',
            'set': 'on the set'}[what])
    report = comparison.row_reporter(
        self._screen, self._rows, self._rows, recipe,
        text.plural(self._rows - 1, 'row'))
    whole = text.plural(self._rows, 'row')
    trained = self._held.enter_context(comparison.kept_row(
        train, identity, self._keeper,
        resumable.Group('row', range(bench.networks), functools.partial(
            ensemble.state_shapes, bench.network, recipe)),
        # Also when they are done: they are kept for those that follow.
        lambda *given: report(*given) or (lambda: whole)))
    self._screen.wipe()
    resumable.stop_if_asked(self._keeper, whole)
    return trained
