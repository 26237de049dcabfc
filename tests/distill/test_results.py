"""What a run says of itself."""

import pytest

from dasm_jax.distill import results


@pytest.mark.parametrize('idle, words', [
    (None, []), ((1, 8), ['1 of 8 GPUs', 'srun --ntasks=8',
                          'JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7'])])
def test_gpus_that_are_idle_are_told_with_the_way_to_take_them(idle, words):
  said = results.idle_note(idle)
  assert bool(said) == bool(words) and all(word in said for word in words)
