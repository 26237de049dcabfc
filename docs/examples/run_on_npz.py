"""A whole run on one file of arrays, which the command takes as well:

  python -m dasm_jax.main --config=configs/digits.py \
    --config.dataset.name=npz:digits.npz
"""

import pathlib
import tempfile

import numpy as np
from sklearn import datasets

from dasm_jax import config
from dasm_jax.distill import run

digits = datasets.load_digits()
images = np.uint8(np.round(digits.images * 255 / 16))     # [1797, 8, 8]
folder = pathlib.Path(tempfile.mkdtemp())
np.savez(folder / 'digits.npz', train_images=images[:1500],
         train_labels=digits.target[:1500], test_images=images[1500:],
         test_labels=digits.target[1500:])

c = config.defaults('dm')
c.dataset.name = f'npz:{folder}/digits.npz'
config.remove_flips(c)
c.network.depth, c.network.width = 1, 8
c.syn.ipc, c.method.steps, c.method.batch = 1, 10, 32
c.eval.networks = 0                   # distils, and trains no network on it

results = run.run(c, folder / 'run')
print(sorted(path.name for path in (folder / 'run').iterdir()))
