"""Names the commands: `python -m dasm_jax` is none."""

import sys

sys.exit('error: choose python -m dasm_jax.main (distils), dasm_jax.evaluate '
         'or dasm_jax.diagnose (measure what was distilled); --help of each '
         'says more')
