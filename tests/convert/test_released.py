"""The set in docs/released is whole, and better than random images."""

import json

import numpy as np
import pytest
import toy

import dasm_jax
from dasm_jax.convert import formats
from dasm_jax.evaluate import subjects
from dasm_jax.evaluate.exported import folders

FOLDER = toy.ROOT / 'docs' / 'released' / 'digits_idc_ipc3'


def test_it_is_whole_and_small():
  source = formats.open_source(FOLDER)
  assert folders.check_out(FOLDER, source, 'card')
  assert sum(x.stat().st_size for x in FOLDER.iterdir()) < 300_000
  found = dasm_jax.load(FOLDER)
  assert found.syn.images.shape == (10, 3, 8, 8, 1)
  assert found.card == source.card
  page = (FOLDER / 'README.md').read_text()
  for row in found.card['accuracy'].values():
    assert f'{row["mean"]:.2%}' in page
    assert row['mean'] == pytest.approx(np.mean(row['networks']))
  assert found.card['jax'] and found.card['decoding'].startswith('none')
  assert found.card['split'] == '359 test images, all of the test split'
  written = json.loads((FOLDER / 'card.json').read_text())
  assert written['config_hash'] == found.card['config_hash']


@pytest.mark.slow
def test_it_beats_random_images():
  """87 % after 60 epochs without augmentation, random images 77 %."""
  subject = subjects.saved_subject(FOLDER)
  recipe = subjects.recipe_for(subject.set, 60)._replace(strategy='', cutmix=0.)
  (_, network), = subjects.networks_for(['convnet'], subject.set).values()
  compared = subjects.comparison_of(subject, recipe, 4, 0)(network)
  ours, random = (compared.accuracies(name).mean() for name in (
      'synthetic', 'random'))
  assert ours > .8 and ours > random + .05, (ours, random)
