"""The script for accelerators, at toy shapes: what it keeps, skips, refuses."""

import json
import os
import subprocess
import sys
import time

import chip
import pytest
import toy

# `--tiny` sets the same for its process.
pytestmark = pytest.mark.usefixtures('quick_compiler')
FOUND = {'seconds': .5, 'useful_flops': 1e9, 'flops_per_second': 2e9,
         'precision': 'default', 'compile_seconds': 7.0, 'spent_seconds': 9.0}


def command(*arguments):
  return subprocess.run(
      [sys.executable, 'tests/benchmarks/chip.py', '--tiny', *arguments],
      cwd=toy.ROOT, text=True, capture_output=True, timeout=300,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'})


def run(monkeypatch, *arguments):
  """Its status, called in this process."""
  monkeypatch.setattr(sys, 'argv', ['chip.py', '--tiny', *map(str, arguments)])
  monkeypatch.setattr(chip, 'BEGAN', time.monotonic())
  return chip.main()


@pytest.fixture
def measured(monkeypatch):
  """Names of what was measured, which takes no time and fails for DM."""
  names = []

  def one(case, a, known):
    names.append(case.name)
    if case.program == 'dm_sweep':
      raise RuntimeError('RESOURCE_EXHAUSTED:\nout of memory')
    return dict(FOUND)
  monkeypatch.setattr(chip, 'measured', one)
  monkeypatch.setattr(chip, 'torch_measured', one)
  return names


@pytest.mark.slow
def test_measures_once(tmp_path):
  given = f'--out={tmp_path}', '--json', '--only=difficulty_scores'
  first = command(*given)
  assert not first.returncode, first.stderr
  rows = [json.loads(line) for line in first.stdout.splitlines()]
  assert [row.get('name') for row in rows] == [
      None, *(f'product.{form}' for form in chip.PRODUCTS),
      'difficulty_scores']
  assert 'numbers of a CPU' in rows[0]['text']
  assert rows[-1]['seconds'] > 0 and 0 < rows[-1]['share']
  assert rows[-1]['peak_bytes'] > 1e4 and rows[-1]['useful_flops'] > 1e5
  kept = (tmp_path / 'results.jsonl').read_text()
  assert len(kept.splitlines()) == 4
  second = command(*given)
  assert second.stdout == first.stdout
  assert (tmp_path / 'results.jsonl').read_text() == kept


@pytest.mark.parametrize('arguments, text', [
    (['--only=idc_step'], 'unknown program idc_step; choose from idc_sweep, '),
    (['method.stepps=4'], "idc_sweep: --config.method has no entry 'stepps'"),
    (['method.net_steps=4'], "mtt_step: --config.method has no entry 'net_"),
    (['method.batch=many'], 'method.batch=many must be a whole number'),
    (['method.batch'], 'method.batch is no KEY=VALUE')])
def test_refuses_at_once(monkeypatch, measured, tmp_path, arguments, text):
  with pytest.raises(SystemExit, match='error: ') as raised:
    run(monkeypatch, f'--out={tmp_path / "out"}', *arguments)
  assert text in raised.value.code and '\n' not in raised.value.code
  assert not measured and not (tmp_path / 'out').exists()


def test_goes_on_where_it_was(monkeypatch, measured, tmp_path, capsys):
  given = f'--out={tmp_path}', '--only=idc_sweep,idc_matching,dm_sweep'
  assert run(monkeypatch, *given) == 1  # as one of them failed
  first = capsys.readouterr().out
  assert ('dm_sweep: failed: RuntimeError: RESOURCE_EXHAUSTED: out of memory\n'
          in first)
  assert measured == ['product.default', 'product.bfloat16', 'product.highest',
                      'idc_sweep', 'dm_sweep', 'idc_matching']
  assert 'idc_sweep                500.000     0.002  100.0% default' in first

  # The last line is half of one: that alone is done again.
  kept = tmp_path / 'results.jsonl'
  kept.write_text(kept.read_text()[:-20])
  measured.clear()
  run(monkeypatch, *given)
  assert measured == ['dm_sweep', 'idc_matching']
  measured.clear()
  run(monkeypatch, *given)
  assert measured == ['dm_sweep']

  # Other entries are other measurements.
  measured.clear()
  run(monkeypatch, f'--out={tmp_path}', '--only=idc_sweep', 'method.batch=4')
  assert len(measured) == 4


def test_no_time(monkeypatch, measured, tmp_path, capsys):
  given = f'--out={tmp_path}', '--only=idc_sweep,mtt_step'
  assert run(monkeypatch, *given, '--minutes=0') == 0 and not measured
  assert ('no time for product.default, product.bfloat16, product.highest, '
          'idc_sweep, mtt_step; the same' in capsys.readouterr().out)

  # What takes nine seconds, as the first ones have, is not begun with five.
  assert run(monkeypatch, *given, f'--minutes={5 / 60}') == 0
  assert measured == ['product.default', 'idc_sweep']
  assert ('no time for product.bfloat16, product.highest, mtt_step; the same'
          in capsys.readouterr().out)


@pytest.mark.slow
def test_what_outlasted_a_call_comes_last(monkeypatch, measured, tmp_path):
  ended, only = [], '--only=idc_sweep,mtt_step'
  monkeypatch.setattr(chip.os, '_exit', ended.append)

  def endless(case, a, known):
    while case.name == 'idc_sweep' and not ended:
      time.sleep(.05)
    if ended:  # where the process would be no more
      raise RuntimeError
    return dict(FOUND)
  with monkeypatch.context() as patch:
    patch.setattr(chip, 'measured', endless)
    run(patch, f'--out={tmp_path}', only, f'--minutes={3 / 60}')
  assert ended == [1]
  run(monkeypatch, f'--out={tmp_path}', only)
  assert measured[-2:] == ['mtt_step', 'idc_sweep']
