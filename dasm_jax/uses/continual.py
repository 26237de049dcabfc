r"""Classes come step by step, and a set is all that is remembered of them.

  python -m dasm_jax.uses.continual --set=runs/x --steps=5

At each step more classes are known, by the set's images of them; networks are
tested on the test images of all classes known so far, among those classes.
Beside the set as many random real images a class, another subset for each
network. The order of the classes is that of NumPy's seeds 0, 1, …, as in the
programs of DM and IDC. --protocol is one of

  dm   at each step fresh networks are trained on all that is remembered
  idc  networks go on from those of the step before, whose answers for classes
       that were known then they keep: cross-entropy + 4 n KL, where KL is the
       mean over images and those n classes, at temperature 2

The set was distilled from all classes at once: methods that match each class
alone (DC, DSA, IDC, DM) would have made the same images step by step but for
chance, the others not. Writes continual.json and continual.png. After a stop
the same command goes on.

Source: the experiments of DM (2110.04181) and IDC (2205.14959), and their
programs. Theirs are CIFAR-100 in 5 or 10 steps at 20 images a class.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import losses
from dasm_jax.distill import figures
from dasm_jax.errors import UserError
from dasm_jax.evaluate import comparison
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import cli, devices, paths, text
from dasm_jax.training import ensemble, scoring, train_step
from dasm_jax.types import Network, SoftLabelled, Variables
from dasm_jax.uses import bench as benches

ROWS = 'continual.json'
PROTOCOLS = ('dm', 'idc')
KINDS = ('set', 'random')
TEMPERATURE = 2.0  # of what is kept, in IDC's program

# ---- Which classes are known when


def class_steps(classes, steps, seed):
  """Which classes come at each step, `[steps]` arrays of nearly one size.

  Source: the published programs shuffle by NumPy's old generator.
  """
  order = np.random.RandomState(seed).permutation(classes)
  return np.array_split(order, steps)


def known_after(groups, classes):
  """Which classes are known after each step, `[steps, classes]` bool."""
  known = np.zeros((len(groups), classes), bool)
  for step, group in enumerate(groups):
    known[step:, group] = True
  return known


def part_of(batch, known):
  """The images of known classes of a set as networks see it.

  Args:
    batch: a `Batch` or `SoftLabelled` of as many images of each class, class by
      class.
    known: `[classes]` bool, not traced.

  Returns:
    The same kind; labels say nothing of the other classes, and add up as
    before.
  """
  rows = np.flatnonzero(np.repeat(known, len(batch.labels) // len(known)))
  labels = batch.labels[rows] * known
  whole = batch.labels[rows].sum(-1, keepdims=True)
  part = batch._replace(images=batch.images[rows], labels=(
      labels / labels.sum(-1, keepdims=True) * whole))
  if isinstance(batch, SoftLabelled):
    part = part._replace(logits=jnp.where(
        known, batch.logits[:, rows], -jnp.inf))
  return part


# ---- Networks that keep what they knew


class Carried(NamedTuple):
  """The `stats` of a network that carries the one it was.

  now: its own running averages. before: `Variables` of the step before.
  """
  now: Any
  before: Variables


def carrying(network):
  """A `Network` whose variables carry those of the step before."""
  def init(key):
    variables = network.init(key)
    return variables._replace(stats=Carried(variables.stats, variables))

  def apply(variables, images, train=False):
    logits, now = network.apply(
        variables._replace(stats=variables.stats.now), images, train)
    return logits, variables.stats._replace(now=now)
  return Network(init, apply, *network[2:])


def keeping_step(network, known, before):
  """`train_step.sgd_step` of a network of `carrying` by IDC's loss.

  Args:
    network: the `Network` that is carried.
    known, before: `[classes]` bool, not traced: classes that are known, and
      that were at the step before.
  """
  count = int(before.sum())

  def loss(params, variables, batch, wrapped):
    logits, stats = wrapped.apply(
        variables._replace(params=params), batch.images, train=True)
    # The head is as wide as there are classes known.
    value = losses.cross_entropy(logits[:, known], batch.labels[:, known])
    if count:
      old, _ = network.apply(variables.stats.before, batch.images)
      value += kept_loss(logits[:, before], old[:, before])
    return value, stats

  def step(wrapped, tx, variables, opt_state, batch, lr):
    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(
        variables.params, variables, batch, wrapped)
    return (*train_step.apply_update(
        tx, variables._replace(stats=stats), opt_state, gradient, lr), value)
  return step


def kept_loss(logits, old):
  """`n T^2 mean KL(softmax(old / T) || softmax(logits / T))`, T = 2.

  Args:
    logits, old: `[images, n]`, of the n classes that were known before.

  Returns:
    A scalar; the mean is over images and classes.
  """
  target = jax.nn.log_softmax(old / TEMPERATURE)
  found = jax.nn.log_softmax(logits / TEMPERATURE)
  each = (jnp.exp(target) * (target - found)).sum(-1)
  return TEMPERATURE ** 2 * each.mean()


# ---- What is measured


def accuracies_among(network):
  """`(variables [k, …], known, test) -> [k]`: of test images of known classes.

  The answer is the known class that the network finds most likely.
  """
  def block(indices, given, test):
    networks, known = given
    some = sources.take(test, indices)
    def right(variables):
      logits = jnp.where(
          known, network.apply(variables, some.images)[0], -jnp.inf)
      return (logits.argmax(-1) == test.labels[indices]).astype(jnp.float32)
    return jax.lax.map(right, networks).T
  run = scoring.map_images(block)

  def call(variables, known, test):
    hits = run(devices.replicate((variables, jnp.asarray(known))), test)
    return hits[known[np.asarray(test.labels)]].mean(0, np.float64)
  return call


class Course(NamedTuple):
  """One order of the classes, of the set or of random images.

  of: of `KINDS`. protocol: of `PROTOCOLS`. known: see `known_after`. held: an
  `ExitStack` that networks are kept in.
  """
  bench: benches.Bench
  of: str
  protocol: str
  known: np.ndarray
  held: contextlib.ExitStack

  def rows(self, test):
    """The row of each step; test: of `accuracies_among`."""
    trained = functools.cache(self._trained)
    out = []
    for step, known in enumerate(self.known):
      out.append(self.bench.measured(
          self._identity(step), self.bench.whole.networks,
          lambda step=step, known=known: test(
              _bare(trained(step, trained)), known, self.bench.whole.test)))
    return out

  def _identity(self, step):
    whole = self.bench.whole
    recipe = whole.recipe if self.of == 'set' else whole.real_recipe
    # Fresh networks do not care in which order the classes came.
    known = self.known[step:step + 1] if self.protocol == 'dm' else (
        self.known[:step + 1])
    return self.bench.identity(
        self.of, use='continual', protocol=self.protocol, ipc=whole.ipc,
        known=[np.flatnonzero(x).tolist() for x in known],
        settings=self.bench.settings, recipe=recipe._asdict())

  def _trained(self, step, trained):
    """`Variables` of the networks after a step; trained: of the ones before."""
    whole, known, how = self.bench.whole, self.known[step], {}
    recipe = whole.recipe if self.of == 'set' else whole.real_recipe
    network, begin = whole.network, None
    if self.protocol == 'idc':
      before = self.known[step - 1] if step else np.zeros_like(known)
      how = {'step': keeping_step(whole.network, known, before)}
      network = carrying(whole.network)
      if step:
        old = _bare(trained(step - 1, trained))
        begin = ensemble.states_from(recipe, old._replace(
            stats=Carried(old.stats, old)))
    keys = comparison.network_keys(whole.seed, whole.networks)
    train = {'set': self._on_set, 'random': self._on_random}[self.of](
        network, recipe, keys, known, how)
    return self.held.enter_context(self.bench.trained(
        self._identity(step), recipe, network,
        lambda start, seen: train(
            start=begin if start is None else start, seen=seen),
        whole.networks))

  def _on_set(self, network, recipe, keys, known, how):
    part = devices.replicate(part_of(self.bench.whole.batch(), known))
    return functools.partial(
        ensemble.train_on_set(network, recipe, **how), keys, part)

  def _on_random(self, network, recipe, keys, known, how):
    whole = self.bench.whole
    # Those of the evaluation, which have one class after the other.
    chosen = whole.subsets()[:, np.repeat(known, whole.ipc)]
    images = streaming.fetch_local(whole.data, chosen, len(chosen))
    return functools.partial(
        ensemble.train_on_subsets(network, recipe, **how),
        (keys, jnp.asarray(chosen, jnp.int32)), images)


def _bare(variables):
  """Of a network of `carrying` its own variables."""
  stats = variables.stats
  return variables._replace(stats=stats.now) if isinstance(
      stats, Carried) else variables


# ---- The command


def _parser():
  parser = benches.parser_of('continual', __doc__, ROWS)
  add = parser.add_argument
  add('--steps', type=cli.int_at_least(1), default=5, metavar='N',
      help='in which the classes come (default 5)')
  add('--orders', type=cli.int_at_least(1), default=5, metavar='N',
      help='of the classes, to take the mean over (default 5)')
  add('--protocol', choices=PROTOCOLS, default='dm',
      help='what happens at a step (default dm)')
  return parser


def run(options):
  """Measures what parsed arguments ask for."""
  def rows(subject):
    classes = len(subject.set.class_names)
    if options.steps > classes:
      raise UserError(f'--steps={options.steps}: there are {classes} classes; '
                      'give at most as many steps')
    if options.protocol == 'idc' and subject.set.logits is not None:
      raise UserError('--protocol=idc: labels of this set are told for each '
                      'epoch, at a temperature of their own; use dm')
    return len(KINDS) * options.orders * options.steps
  with benches.opened(options, ROWS, rows) as bench:
    _measure(options, bench)


def _measure(options, bench):
  classes = len(bench.subject.set.class_names)
  test, found = accuracies_among(bench.whole.network), {x: [] for x in KINDS}
  for order in range(options.orders):
    known = known_after(class_steps(classes, options.steps, order), classes)
    for of in KINDS:
      with contextlib.ExitStack() as held:
        rows = Course(bench, of, options.protocol, known, held).rows(test)
      found[of].append([row['networks'] for row in rows])
      bench.screen.say(f'order {order + 1} of {options.orders}, {of}: ' + ', '
                       .join(f'{row["mean"]:.2%}' for row in rows))
  # Means over orders and networks: [steps, orders * networks].
  found = {of: np.moveaxis(np.array(x), 1, 0).reshape(options.steps, -1)
           for of, x in found.items()}
  seen = known.sum(1)
  bench.screen.say('\n' + text.table(
      [(int(n), *(f'{found[of][step].mean():.2%} ± {found[of][step].std():.2%}'
                  for of in KINDS)) for step, n in enumerate(seen)],
      ('classes known', *KINDS)))
  bench.screen.say(
      f'test accuracy among the classes known, protocol {options.protocol}; '
      f'{text.plural(options.orders, "order")} times '
      f'{text.plural(options.networks, "network")}')
  if bench.path and not paths.is_remote(bench.path):
    figures.line_plot(
        [int(n) for n in seen],
        {of: (x.mean(1), x.std(1)) for of, x in found.items()},
        bench.path.with_suffix('.png'), 'classes known', 'test accuracy')


main, command = benches.entry_points(_parser, run)


if __name__ == '__main__':
  command()
