"""What a run would take: shapes, bytes, hours. Nothing is written or trained.

No image is read, but for digits; where no machine is given this one is measured
for half a second.
"""

from dasm_jax import data
from dasm_jax.config import entries, validate
from dasm_jax.cost import chips, compiled, estimate, machine, workload
from dasm_jax.distill import reports, setup
from dasm_jax.methods import registry
from dasm_jax.models import flops
from dasm_jax.pipeline import loading
from dasm_jax.runtime import text
from dasm_jax.training import packing

# What may be lowered where a device has too little memory, by what fills it.
SMALLER = {
    'data': ('dataset.size',), 'state': ('syn.ipc',), 'frozen': ('syn.ipc',),
    'rows': ('run.chunk', 'method.starts'),
    'networks': ('method.pretrained', 'coreset.networks')}
# And if it is most for activations, in the phase that has the most of them.
OF_PHASE = {
    'experts': ('experts.batch', 'method.net_batch'),
    'distillation': ('method.batch', 'method.limit', 'method.batch_syn',
                     'method.net_batch'),
    'judges': ('coreset.networks', 'eval.batch'),
    'segments': ('segments.probes', 'eval.batch'),
    'evaluation': ('eval.batch',)}


def dry_run(config, workdir, machine_=None, say=print, compile_it=False):
  """Says what `run.run` would take, and leaves `workdir` alone.

  Args:
    config, workdir: of `run.run`.
    machine_: a `machine.Machine`; None measures this one.
    say: of one line.
    compile_it: whether its compiler is asked, too, which takes minutes; of a
      machine with a chip's name.

  Returns:
    `{'memory': {what: bytes}, 'disk': {what: bytes}, 'seconds': {phase: s},
    'reads': {phase: images}, 'compiled': a `compiled.Job` or None}`, memory of
    one device, images that are streamed.

  Raises:
    UserError: what `run.run` would refuse, a data set whose images nobody has
      counted, or a compiler that is not here.
  """
  experiment = outline(config)
  machine_ = machine_ or machine.measure_machine()
  if compile_it:
    compiled.check(machine_)
  # By the memory of the machine that is asked about, not of this one.
  streams = loading.streams(config, experiment.dataset, machine_.memory)
  if streams:
    validate.check_streamed(config)
  once = flops.forward_cost(experiment.network, experiment.shape)
  phases = estimate.phase_work(experiment, machine_)
  found = {
      'memory': estimate.device_memory(
          experiment, sum(phases.values(), []), once, machine_),
      'widest': estimate.widest(
          experiment, phases, once, machine_.backend),
      'disk': estimate.disk_bytes(experiment, once) | (
          {'images': loading.image_bytes(experiment.dataset)}
          if streams and config.dataset.cache else {}),
      'seconds': {phase: estimate.work_seconds(works, once, machine_)
                  for phase, works in phases.items()},
      'reads': (workload.images_read(experiment, packing.split_of(machine_))
                if streams else {}),
      'compiled': None}
  reports.describe(experiment, workdir, _Lines(say),
                   f'{machine_.devices} {machine_.kind} ({machine_.backend})')
  if compile_it:
    say('compiling a sweep and an epoch, which takes minutes')
    found['compiled'] = compiled.job(
        experiment, machine_, once, found['seconds'])
    found['seconds'] |= found['compiled'].seconds
  for line in _lines(experiment, once, machine_, found):
    say(line)
  return found


class _Lines:
  """As much of a `logging.RunLog` as a description needs."""

  def __init__(self, say):
    self.say = say


def outline(config):
  """The `Experiment` of a configuration, its images black, of no memory."""
  validate.check_settings(config)
  dataset = data.outline(**loading.request_of(config))
  plain = config.copy_and_resolve_references()
  # Black images cannot be whitened; the memory of a whitening still counts.
  plain.dataset.zca = 0.0
  return setup.build(plain, dataset)._replace(config=config)


def _lines(experiment, once, machine_, found):
  c, used = experiment.config, found['memory']
  steps = [setup.progress_of(experiment, segment, 0)[2]
           for segment in experiment.plan]
  yield (f'sweeps    {" + ".join(map(str, steps))} of '
         f'{text.plural(len(experiment.plan), "segment")}; '
         f'{text.count(once.flops)} FLOP an image and forward pass')
  missing = data.describe(**loading.request_of(c)).missing
  if missing:
    yield (f'note      {c.dataset.name} is not here: these are its known '
           f'numbers, and {missing}')
  whole = sum(used.values())
  yield f'memory    {_sizes(used)}; {text.size(whole)} a device of ' + (
      text.size(machine_.memory))
  yield f'disk      {_sizes(found["disk"])}'
  if found['compiled']:
    yield from compiled.lines(found['compiled'], chips.CHIPS[machine_.kind])
  yield f'speed     {_speed_text(machine_)}'
  times = found['seconds']
  yield 'time      ' + ', '.join(
      f'{phase} {text.duration(value)}' for phase, value in times.items()) + (
          f'; {text.duration(sum(times.values()))} in all, compilation not '
          'included')
  # The times count no waiting for images: whoever reads has to keep this pace.
  if found['reads']:
    yield 'reading   ' + ', '.join(
        f'{phase} {text.count(number)} images'
        + (f' ({text.count(number / times[phase])}/s at that pace)'
           if times.get(phase) else '')
        for phase, number in found['reads'].items()) + (
            '; if they are decoded more slowly, it takes longer'
            if not c.dataset.cache else
            '; each is decoded once, then read from the cache')
  if found['reads'] and not c.dataset.cache:
    yield (f'note      --config.dataset.cache=DIR, with room for '
           f'{text.size(loading.image_bytes(experiment.dataset))}, decodes '
           'each image once')
  # Entries that would lower what takes most, if this configuration has them.
  if found['compiled']:
    whole = max(found['compiled'].memory.values(), default=whole)
  if whole > machine_.memory:
    most = max(used, key=used.get)
    known = dict(entries(c))
    names, phase, apart = SMALLER.get(most), found['widest'], False
    if not names:
      names, most = OF_PHASE[phase], f'the activations of {phase}'
      apart = phase == 'distillation' and registry.classes_apart(c.method)
    lower = ', '.join(f'--config.{name}' for name in names if name in known)
    if apart:
      lower += ', raise --config.syn.phases'
    yield (f'warning: a device has {text.size(machine_.memory)}, and the job '
           f'needs {text.size(whole)}, most of it for {most}; lower {lower}, '
           'or take devices with more')


def _sizes(parts):
  return ', '.join(f'{what} {text.size(value)}'
                   for what, value in parts.items() if value)


def _speed_text(machine_):
  how = ('shares of it fitted on CPUs' if machine_.backend == 'cpu' else
         'shares of it by what compilers make of it, not measured')
  return (f'{text.count(machine_.speed)} FLOP/s a device in a matrix '
          f'product; {how}')
