"""What the tests of data sets share."""

import pytest
import sets

WRITTEN = []


@pytest.fixture(scope='session')
def store(tmp_path_factory):
  """A data directory with small sets, written by TFDS as array_record."""
  if not WRITTEN:  # TFDS registers a name once
    WRITTEN.append(sets.written(tmp_path_factory))
  return WRITTEN[0]
