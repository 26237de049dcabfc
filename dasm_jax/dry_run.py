"""What a job would take: shapes, bytes, hours. Nothing is written or trained.

No image is read, but for digits; where no machine is given this one is measured
for half a second.
"""

from dasm_jax import (
  checks,
  cost,
  data,
  flops,
  intake,
  load,
  machine,
  methods,
  outcome,
  reading,
  words,
)
from dasm_jax import job as jobs
from dasm_jax.config import entries

# What may be lowered where a device has too little memory, by what fills it.
SMALLER = {
    'data': ('dataset.size',), 'state': ('syn.ipc',), 'frozen': ('syn.ipc',),
    'rows': ('run.chunk', 'method.starts'), 'networks': ('method.pretrained',)}
# And if it is most for activations, in the phase that has the most of them.
OF_PHASE = {
    'experts': ('experts.batch', 'method.net_batch'),
    'distillation': ('method.batch', 'method.limit', 'method.batch_syn',
                     'method.net_batch'),
    'segments': ('segments.probes', 'eval.batch'),
    'evaluation': ('eval.batch',)}


def dry_run(config, workdir, machine_=None, say=print):
  """Says what `run.run` would take, and leaves `workdir` alone.

  Args:
    config, workdir: of `run.run`.
    machine_: a `machine.Machine`; None measures this one.
    say: of one line.

  Returns:
    `{'memory': {what: bytes}, 'disk': {what: bytes}, 'seconds': {phase: s},
    'reads': {phase: images}}`, memory of one device, images that are streamed.

  Raises:
    UserError: what `run.run` would refuse, or a data set whose images nobody
      has counted.
  """
  job = outline(config)
  machine_ = machine_ or machine.measure()
  streams = intake.streams(config, job.dataset, machine_.memory)
  if streams:
    checks.check_streamed(config)
  once = flops.forward(job.network, job.shape)
  phases = cost.phases(job, machine_)
  found = {
      'memory': cost.memory(job, sum(phases.values(), []), once, machine_),
      'widest': cost.widest(job, phases, once),
      'disk': cost.disk(job, once) | ({'images': intake.size(
          job.dataset)} if streams and config.dataset.cache else {}),
      'seconds': {phase: cost.seconds(works, once, machine_)
                  for phase, works in phases.items()},
      'reads': reading.images(job, load.split(machine_)) if streams else {}}
  outcome.describe(job, workdir, _Lines(say),
                   f'{machine_.devices} {machine_.kind} ({machine_.backend})')
  for line in _lines(job, once, machine_, found):
    say(line)
  return found


class _Lines:
  """As much of a `report.Log` as a description needs."""

  def __init__(self, say):
    self.say = say


def outline(config):
  """The `Job` of a configuration, its images black and without memory."""
  checks.check_settings(config)
  d = config.dataset
  dataset = data.outline(d.name, data_dir=d.data_dir or None, size=d.size,
                         holdout=d.holdout, seed=config.seed,
                         classes=d.classes)
  plain = config.copy_and_resolve_references()
  plain.dataset.zca = 0.0  # there is nothing to whiten
  return jobs.build(plain, dataset)._replace(config=config)


def _lines(job, once, machine_, found):
  c, used = job.config, found['memory']
  steps = [jobs.counted(job, segment, 0)[2] for segment in job.plan]
  yield (f'sweeps    {" + ".join(map(str, steps))} of '
         f'{words.many(len(job.plan), "segment")}; {words.count(once.flops)} '
         'FLOP an image and forward pass')
  if not data.here(c.dataset.name, c.dataset.data_dir or None):
    way = ('a run will first ask TFDS to prepare it'
           if data.in_tfds(c.dataset.name) else
           'it has to be prepared first, as TFDS has none')
    yield (f'note      {c.dataset.name} is not here: these are its known '
           f'numbers, and {way}')
  whole = sum(used.values())
  yield f'memory    {_sizes(used)}; {words.size(whole)} a device of ' + (
      words.size(machine_.memory))
  yield f'disk      {_sizes(found["disk"])}'
  yield f'speed     {_speed(machine_)}'
  times = found['seconds']
  yield 'time      ' + ', '.join(
      f'{phase} {words.seconds(value)}' for phase, value in times.items()) + (
          f'; {words.seconds(sum(times.values()))} in all, compilation not '
          'included')
  if found['reads']:
    yield 'reading   ' + ', '.join(
        f'{phase} {words.count(number)} images'
        + (f' ({words.count(number / times[phase])}/s at that pace)'
           if times.get(phase) else '')
        for phase, number in found['reads'].items()) + (
            '; if they are decoded more slowly, it takes longer'
            if not c.dataset.cache else
            '; each is decoded once, then read from the cache')
  if found['reads'] and not c.dataset.cache:
    yield (f'note      --config.dataset.cache=DIR, with room for '
           f'{words.size(intake.size(job.dataset))}, decodes each image once')
  if whole > machine_.memory:
    most = max(used, key=used.get)
    known = dict(entries(c))
    names, phase, apart = SMALLER.get(most), found['widest'], False
    if not names:
      names, most = OF_PHASE[phase], f'the activations of {phase}'
      apart = phase == 'distillation' and methods.apart(c.method)
    lower = ', '.join(f'--config.{name}' for name in names if name in known)
    if apart:
      lower += ', raise --config.syn.phases'
    yield (f'warning: a device has {words.size(machine_.memory)}, and the job '
           f'needs {words.size(whole)}, most of it for {most}; lower {lower}, '
           'or take devices with more')


def _sizes(parts):
  return ', '.join(f'{what} {words.size(value)}'
                   for what, value in parts.items() if value)


def _speed(machine_):
  how = ('shares of it fitted on CPUs' if machine_.backend == 'cpu' else
         'shares of it assumed, not measured')
  return (f'{words.count(machine_.speed)} FLOP/s a device in a matrix '
          f'product; {how}')
