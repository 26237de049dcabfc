"""Which data sets are in memory, and that they are the same either way."""

import numpy as np
import pytest
from image_sets import mixed_folder

from dasm_jax import data
from dasm_jax.data import dataset as datasets
from dasm_jax.errors import UserError
from dasm_jax.pipeline import loading, streaming


@pytest.mark.parametrize('stream, lazy', [
    ('always', True), ('never', False), ('auto', False)])
def test_the_same_images_either_way(tmp_path, stream, lazy):
  name = f'folder:{mixed_folder(tmp_path)}'
  want = data.load(name, size=6)
  found = loading.load(name, size=6, stream=stream)
  assert streaming.is_lazy(found.train) == lazy
  # A tenth of the memory here has room for eight of them.
  assert not streaming.is_lazy(found.test)
  assert found.class_names == want.class_names
  assert (found.mean, found.std) == (want.mean, want.std)
  for one, other in zip(found[1:3], want[1:3], strict=True):
    np.testing.assert_array_equal(one.read(np.arange(len(one.labels))),
                                  other.images)
    np.testing.assert_array_equal(one.labels, other.labels)


def test_broken_images_are_told_of_before_a_run(tmp_path):
  root = mixed_folder(tmp_path)
  for path in (root / 'b').iterdir():
    path.write_text('broken')
  for stream in 'always', 'never':
    with pytest.raises(UserError, match="none of the 16 .* class 'b'"):
      loading.load(f'folder:{root}', size=6, stream=stream)


def test_whitening_needs_all_images():
  with pytest.raises(UserError, match='zca=0.1 whitens by all images'):
    loading.load('digits', stream='always', zca=.1)


def test_what_fits():
  described = data.describe('digits')
  assert loading.fits_in_memory(described)
  images = loading.image_bytes(data.outline_described(described))
  assert images == 1797 * 64
  assert loading.image_bytes(data.load('digits'), zca=.1) == 4 * images
  # Nobody knows how large a set is that nobody has prepared.
  unknown = datasets.Description((), content=lambda: refuse(),
                                 request=datasets.Request('unknown'))
  assert loading.fits_in_memory(unknown)


def refuse():
  raise UserError('not prepared')
