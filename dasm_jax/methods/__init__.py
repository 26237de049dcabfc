"""Methods by name: what each matches, and how its network moves.

`registry` has a row for each; `settings` their entries; `matching` (DC, DSA,
DSAC, IDC, DM, CAFE), `sre2l`, `trajectory` (MTT, FTD, TESLA, DATM) and `fixed`
(coresets) the steps; `inner_network` the network at which is matched.
"""

from dasm_jax.methods.options import Options
from dasm_jax.methods.registry import METHODS, build, settings_of

__all__ = ['METHODS', 'Options', 'build', 'settings_of']
