"""Whole runs by the programs that a GPU is given, on this CPU."""

import numpy as np
import pytest
import small

from dasm_jax.distill import run
from dasm_jax.evaluate import saved_set
from dasm_jax.runtime import devices

pytestmark = [pytest.mark.slow, pytest.mark.long,
              pytest.mark.usefixtures('quick_compiler')]


@pytest.mark.parametrize('method, changes', [
    ('idc', dict(segments__window='frontier', method__net_steps=2)),
    ('mtt', dict(experts__number=1, experts__epochs=2, method__batch_syn=10,
                 method__student_steps=2, method__expert_epochs=1,
                 method__first_epoch=0, method__last_epoch=1))])
def test_a_run_ends_as_on_a_cpu(method, changes, tmp_path):
  """Classes and networks at once, batches ahead, XLA's gradients in kernels."""
  c = small.tiny(method, network__depth=1, method__steps=4, **changes)
  here = run.run(c, tmp_path / 'here')
  with devices.building_for(devices.Target('gpu', 2 ** 33)):
    there = run.run(c, tmp_path / 'there')
  assert there['accuracy'].keys() == here['accuracy'].keys()
  a, b = (saved_set.load(tmp_path / name).syn.images for name in (
      'here', 'there'))
  # The sums are others; a window may take another image of two that are alike.
  far = np.abs(np.asarray(a) - b) > 1e-2
  assert a.shape == b.shape and far.mean() < .1
