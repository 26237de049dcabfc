"""The inner programs as compilers make them for chips, where those are here."""

import json
import subprocess
import sys

import pytest
import toy

pytestmark = pytest.mark.long


@pytest.fixture
def gpu():
  pytest.importorskip('jax_plugins.xla_cuda12', reason='no extra aot here')


def rows(*arguments):
  out = subprocess.run(
      [sys.executable, 'tests/benchmarks/aot.py', '--json', *arguments],
      cwd=toy.ROOT, text=True, check=True, capture_output=True, timeout=900)
  return [json.loads(line) for line in out.stdout.splitlines()]


@pytest.mark.usefixtures('gpu')
@pytest.mark.parametrize('program', [
    'idc_matching', 'dc_matching', 'dm_sweep', 'evaluation', 'mtt_step',
    'difficulty_scores'])
def test_no_work_on_zeros_and_no_branch_within(program):
  (found,) = rows(f'--only={program}')
  assert found['ratio'] < 1.1 and found['useful_flops'] > 1e9
  assert found['conditionals'] <= 2 and found['collectives'] == 0
  assert 0 < found['in_loops'] + 1 < found['kernels'] + 1
  assert found['temporary_bytes'] < 8e9


@pytest.fixture
def tpu():
  pytest.importorskip('libtpu', reason='no extra aot here')


@pytest.mark.usefixtures('tpu')
def test_a_tpu_multiplies_no_zeros_between_images():
  (found,) = rows('--target=v5e', '--only=difficulty_scores')
  assert found['ratio'] < 1.1 and found['seconds'] > 0


@pytest.mark.usefixtures('tpu')
def test_eight_chips_exchange_no_more_than_the_metrics():
  (found,) = rows('--target=v5e:2x4', '--only=dm_sweep')
  assert found['collectives'] == 1 and found['ratio'] < 1.1
  assert .8 < found['predicted_bytes'] / found['device_bytes'] < 1.25


def test_a_program_that_is_not_there():
  done = subprocess.run(
      [sys.executable, 'tests/benchmarks/aot.py', '--only=idc_step'],
      cwd=toy.ROOT, text=True, capture_output=True)
  assert done.returncode and "unknown program idc_step; choose" in done.stderr
