r"""Which architecture is best: a search where a set stands in for the data.

  python -m dasm_jax.uses.search --set=runs/x --architectures=100

ConvNets of different width, depth, norm, activation and pooling are trained on
the set, on as many random real images, on all real images for as many steps as
on the set (early stopping), and on all real images for --full_epochs, which
tells what each is worth. Of the first three is told

  spearman, kendall   the rank correlation with the last, ± its standard error
                      over architectures (from 1000 bootstrap samples)
  best ten            the same among the tenth that is best in the end, which
                      is what a search is about
  lost                how much less accurate the architecture is in the end that
                      comes out first, than the best one

The architectures are drawn from the grid of DC: width a quarter to twice that
of the set's network (128 is DC's), depth 1 to 4 as far as the images can be
halved, five norms, three activations, three poolings. Each is trained
--networks times. Writes search.json. After a stop the same command goes on.

Source: the search of DC (2006.05929), whose 720 networks have width 32 to 256.
"""

import itertools

import numpy as np
from scipy import stats

from dasm_jax import models, streams
from dasm_jax.errors import UserError
from dasm_jax.evaluate import subjects
from dasm_jax.runtime import cli, text
from dasm_jax.streams import Stream
from dasm_jax.training import recipes
from dasm_jax.uses import bench as benches

ROWS = 'search.json'
PROXIES = ('set', 'random', 'early')
KINDS = (*PROXIES, 'full')
GRID = {
    'width': (0.25, 0.5, 1, 2),
    'depth': (1, 2, 3, 4),
    'norm': ('none', 'batch', 'layer', 'instance', 'group'),
    'activation': ('sigmoid', 'relu', 'leakyrelu'),
    'pooling': ('none', 'max', 'avg'),
}
SAMPLES = 1000  # of the bootstrap
LEAST = 4  # architectures whose ranks say anything

# ---- The architectures


def grid(shape, classes, width):
  """All ConvNets of the grid that fit, a list of settings.

  Args:
    shape: of the images; classes: how many; width: that is multiplied.
  """
  found = []
  for values in itertools.product(*GRID.values()):
    settings = dict(zip(GRID, values, strict=True))
    settings['width'] = int(width * settings['width'])
    try:
      models.build('convnet', shape=shape, classes=classes, **settings)
    except UserError:
      continue  # deeper than these images can be halved
    found.append(settings)
  return found


def drawn(settings, count, seed):
  """Some of the architectures, in a random order that begins the same."""
  rng = np.random.default_rng(streams.seed(seed, Stream.ARCHITECTURES))
  return [settings[i] for i in rng.permutation(len(settings))[:count]]


# ---- How well they are ranked


def ranked(proxy, full):
  """How well one accuracy of each architecture tells of another.

  Args:
    proxy, full: `[n]` accuracies.

  Returns:
    `{spearman, kendall, best_ten, lost}`, of which the first two are `(value,
    standard error)`; NaN where all of one are alike. `best_ten` is Spearman's
    among the best tenth (at least `LEAST`), `lost` a difference of accuracies.
  """
  proxy, full = np.asarray(proxy), np.asarray(full)
  def spearman(rows):
    return _correlation(stats.spearmanr, proxy[rows], full[rows])
  def kendall(rows):
    return _correlation(stats.kendalltau, proxy[rows], full[rows])
  rng, n = np.random.default_rng(0), len(full)
  samples = [rng.integers(0, n, n) for _ in range(SAMPLES)]
  best = np.argsort(-full, kind='stable')[:max(LEAST, n // 10)]
  def both(of):
    value = of(np.arange(n))
    error = np.nan if np.isnan(value) else np.nanstd([of(x) for x in samples])
    return value, float(error)
  return {'spearman': both(spearman), 'kendall': both(kendall),
          'best_ten': spearman(best),
          'lost': float(full.max() - full[np.argmax(proxy)])}


def _correlation(of, a, b):
  # One of them constant, and there are no ranks.
  if np.ptp(a) == 0 or np.ptp(b) == 0:
    return float('nan')
  return float(of(a, b).statistic)


# ---- The command


def early_epochs(recipe, images, real):
  """Epochs on all real images that have about the steps of those on a set.

  Args:
    recipe: a `recipes.Recipe` of the set; images: of the set; real: images.
  """
  steps = (recipe.epochs + recipe.extra) * -(-images // recipe.batch)
  return max(1, round(steps / -(-real // recipe.batch)))


def _parser():
  parser = benches.parser_of('search', __doc__, ROWS)
  add = parser.add_argument
  add('--architectures', type=cli.int_at_least(LEAST), default=100, metavar='N',
      help='how many are drawn from the grid (default 100)')
  add('--full_epochs', type=cli.int_at_least(1, recipes.MOST_EPOCHS),
      default=100, metavar='N', help='on all real images, of what the others '
      'are held against (default 100)')
  return parser


def run(options):
  """Measures what parsed arguments ask for."""
  found = []
  def rows(subject):
    set_ = subject.set
    width = set_.network['width'] if set_.network['name'] == 'convnet' else 128
    found.extend(drawn(
        grid(set_.shape, len(set_.class_names), width),
        options.architectures, options.seed))
    return len(KINDS) * len(found)
  with benches.opened(options, ROWS, rows) as bench:
    if len(found) < options.architectures:
      bench.screen.say(f'--architectures={options.architectures}: the grid has '
                       f'{len(found)} that fit these images')
    _measure(options, bench, found)


def _measure(options, bench, architectures):
  asked = _recipes(options, bench)
  for kind in PROXIES:
    bench.screen.say(f'{kind}: {text.plural(asked[kind][1].epochs, "epoch")}')
  values = {kind: [] for kind in KINDS}
  for number, settings in enumerate(architectures):
    for kind in KINDS:
      values[kind].append(_row(bench, settings, kind, *asked[kind])['mean'])
    bench.screen.say(
        f'{number + 1} of {len(architectures)}: ' + ' '.join(
            map(str, settings.values())) + ': ' + ', '.join(
                f'{kind} {values[kind][-1]:.1%}' for kind in KINDS))
  rows = []
  for kind in PROXIES:
    found = ranked(values[kind], values['full'])
    rows.append((kind, *(f'{found[x][0]:.2f} ± {found[x][1]:.2f}' for x in (
        'spearman', 'kendall')), f'{found["best_ten"]:.2f}',
                 f'{found["lost"]:.2%}', f'{asked[kind][2]:.2g}'))
  bench.screen.say('\n' + text.table(rows, (
      'trained on', 'spearman', 'kendall', 'best ten', 'lost', 'cost')))
  bench.screen.say(
      f'against {text.plural(options.full_epochs, "epoch")} on all real images,'
      f' of {len(architectures)} architectures; cost: images looked at, of '
      'those of full training')


def _recipes(options, bench):
  """Of each kind `(of, recipe, cost)`; of: of `Comparison.trained`."""
  whole, set_ = bench.whole, bench.subject.set
  real = len(whole.data.labels)
  images = len(whole.batch().labels)
  full, early = (subjects.recipe_for(set_, epochs)._replace(
      lr=whole.real_recipe.lr) for epochs in (
          options.full_epochs, early_epochs(whole.recipe, images, real)))
  def cost(recipe, n):
    return (recipe.epochs + recipe.extra) * n / (
        (full.epochs + full.extra) * real)
  few = whole.ipc * len(set_.class_names)
  return {'set': ('set', whole.recipe, cost(whole.recipe, images)),
          'random': ('random', whole.real_recipe, cost(whole.recipe, few)),
          'early': ('full', early, cost(early, real)),
          'full': ('full', full, 1.)}


def _row(bench, settings, kind, of, recipe, cost):
  del cost
  set_, whole = bench.subject.set, bench.whole
  network = models.build('convnet', shape=set_.shape,
                         classes=len(set_.class_names), **settings)
  whole = whole._replace(network=network, recipe=recipe, real_recipe=recipe)
  what = bench.identity(
      of, use='search', settings=settings, recipe=recipe._asdict(),
      ipc=None if of == 'full' else whole.ipc)
  def measure():
    with bench.trained(
        what, recipe, network, lambda start, seen: whole.accuracies(
            of, start=start, seen=seen), whole.networks) as accuracies:
      return accuracies
  return bench.measured(what, whole.networks, measure)


main, command = benches.entry_points(_parser, run)


if __name__ == '__main__':
  command()
