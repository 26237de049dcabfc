"""What a run says: of the experiment before it starts, and how far it is."""

import math

import jax

from dasm_jax import config, models
from dasm_jax.config import validate
from dasm_jax.distill import setup
from dasm_jax.errors import UserError
from dasm_jax.methods import registry
from dasm_jax.pipeline import loading
from dasm_jax.runtime import devices, processes, text, timing
from dasm_jax.runtime.text import plural

# ---- What is said of the experiment


def describe(experiment, workdir, log, called=''):
  """Says the shape of the experiment before it starts.

  called: what the devices are called, if not those that are here.
  """
  c, count = experiment.config, len(experiment.dataset.train.labels)
  variables = jax.eval_shape(experiment.network.init, jax.random.key(0))
  size = 'x'.join(map(str, experiment.shape))
  log.say(f'data      {experiment.dataset.name}: {count} train, '
          f'{len(experiment.dataset.test.labels)} test images {size}, '
          f'{experiment.classes} classes' + _where(experiment))
  log.say(f'set       {plural(c.syn.ipc, "image")} a class '
          f'({c.syn.ipc * experiment.classes} in all), factor {c.syn.factor}, '
          f'{plural(len(experiment.plan), "segment")} of '
          f'{", ".join(str(s.width) for s in experiment.plan)} '
          f'({config.segments_reason(c)})' + (
              f', {c.syn.phases} parts of the classes in turn'
              if c.syn.phases > 1 else ''))
  note = _repeated(experiment)
  if note:
    log.say(f'note      {note}')
  log.say(f'method    {c.method.name}, begun with {c.syn.init} images, '
          + f'window {c.segments.window}, ' * setup.has_windows(experiment)
          + 'in union with finished segments, ' * config.matches_union(c)
          + 'networks begun as judges, ' * config.begins_as_judges(c)
          + registry.describe(c.method))
  parameters = text.count(models.count(variables))
  log.say(f'network   {c.network.name}, {parameters} parameters; evaluation '
          f'{c.eval.recipe}, {plural(c.eval.epochs, "epoch")}, '
          f'{plural(c.eval.networks, "network")}')
  log.say(f'devices   {called or _devices()}')
  idle = None if called else idle_note(devices.idle_gpus())
  if idle:
    log.say(f'note      {idle}')
  log.say(f'workdir   {workdir}')


def _repeated(experiment):
  """What is said where a class has too few images to begin with; or ''."""
  c = experiment.config
  wanted = c.syn.ipc * validate.first_cells(c)
  least, name = validate.smallest_class(experiment.dataset)
  if wanted <= least or c.syn.init == 'noise':
    return ''
  return (f'{wanted} real images a class are begun with '
          f'(--config.syn.ipc={c.syn.ipc}, {validate.cell_flags(c)}), but '
          f'{name} has {least}: some begin twice')


def _devices():
  found = jax.devices()
  shared = f', of {processes.count()} processes' if processes.count(
      ) > 1 else ''
  return f'{len(found)} {found[0].device_kind} ({found[0].platform}){shared}'


def idle_note(idle):
  """What is said of `devices.idle_gpus()`; '' if there are none."""
  if idle is None:
    return ''
  used, seen = idle
  return (f'{used} of {plural(seen, "GPU")} of this machine in use, as JAX '
          f'takes one a task; for all: srun --ntasks={seen} (launch/slurm.md), '
          'or in one task export JAX_LOCAL_DEVICE_IDS='
          + ','.join(map(str, range(seen))))


def _where(experiment):
  """Where the images are, if they are not in memory."""
  if not experiment.streamed:
    return ''
  size = text.size(loading.image_bytes(experiment.dataset))
  return (f', read as they are used: {size} of images; a device has '
          f'{text.size(devices.memory())} of memory')


# ---- Progress


def tell_resumed(made, phase, step):
  """Says where a run goes on; nothing where a phase begins or is done."""
  experiment = made.experiment
  if 0 < step < setup.segment_steps(experiment, phase):
    _, done, whole = setup.progress_of(experiment, phase, step)
    made.log.say(f'going on from segment {phase.index + 1}/'
                 f'{len(experiment.plan)}, step {done}/{whole}')


def tell_compiling(made, phase, step):
  """Says what the first call waits for."""
  _, done, steps = setup.progress_of(made.experiment, phase, step)
  made.log.progress((phase.index + 1, len(made.experiment.plan), done, steps),
                    note='compiling')


def rewind_metrics(made, phase, step, notes):
  """Forgets rows of the metrics that will be written again.

  notes: of the checkpoint that the run goes on from, see `notes_of`.
  """
  # Rows of later segments stay: their own checkpoints tell which are to go.
  done, stop = (setup.progress_of(made.experiment, phase, at)[1] for at in (
      step, setup.segment_steps(made.experiment, phase)))
  made.log.rewind(phase.index + 1, done, stop, notes.get('rows', 0))


def notes_of(made, phase, step):
  """What a checkpoint tells of the metrics besides: how many rows there are."""
  done = setup.progress_of(made.experiment, phase, step)[1]
  return {'rows': made.log.rows(phase.index + 1, done)}


class StepReport:
  """Tells how far the sweeps of a phase are, and keeps their metrics.

  images: that pass through networks in one sweep. speed: of sweeps; a warm-up
  costs as much as many of them.
  """

  def __init__(self, made, phase, means):
    """made: a `setup.Run`; means: `timing.MetricMeans` of the phase."""
    self._made, self._phase, self._means = made, phase, means
    self.images = setup.images_per_step(made.experiment, phase)
    m = made.experiment.config.method
    self.speed = timing.Throughput(
        self.images, cycle=m.inner if m.get('warmup') else 1)

  def steps(self, step, metrics, size):
    """Tells of `size` more sweeps, and at the end of a chunk adds a row.

    Returns:
      The sweeps of the segment that are done, see `setup.progress_of`, in
      words.
    """
    experiment, log = self._made.experiment, self._made.log
    values = {name: float(value) for name, value in metrics.items()}
    self.speed.add(size)
    self._means.add(values, size)
    number = self._phase.index + 1
    before, done, steps = setup.progress_of(experiment, self._phase, step)
    # Before the row: what cannot be gone on with is not kept either.
    check_finite(values, number, done)
    if step % experiment.config.run.chunk == 0 or (
        step == setup.segment_steps(experiment, self._phase)):
      log.scalars(number, done, self._means.take(), before + done)
    left = setup.total_steps(experiment) - before - done
    log.progress((number, len(experiment.plan), done, steps),
                 values['match/loss'], self.speed.speed, self.speed.left(left))
    return f'step {done}'

  def warmup(self, at, schedule):
    """The same of batches of a warm-up."""
    experiment = self._made.experiment
    _, done, steps = setup.progress_of(experiment, self._phase, at.step)
    whole = schedule.batches(at.step)
    if at.batch < whole:  # the next sweep says that it is over
      self._made.log.progress(
          (self._phase.index + 1, len(experiment.plan), done, steps),
          note=f'warm-up {at.batch}/{whole}')
    return f'step {done}, batch {at.batch} of {whole} of a warm-up'

  def notes(self, step):
    """What a checkpoint tells besides, see `notes_of`, and a row so far."""
    # Rows end at multiples of a chunk, checkpoints anywhere.
    return notes_of(self._made, self._phase, step) | {
        'means': self._means.kept()}


def set_text(name):
  """What is said of a set that networks are trained on."""
  first = setup.first_segments(name)
  if not first:
    return 'all real images' if name == 'full' else f'the {name} set'
  return 'the first segment' if first == 1 else f'the first {first} segments'


def group_reporter(log, compared, group, place, size, speed):
  """The `report` of a group of networks of the evaluation.

  place: number of the set, how many sets there are, and how many networks are
  to come on the later ones. size: networks of a group. speed: a
  `timing.Throughput` of epochs.
  """
  recipe, networks = compared.recipe, compared.networks
  epochs, have = recipe.epochs + recipe.extra, group.numbers[0]
  number, sets, later = place
  # Groups of networks that are not begun, of this set and of the later ones.
  rest = -(-(networks - have - len(group.numbers)) // size) + -(-later // size)
  last = [0]

  # `resumable.train_networks` calls it after each call of some seconds.
  def report(epoch, within, loss):
    speed.add(epoch - last[0])
    last[0] = epoch
    if epoch >= epochs:
      return None
    note = f'epoch {epoch}/{recipe.epochs}'  # some recipes add one
    log.progress((number, sets, have, networks), loss().mean(), None,
                 speed.left(epochs - epoch + rest * epochs),
                 what='evaluation', unit='network', note=note)
    return lambda: (
        f'{have} of {networks} networks trained on {set_text(group.what)}, and '
        f'{len(group.numbers)} at {note}')
  return report


def check_finite(values, segment, step):
  """Raises `UserError` once the loss is no number any more."""
  loss = values['match/loss']
  if not math.isfinite(loss):
    raise UserError(
        f'the matching loss is {loss} at segment {segment}, step {step}; try a '
        'smaller --config.method.lr (of the images) or .net_lr in another '
        '--workdir')
