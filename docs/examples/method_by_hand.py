"""A whole method without its run: DM, stepped by hand, then a network."""

import jax
import jax.numpy as jnp

from dasm_jax import config, coresets, data, methods, models, synthetic
from dasm_jax.pipeline import source
from dasm_jax.training import ensemble, recipes, scoring
from dasm_jax.types import Batch, Synthetic

digits = data.load('digits')
shape, classes, ipc = digits.train.shape, len(digits.class_names), 2
real, test = (source.make_source(split, classes, digits.mean, digits.std)
              for split in (digits.train, digits.test))
network = models.build('convnet', shape=shape, classes=classes, depth=2,
                       width=16)
codec = synthetic.codec(digits.mean, digits.std, shape=shape)
settings = config.defaults('dm').method
settings.batch, settings.augment = 32, 'crop'
options = methods.Options(classes, codec, images=ipc)
method = methods.build(settings, network, options)
rows = coresets.random(digits.train.labels, ipc, classes)
labels = jnp.broadcast_to(jnp.eye(classes)[:, None], (classes, ipc, classes))
syn = Synthetic(jnp.asarray(digits.train.images[rows], 'float32') / 255,
                labels, jnp.float32(0.01))
# Every class may see all of its images, and no segment is finished.
windows = source.ClassWindows(jnp.arange(classes), jnp.ones(classes),
                              real.everything, real.everything, None)
key, state = jax.random.key(0), method.init(jax.random.key(1), syn)
draw, step = jax.jit(method.draw), jax.jit(method.step)
for _ in range(20):
  drawn = draw(real, windows, key, state.step)
  state, metrics = step(state, real, windows, drawn, key)

batch = Batch(*synthetic.training_inputs(codec, state.syn))
variables, _ = jax.jit(lambda key: ensemble.fit(
    network, recipes.recipe(30, batch=20), key, batch))(key)
accuracy = scoring.accuracy(network, variables, test)
print(f'DM, {ipc} images a class: accuracy {float(accuracy):.2f}')
