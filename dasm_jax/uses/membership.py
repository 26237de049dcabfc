r"""Who was in the training data: membership inference against a set's networks.

  python -m dasm_jax.uses.membership --set=runs/x

An attacker who has a network guesses that the images which it finds easy were
in its data: the score is the loss of an image, the lower the surer. Members are
the real training images that the set was made from, others the test images;
of networks trained on random images, the members are those images themselves.

  auc   how often a member has a lower loss than another: 50 % is a guess
  low   members that are found where one of a hundred others is, too: 1 % is a
        guess. This is what counts: an attack that is sure of a few is one

Also told is how many of the set's images are copies: nearer to a real training
image of any class, in pixels as networks see them, than all but one of a
hundred test images are. A set that begins from real images may have many, and
then no network has to be asked. With --full_epochs also networks trained on all
real images. Writes membership.json. After a stop the same command goes on.

Source: the attack is that of Yeom et al. (1709.01604), its measures those of
Carlini et al. (2112.03570), who show that averages hide what an attack finds.
That sets are private has been claimed (2206.00240) and refuted (2209.14987).
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dasm_jax import difficulty, streams
from dasm_jax.evaluate import subjects
from dasm_jax.pipeline import source as sources
from dasm_jax.pipeline import streaming
from dasm_jax.runtime import cli, devices, text
from dasm_jax.streams import Stream
from dasm_jax.training import recipes, scoring, train_step
from dasm_jax.uses import bench as benches

ROWS = 'membership.json'
MEASURES = ('auc', 'low')
LOW = 0.01  # of the others, who are taken for members
MOST_COPIES = 1000  # images, at most, whose nearest real image is looked for

# ---- The attack


def attack(members, others):
  """How well a score tells members from others.

  Args:
    members: `[n]`, of each the higher the surer; others: `[m]`.

  Returns:
    `{auc, low}`: the share of pairs in which the member has the higher score,
    ties being half of one; the largest share of members above a threshold that
    at most `LOW` of the others are above.
  """
  members, others = np.sort(members), np.sort(others)
  below = np.searchsorted(others, members)
  upto = np.searchsorted(others, members, 'right')
  # Of the others so many may lie above the threshold, which then is the next.
  allowed = int(LOW * len(others))
  threshold = others[len(others) - 1 - allowed]
  return {'auc': float((below + upto).mean() / (2 * len(others))),
          'low': float((members > threshold).mean())}


def losses_of(network):
  """`(variables [k, …], data) -> [n, k]`: the loss of each image as it is."""
  loss = train_step.loss_fn(network)
  def block(indices, networks, data):
    some = sources.take(data, indices)
    return jax.lax.map(lambda variables: difficulty.sample_losses(
        loss, variables, some), networks).T
  run = scoring.map_images(block)
  return lambda variables, data: run(devices.replicate(variables), data)


# ---- Copies


def nearest(images, data):
  """Squared distance of each image to the nearest of a data set.

  Args:
    images: `[q, …]` as networks see them; data: a `Source` or one of
      `streaming`.

  Returns:
    `[q]`, NumPy.
  """
  rows = jnp.asarray(images).reshape(len(images), -1)
  def block(indices, rows, data):
    real = sources.take(data, indices).images.reshape(len(indices), -1)
    # Of numbers of one size, differences of squares would lose what a copy is.
    each = jax.lax.map(lambda row: ((real - row) ** 2).sum(-1).min(), rows)
    return each[None]  # one row a block, of which the least is taken
  return scoring.map_images(block)(devices.replicate(rows), data).min(0)


def copies(bench):
  """Whether each image of a set is as near to a training image as few are.

  Returns:
    The share of the set's images that are, and of those looked at how many.
  """
  whole = bench.whole
  rng = np.random.default_rng(
      streams.seed(whole.seed, Stream.MEASURED_IMAGES))
  def some(n):
    return np.sort(rng.permutation(n)[:MOST_COPIES])
  images = whole.batch().images
  images = images[some(len(images))]
  chosen = some(len(whole.test.labels))
  real = sources.take(streaming.fetch(whole.test, chosen), chosen).images
  mine, theirs = nearest(images, whole.data), nearest(real, whole.data)
  return float((mine < np.quantile(theirs, LOW)).mean()), len(images)


# ---- The command


def _parser():
  parser = benches.parser_of('membership', __doc__, ROWS)
  parser.add_argument(
      '--full_epochs', type=cli.int_at_least(0, recipes.MOST_EPOCHS),
      default=0, metavar='N', help='of networks trained on all real images; 0 '
      'has none (default)')
  return parser


def run(options):
  """Measures what parsed arguments ask for."""
  kinds = ['set', 'random'] + ['full'] * bool(options.full_epochs)
  with benches.opened(
      options, ROWS, lambda subject: len(kinds) * len(MEASURES)) as bench:
    rows = [(kind, *_attacked(bench, kind, options.full_epochs))
            for kind in kinds]
    share, looked = copies(bench)
    bench.screen.wipe()
    bench.screen.say('\n' + text.table(
        [(kind, *(f'{row["mean"]:.2%} ± {row["std"]:.2%}' for row in found))
         for kind, *found in rows],
        ('networks trained on', *MEASURES)))
    bench.screen.say(
        'by the loss of an image; auc: members before others (50% is a guess); '
        f'low: members found where {LOW:.0%} of the others are, too '
        f'({LOW:.0%} is a guess)')
    bench.screen.say(
        f'{share:.1%} of {text.plural(looked, "image")} of the set are nearer '
        f'to a training image than all but {LOW:.0%} of test images are')


def _attacked(bench, kind, full_epochs):
  """The rows of a kind, one for each of `MEASURES`."""
  whole = bench.whole
  recipe = {'set': whole.recipe, 'random': whole.real_recipe,
            'full': subjects.recipe_for(bench.subject.set, full_epochs)
            ._replace(lr=whole.real_recipe.lr)}[kind]
  whole = whole._replace(recipe=recipe, real_recipe=recipe)
  whats = [bench.identity(
      kind, use='membership', measure=measure, settings=bench.settings,
      ipc=None if kind == 'full' else whole.ipc, recipe=recipe._asdict())
           for measure in MEASURES]
  with contextlib.ExitStack() as held:
    @functools.cache
    def found():
      return _attack_networks(whole, kind, held.enter_context(bench.trained(
          whats[0], recipe, whole.network,
          functools.partial(whole.trained, kind), whole.networks)))
    return [bench.measured(what, whole.networks, lambda measure=measure: [
        one[measure] for one in found()])
            for what, measure in zip(whats, MEASURES, strict=True)]


def _attack_networks(whole, kind, trained):
  """`attack` of each network."""
  measure = losses_of(whole.network)
  others, members = (-measure(trained, data) for data in (
      whole.test, whole.data))
  columns = members.T
  if kind == 'random':
    columns = np.take_along_axis(members.T, whole.subsets(), 1)
  return [attack(*pair) for pair in zip(columns, others.T, strict=True)]


main, command = benches.entry_points(_parser, run)


if __name__ == '__main__':
  command()
