"""What `--dry_run --compile` makes of programs, with a CPU as the chip."""

import importlib.util

import jax
import numpy as np
import pytest
import small
import toy

from dasm_jax.cost import chips, compiled, dry_run, machine
from dasm_jax.errors import UserError

pytestmark = pytest.mark.usefixtures('quick_compiler')

# A second a TFLOP and a second a TB: of small programs, microseconds.
CORE = chips.Chip('cpu', 10 ** 9, 1e12, 1e12, None, 0,
                  lambda count: jax.devices('cpu')[:count])


@pytest.fixture(autouse=True)
def core(monkeypatch):
  monkeypatch.setitem(chips.CHIPS, 'core', CORE)


def said(method='dc', count=1, **changes):
  lines = []
  found = dry_run.dry_run(
      small.tiny(method, network__depth=1, **changes), 'x',
      machine.parse_machine(f'core:{count}'), lines.append, compile_it=True)
  return found, [line for line in lines if line.startswith('compiled')]


@pytest.mark.slow
@pytest.mark.parametrize('method', ['dc', 'mtt'])
def test_the_programs_of_a_job(method, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  changes = {'method__last_epoch': 1, 'experts__epochs': 3} if (
      method in toy.TRAJECTORY) else {}
  found, lines = said(method, segments__number=1, method__steps=30, **changes)
  job = found['compiled']
  assert list(job.programs) == ['distillation', 'evaluation']
  for name, line in zip(job.programs, lines, strict=True):
    program = job.programs[name]
    # On a CPU no zero is multiplied, and some of a step is not needed.
    assert 0 < program.counts.flops < 1.1 * program.useful
    assert program.device_bytes <= job.memory[name]
    assert program.outside > 0 and program.counts.kernels > 10
    assert compiled.CALLS[name] in line
    assert found['seconds'][name] == job.seconds[name] > 0
  np.testing.assert_allclose(
      job.seconds['distillation'],
      30 * job.programs['distillation'].seconds(CORE))
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_devices_share_the_classes():
  one, two = (said(count=count, eval__networks=0)[0]['compiled'].programs[
      'distillation'] for count in (1, 2))
  assert .4 < two.counts.flops / one.counts.flops < .7
  assert one.counts.collectives == 0 < two.counts.collectives


@pytest.mark.slow
def test_memory_is_what_the_compiler_says(monkeypatch):
  monkeypatch.setitem(chips.CHIPS, 'core', CORE._replace(memory=10_000))
  lines = []
  found = dry_run.dry_run(
      small.tiny(network__depth=1, dataset__stream='never', eval__networks=0),
      'x', machine.parse_machine('core'), lines.append, compile_it=True)
  need = found['compiled'].memory['distillation']
  assert lines[-1].startswith('warning: a device has 10 kB, and the job needs')
  assert dry_run.text.size(need) in lines[-1]


def test_a_job_without_sweeps_or_evaluation():
  found, lines = said('rded', method__steps=0, segments__number=1,
                      eval__networks=0)
  assert found['compiled'].programs == {} and not lines


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize('rates', [(1, 0), (0, 1)])
def test_segments_that_stay_as_they_are_have_no_sweep(rates):
  found, lines = said('idc', segments__rates=rates, eval__networks=0)
  assert len(lines) == 1 and found['compiled'].seconds['distillation'] > 0


def test_a_time_is_the_longer_of_two_and_the_launches():
  counts = compiled.hlo_counts.Counts(
      kernels=3, convolution_flops=2e12, written=1e12, cycles=5e9)
  program = compiled.Compiled(counts, 1e12, 0, 0, 0., '')
  assert program.seconds(CORE) == 4  # at half of the peak
  assert program.seconds(CORE._replace(bandwidth=1e11)) == 20  # written, read
  assert program.seconds(CORE._replace(launch=2.)) == 10
  assert program.seconds(CORE._replace(clock=1e9)) == 5  # a TPU's own estimate


def test_a_machine_by_its_name():
  found = machine.parse_machine('h100:8')
  assert found[:3] == ('gpu', 'h100', 8)
  assert found.memory == chips.CHIPS['h100'].memory
  assert machine.parse_machine('v5e').devices == 1


@pytest.mark.parametrize('text, words', [
    ('gpu:1:80:400', 'machine=gpu:1:80:400; choose from h100, v5e'),
    ('h100', "jax_plugins.xla_cuda12.*pip install 'dasm-jax.aot"),
    ('v5e', "libtpu.*pip install 'dasm-jax.aot")])
def test_no_compiler_is_here(text, words, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=words):
    compiled.check(machine.parse_machine(text))


def test_a_slice_that_is_none(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
  with pytest.raises(UserError, match='v5e:3: compilers know slices of 1, 4'):
    compiled.check(machine.parse_machine('v5e:3'))
