"""What a sweep would take, and what of it is done; nothing is run."""

import functools
import pathlib

from dasm_jax import config as configs
from dasm_jax import data, synthetic
from dasm_jax.cost import dry_run, estimate, machine, workload
from dasm_jax.distill import setup
from dasm_jax.models import flops
from dasm_jax.pipeline import loading
from dasm_jax.runtime import text
from dasm_jax.sweep import measure
from dasm_jax.training import experts, packing, real_networks

HEAD = 'cell', 'state', 'run', 'measurements', 'to measure'
HOME = pathlib.Path()


def say_hours(sweep, say):
  """Says what each cell still takes; returns the seconds of all.

  Args:
    sweep: a `work.Sweep`; say: of one line.

  Raises:
    UserError: what a run would refuse, or a data set whose images nobody has
      counted.
  """
  machine_ = machine.measure_machine()
  rows, whole, counted = [], 0.0, set()
  for cell in sweep.cells:
    found = sweep.read(cell)
    missing = [one for one, values in found if values is None]
    run, done = 0.0, len(found) - len(missing)
    if missing and cell.config is not None:
      if not (sweep.run_folder(cell) / 'results.json').exists():
        run = _run_seconds(cell, machine_, counted)
    measured = sum(_measuring_seconds(one, machine_) for one in missing)
    whole += run + measured
    rows.append((cell.name, _state(sweep, cell, missing), text.duration(run),
                 f'{done} of {len(found)}', text.duration(measured)))
  say(text.table(rows, HEAD))
  say(f'time      {text.duration(whole)} in all on {machine_.devices} '
      f'{machine_.kind}, by count, compilation not included; what has begun '
      'counts as if it had not')
  return whole


def _state(sweep, cell, missing):
  if not missing:
    return 'done'
  folder = sweep.run_folder(cell)
  if cell.config is None or not folder.exists():
    return 'to do'
  return 'to measure' if (folder / 'results.json').exists() else 'begun'


def _run_seconds(cell, machine_, counted):
  """Seconds of a cell's run; counted: shared networks that others train."""
  experiment = dry_run.outline(cell.config)
  once = flops.forward_cost(experiment.network, experiment.shape)
  phases = estimate.phase_work(experiment, machine_)
  # By where they will be: all images of an outline are black, so that their
  # data sets are told apart besides.
  folders = {
      'experts': lambda: [experts.find_folder(
          experiment, configs.expert_settings(cell.config), HOME)[0]],
      'judges': lambda: [
          place.folder for place in real_networks.places(experiment, HOME)]}
  for phase in phases.keys() & folders:
    shared = [(folder, cell.config.dataset.to_json())
              for folder in folders[phase]()]
    if counted.isdisjoint(shared):
      counted.add(shared[0])  # where a run has its own comes first
    else:
      del phases[phase]
  return sum(estimate.work_seconds(works, once, machine_)
             for works in phases.values())


def _measuring_seconds(one, machine_):
  """Seconds of a measurement."""
  base, config = one.cell.base, one.cell.config or one.cell.base
  outline = data.outline(**loading.request_of(config))
  shape, classes = outline.train.shape, len(outline.class_names)
  network = measure.network_of(base, shape, classes)
  images = len(outline.train.labels) if one.ipc is None else (
      classes * _decoded(one, shape))
  def recipe_at(epochs):
    return configs.evaluation_recipe(base, epochs, outline.mean, outline.std)
  recipe = recipe_at(one.length.epochs(images, recipe_at(1)))
  # As much of an experiment as is asked for.
  experiment = setup.Experiment(
      base, outline, network, None, None, [], recipe, recipe)
  works = workload.measuring_work(
      experiment, base.eval.networks, recipe, images,
      packing.split_of(machine_))
  return estimate.work_seconds(
      works, _forward_cost(network, shape), machine_)


@functools.lru_cache(8)
def _forward_cost(network, shape):
  return flops.forward_cost(network, shape)


def _decoded(one, shape):
  """Images a class that networks are trained on."""
  if one.cell.config is None:
    return one.ipc
  syn = one.cell.config.syn
  codec = synthetic.training_codec(synthetic.codec(
      (.5,) * shape[-1], (.5,) * shape[-1], space=syn.space, factor=syn.factor,
      kind=syn.formation, bound=syn.bound, shape=shape))
  return len(synthetic.decoded_from(codec, one.ipc))
