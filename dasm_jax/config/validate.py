"""Refusing a configuration before any data are read, and what data lack."""

import math

import numpy as np

from dasm_jax import coresets, data, difficulty, models, segments
from dasm_jax.config import (
  entries,
  name_problem,
  naming,
  schema,
  segment_count,
)
from dasm_jax.errors import UserError
from dasm_jax.methods import registry
from dasm_jax.pipeline import loading
from dasm_jax.runtime.entries import check as check_entry
from dasm_jax.runtime.text import plural


def check(config):
  """Refuses what can be refused before any data are read.

  Raises:
    UserError: one line that names the value, the choices and the way out.
  """
  c = config
  check_settings(c)
  with naming(c, '', f'dataset.{"moved_to" if c.dataset.moved_to else "name"}'):
    data.check(**loading.request_of(c))


def check_given(config, dataset):
  """As `check`, for a data set that is given in Python.

  dataset: a `data.Dataset`.

  Raises:
    UserError: it has another name than the configuration tells; entries that
      choose of a data set that is read.
  """
  check_settings(config)
  d = config.dataset
  if d.name != dataset.name:
    raise UserError(f'--config.dataset.name={d.name} is not the data set that '
                    f'is given, {dataset.name!r}; give both the same name')
  for entry in GIVEN:
    usual = schema.ENTRIES[f'dataset.{entry}'].default
    if d[entry] != usual:
      raise UserError(f'--config.dataset.{entry}={d[entry]} is of a data set '
                      'that is read, and here its arrays are given; leave it '
                      f'at {usual!r}, and give what you want')


# What these ask for is done where a data set is read.
GIVEN = ('moved_to', 'data_dir', 'size', 'resize', 'test_crop', 'background',
         'holdout', 'classes', 'statistics', 'stream', 'workers', 'cache')


def check_streamed(config):
  """Refuses what cannot be done with images that are read as they are used.

  Raises:
    UserError: whitening, which is by all images; a method whose state alone
      tells what it looks at.
  """
  loading.check_whitening(config.dataset.zca)
  if config.method.get('watch_images'):
    raise UserError(
        f'method {config.method.name!r} looks at real images by what it finds, '
        f'{loading.STREAMED}; train by counts with --config.method.watch_images'
        f'=0, choose another method, {loading.NEVER}')


def check_settings(c):
  """As `check`, without a look at where the data are."""
  problem = name_problem(c)
  if problem:
    raise UserError(f'the configuration has {problem}')
  _check_start(c)
  # First of all, so that whatever follows may take each entry for what it says.
  for name, value in entries(c):
    if name in schema.ENTRIES:
      check_entry(name, value, schema.ENTRIES[name])
  if not c.eval.lr and 'lr_start' not in c.method:
    raise UserError('--config.eval.lr=0 takes the rate that was learned, but '
                    f'method {c.method.name} learns none; set one, or -1 for '
                    'that of the recipe')
  registry.check_method(c.method)
  _check_network(c.network)
  check_phases(c)
  _check_experts(c)
  _check_correction(c.sdc, c.method)
  if c.method.get('begin') == 'judges' and c.method.pretrained:
    raise UserError(f'--config.method.begin=judges and --config.method.'
                    f'pretrained={c.method.pretrained} are two beginnings of '
                    'the same networks; set pretrained=0, or begin=noise')
  if c.syn.init in coresets.CORESETS:
    with naming(c, 'coreset'):
      coresets.check_skip(c.syn.init, c.coreset.skip)
  plan = plan_segments(c)
  _check_rates(c, len(plan))
  _check_crops(c, plan)
  moving = sum(map(bool, c.segments.rates)) or len(plan)
  if 0 < c.method.steps < moving:
    raise UserError(f'--config.method.steps={c.method.steps} is fewer than the '
                    f'{moving} segments; give each at least one')


def _check_start(c):
  """Tells how to begin with the images of coresets that are windows."""
  if c.syn.init in registry.METHODS and c.syn.init in segments.WINDOWS and (
      c.syn.init not in coresets.CORESETS):
    raise UserError(f'--config.syn.init={c.syn.init} is a window; set '
                    f'--config.segments.window={c.syn.init} and --config.syn.'
                    'init=easiest, or real: random ones of it')
  if c.syn.init == 'window':
    raise UserError('--config.syn.init=window is another name of --config.syn.'
                    'init=highest --config.coreset.skip=0.7; set these')


def check_phases(c, network=None):
  """Classes may be distilled in parts only where they learn apart.

  network: that is matched, once it is built. Raises `UserError`.
  """
  if c.syn.phases == 1 or registry.classes_apart(c.method, network):
    return
  reason, way = 'looks at all of them at once', 'idc or dm'
  if registry.classes_apart(c.method):
    reason, way = 'with batch norm looks at all of them at once', (
        'a network without')
  elif registry.match_of(c.method).apart:
    reason, way = 'trains its networks on them', (
        f'{way}, --config.method.train_on=real')
  raise UserError(
      f'--config.syn.phases={c.syn.phases} distils classes one part after '
      f'the other, but method {c.method.name} {reason}; choose {way}, or set 1')


def _check_correction(sdc, method):
  """SDC's strength is a weight or a ratio, and its penalty can be known."""
  family = registry.family_of(method)
  weight = max(sdc.weight, sdc.end_weight) > 0
  ratio = max(sdc.ratio, sdc.end_ratio) > 0
  # Students and recovered images never meet real ones.
  if (sdc.penalty in difficulty.REFERRING and family.synthesises
      and family is not registry.MATCHING
      and (weight or ratio)):
    raise UserError(
        f'--config.sdc.penalty={sdc.penalty} asks what images do to real ones, '
        f'but method {method.name} draws none while it distils; choose '
        f'{", ".join(x for x in difficulty.PENALTIES if x != sdc.penalty)}')
  if weight and ratio:
    raise UserError(f'--config.sdc.weight={sdc.weight} and --config.sdc.ratio'
                    f'={sdc.ratio}, or .end_weight={sdc.end_weight} and '
                    f'.end_ratio={sdc.end_ratio}, are two ways to say one '
                    'thing; set one')


def _check_network(network):
  """A flag may change the network only within its settings."""
  # The entries are those of the network that the config file chose.
  known = models.settings_of(network.name)
  if set(network) - {'name', 'dtype', *known}:
    raise UserError(f'--config.network.name={network.name} changes the name '
                    'alone; ask for --config=FILE.py:network='
                    f'{network.name}')


def _check_experts(c):
  if 'experts' in c:
    registry.check_experts(c.method, c.experts)
    if '://' in c.experts.dir:
      raise UserError(f'--config.experts.dir={c.experts.dir} must be a '
                      'directory here, whose files are read in parts; without '
                      'it those of a gs:// workdir are kept there')
    return
  for path, values, other in (('syn.init', ('known',), 'real'),
                              ('syn.labels', ('experts', 'expert'), 'hard')):
    group, name = path.split('.')
    if c[group][name] in values:
      raise UserError(f'--config.{path}={c[group][name]} asks experts, which '
                      f'method {c.method.name} has none of; use {other}')


def plan_segments(c):
  """The segments of a configuration; raises `UserError` if none are."""
  if c.segments.number > c.syn.ipc:
    raise UserError(f'--config.segments.number={c.segments.number} does not '
                    f'split --config.syn.ipc={c.syn.ipc}; choose from 1 to '
                    f'{c.syn.ipc}, or 0: by ipc')
  shares = c.segments.shares
  # What does not add up was mistyped, or is meant for another number of images.
  if shares and not any(math.isclose(sum(shares), whole, rel_tol=1e-6)
                        for whole in (1, 100, c.syn.ipc)):
    raise UserError(f'--config.segments.shares={shares} add up to '
                    f'{sum(shares):g}; make them 1, 100, or '
                    f'--config.syn.ipc={c.syn.ipc}')
  if shares and len(shares) > c.syn.ipc:
    raise UserError(f'--config.segments.shares={shares} are {len(shares)}, '
                    f'more than --config.syn.ipc={c.syn.ipc}; give fewer')
  if shares and c.segments.number not in (0, len(shares)):
    raise UserError(f'--config.segments.shares={shares} are {len(shares)}, but '
                    f'--config.segments.number={c.segments.number}; set 0')
  return segments.plan(c.syn.ipc, segment_count(c), shares)


def _check_rates(c, number):
  """Refuses rates of segments that there are not, or that mean nothing."""
  rates, s = c.segments.rates, c.segments
  if rates and len(rates) != number:
    raise UserError(f'--config.segments.rates={rates} are {len(rates)}, but '
                    f'there are {plural(number, "segment")}; give one each')
  if rates and not any(rates):
    raise UserError(f'--config.segments.rates={rates} move no image; take a '
                    'coreset, such as method=frontier')
  if rates and not all(rates) and c.method.get('relabel') and (
      not c.method.teacher):
    raise UserError(f'--config.segments.rates={rates}: a segment that is not '
                    'learned trains no teacher for its labels; set '
                    '--config.method.relabel=False or .teacher')
  if s.networks and registry.family_of(c.method) is not registry.MATCHING:
    raise UserError(f'--config.segments.networks={s.networks}: method '
                    f'{c.method.name} begins no networks between sweeps; set 0')


def least_window(c, width):
  """The fewest real images a class of a window for so many stored images."""
  # A batch without repeats, and twice what the segment can begin with.
  return max(c.method.get('batch', 0), 2 * width * first_cells(c))


def first_cells(c):
  """Real images that a stored one begins as, or crops of them."""
  return (c.syn.factor * (c.coreset.cells if c.syn.init == 'rded' else 1)) ** 2


def cell_flags(c):
  """The entries that say how many real images a stored one begins as."""
  flags = f'--config.syn.factor={c.syn.factor}'
  if c.syn.init == 'rded':
    flags += f' and --config.coreset.cells={c.coreset.cells}'
  return flags


def _check_crops(c, plan):
  """At most one crop of each image of the pool is taken."""
  asked = max(segment.width for segment in plan) * first_cells(c)
  if c.syn.init == 'rded' and asked > c.coreset.pool:
    raise UserError(
        f'--config.coreset.pool={c.coreset.pool} images a class that are '
        f'cropped, but {asked} crops are asked for, as --config.syn.ipc='
        f'{c.syn.ipc} at {cell_flags(c)}; raise the pool to that')


def check_class_sizes(c, dataset):
  """Refuses a data set with a class smaller than what a step asks of it.

  All that does not fit is told at once. dataset: a `data.Dataset`.
  """
  faults = [*_set_faults(c, dataset), *_batch_faults(c, dataset)]
  if faults:
    raise UserError('; and '.join(faults))


def smallest_class(dataset):
  """`(how many images the smallest class has, how it is called)`."""
  counts = np.bincount(dataset.train.labels,
                       minlength=len(dataset.class_names))
  least = int(counts.argmin())
  return int(counts[least]), f'class {dataset.class_names[least]!r}'


def _set_faults(c, dataset):
  """Yields why there are too few images for those of the set, at most once."""
  whole, name = smallest_class(dataset)
  # Coresets take no image twice; other first images repeat where a class is
  # too small.
  each = first_cells(c)
  wanted = c.syn.ipc * each
  once = c.syn.init in coresets.CORESETS
  left = whole - coresets.skipped(whole, c.coreset.skip)
  if c.syn.ipc > whole:
    yield (f'--config.syn.ipc={c.syn.ipc} images a class, but {name} has '
           f'{whole} real ones; set at most that')
  elif wanted > whole and (
      once or c.syn.init == 'rded' or not (
          registry.family_of(c.method).synthesises)):
    yield (f'--config.syn.ipc={c.syn.ipc} images a class, of {each} real ones '
           f'each at {cell_flags(c)}, but {name} has {whole}; lower one of '
           'them')
  elif once and wanted > left:
    yield (f'--config.coreset.skip={c.coreset.skip} of the {whole} images of '
           f'{name} leaves {left}, but --config.syn.ipc={c.syn.ipc} of '
           f'--config.syn.factor={c.syn.factor} takes {wanted}; lower it, or '
           f'skip at most {(whole - wanted) * 100 // whole / 100}')


def _batch_faults(c, dataset):
  """Yields why there are too few images for the batches of a step."""
  whole, name = smallest_class(dataset)
  batch, count = c.method.get('batch', 0), len(dataset.train.labels)
  # Parts that are widened would overlap.
  plan = plan_segments(c)
  widest = max(least_window(c, one.width) for one in plan)
  if batch > whole:
    yield (f'--config.method.batch={batch} real images a class, but {name} has '
           f'{whole}; set at most that')
  elif c.segments.window == 'random' and whole < widest * len(plan):
    yield (f'--config.segments.window=random cuts {name} of {whole} images '
           f'into {len(plan)} parts, each smaller than the {widest} of a '
           'window (--config.method.batch, or twice what a segment begins '
           'with); lower --config.segments.number, .method.batch or .syn.ipc')
  if c.method.get('train_on') == 'real' and c.method.net_batch > count:
    yield (f'--config.method.net_batch={c.method.net_batch} real images a step,'
           f' but there are {count}; set at most that')
