"""A whole run from Python, on arrays in memory: resumable, with a report."""

import tempfile

import numpy as np
from sklearn import datasets

import dasm_jax
from dasm_jax import config, data
from dasm_jax.distill import run

digits = datasets.load_digits()
images = np.uint8(np.round(digits.images * 255 / 16))     # [1797, 8, 8]
mine = data.from_arrays('my_digits', (images, digits.target))

c = config.defaults('dm')             # every entry is in `--help`
c.dataset.name = 'my_digits'
config.remove_flips(c)                # a mirrored digit is another sign
c.network.depth, c.network.width = 2, 16
c.syn.ipc, c.method.steps, c.method.batch = 1, 20, 32
c.eval.networks, c.eval.epochs = 2, 20

workdir = tempfile.mkdtemp()          # give a place that stays, to resume
results = run.run(c, workdir, dataset=mine)
accuracy = results['accuracy']['synthetic']['mean']

found = dasm_jax.load(workdir)        # what is left can be used anywhere
print(f'{found}: accuracy {accuracy:.2f}, images {found.syn.images.shape}')
