"""A TFDS set from elsewhere: what it names is looked at before TFDS is."""

import json
import shutil

import numpy as np
import pytest
from image_sets import refused, refused_early

from dasm_jax import data

HARMFUL = '''
import pathlib
pathlib.Path('harm').touch()
'''
IMAGE = 'tensorflow_datasets.core.features.image_feature.Image'
DICT = 'tensorflow_datasets.core.features.features_dict.FeaturesDict'


@pytest.fixture
def foreign(store, tmp_path, monkeypatch):
  """A copy of a set, beside a module that leaves a file when imported."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  (tmp_path / 'harmful.py').write_text(HARMFUL)
  folder = tmp_path / 'sets' / 'tiny_set' / '1.0.0'
  shutil.copytree(store[0] / 'tiny_set' / '1.0.0', folder)
  return folder


def of(name, content):
  return {'pythonClassName': DICT, 'featuresDict': {'features': {
      'image': {'pythonClassName': name, **content}}}}


NAMED = {
    'top': {'pythonClassName': 'harmful.Features', 'jsonFeature': {
        'json': '{}'}},
    'nested': of('harmful.Image', {'image': {}}),
    'snake': {'python_class_name': 'harmful.Features'},
    'old': {'type': DICT, 'content': {
        'image': {'type': 'harmful.Image', 'content': {}}}},
    'text': of(DICT, {'jsonFeature': {'json': json.dumps(
        {'x': {'type': 'harmful.X', 'content': {}}})}}),
}


@pytest.mark.parametrize('form', NAMED)
def test_no_class_of_a_strangers_set_is_imported(form, foreign, tmp_path):
  (foreign / 'features.json').write_text(json.dumps(NAMED[form]))
  for options in (dict(name=str(foreign)), dict(name=str(foreign.parent)),
                  dict(name='tiny_set', data_dir=tmp_path / 'sets')):
    refused_early('harmful.', 'none of tfds.features', **options)
  assert not (tmp_path / 'harm').exists()


def test_versions_that_tfds_alone_would_find(foreign, tmp_path):
  """TFDS takes more for versions than `1.0.0`, and would read them."""
  (foreign / 'features.json').write_text(json.dumps(NAMED['nested']))
  foreign.rename(foreign.with_name('1.0.0-rc1'))
  for name in 'tiny_set', 'tiny_set:1.0.0-rc1':
    refused('harmful.', name=name, data_dir=tmp_path / 'sets')
  assert not (tmp_path / 'harm').exists()


@pytest.mark.parametrize('text', ['', '{', '[' * 10 ** 5, '{"json": "{"}'])
def test_a_description_that_is_no_json(text, foreign):
  (foreign / 'features.json').write_text(text)
  refused_early('cannot read the TFDS set', name=str(foreign))


def test_what_tfds_has_is_read(foreign):
  found = data.load(str(foreign))
  assert found.train.images.shape == (4, 5, 7, 3)
  assert found.train.images.dtype == np.uint8
