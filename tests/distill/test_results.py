"""What a run says of itself."""

import numpy as np
import pytest
import small

from dasm_jax.cost import dry_run
from dasm_jax.distill import initialise, reports, results, setup
from dasm_jax.evaluate import comparison
from dasm_jax.pipeline import source as sources
from dasm_jax.runtime import logging
from dasm_jax.types import Synthetic


@pytest.mark.parametrize('idle, words', [
    (None, []), ((1, 8), ['1 of 8 GPUs', 'srun --ntasks=8',
                          'JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7'])])
def test_gpus_that_are_idle_are_told_with_the_way_to_take_them(idle, words):
  said = reports.idle_note(idle)
  assert bool(said) == bool(words) and all(word in said for word in words)


def test_rows_of_segments():
  """Sizes, how far pixels went from where they began, common windows."""
  experiment = setup.build(small.tiny(
      'dm', syn__ipc=5, syn__phases=2, method__net_steps=0))
  labels, std = experiment.dataset.train.labels, experiment.codec.std[0]
  grey = np.full((5, 5, 8, 8, 1), 128 / 255, np.float32)
  began = (grey - experiment.codec.mean[0]) / std
  done = []
  for segment, size, distance in zip(
      experiment.plan, (9, 6), (.1, 0), strict=True):
    window = sources.pad_window(
        [np.flatnonzero(labels == c)[:size] for c in range(10)])
    images = began[:, segment.slots]
    one = initialise.Progress(
        initialise.Frozen(Synthetic(
            images + distance / std, np.ones((*images.shape[:2], 10)), .01)),
        window, np.zeros(len(labels)),
        np.full(10, .25 * segment.index), *3 * [None],
        first=initialise.first_pixels(experiment.codec, images))
    # Two phases of five classes.
    done.append(initialise.freeze_segment(experiment, [one, one]))
  accuracy = {'synthetic': [.5, .7], 'random': [.4, .4], 'first_1': [.3]}
  found = results.segment_rows(experiment, done, accuracy)
  assert found == [
      {'images': 3, 'moved': .1, 'known': None, 'window': 90,
       'overlap': [1, 1],
       'accuracy': {'mean': .3, 'std': 0, 'networks': [.3]}},
      {'images': 2, 'moved': 0, 'known': .25, 'window': 60, 'overlap': [1, 1],
       'accuracy': comparison.summary([.5, .7])}]
  assert results.segment_rows(experiment, done, {})[0]['accuracy'] is None
  head, rows = results.segment_cells(found)
  assert head == ('segment', 'images', 'known', 'moved', 'window', 'in 1',
                  'in 2')
  assert rows[1] == (2, 2, '25.0%', '0.0000', '60', '1.00', '1.00')


def test_a_set_that_nobody_evaluated_says_how_to():
  found = {'method': 'idc', 'ipc': 2, 'seconds': 70, 'devices': 1,
           'device': 'cpu', 'accuracy': {}}
  results.check_results(found)
  said = results.closing_table(found, 'runs/a')
  assert 'distilled 2 images a class, not evaluated' in said
  assert '--set=runs/a' in said and '1m10s on 1 cpu' in said


@pytest.mark.parametrize('entries, words', [
    (dict(segments__number=2), 'window frontier, '),
    (dict(segments__number=1, segments__window='slide'), 'window slide, '),
    (dict(segments__number=1, segments__first=.5), 'window frontier, '),
    (dict(segments__number=1), ''),
    (dict(segments__number=1, segments__window='random'), '')])
def test_a_window_that_is_not_used_is_not_told_of(entries, words, capsys,
                                                  tmp_path):
  experiment = dry_run.outline(small.tiny('dm', **entries))
  with logging.RunLog(tmp_path) as log:
    reports.describe(experiment, 'here', log)
  (line,) = [line for line in capsys.readouterr().out.splitlines()
             if line.startswith('method ')]
  assert f'dm, begun with real images, {words}' in line
  assert ('window' in line) == bool(words)
  assert 'judges' not in line


@pytest.mark.parametrize('number', [1, 2])
def test_networks_that_begin_as_judges_are_told_of(number, capsys, tmp_path):
  experiment = dry_run.outline(small.tiny('idc', segments__number=number))
  with logging.RunLog(tmp_path) as log:
    reports.describe(experiment, 'here', log)
  assert ('networks begun as judges, ' in capsys.readouterr().out) == (
      number == 2)
