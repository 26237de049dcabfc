"""What a set weighs: hard labels and soft ones."""

import numpy as np
import pytest

from dasm_jax import card
from dasm_jax.types import Synthetic

IMAGES = np.zeros((3, 2, 4, 4, 1), np.float32)
HARD = np.broadcast_to(np.eye(3, dtype=np.float32)[:, None], (3, 2, 3))
SOFT = HARD * .7 + .1


@pytest.mark.parametrize('labels, kind, count', [
    (HARD, 'hard', 6), (SOFT, 'soft', 6 * 3 * 2),
    (np.stack([SOFT] * 5), 'soft', 5 * 6 * 3 * 2)])
def test_bytes(labels, kind, count):
  assert card.label_kind(labels) == kind
  found = card.size(Synthetic(IMAGES, labels, np.float32(0)))
  assert (found['images'], found['labels']) == (96, count)
  assert ('two bytes' in found['counted']) == (kind == 'soft')


def test_labels_as_they_are_kept():
  np.testing.assert_array_equal(card.stored(HARD), np.mgrid[:3, :2][0])
  assert card.stored(HARD).dtype == np.int32
  assert card.stored(SOFT).dtype == np.float16
  np.testing.assert_allclose(card.stored(SOFT), SOFT, atol=1e-3)
  # Nearly sure is not sure, and one sure row does not make a set hard.
  assert card.label_kind(HARD * .999) == 'soft'
  mixed = SOFT.copy()
  mixed[0] = HARD[0]
  assert card.label_kind(mixed) == 'soft'
