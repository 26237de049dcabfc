"""An experiment: all that a configuration says, built and agreed.

Sections: the experiment, the run (what every part of it works with), the method
of a segment, how far a run is, what is measured in the end, how much is done
at once.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import (
  config,
  methods,
  models,
  objectives,
  segments,
  streams,
  synthetic,
)
from dasm_jax.config import evaluation_recipe, validate
from dasm_jax.data import dataset as datasets
from dasm_jax.errors import UserError
from dasm_jax.methods import registry
from dasm_jax.models import flops
from dasm_jax.pipeline import loading, streaming
from dasm_jax.runtime import devices, logging, preemption, text, timing
from dasm_jax.runtime import workdir as workdirs
from dasm_jax.streams import Stream
from dasm_jax.training import (
  expert_store,
  packing,
  recipes,
  resumable,
  weights_file,
)
from dasm_jax.training import experts as expert_training
from dasm_jax.transforms import zca
from dasm_jax.types import Variables

# What a run is compared by: its set, as many random real images, all of them.
WHOLE = 'synthetic', 'random', 'full'

# ---- The experiment


class Experiment(NamedTuple):
  """What a run needs besides its configuration; nothing here is a setting.

  config: of `config.defaults`. dataset: its images, on the host.
  network: that is matched, a `Network`. codec: of stored images.
  choice: of windows, from which segment to segment. plan: the `Segment`s.
  recipe: of the evaluation; probe: the same, shortened, for the probes and
    for the networks that choose coresets.
  teacher: `Variables` of one that was trained before (SRe2L), or None.
  """
  config: object
  dataset: datasets.Dataset
  network: object
  codec: synthetic.Codec
  choice: segments.WindowChoice
  plan: list
  recipe: recipes.Recipe
  probe: recipes.Recipe
  teacher: Variables | None = None

  @property
  def classes(self):
    """Number of classes."""
    return len(self.dataset.class_names)

  @property
  def shape(self):
    """(height, width, channels)."""
    return self.dataset.train.shape

  def phases(self, segment):
    """A `Segment` in its parts, each of some classes, in their order."""
    return segments.phases(segment, self.classes, self.config.syn.phases)

  def rows(self, segment):
    """The classes that a `Segment` fills, `[k]` int."""
    return np.arange(self.classes)[segment.rows]

  @property
  def streamed(self):
    """Whether train images are read from the disk as they are used."""
    return streaming.is_lazy(self.dataset.train)

  def close(self):
    """Ends the processes that read images."""
    if self.streamed:
      self.dataset.train.close()

  def at_rate(self, recipe, syn):
    """A recipe for a synthetic set: with its learned rate if eval.lr is 0."""
    return recipe if self.config.eval.lr else recipe._replace(lr=float(syn.lr))


def build(c, dataset=None):
  """Reads the data, unless they are given, and builds an `Experiment`.

  Raises:
    UserError: settings that do not fit the data.
  """
  dataset = dataset or loading.load_configured(
      c, look=lambda outline: check_memory(c, outline))
  if streaming.is_lazy(dataset.train):
    validate.check_streamed(c)
  shape = dataset.train.shape
  network = _network(c, shape, len(dataset.class_names))
  validate.check_phases(c, network)
  with config.naming(c, 'syn'):
    codec = synthetic.codec(
        dataset.mean, dataset.std, space=c.syn.space, factor=c.syn.factor,
        kind=c.syn.formation, bound=c.syn.bound, shape=shape, whitening=(
            zca.fit(dataset.train.images, c.dataset.zca) if c.dataset.zca
            else None))
  names = ('gamma', 'hardest', 'share', 'first')
  choice = segments.WindowChoice(
      c.segments.window, ordered=c.segments.order != 'none',
      **{name: c.segments[name] for name in names})
  with config.naming(c, 'eval', 'eval.augment'):
    recipe, probe = (
        evaluation_recipe(c, epochs, dataset.mean, dataset.std)
        for epochs in (c.eval.epochs, c.segments.probe_epochs))
  teacher = c.method.get('teacher')
  experiment = Experiment(
      c, dataset, network, codec, choice, validate.plan_segments(c), recipe,
      probe, weights_file.load(teacher, network, shape) if teacher else None)
  # What the parts refuse comes out here, before a workdir is claimed: so the
  # phases and the method are built once and dropped.
  validate.check_class_sizes(c, dataset)
  experiment.phases(experiment.plan[0])
  augmented = [f'method.{name}' for name in ('augment', 'net_augment')
               if name in c.method]
  with config.naming(c, 'method', *augmented):
    build_method(experiment, experiment.plan[0])
  with config.naming(c, 'experts', *['experts.augment'] * ('experts' in c)):
    if config.expert_settings(c) is not None:
      expert_training.expert_recipe(config.expert_settings(c), codec)
  _check_blocks(experiment)
  return experiment


def _check_blocks(experiment):
  """Refuses features of blocks that the network has not."""
  c, network = experiment.config, experiment.network
  if c.method.match == 'feature':
    features = jax.eval_shape(
        lambda key: network.features(network.init(key), jnp.zeros(
            (1, *experiment.shape))), jax.random.key(0))
    with config.naming(c, '', 'method.first_block', 'method.last_block'):
      objectives.select_blocks(
          features, c.method.first_block, c.method.last_block)


def _network(c, shape, classes):
  with config.naming(c, 'network', *['dataset.size'] * (c.dataset.size > 0)):
    return models.build(shape=shape, classes=classes, **c.network)


# ---- The run


class Run(NamedTuple):
  """What every part of a run works with.

  experiment: an `Experiment`. home: its `Workdir`.
  log, stopping, meter, keeper: who tells, stops, adds up, and keeps networks
    that are in training.
  data, test: the real images, see `streaming.place_dataset`.
  experts: an `ExpertStore`, or None.
  key: of all that is random. fingerprint: of the configuration.
  """
  experiment: Experiment
  home: workdirs.Workdir
  log: logging.RunLog
  stopping: preemption.StopFlag
  meter: timing.CostMeter
  keeper: resumable.Keeper
  data: object
  test: object
  experts: expert_store.ExpertStore | None
  key: jax.Array
  fingerprint: str

  def owner(self, phase):
    """Whose the checkpoints of a segment's phase are, in words."""
    return (f'run {self.home.run}, segment {phase.index + 1}, '
            f'phase {phase.phase + 1}')


def start(experiment, home, log, stopping, meter, fingerprint, images=None):
  """The `Run` of an experiment: images on the devices, experts trained.

  images: what `streaming.place_dataset` made of them, if it has.

  Raises:
    UserError: what `experts.open_experts` refuses.
    preemption.Stopped: asked to stop; experts stay, those in training too.
  """
  c = experiment.config
  def push():  # by the first process, after something was saved
    log.mark()
    home.push()
  keeper = resumable.Keeper(home.path / 'unfinished', fingerprint,
                            c.run.save_seconds, stopping, push, log.say,
                            f'run {home.run},')
  data, test = images or streaming.place_dataset(
      experiment.dataset, experiment.codec, c.run.buffer_mb)
  store = expert_training.open_experts(
      experiment, config.expert_settings(c), home.experts, data, log, keeper)
  return Run(experiment, home, log, stopping, meter, keeper, data, test, store,
             jax.random.key(c.seed), fingerprint)


def sweeps_key(key, segment):
  """The key of a segment's sweeps, of that of the run."""
  return streams.key(key, Stream.SWEEPS, segment.index)


def folder_of(experiment, phase):
  """The name of the folder with the checkpoints of a segment's phase."""
  # Phases are named only where there are several.
  parts = [f'segment_{phase.index + 1}']
  if experiment.config.syn.phases > 1:
    parts.append(f'phase_{phase.phase + 1}')
  return '_'.join(parts)


# ---- The method of a segment


def build_method(experiment, segment, axis_name=devices.AXIS):
  """The `Method` of a segment, split over the devices of a mapped axis."""
  return registry.build(experiment.config.method, experiment.network,
                        method_options(experiment, segment, axis_name))


def method_options(experiment, segment, axis_name=devices.AXIS):
  """What a segment asks of its method, `methods.Options`."""
  c = experiment.config
  # The rate is for the images inside the mean: in a union those that are done
  # dilute the gradients of the new ones. In the first segment nothing is done,
  # and without segments there is nothing to replay.
  union = config.matches_union(c)
  return methods.Options(
      classes=experiment.classes, codec=experiment.codec,
      images=segment.slots.stop if union else segment.width,
      correction=correction_of(c, experiment, segment),
      replay=c.segments.replay if len(experiment.plan) > 1 else 0.0,
      union=union and segment.slots.start > 0,
      rate=rate_of(c, segment), moving=moving_images(c, segment),
      from_finished=c.segments.networks if segment.index else 0.0,
      steps=segment_steps(experiment, segment),
      alone=_sweeps_alone(experiment, segment),
      batched=_classes_together(experiment, segment), axis_name=axis_name)


def _sweeps_alone(experiment, segment):
  """`Options.alone`: the share is of the run, whose last segments have none."""
  share = experiment.config.method.get('alone_share', 0)
  return max(0.0, share * _steps_of_a_phase(experiment)
             - steps_before(experiment, segment))


def _classes_together(experiment, segment):
  """How many classes are matched at once here; None where none are."""
  if registry.match_of(experiment.config.method).work is None:
    return None
  mine = -(-len(experiment.rows(segment)) // devices.count())
  return classes_together(experiment, segment, mine, packing.this_split())


def correction_of(c, experiment, segment):
  """SDC's strength over one segment; the last one has lost `fall` of it."""
  relative = max(c.sdc.ratio, c.sdc.end_ratio) > 0
  start = c.sdc.ratio if relative else c.sdc.weight
  end = c.sdc.end_ratio if relative else c.sdc.end_weight
  end = start if end < 0 else end
  left = 1 - c.sdc.fall * segment.index / max(len(experiment.plan) - 1, 1)
  return objectives.Correction(
      left * start, left * end, segment_steps(experiment, segment), relative,
      c.sdc.penalty)


def has_windows(experiment):
  """Whether any segment sees less than all real images."""
  choice, count = experiment.choice, len(experiment.plan)
  first = segments.WINDOWS[choice.name].between(choice, 0, count, 0.0)
  return count > 1 or first != (0.0, 1.0)


def rate_of(c, segment):
  """The factor on the images' rate in a segment."""
  return c.segments.rates[segment.index] if c.segments.rates else 1.0


def moving_images(c, segment):
  """How many images a class of a segment move; None: all."""
  # One at least: a segment of which none moves has the rate 0.
  return None if c.segments.moving == 1 else max(
      1, round(c.segments.moving * segment.width))


def window_floor(experiment, segment):
  """The fewest real images a class that a window may hold."""
  return validate.least_window(experiment.config, segment.width)


def decoded_images(experiment, segment):
  """Images a class that a segment decodes to, at the full factor."""
  return segment.width * experiment.codec.factor ** 2


def real_images(experiment, segment):
  """Real images a class that a segment begins with, or crops of them."""
  return segment.width * validate.first_cells(experiment.config)


# ---- How far a run is


def segment_steps(experiment, segment):
  """Sweeps of one segment over the classes it fills."""
  c = experiment.config
  moving = segments.steps(
      c.method.steps, len(experiment.plan), segment.index, c.segments.rates,
      c.segments.budget == 'each')
  # Nothing is prepared for images that stay as they are.
  return moving and moving + registry.family_of(
      c.method).first_moving_step(c.method)


def steps_before(experiment, segment):
  """Sweeps of the segments before one, over the classes that it fills."""
  return sum(segment_steps(experiment, one)
             for one in experiment.plan[:segment.index])


def total_steps(experiment):
  """Sweeps over all segments and phases."""
  return experiment.config.syn.phases * _steps_of_a_phase(experiment)


def _steps_of_a_phase(experiment):
  return sum(segment_steps(experiment, one) for one in experiment.plan)


def progress_of(experiment, segment, step):
  """How far a run is after `step` sweeps of a segment's phase.

  Returns:
    `(before, done, whole)`: sweeps of earlier segments, of this one in all
    phases, and how many it takes.
  """
  number = experiment.config.syn.phases
  before = steps_before(experiment, segment)
  here = segment_steps(experiment, segment)
  return before * number, segment.phase * here + step, here * number


def images_per_step(experiment, segment):
  """Images that pass through networks in one sweep, for the speed shown."""
  c = experiment.config.method
  return registry.family_of(c).images_per_step(
      c, len(experiment.rows(segment)), decoded_images(experiment, segment),
      segment_steps(experiment, segment))


# ---- What is measured in the end


def measured_sets(experiment):
  """`{name: networks}` of all sets that a run measures, in their order.

  Those of `WHOLE`, and `first_K` of the first K segments; {} if none are.
  """
  c = experiment.config.eval
  if not c.networks:
    return {}
  first = range(1, len(experiment.plan)) if c.prefixes else ()
  full = {'full': c.full} if c.full else {}
  return dict.fromkeys(WHOLE[:2], c.networks) | dict.fromkeys(
      (f'first_{k}' for k in first), c.prefixes) | full


def first_segments(name):
  """How many segments one of `measured_sets` has, None of those of `WHOLE`."""
  return None if name in WHOLE else int(name.removeprefix('first_'))


# ---- How much is done at once


def check_memory(c, outline):
  """Refuses what a device cannot hold, by what it surely needs.

  The dry run estimates the whole; this knows too little, never too much.

  Args:
    c: the configuration.
    outline: its `Dataset` with images of no memory.

  Raises:
    UserError: with the entries that make it so large.
  """
  memory = devices.memory()
  shape, classes = outline.train.shape, len(outline.class_names)
  network = _network(c, shape, classes)
  once = flops.forward_cost(network, shape)
  m, pixels = c.method, math.prod(shape)
  mine = -(-classes // c.syn.phases // devices.count())
  widest = max(segment.width for segment in validate.plan_segments(c))
  # Of the images that are learned the optimizer has as many numbers.
  needs = {
      ('syn.ipc', 'dataset.size'): packing.FLOAT * pixels * mine * (
          c.syn.ipc + widest),
      ('network.width', 'network.widen', 'network.growth', 'network.depth',
       'dataset.size'): packing.FLOAT * packing.TREES * once.parameters,
      # The maps of one pass, of which the largest quarter is there at once.
      ('method.batch', 'method.batch_syn', 'network.width', 'network.widen',
       'dataset.size'): once.maps * min(
           m.get('batch') or m.get('batch_syn') or 1,
           len(outline.train.labels)),
      ('method.starts', 'run.chunk'): packing.FLOAT * once.parameters * (
          m.get('starts', 0) * min(c.run.chunk, m.steps)),
      ('method.pretrained',): packing.FLOAT * once.parameters * m.get(
          'pretrained', 0),
      ('coreset.networks',): packing.FLOAT * once.parameters * (
          c.coreset.networks * config.begins_as_judges(c)),
      # A student's steps are gone back, each from where it began.
      ('method.student_steps',): packing.FLOAT * once.parameters * m.get(
          'student_steps', 0) * (not m.get('frozen')),
      ('eval.batch', 'dataset.size'): once.maps * min(
          c.eval.batch, c.segments.probes and len(outline.train.labels)),
      # Which images each step looks at is drawn before the call.
      ('method.net_steps', 'method.net_batch'): packing.FLOAT * (
          m.get('net_steps', 0) * m.get('net_batch', 0)
          * (m.get('train_on') == 'real'))}
  if c.dataset.stream == 'never':
    needs['dataset.stream', 'dataset.size'] = loading.image_bytes(
        outline, c.dataset.zca)
  known = dict(config.entries(c))
  for names, need in needs.items():
    if need > memory:
      flags = ', '.join(f'--config.{name}={known[name]}' for name in names
                        if known.get(name))
      raise UserError(
          f'{flags}: that takes {text.size(need)} at least, for images of '
          f'{shape[0]}x{shape[1]}, but a device has {text.size(memory)}; lower '
          'one of them')


def classes_together(experiment, segment, classes, split):
  """Of the classes on a device, those that are matched at once.

  Args:
    experiment: an `Experiment`.
    segment: a `Segment`.
    classes: on one device.
    split: a `packing.DeviceSplit`.

  Returns:
    A number from 1 to `classes`.
  """
  def fit():
    if split.turns:
      return 1
    room = split.memory * packing.MEMORY_SHARE
    return room // class_bytes(experiment, segment)
  return packing.resolve_together(experiment.config.run.batched, classes, fit)


def class_bytes(experiment, segment):
  """Bytes that a step of one class takes on a GPU."""
  # Kinds of work follow each other, so the largest decides.
  once = flops.forward_cost(experiment.network, experiment.shape)
  half = experiment.config.network.dtype != 'float32'
  c = experiment.config.method
  work = registry.match_of(c).work(c, matched_count(experiment, segment))
  return max(packing.activations(
      packing.Work(kind, 0, images, 0), once, 'gpu', half)
             for kind, images in work if images)


def decoded_count(experiment, n, training=False):
  """Images a class that n stored ones decode to, in matching or training."""
  codec = experiment.codec
  if training:
    codec = synthetic.training_codec(codec)
  return len(synthetic.decoded_from(codec, n)) if n else 0


def matched_count(experiment, segment):
  """Decoded images a class that one sweep matches."""
  c, union = experiment.config, config.matches_union(experiment.config)
  # New and finished images are each cut to the limit, then joined.
  parts = [segment.width] + [segment.slots.start] * union
  most = c.method.get('limit') or math.inf
  return sum(min(decoded_count(experiment, part), most) for part in parts)
