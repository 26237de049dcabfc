"""Networks trained on the set of a cell, on a prefix of it, or on real images.

All arms are measured by one network and one recipe, those of the sweep's
configuration; only a set that a teacher has labelled for each epoch keeps the
recipe whose views these labels are of.
"""

import functools
import json
from typing import Any, NamedTuple

import jax

import dasm_jax
from dasm_jax import config as configs
from dasm_jax import models, synthetic
from dasm_jax.data.dataset import Dataset
from dasm_jax.errors import UserError
from dasm_jax.evaluate import comparison, saved_set, subjects
from dasm_jax.pipeline import loading, streaming
from dasm_jax.runtime import devices, records
from dasm_jax.sweep import plan
from dasm_jax.training import packing
from dasm_jax.transforms import zca

KIND = 'measurement'  # of its seal
ROOM = 0.1  # of a device's memory, that images may take beside those of a run
_NUMBERS = 'epochs', 'steps', 'images', 'seconds'


class Place(NamedTuple):
  """A data set, and its images on the devices."""
  dataset: Dataset
  codec: synthetic.Codec
  data: Any
  test: Any


class Places:
  """The data set that was used last, as the next cell mostly asks for it."""

  def __init__(self):
    self._kept = None

  def of(self, config):
    """The `Place` of a configuration."""
    asked = json.loads(config.to_json())['dataset']
    # The seed counts only where it draws the test images.
    for key in (config.seed, None):
      if self._kept and self._kept[0] == [asked, key]:
        return self._kept[1]
    self.close()
    dataset = loading.load_configured(config)
    codec = synthetic.codec(
        dataset.mean, dataset.std, shape=dataset.train.shape,
        whitening=zca.fit(dataset.train.images, config.dataset.zca)
        if config.dataset.zca else None)
    drawn = dataset.cut or config.dataset.holdout
    found = Place(dataset, codec, *streaming.place_dataset(
        dataset, codec, config.run.buffer_mb))
    self._kept = [asked, config.seed if drawn else None], found
    return found

  def make_room(self):
    """Forgets large ones before a run, which has its own on the devices."""
    if self._kept and loading.image_bytes(
        self._kept[1].dataset) > ROOM * devices.memory():
      self.close()

  def close(self):
    """Forgets it, and ends the processes that read images."""
    if self._kept and streaming.is_lazy(self._kept[1].dataset.train):
      self._kept[1].dataset.train.close()
    self._kept = None


def as_measured(set_, base, config):
  """A `SavedSet` with the recipe of the sweep, at its number of epochs.

  base: what all arms are measured by; config: of the set's run.
  """
  # Labels that a teacher told for each epoch are of its views alone.
  if set_.logits is not None:
    return set_
  recipe = configs.evaluation_recipe(
      base, base.eval.epochs, set_.codec.mean, set_.codec.std)
  return set_._replace(
      recipe=_at_rate(recipe, set_, base, config), recipe_name=base.eval.recipe,
      card={**set_.card, 'real_lr': recipe.lr})


def _at_rate(recipe, set_, base, config):
  # A rate that was learned belongs to the set, where the sweep asks for such.
  learned = not base.eval.lr and not config.eval.lr
  return recipe._replace(lr=set_.recipe.lr) if learned else recipe


class Prepared(NamedTuple):
  """What a measurement trains: a `comparison.Comparison`, and as what.

  name: of `Comparison.accuracies`. recipe_name: as it is called.
  images: that a network is trained on.
  """
  compared: comparison.Comparison
  name: str
  recipe_name: str
  images: int

  @property
  def facts(self):
    """What is said of the measurement besides its accuracies."""
    recipe = self.compared.recipe
    epochs = recipe.epochs + recipe.extra
    return {'epochs': epochs, 'images': self.images,
            'steps': plan.steps_of(epochs, self.images, recipe),
            'recipe': self.recipe_name}


def prepare(one, folder, places):
  """The `Prepared` of a `plan.Measurement`.

  Args:
    one: the measurement.
    folder: the workdir of the cell's run, or None of a baseline.
    places: a `Places`.

  Raises:
    UserError: no set is there, or none that can be measured so.
  """
  cell, base = one.cell, one.cell.base
  place = places.of(cell.config or base)
  classes, shape = len(place.dataset.class_names), place.dataset.train.shape
  network = network_of(base, shape, classes)
  def by_base(epochs):
    return configs.evaluation_recipe(
        base, epochs, place.dataset.mean, place.dataset.std)
  set_ = None if cell.config is None else _prefix(
      saved_set.load(folder), one.ipc)
  recipe_at, recipe_name = by_base, base.eval.recipe
  if set_ is not None and set_.logits is not None:
    recipe_at = functools.partial(subjects.recipe_for, set_)
    recipe_name = set_.recipe_name
  if set_ is None:
    batch, name = lambda: None, cell.arm.method
    images = (len(place.dataset.train.labels) if one.ipc is None
              else one.ipc * classes)
  else:
    made = devices.replicate(set_.batch)
    batch, name, images = lambda: made, 'set', len(made.labels)
  recipe = recipe_at(one.length.epochs(images, recipe_at(1)))
  real = recipe
  if set_ is not None:
    recipe = _at_rate(recipe, set_, base, cell.config)
  together = packing.resolve_together(
      base.eval.together, base.eval.networks,
      lambda: packing.networks_together_here(network, recipe, shape))
  return Prepared(comparison.Comparison(
      network=network, networks=base.eval.networks, seed=cell.seed, batch=batch,
      recipe=recipe, real_recipe=real, ipc=one.ipc, data=place.data,
      test=place.test, together=together), name, recipe_name, images)


def network_of(base, shape, classes):
  """The network that sets of images of a shape are measured by.

  base: a configuration.
  """
  return _network(json.dumps(json.loads(base.to_json())['network'],
                             sort_keys=True), shape, classes)


# Comparisons of one network share their programs, by its identity.
@functools.lru_cache(8)
def _network(settings, shape, classes):
  return models.build(shape=shape, classes=classes, **json.loads(settings))


def _prefix(set_, ipc):
  """The first images of each class of a `SavedSet`."""
  if ipc == set_.ipc:
    return set_
  if set_.logits is not None:
    raise UserError('labels that a teacher told for each epoch are of the '
                    'whole set; leave --prefixes out')
  return set_._replace(syn=set_.syn._replace(
      images=set_.syn.images[:, :ipc], labels=set_.syn.labels[:, :ipc]))


# ---- Files of results


def write(path, one, facts, accuracies, seconds):
  """Keeps what was measured; returns it.

  facts: of a `Prepared`.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  values = {
      'arm': one.cell.arm.name, 'ipc': one.ipc, 'of': one.cell.ipc,
      'seed': one.cell.seed, 'length': list(one.length), **facts,
      'seconds': round(seconds, 1), **comparison.summary(accuracies),
      'settings': one.cell.settings,
      'device': jax.local_devices()[0].device_kind,
      'version': dasm_jax.__version__}
  records.write(path, KIND, '', values, indent=1)
  return values


def read(path, one):
  """What `write` left there, None if nothing; what is damaged is set aside.

  Raises:
    UserError: it is of another configuration; it cannot be read.
  """
  found = records.read(path, KIND, '', _check)
  if found is None:
    return None
  differing = plan.different(found['settings'], one.cell.settings)
  if differing:
    raise UserError(
        f'{str(path)!r} is of another configuration: {differing}; name the arm '
        'otherwise (NAME@METHOD), or choose another --workdir')
  return found


def _check(values):
  """Raises what tells that these are no measurement."""
  numbers = [values['mean'], values['std'], *values['networks']]
  if not all(isinstance(x, int | float) and 0 <= x <= 1 for x in numbers):
    raise ValueError('accuracies that cannot be')
  if not all(values[name] >= 0 for name in _NUMBERS):
    raise ValueError('numbers that cannot be')
  if not isinstance(values['settings'], dict) or not values['networks']:
    raise ValueError('not a measurement')
