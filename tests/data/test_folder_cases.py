"""Every image folder of `tests/folders.py` gives what it says."""

import folders
import pytest

pytestmark = pytest.mark.filterwarnings('error')


@pytest.mark.parametrize('name', folders.CASES)
def test_folder(name, tmp_path):
  came, wrong = folders.outcome(folders.CASES[name], tmp_path / 'set')
  assert not wrong, came
