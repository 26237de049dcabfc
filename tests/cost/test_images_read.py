"""Images that are read from the disk, against those that a run reads."""

import numpy as np
import pytest
import small

from dasm_jax.cost import dry_run, machine, workload
from dasm_jax.data import reader
from dasm_jax.distill import run, setup
from dasm_jax.training import packing

pytestmark = pytest.mark.usefixtures('quick_compiler')

EIGHT = machine.Machine('cpu', 'cpu', 8, 1e9, 10 ** 9)


def reads(monkeypatch, config, workdir):
  """How many images a run reads once its data set is open, a call's once."""
  sizes, read, place = [], reader.LazySplit.read, setup.place_data
  def counted(self, indices, **how):
    sizes.append(np.unique(np.asarray(indices)).size)
    return read(self, indices, **how)
  def placed(job):
    found = place(job)
    found[0].room = 300  # or an epoch of several networks is read once
    sizes.clear()
    return found
  with monkeypatch.context() as patch:
    patch.setattr(reader.LazySplit, 'read', counted)
    patch.setattr(setup, 'place_data', placed)
    run.run(config, workdir)
  return sum(sizes)


BESIDE = 60  # to begin with, and to show


# One sweep a call, so that hardly any is looked at twice in one.
SWEEPS = {'dataset__stream': 'always', 'run__chunk': 1, 'run__buffer_mb': 1,
          'method__batch': 3, 'method__steps': 7, 'eval__epochs': 1}


@pytest.mark.parametrize('method, changes', [
    ('dm', SWEEPS | dict(method__warmup=4, method__net_batch=16)),
    ('idc', SWEEPS | dict(method__inner=3, method__net_steps=2,
                          method__net_batch=20, segments__window='static')),
    ('dc', SWEEPS | dict(syn__init='forgetting', coreset__epochs=2,
                         segments__window='everything')),
    ('mtt', dict(
        dataset__stream='always', experts__number=3, experts__epochs=4,
        experts__lr=.1, method__student_steps=1, method__last_epoch=2,
        method__expert_epochs=1, method__steps=2, eval__epochs=1))])
def test_as_many_as_a_run_reads(method, changes, tmp_path, monkeypatch):
  config = small.tiny(method, segments__probes=2, **changes)
  want = workload.images_read(dry_run.outline(config), packing.split_of(EIGHT))
  assert {'distillation', 'experts'} & set(want)
  got = reads(monkeypatch, config, tmp_path / 'run')
  # Some images are looked at twice in a call, and read once.
  assert .8 * sum(want.values()) < got <= sum(want.values()) + BESIDE


def test_a_dry_run_tells():
  said = []
  found = dry_run.dry_run(
      small.tiny('dm', **SWEEPS), 'x', EIGHT, said.append)
  assert found['reads'] == {
      'segments': 1438, 'distillation': 7 * 30, 'evaluation': 2 * 20}
  line, = (line for line in said if line.startswith('reading'))
  assert 'distillation 210 images (' in line and '/s at that pace)' in line
  plain = dry_run.dry_run(small.tiny('dm'), 'x', EIGHT, said.append)
  assert plain['reads'] == {}
