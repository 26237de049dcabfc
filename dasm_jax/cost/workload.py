"""What an experiment does, in images that its network sees or that are read.

A phase is a list of `Work` of the busiest device. It is counted from the
configuration, the shapes and the plan, the way the modules that do the work
split it over the devices: experts, judges, probes and networks of the
evaluation, and blocks of images that are scored. Classes are split over the
devices, and the starts of trajectory matching; the inner network's training
only where its batches are of real images, divide evenly, and no batch norm
looks across them.

Sections: experts and judges, the start of a segment and the evaluation; sweeps;
images that are read.
"""

import math

import numpy as np

from dasm_jax import config, coresets, difficulty, models, segments
from dasm_jax.distill import real_crops, setup
from dasm_jax.distill.setup import decoded_count
from dasm_jax.methods import inner_network, registry, sre2l
from dasm_jax.pipeline import loading
from dasm_jax.training import packing, real_networks, scoring, train_step
from dasm_jax.training.experts import LABEL_BLOCK
from dasm_jax.training.packing import TREES, Work

# ---- Experts and judges, the start of a segment, the evaluation


def block_images(experiment, images, split_):
  """Images of a training batch whose activations are alive at once."""
  if split_.backend != 'cpu' or models.normalises_batches(experiment.network):
    return images
  return -(-images // train_step.block_count(
      images, math.prod(experiment.shape[:2])))


def expert_work(experiment, split_):
  """`[Work]` of the experts, or of the networks that others begin as."""
  c, n = (config.expert_settings(experiment.config),
          len(experiment.dataset.train.labels))
  if c is None:
    return []
  mine, size = split_.share(c.number), min(c.batch, n)
  around = split_.together(min(c.at_once, mine))
  twice = 2 if c.rho else 1  # two gradients a step (FTD)
  steps = twice * mine * c.epochs * math.ceil(n / size)
  return [Work('gradient', twice * mine * c.epochs * n,
               around * block_images(experiment, size, split_), steps / around,
               TREES * around)]


def asks_judges(experiment):
  """Whether anything in a run asks networks trained on real images."""
  c = experiment.config
  asked = (segments.asked_networks(experiment.choice, k)
           for k in range(len(experiment.plan)))
  need, *_ = coresets.CORESETS.get(c.syn.init, (None,))
  # A method with a teacher has that choose crops.
  crops = c.syn.init == 'rded' and 'teacher' not in c.method
  return (need is not None or crops or config.begins_as_judges(c)
          or any('real' in (x.order, x.known) for x in asked))


def judge_work(experiment, split_):
  """`[Work]` of networks trained on real images, and of what they keep."""
  if not asks_judges(experiment):
    return []
  c, n = experiment.config.coreset, len(experiment.dataset.train.labels)
  looks = c.epochs * real_networks.needs_history(experiment.config)
  return [training_work(experiment, c.networks, c.epochs, n,
                        experiment.probe.batch, split_),
          *_looking_work(experiment, looks, split_)]


def segment_start_work(experiment, segment, split_):
  """`[Work]` before a segment's first sweep: probes, scores, coresets."""
  c, works = experiment.config, []
  real, all_ = len(experiment.dataset.train.labels), split_.share(1)
  asked, probe = segments.asked_networks(
      experiment.choice, segment.index), experiment.probe
  if 'previous' in asked:
    every = experiment.classes * decoded_count(
        experiment, segment.slots.start, training=True)
    works += [
        training_work(experiment, c.segments.probes, probe.epochs + probe.extra,
                      every, probe.batch, split_),
        *_scoring_work(
            experiment, c.segments.score, c.segments.probes, split_)]
  # Judges score the real images once, for all segments.
  if 'real' in asked and (asked.known or not _ordered_before(
      experiment, segment)):
    works += _scoring_work(
        experiment, c.segments.order, c.coreset.networks, split_)
  if coresets.CORESETS.get(c.syn.init, (None,))[0]:
    works += _choosing_work(experiment, split_)
  works += _teacher_work(experiment, segment, split_)
  if c.syn.init == 'known':  # by one expert at least
    works.append(Work('forward', real, LABEL_BLOCK, all_ * real / LABEL_BLOCK))
  if many := _labelling_experts(c):
    asked = experiment.classes * decoded_count(experiment, segment.width)
    works.append(Work('forward', many * asked, min(LABEL_BLOCK, asked), many))
  return works


def _labelling_experts(c):
  """How many experts are asked for the labels of the first images."""
  if c.syn.labels == 'experts':
    return c.experts.number
  return {'hard': 0, 'expert': 1}[c.syn.labels]


def training_work(experiment, count, epochs, every, size, split_):
  """`Work` of `count` networks on `every` images, batches of `size`."""
  mine, size = split_.share(count), min(size, every)
  around = min(mine, packing.networks_together(
      experiment.network, experiment.shape, size, split_))
  return Work('gradient', mine * epochs * every,
              around * block_images(experiment, size, split_),
              mine / around * epochs * math.ceil(every / size), TREES * around)


def _classifying_work(experiment, count, n, split_, chunk):
  """`Work` of `count` networks that classify n images, a device the same."""
  chunk = min(chunk, n)
  around = min(count, packing.networks_together(
      experiment.network, experiment.shape, experiment.recipe.batch, split_))
  return Work('forward', count * n, around * chunk,
              count / around * math.ceil(n / chunk), around)


def _scoring_work(experiment, score, count, split_):
  """Difficulty and accuracy of all real images under `count` networks."""
  n = split_.share(len(experiment.dataset.train.labels))
  size = min(scoring.SCORING_BLOCK, n)
  calls = count * math.ceil(n / size)
  chunk = difficulty.gradient_chunk(split_.backend)
  kind, times, at_once = {
      'gradient_norm': ('norms', 1, chunk), 'influence': ('norms', 1, chunk),
      'fisher': ('norms', experiment.classes, chunk)}.get(
          score, ('forward', 1, size))
  # Where a gradient of each image is formed, each is a tree of parameters.
  trees = count + at_once * (kind == 'norms')
  return [Work(kind, count * n * times, at_once, calls * times, trees),
          Work('forward', count * n, size, calls, count)]


def _ordered_before(experiment, segment):
  """Whether an earlier segment has put the real images in order by them."""
  return any(segments.asked_networks(experiment.choice, k).order == 'real'
             for k in range(segment.index))


def _looking_work(experiment, times, split_):
  """Networks trained on real images look at them so often; 0: not at all."""
  if not times:
    return []
  n = split_.share(len(experiment.dataset.train.labels))
  look = _classifying_work(
      experiment, experiment.config.coreset.networks, n, split_,
      scoring.SCORING_BLOCK)
  return [look._replace(images=times * look.images, calls=times * look.calls)]


def _choosing_work(experiment, split_):
  """What those who choose a segment's coreset look at."""
  need = coresets.CORESETS[experiment.config.syn.init].needs
  score = experiment.config.segments.score if need == 'scores' else need
  if score in difficulty.SCORES:
    return _scoring_work(
        experiment, score, experiment.config.coreset.networks, split_)
  # What they got right was kept while they were trained.
  return _looking_work(experiment, need == 'features', split_)


def _teacher_work(experiment, segment, split_):
  """A teacher that is trained before a segment, and its look at crops."""
  c, n = experiment.config, len(experiment.dataset.train.labels)
  works = []
  if real_crops.trains_teacher(experiment, segment.index):
    recipe = real_crops.teacher_recipe(experiment)
    works.append(training_work(
        experiment, 1, recipe.epochs, n, recipe.batch, split_))
  if c.syn.init == 'rded':
    looks = _cropped_images(experiment) * c.coreset.crops
    size = min(real_crops.LOOK, looks)
    mine = split_.share(math.ceil(looks / size))
    works.append(Work('forward', mine * size, size, mine, 1))
  return works


def _cropped_images(experiment):
  """Images of the pools of all classes, at most."""
  counts = np.bincount(experiment.dataset.train.labels)
  return int(np.minimum(counts, experiment.config.coreset.pool).sum())


def evaluation_work(experiment, split_):
  """`[Work]` of measuring the set and what it is compared by, each alike."""
  c, recipe = experiment.config, experiment.recipe
  works = []
  for name, networks in setup.measured_sets(experiment).items():
    works += measuring_work(experiment, networks, recipe,
                            _trained_on(experiment, name), split_)
  if c.method.get('relabel'):  # one epoch after the other, by each teacher
    mine = split_.share(recipe.epochs + recipe.extra)
    every = _trained_on(experiment, 'synthetic')
    size = min(recipe.batch, every)
    calls = len(experiment.plan) * mine * math.ceil(every / size)
    works.append(
        Work('forward', len(experiment.plan) * mine * every, size, calls))
  return works


def _trained_on(experiment, name):
  """Images that networks see of one of `setup.measured_sets`."""
  ipc, first = experiment.config.syn.ipc, setup.first_segments(name)
  if name == 'full':
    return len(experiment.dataset.train.labels)
  if name == 'random':
    return experiment.classes * ipc
  # A stored image of the set decodes to several.
  if first:
    ipc = experiment.plan[first].slots.start
  return experiment.classes * decoded_count(experiment, ipc, training=True)


def measuring_work(experiment, count, recipe, every, split_):
  """`[Work]` of `count` networks trained on `every` images, then tested."""
  return [
      training_work(experiment, count, recipe.epochs + recipe.extra, every,
                    recipe.batch, split_),
      _classifying_work(experiment, count, split_.share(
          len(experiment.dataset.test.labels)), split_, scoring.SCORING_BLOCK)]


# ---- Sweeps


def sweep_work(experiment, segment, split_):
  """`[Work]` of a segment's sweeps, in all its phases."""
  return [work for phase in experiment.phases(segment)
          for work in _phase_work(experiment, phase, split_)]


def _phase_work(experiment, segment, split_):
  n = setup.segment_steps(experiment, segment)
  family = registry.family_of(experiment.config.method).name
  return SWEEP_WORK[family](experiment, segment, n, split_)


def _no_work(experiment, segment, n, split_):
  """Of coresets, which no step moves."""
  del experiment, segment, n, split_
  return []


def _matching_work(experiment, segment, n, split_):
  """Matching by sweeps over the classes, and what is between them."""
  c = experiment.config.method
  matched = setup.matched_count(experiment, segment)
  classes = split_.share(len(experiment.rows(segment)))
  around = setup.classes_together(experiment, segment, classes, split_)
  works = [Work(kind, n * classes * images, around * images,
                n * classes / around)
           for kind, images in registry.match_of(c).work(c, matched) if images]
  works += _correction_work(experiment, segment, n, matched, classes, split_)
  return works + _between_sweeps_work(experiment, segment, n, split_)


def _correction_work(experiment, segment, n, matched, classes, split_):
  """SDC: the penalty of the matched images, and its derivative."""
  c = experiment.config
  if not setup.correction_of(c, experiment, segment).active:
    return []
  kind, times, single = _penalty_passes(experiment)
  chunk = min(difficulty.gradient_chunk(split_.backend) if single else matched,
              matched)
  around = setup.classes_together(experiment, segment, classes, split_)
  at_once = around * chunk
  # Gradients are formed `chunk` at a time, but what the derivative of their
  # norms reads is kept of all images.
  return [Work(kind, n * times * classes * matched, around * matched,
               n * times * math.ceil(classes * matched / at_once),
               4 + 3 * at_once * single)]


def _penalty_passes(experiment):
  """`(kind, times, single)` of SDC's penalty: passes of an image, how often.

  single: whether each image has a gradient of its own.
  """
  penalty = experiment.config.sdc.penalty
  if penalty in difficulty.OF_OUTPUTS:
    return 'inward', 1, False
  if penalty == 'fisher':  # a gradient for each class that a label may name
    return 'second', experiment.classes, True
  return 'second', 1, penalty in difficulty.OF_SAMPLES


def _between_sweeps_work(experiment, segment, n, split_):
  """The inner network's warm-up, averages, and training between sweeps."""
  # Only batches of real images are shared by the devices, and not where batch
  # norm reads the whole batch.
  c, size = experiment.config.method, experiment.config.method.net_batch
  batch_norm = models.normalises_batches(experiment.network)
  even = not batch_norm and size % split_.devices == 0
  real = size // split_.devices if even else size
  works = []
  def add(steps, images):
    works.append(Work('gradient', steps * images,
                      block_images(experiment, images, split_), steps))
  if c.warmup:
    add(-(-n // c.inner) * c.warmup, real)
  if batch_norm:
    averaged = inner_network.STATISTICS_IMAGES * experiment.classes
    works.append(Work('forward', n * averaged, averaged, n))
  lived = n * (1 - 1 / c.inner)  # no training after a network's last sweep
  watched = c.get('watch_images', 0)
  passes = c.net_steps
  if watched:
    # Training ends as soon as it has done something: half-way between the
    # fewest and the most passes, as one run on digits did.
    passes, lived = min(passes, (c.watch_window + passes) / 2), n
    looks = n * (1 + passes) * split_.share(experiment.classes)
    works.append(Work('forward', looks * watched, watched, looks))
  if c.train_on == 'real':
    add(lived * passes, real)
  else:
    every = experiment.classes * decoded_count(
        experiment, segment.width, training=True)
    works.append(Work('gradient', lived * passes * every,
                      block_images(experiment, min(size, every), split_),
                      lived * passes * math.ceil(every / size)))
  return [work for work in works if work.images]


def _sre2l_work(experiment, segment, n, split_):
  """SRe2L: the teacher, the images, their labels."""
  c, matched = experiment.config.method, setup.matched_count(
      experiment, segment)
  size, classes = c.net_batch, split_.share(experiment.classes)
  around = setup.classes_together(experiment, segment, classes, split_)
  taught = sre2l.teaching_steps(c)
  sweeps, labelled = n - sre2l.first_moving_step(c), decoded_count(
      experiment, segment.width)
  return [
      Work('gradient', taught * c.net_steps * size, size,
           taught * c.net_steps),
      Work('forward', sweeps * classes * matched, around * matched,
           sweeps * classes / around),
      Work('inward', sweeps * classes * matched, around * matched,
           sweeps * classes / around),
      Work('forward', classes * labelled * max(c.label_views, 1), labelled,
           classes)] + _correction_work(
               experiment, segment, sweeps, matched, classes, split_)


def _student_work(experiment, segment, n, split_):
  c = experiment.config.method
  union = config.matches_union(experiment.config)
  stored = segment.slots.stop if union else segment.width
  every = experiment.classes * decoded_count(experiment, stored, training=True)
  size, starts = min(c.batch_syn or every, every), split_.share(c.starts)
  steps = n * starts * c.student_steps
  # Every step keeps the weights that it began with.
  kept = dict(at_once=size, calls=2 * steps, trees=c.student_steps + 6)
  works = [Work('frozen' if c.frozen else 'student', steps * size, **kept)]
  if setup.correction_of(experiment.config, experiment, segment).active:
    kind, times, _ = _penalty_passes(experiment)
    works.append(Work(kind, times * steps * size, **kept))
  return works


# ---- Images that are read


def images_read(experiment, split_):
  """`{phase: images}`, read by all processes together.

  Phases are those of `estimate.phase_work`; one that reads nothing is left out.

  Args:
    experiment: an `Experiment`.
    split_: a `packing.DeviceSplit`.
  """
  found = {'experts': _read_by_experts(experiment),
           'judges': _read_by_judges(experiment),
           'segments': 0, 'distillation': 0,
           'evaluation': _read_by_evaluation(experiment, split_)}
  for segment in experiment.plan:
    found['segments'] += _read_by_start(experiment, segment)
    found['distillation'] += sum(
        _read_by_sweeps(experiment, phase)
        for phase in experiment.phases(segment))
  return {phase: int(number) for phase, number in found.items() if number}


def _read_by_experts(experiment):
  """Each goes through all images in an order of its own."""
  c = config.expert_settings(experiment.config)
  return c.number * c.epochs * len(experiment.dataset.train.labels) if c else 0


def _read_by_judges(experiment):
  """What networks trained on real images see, and look at after an epoch."""
  c = experiment.config
  if not asks_judges(experiment):
    return 0
  times = c.coreset.networks + real_networks.needs_history(c)
  return times * c.coreset.epochs * len(experiment.dataset.train.labels)


def _read_by_start(experiment, segment):
  """What probes and those who choose look at."""
  c, n = experiment.config, len(experiment.dataset.train.labels)
  asked, found = segments.asked_networks(
      experiment.choice, segment.index), 0
  found += n * ('previous' in asked)
  found += n * ('real' in asked and (asked.known or not _ordered_before(
      experiment, segment)))
  need = coresets.CORESETS.get(c.syn.init, (None,))[0]
  found += n * (need not in (None, 'history'))  # that is kept meanwhile
  if real_crops.trains_teacher(experiment, segment.index):
    found += c.coreset.epochs * n
  if c.syn.init == 'rded':
    found += _cropped_images(experiment)
  if c.syn.init == 'known':  # by one expert at least
    found += n
  return found + _labelling_experts(c) * experiment.classes * decoded_count(
      experiment, segment.width)


def _read_by_sweeps(experiment, phase):
  """What is matched, and what inner networks are trained on."""
  m, n = experiment.config.method, setup.segment_steps(experiment, phase)
  return SWEEP_READS[registry.family_of(m).name](
      m, n, len(experiment.rows(phase)))


def _matching_reads(m, n, classes):
  found = n * classes * m.batch
  found += -(-n // m.inner) * m.warmup * m.net_batch
  if m.train_on == 'real':  # but after the last sweep of a network
    found += (n - n // m.inner) * m.net_steps * m.net_batch
  return found


def _read_by_evaluation(experiment, split_):
  """Random subsets, and the test images for each group of networks."""
  c = experiment.config
  found = c.eval.networks * experiment.classes * c.syn.ipc
  if c.eval.networks and c.eval.full:  # groups go through an epoch together
    recipe = experiment.recipe
    found += (recipe.epochs + recipe.extra) * len(
        experiment.dataset.train.labels)
  # Once for every group of networks, of each set.
  if loading.streams_tests(experiment.dataset, split_.memory):
    around = split_.devices * packing.networks_together(
        experiment.network, experiment.shape, experiment.recipe.batch, split_)
    groups = sum(math.ceil(networks / around) for networks in
                 setup.measured_sets(experiment).values())
    found += groups * len(experiment.dataset.test.labels)
  return found


# By the names of `registry.Family`: one that is missing here is an error, not
# another one's work.
SWEEP_WORK = {'matching': _matching_work, 'sre2l': _sre2l_work,
              'trajectory': _student_work, 'coreset': _no_work}
SWEEP_READS = {'matching': _matching_reads,
               'sre2l': lambda m, *_: (
                   sre2l.teaching_steps(m) * m.net_steps * m.net_batch),
               'trajectory': lambda *_: 0, 'coreset': lambda *_: 0}
