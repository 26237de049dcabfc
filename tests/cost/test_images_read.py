"""Images that are read from the disk, against those that a run reads."""

import numpy as np
import pytest
import small

from dasm_jax.cost import dry_run, machine, workload
from dasm_jax.distill import run
from dasm_jax.pipeline import streaming
from dasm_jax.training import packing

pytestmark = pytest.mark.usefixtures('quick_compiler')

EIGHT = machine.Machine('cpu', 'cpu', 8, 1e9, 10 ** 9)


class Counted:
  """A split that adds up how many images are read, each once a call."""

  def __init__(self, split):
    self._split, self.labels, self.shape = split, split.labels, split.shape
    self.images = 0

  def read(self, indices, **how):
    self.images += np.unique(np.asarray(indices)).size
    return self._split.read(indices, **how)


def reads(config, workdir):
  """How many images a run reads, besides those that it begins with."""
  counted = []
  def images(experiment):
    dataset, codec = experiment.dataset, experiment.codec
    counted.append(Counted(dataset.train))
    # Or an epoch of several networks is read once.
    few = streaming.StreamedImages(
        counted[0], experiment.classes, codec.mean, codec.std,
        small.buffer_mb(300))
    return few, streaming.place_dataset(dataset, codec)[1]
  with small.started(config, workdir, images) as made:
    run.distill(made)
  return counted[0].images


# One sweep a call, so that hardly any is looked at twice in one.
SWEEPS = small.PLAIN | dict(
    dataset__stream='always', run__chunk=1, run__buffer_mb=1,
    method__batch=3, method__steps=7, eval__epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize('method, changes', [
    pytest.param('dm', SWEEPS | dict(
        method__warmup=4, method__net_batch=16, syn__init='forgetting',
        coreset__epochs=2), marks=pytest.mark.long),
    pytest.param('idc', SWEEPS | dict(
        method__inner=3, method__net_steps=2, method__net_batch=20,
        segments__window='static'), marks=pytest.mark.long),
    ('mtt', small.PLAIN | dict(
        dataset__stream='always', experts__number=3, experts__epochs=4,
        experts__lr=.1, method__student_steps=1, method__last_epoch=2,
        method__expert_epochs=1, method__steps=2, eval__epochs=1))])
def test_as_many_as_a_run_reads(method, changes, tmp_path):
  config = small.tiny(method, segments__probes=2, **changes)
  want = workload.images_read(dry_run.outline(config), packing.split_of(EIGHT))
  assert {'distillation', 'experts'} & set(want)
  got = reads(config, tmp_path / 'run')
  # Some images are looked at twice in a call, and read once.
  assert .8 * sum(want.values()) < got <= sum(want.values())


def test_a_dry_run_tells():
  said = []
  found = dry_run.dry_run(
      small.tiny('dm', **SWEEPS), 'x', EIGHT, said.append)
  assert found['reads'] == {
      # Three for two epochs, who look once, as probes do.
      'judges': 6 * 1438, 'segments': 2 * 1438,
      'distillation': 7 * 30, 'evaluation': 2 * 20}
  line, = (line for line in said if line.startswith('reading'))
  assert 'distillation 210 images (' in line and '/s at that pace)' in line
  plain = dry_run.dry_run(small.tiny('dm'), 'x', EIGHT, said.append)
  assert plain['reads'] == {}
