"""What the tests of data sets share."""

import pytest
import sets
from PIL import Image

WRITTEN = []


@pytest.fixture(scope='session')
def store(tmp_path_factory):
  """A data directory with small sets, written by TFDS as array_record."""
  if not WRITTEN:  # TFDS registers a name once
    WRITTEN.append(sets.written(tmp_path_factory))
  return WRITTEN[0]


@pytest.fixture
def opened_images(monkeypatch):
  """A list of all that Pillow is asked to open from now on."""
  seen, opener = [], Image.open

  def spy(file, *more):
    seen.append(file)
    return opener(file, *more)

  monkeypatch.setattr(Image, 'open', spy)
  return seen
