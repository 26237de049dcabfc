"""How hard a sample is for a network: per-sample scores, higher is harder.

Asks nothing of a model but `loss_fn(params, batch) -> scalar` (the mean over
a batch) or `logits_fn(params, images) -> [n, classes]`, from any library on
JAX. Memory is bounded by `chunk`, whatever the number of samples; only a
derivative in the batch, as SDC takes it, keeps what it reads of all of them.

The examples of its functions begin with

    >>> import jax.numpy as jnp
    >>> from dasm_jax import difficulty, losses
    >>> from dasm_jax.types import Batch
    >>> def logits_fn(params, images):
    ...   return images @ params
    >>> def loss_fn(params, batch):
    ...   return losses.cross_entropy(
    ...       logits_fn(params, batch.images), batch.labels)
    >>> def show(values):
    ...   print(*(f'{value:.4f}' for value in values.ravel()))
    >>> params = jnp.eye(2)
    >>> batch = Batch(jnp.array([[2., 1], [1, -1], [1, 0.5]]),
    ...               jnp.array([[1., 0], [1, 0], [0, 1]]))
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dasm_jax import losses, shapes
from dasm_jax.errors import UserError, unknown
from dasm_jax.runtime import devices
from dasm_jax.types import Array, Batch, LogitsFn, LossFn, PyTree

# ---- In pieces

CHUNK = 256


def gradient_chunk(backend: str | None = None) -> int:
  """How many samples' gradients are held at once, if nobody says.

  Args:
    backend: `cpu`, `gpu`, `tpu`; None: what programs are built for.

  Returns:
    8 on a CPU, in whose cache a few weight gradients stay (measured), and 64 on
    an accelerator, which waits for each kernel: of ConvNet-3 84 MB.

  Examples:
    >>> print(difficulty.gradient_chunk('cpu'))
    8
  """
  return 8 if (backend or devices.backend()) == 'cpu' else 64


def chunked(score: Callable[[PyTree, Any], PyTree], params: PyTree,
            batch: PyTree, chunk: int) -> PyTree:
  """`score(params, part) -> [part]` over a batch, `chunk` samples at a time.

  Args:
    score: a function of a `Batch` of exactly `chunk` (or n, if less) samples.
    params: handed through.
    batch: pytree of arrays `[n, …]`.
    chunk: samples at a time.

  Returns:
    `[n]`.

  Examples:
    >>> def sums(params, part):
    ...   return params * part.sum(-1)
    >>> print(difficulty.chunked(sums, 2., jnp.ones((3, 4)), chunk=2))
    [8. 8. 8.]
  """
  _check_flat(batch)
  n = jax.tree.leaves(batch)[0].shape[0]
  chunk = min(chunk, n)
  pad = -n % chunk
  def fold(x):
    # Repeats real samples rather than zeros: nothing odd is ever computed.
    x = jnp.concatenate([x, x[:pad]]) if pad else x
    return x.reshape(-1, chunk, *x.shape[1:])
  # One piece needs no loop around it.
  if n == chunk:
    return score(params, batch)
  parts = jax.lax.map(lambda part: score(params, part),
                      jax.tree.map(fold, batch))
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], parts)


def _check_flat(batch):
  shapes.check_flat('difficulty', batch,
                    instead='x.reshape(-1, *x.shape[2:]) makes both flat')


def _single(function, batch):
  """`function` of a batch of one, over the samples of `batch`."""
  # So a loss that is a mean over a batch is asked for one sample, and a network
  # sees the leading axis that it expects.
  return jax.vmap(lambda one: function(jax.tree.map(lambda x: x[None], one)))(
      batch)


# ---- Scores


def gradient_norms(loss_fn: LossFn, params: PyTree, batch: Batch,
                   chunk: int | None = None) -> Array:
  """`|grad_params loss(params, x_i, y_i)|_2` for each sample (GraNd).

  Args:
    loss_fn: `(params, Batch) -> scalar`, the mean over the batch.
    params: any pytree; all leaves count.
    batch: `Batch` of `n` samples.
    chunk: samples whose gradients are held at once; None: `gradient_chunk`.

  Returns:
    `[n]`; differentiable in the batch, with gradient 0 where a norm is 0.

  Examples:
    >>> norms = difficulty.gradient_norms(loss_fn, params, batch)
    >>> show(norms)
    0.8505 0.2384 0.9842

  Source: Paul et al. (2107.07075), definition 2.1; SDC (2408.12483).
  """
  def score(params, part):
    gradient = jax.grad(loss_fn)
    return _single(lambda one: losses.tree_norm(gradient(params, one)), part)
  return chunked(score, params, batch, chunk or gradient_chunk())


def sample_losses(loss_fn: LossFn, params: PyTree, batch: Batch,
                  chunk: int = CHUNK) -> Array:
  """`loss(params, x_i, y_i)` for each sample, `[n]`.

  Args:
    loss_fn: `(params, Batch) -> scalar`.
    params: any pytree.
    batch: `Batch` of `n` samples.
    chunk: samples at a time.

  Returns:
    `[n]`.

  Examples:
    >>> show(difficulty.sample_losses(loss_fn, params, batch))
    0.3133 0.1269 0.9741
  """
  def score(params, part):
    return _single(lambda one: loss_fn(params, one), part)
  return chunked(score, params, batch, chunk)


def el2n(logits_fn: LogitsFn, params: PyTree, batch: Batch, chunk: int = CHUNK
         ) -> Array:
  """`|softmax(logits_i) - y_i|_2` for each sample, `[n]` (2107.07075).

  Args:
    logits_fn: `(params, images) -> [n, classes]`.
    params: any pytree.
    batch: `Batch` of `n` samples.
    chunk: samples at a time.

  Returns:
    `[n]` in [0, sqrt(2)].

  Examples:
    >>> show(difficulty.el2n(logits_fn, params, batch))
    0.3803 0.1686 0.8803
  """
  def score(params, part):
    p = jax.nn.softmax(logits_fn(params, part.images))
    return losses.norm(p - part.labels, axis=-1)
  return chunked(score, params, batch, chunk)


def margin(logits_fn: LogitsFn, params: PyTree, batch: Batch, chunk: int = CHUNK
           ) -> Array:
  """`max_{c != y} p_c - p_y` for each sample, `[n]` in [-1, 1].

  y is the label's largest entry; 1 is confidently wrong.

  Args:
    logits_fn: `(params, images) -> [n, classes]`.
    params: any pytree.
    batch: `Batch` of `n` samples.
    chunk: samples at a time.

  Returns:
    `[n]` in [-1, 1].

  Examples:
    >>> show(difficulty.margin(logits_fn, params, batch))
    -0.4621 -0.7616 0.2449
  """
  def score(params, part):
    p = jax.nn.softmax(logits_fn(params, part.images))
    own = jax.nn.one_hot(part.labels.argmax(-1), p.shape[-1], dtype=p.dtype)
    return jnp.max(jnp.where(own > 0, -1, p), -1) - jnp.sum(p * own, -1)
  return chunked(score, params, batch, chunk)


def fisher(logits_fn: LogitsFn, params: PyTree, batch: Batch,
           chunk: int | None = None) -> Array:
  """`sum_c p_c |grad_params log p_c|_2^2`, the trace of a sample's Fisher.

  The expectation is over the network's own labels, p = softmax(logits): the
  score asks for no label, and what the network is sure of scores low, be it
  right or wrong. It takes as many backward passes as there are classes.

  Args:
    logits_fn: `(params, images) -> [n, classes]`.
    params: any pytree; all leaves count.
    batch: `Batch` of `n` samples; its labels are not read.
    chunk: samples whose gradients, of one class at a time, are held at once;
      None: `gradient_chunk`.

  Returns:
    `[n]`.

  Examples:
    >>> show(difficulty.fisher(logits_fn, params, batch))
    1.9661 0.4200 0.5875

  Source: the Fisher information of p(y | x), see Martens (1412.1193); its
  trace over data, Achille et al. (1711.08856).
  """
  def one(sample):
    log_p, pull = jax.vjp(lambda params: jax.nn.log_softmax(
        logits_fn(params, sample.images))[0], params)
    # Class by class: the memory of one gradient, whatever the classes.
    squares = jax.lax.map(lambda c: _tree_square(pull(c)),
                          jnp.eye(len(log_p), dtype=log_p.dtype))
    return jnp.sum(jnp.exp(log_p) * squares)
  return chunked(lambda params, part: _single(one, part), params, batch,
                 chunk or gradient_chunk())


def mean_gradient(loss_fn: LossFn, params: PyTree, batch: Batch,
                  chunk: int = CHUNK) -> PyTree:
  """`grad_params loss` of a batch, in the memory of `chunk` samples.

  Args:
    loss_fn: `(params, Batch) -> scalar`, the mean over the batch.
    params: any pytree.
    batch: `Batch` of `n` samples.
    chunk: samples at a time.

  Returns:
    A pytree like `params`.

  Examples:
    >>> show(difficulty.mean_gradient(loss_fn, params, batch))
    -0.0115 0.0115 0.0538 -0.0538
  """
  _check_flat(batch)
  n = len(batch.images)
  chunk = min(chunk, n)
  gradient = jax.grad(loss_fn)
  whole = jax.tree.map(
      lambda x: x[:n - n % chunk].reshape(-1, chunk, *x.shape[1:]), batch)
  # A mean over all is the mean of the pieces, each by its share; the rest is
  # one of its own, as no image may count twice.
  def add(total, part):
    return _add(total, gradient(params, part), chunk / n), None
  total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), whole)
  if n % chunk:
    rest = jax.tree.map(lambda x: x[n - n % chunk:], batch)
    total = _add(total, gradient(params, rest), n % chunk / n)
  return total


def influence(loss_fn: LossFn, params: PyTree, batch: Batch, reference: PyTree,
              chunk: int | None = None) -> Array:
  """`-<grad loss(x_i, y_i), reference>`: what training on a sample costs.

  A step of SGD on sample i changes the loss of the reference samples by this
  times the rate, to first order: above 0 the sample works against them and is
  hard, below 0 it helps them. It is TracIn's influence of one checkpoint,
  less the rate and with the sign turned; sum over checkpoints for theirs.

  Args:
    loss_fn: `(params, Batch) -> scalar`, the mean over the batch.
    params: any pytree; all leaves count.
    batch: `Batch` of `n` samples.
    reference: like `params`, the `mean_gradient` of the reference samples.
    chunk: samples whose gradients are held at once; None: `gradient_chunk`.

  Returns:
    `[n]`; its mean over the reference samples is `-|reference|^2`.

  Examples:
    >>> whole = difficulty.mean_gradient(loss_fn, params, batch)
    >>> found = difficulty.influence(loss_fn, params, batch, whole)
    >>> show(found)
    0.0165 -0.0156 -0.0191

  Source: Pruthi et al. (2002.08484), TracInCP.
  """
  def one(sample):
    return -_tree_dot(jax.grad(loss_fn)(params, sample), reference)
  return chunked(lambda params, part: _single(one, part), params, batch,
                 chunk or gradient_chunk())


def _add(total, tree, weight):
  return jax.tree.map(lambda a, b: a + weight * b, total, tree)


def _tree_dot(one, other):
  return sum(jax.tree.leaves(jax.tree.map(
      lambda a, b: jnp.sum(a * b), one, other)))


def _tree_square(tree):
  return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree))


# ---- Scores and penalties by name

SCORES = {
    'gradient_norm': lambda loss_fn, logits_fn: _bind(gradient_norms, loss_fn),
    'loss': lambda loss_fn, logits_fn: _bind(sample_losses, loss_fn),
    'el2n': lambda loss_fn, logits_fn: _bind(el2n, logits_fn),
    'margin': lambda loss_fn, logits_fn: _bind(margin, logits_fn),
    'fisher': lambda loss_fn, logits_fn: _bind(fisher, logits_fn),
    'influence': lambda loss_fn, logits_fn: functools.partial(
        influence, loss_fn),
}
REFERRING = ('influence',)  # those that read the reference


def _bind(score, function):
  return lambda params, batch, reference=None: score(function, params, batch)


def score(name: str, loss_fn: LossFn, logits_fn: LogitsFn
          ) -> Callable[..., Array]:
  """The score called `name` as `(params, batch, reference) -> [n]`.

  Args:
    name: a key of `SCORES`.
    loss_fn: `(params, Batch) -> scalar`.
    logits_fn: `(params, images) -> [n, classes]`.

  Returns:
    The function; `reference` is for `REFERRING` scores a `mean_gradient` at the
    same params, the others do without.

  Raises:
    UserError: an unknown name.

  Examples:
    >>> el2n = difficulty.score('el2n', loss_fn, logits_fn)
    >>> show(el2n(params, batch))
    0.3803 0.1686 0.8803
  """
  if name not in SCORES:
    raise unknown('difficulty score', name, SCORES)
  return SCORES[name](loss_fn, logits_fn)


def penalty(loss_fn: LossFn, kind: str = 'sample_norm',
            logits_fn: LogitsFn | None = None) -> Callable[..., Array]:
  """Difficulty of a batch as one number, what SDC adds to a loss.

  sample_norm: `mean_i |g_i|`; sample_square: `mean_i |g_i|^2`; batch_norm:
  `|mean_i g_i|`; batch_square: its square; with g_i the sample's gradient.
  loss, el2n, margin, fisher, influence: the mean of that score.

  Args:
    loss_fn: `(params, Batch) -> scalar`, the mean over the batch.
    kind: a key of `PENALTIES`.
    logits_fn: `(params, images) -> [n, classes]`, for el2n, margin and fisher.

  Returns:
    `(params, batch, reference=None) -> scalar`, differentiable in the batch;
    `reference` is for `REFERRING` kinds a `mean_gradient` of real samples at
    the same params.

  Raises:
    UserError: an unknown kind, or one that reads logits without `logits_fn`;
      by the function, one that refers to real samples without `reference`.

  Examples:
    >>> harder = difficulty.penalty(loss_fn, 'sample_norm')
    >>> print(f'{harder(params, batch):.4f}')
    0.6910
  """
  if kind not in PENALTIES:
    raise unknown('penalty', kind, PENALTIES)
  if kind in OF_LOGITS and logits_fn is None:
    raise UserError(f'penalty {kind!r} reads logits; give logits_fn')
  of_batch = PENALTIES[kind]

  def hardness(params, batch, reference=None):
    _check_flat(batch)
    if kind not in REFERRING:
      function = logits_fn if kind in OF_LOGITS else loss_fn
      return of_batch(function, params, batch)
    if reference is None:
      raise UserError(f'penalty {kind!r} asks what samples do to real ones; '
                      'give reference, their mean_gradient')
    return of_batch(loss_fn, params, batch, reference)
  return hardness


def _square(loss_fn, params, batch: Batch):
  def score(params, part):
    return _single(lambda one: _tree_square(jax.grad(loss_fn)(params, one)),
                   part)
  return chunked(score, params, batch, gradient_chunk())


# Of a batch of one class the norm of the mean gradient is much like that of a
# sample (13 to 23 against 23), of a mixed batch a tenth of it: measured on
# CIFAR-10. So a weight means another strength in each.
PENALTIES = {
    'sample_norm': lambda f, p, b: gradient_norms(f, p, b).mean(),
    'sample_square': lambda f, p, b: _square(f, p, b).mean(),
    'batch_norm': lambda f, p, b: losses.tree_norm(jax.grad(f)(p, b)),
    'batch_square': lambda f, p, b: _tree_square(jax.grad(f)(p, b)),
    'loss': lambda f, p, b: f(p, b),
    'el2n': lambda f, p, b: el2n(f, p, b).mean(),
    'margin': lambda f, p, b: margin(f, p, b).mean(),
    'fisher': lambda f, p, b: fisher(f, p, b).mean(),
    # Of the mean gradient: one pass, as the score is linear in gradients.
    'influence': lambda f, p, b, r: -_tree_dot(jax.grad(f)(p, b), r),
}
OF_LOGITS = ('el2n', 'margin', 'fisher')  # the others ask for a loss
# What they cost: no gradient in the parameters, or one for each sample.
OF_OUTPUTS = ('loss', 'el2n', 'margin')
OF_SAMPLES = ('sample_norm', 'sample_square', 'fisher')
