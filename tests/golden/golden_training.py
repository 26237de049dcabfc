"""Checks of `eval_*`: training on given data (README 4.15)."""

import jax
import numpy as np
from golden_files import GoldenError
from golden_nets import SETTINGS, Net

from dasm_jax.training import ensemble, recipes, train_step
from dasm_jax.types import Batch

DATA = {**SETTINGS, 'lr': (int, float), 'nclass': int, 'shape': list}
STEPS = {**DATA, 'batch': int, 'mom': (int, float), 'wd': (int, float),
         'steps': int}
WHOLE = {**DATA, 'epochs': int, 'idc_epochs': int, 'n': int,
         'idc_wd': (int, float)}


def check_steps(golden):
  """`eval_sgd_steps*`: SGD with momentum, step by step."""
  meta = golden.settings(STEPS)
  net = Net(golden, meta['shape'], meta['nclass'], meta)
  images = golden.images('in/x')
  labels = golden.onehot(golden['in/labels'], meta['nclass'])
  tx = train_step.sgd(meta['mom'], meta['wd'])

  @golden.jit
  def run(variables, images, labels):
    def one(carry, batch):
      *carry, loss = train_step.sgd_step(net.network, tx, *carry, batch,
                                         meta['lr'])
      return tuple(carry), (carry[0].params, loss)
    return jax.lax.scan(one, (variables, tx.init(variables.params)),
                        Batch(images, labels))

  (variables, opt_state), (path, values) = run(net.variables, images, labels)
  golden.check('losses', values, 'unrolled')
  for t in range(meta['steps']):
    params = jax.tree.map(lambda x, t=t: x[t], path)
    net.check_params(f'step{t}/param_after/', params, 'unrolled')
  net.check_params('momentum_buffer/', opt_state[1].trace, 'unrolled',
                   terms=meta['steps'])
  net.check_buffers('buffer_after/', variables.stats)


def check_evaluation(golden):
  """`eval_evaluate*`: the whole training, full batch, and its rates."""
  meta = golden.settings(WHOLE)
  net = Net(golden, meta['shape'], meta['nclass'], meta)
  batch = Batch(golden.images('in/x'),
                golden.onehot(golden['in/labels'], meta['nclass']))
  if len(batch.images) != meta['n']:
    raise GoldenError(f'{golden.name}: {len(batch.images)} images, not n')
  recipe = recipes.dc_recipe(meta['epochs'], lr=meta['lr'], batch=meta['n'])
  other = recipes.idc_recipe(meta['idc_epochs'], lr=meta['lr'])._replace(
      weight_decay=meta['idc_wd'])
  golden.equal('lr_per_epoch', recipes.rates(recipe)[0])
  golden.equal('idc_lr_per_epoch', recipes.rates(other)[0])

  @golden.jit
  def run(variables, batch, test):
    key = jax.random.key(0)
    short = recipe._replace(extra=recipe.extra - 1)
    before, _ = ensemble.fit(net.network, short, key, batch, variables)
    after, _ = ensemble.fit(net.network, recipe, key, batch, variables)
    logits = train_step.logits_fn(net.network)
    return after, logits(before, batch.images), logits(after, test)

  variables, own, test = run(net.variables, batch, golden.images('in/x_test'))
  net.check_params('param_after/', variables.params, 'unrolled')
  net.check_buffers('buffer_after/', variables.stats)
  golden.check('test_logits', test, 'unrolled')
  # The reference counts while it trains: before the last update.
  for key, logits, labels in (('acc_train_last', own, 'in/labels'),
                              ('acc_test', test, 'in/labels_test')):
    hits = np.argmax(logits, -1) == golden[labels]
    golden.check(key, hits.mean())
