"""Distilled sets that others published, read without PyTorch.

`load(path, told, data_dir)` is all of it: `torch_file` reads what torch.save
wrote, `layouts` knows which files hold what, `guess` finds out what they do not
say, `assemble` makes a `SavedSet` of it.
"""

from dasm_jax.foreign.assemble import home, load, notes
from dasm_jax.foreign.guess import NOTHING, Told

__all__ = ['NOTHING', 'Told', 'home', 'load', 'notes']
