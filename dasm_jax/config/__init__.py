"""The configuration: every entry with its default, and the argument string."""

import contextlib
import difflib
import json
import re
import types

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from dasm_jax import models, segments
from dasm_jax.config import schema
from dasm_jax.errors import UserError, unknown
from dasm_jax.methods import registry
from dasm_jax.training import recipes
from dasm_jax.transforms import augment, photometric


def defaults(method='idc'):
  """Every entry of a configuration, with what `method` is made of.

  Raises:
    UserError: an unknown method.
  """
  c = ConfigDict()
  c.method = ConfigDict(registry.settings_of(method))
  c.seed = schema.ENTRIES['seed'].default
  for group in schema.GROUPS:
    c[group] = ConfigDict(schema.defaults(group))
  # Experts are trained on images as students see them.
  if registry.family_of(c.method).experts:
    c.experts.augment = c.method.augment
    c.experts.mode = c.method.augment_mode
  else:
    del c.experts
  # Last: what a method presets takes the place of the defaults.
  c.update_from_flattened_dict(registry.spec(method).presets)
  return c


def evaluation_of(recipe):
  """`config.eval` for a key of `recipes.RECIPES`.

  They bear the names of methods; a variant, such as `sre2l_cifar`, has the
  entries of its method, but the batch of its own.
  """
  if recipe in registry.METHODS:
    return defaults(recipe).eval
  found = defaults(recipe.partition('_')[0]).eval
  found.recipe, found.batch = recipe, 0
  return found


def segment_count(c):
  """How many segments a configuration has."""
  return c.segments.number or len(c.segments.shares) or (
      segments.default_count(c.syn.ipc, registry.segments_from(c.method)))


def segments_reason(c):
  """Why a configuration has as many segments as it has, in words."""
  many = registry.segments_from(c.method)
  if not (c.segments.shares or c.segments.number):
    return segments.default_reason(c.syn.ipc, many)
  # Coresets that choose all at once are configured to have one.
  usual = segments.default_count(c.syn.ipc, many)
  return 'as configured' + (
      f'; by default {usual}' * (many > 1 and usual != segment_count(c)))


def matches_union(c):
  """Whether new images are matched together with those of finished segments."""
  few = c.syn.ipc * c.syn.factor ** 2 < segments.FEW
  asked = {'auto': few, 'new': False, 'union': True}[c.segments.match]
  return (asked and segment_count(c) > 1
          and registry.family_of(c.method).joins)


def begins_as_judges(c):
  """Whether each matching network begins as one that orders real images.

  A segment that networks from noise match is no better than its images left
  real from 50 a class on; by these, which are there anyway, it is (RESULTS.md).
  Of one segment, the plain method, they are drawn, as published.
  """
  m = c.method
  begin = getattr(m, 'begin', 'noise')
  if begin != 'auto':
    return begin == 'judges'
  return segment_count(c) > 1 and not m.pretrained


def resolved(settings):
  """Settings that say what they ask for where an entry says the default.

  What a default means may be another thing in a later version, and one entry
  may say in two ways the same.

  Args:
    settings: nested, as of a run's config.json.

  Returns:
    The same with the number of segments, how they are matched, and what their
    networks begin as.
  """
  given = settings.get('segments')
  if not (given and {'method', 'syn'} <= set(settings)):
    return settings
  c = json.loads(json.dumps(settings), object_hook=lambda values: (
      types.SimpleNamespace(**values)))
  found = {**settings, 'segments': {
      **given, 'number': segment_count(c),
      'match': 'union' if matches_union(c) else 'new'}}
  if 'begin' in found['method']:
    found['method'] = {**found['method'], 'begin': (
        'judges' if begins_as_judges(c) else 'noise')}
  return found


def in_one_form(there, here):
  """Settings of a file, maybe an older version's, and others: as now told.

  Args:
    there: nested settings of a file; here: those they are compared with.

  Returns:
    Both, with no default left to what a version means by it.
  """
  return resolved(schema.filled(there, here)), resolved(here)


def expert_settings(c):
  """Settings of the networks that an experiment trains first, or None.

  Those of `config.experts` for trajectory methods. For others of the networks
  that theirs begin as, `method.pretrained` of them, trained as they are between
  sweeps; only what they are after epoch `last` is kept. Like experts they have
  a seed of their own, so that runs of all seeds share them.
  """
  m = c.method
  if 'experts' in c or not m.get('pretrained'):
    return c.get('experts')
  return ConfigDict(dict(
      dir='', number=m.pretrained, epochs=m.pretrained_epochs, lr=m.net_lr,
      momentum=m.net_momentum, weight_decay=m.net_weight_decay,
      batch=m.net_batch, rho=0.0, alpha=0.0, seed=0, at_once=1,
      dtype='float32', augment=m.net_augment, mode=m.augment_mode,
      cutmix=m.net_cutmix, last=m.pretrained_epochs))


RATE_ON_REAL = 0.01  # of whatever is trained on real images when eval.lr is 0


def evaluation_recipe(c, epochs, mean, std):
  """The `recipes.Recipe` of the evaluation, or of probes, which train shorter.

  mean, std: per channel, that images are normalised with.
  """
  strategy = c.eval.augment
  if strategy == 'auto':
    strategy = _own_augmentation(c)
  # Below 0, or a batch of 0: the recipe's own.
  given = {name: c.eval[name] for name in ('cutmix', 'weight_decay')
           if c.eval[name] >= 0}
  if c.eval.batch:
    given['batch'] = c.eval.batch
  # A learned rate is not known before it is learned: the set brings it.
  if c.eval.lr >= 0:
    given['lr'] = c.eval.lr or RATE_ON_REAL
  elif c.eval.recipe == 'rded' and c.network.name in recipes.RDED_RATES:
    given['lr'] = recipes.RDED_RATES[c.network.name]
  # MTT's family evaluates by DC's recipe, but resamples with aligned corners.
  if c.eval.recipe == 'dc' and c.method.augment_mode in augment.ALIGNED:
    given['mode'] = c.method.augment_mode
  return recipes.RECIPES[c.eval.recipe](
      epochs, strategy=strategy, statistics=photometric.pixel_statistics(
          strategy, mean, std, c.dataset.zca), **given)


def _own_augmentation(c):
  """That of the recipe where it has one, else of the method."""
  strategy = {
      'idc': 'flip_color_crop_scale_rotate',
      'rded': recipes.RDED_AUGMENT[c.coreset.cells],
  }.get(c.eval.recipe)
  if strategy is None:
    return c.method.augment
  return _unflipped(strategy) if c.dataset.name in UNFLIPPED else strategy


def arguments(text, **spec):
  """The argument string of a config file, `ipc=10,method=idc`, as a ConfigDict.

  Args:
    text: `key=value` pairs joined by commas; what stands behind the colon of
      `--config=file.py:…`.
    **spec: the keys with their defaults, whose types the values take.

  Raises:
    UserError: a key that is not in `spec` or stands twice, or a value of
      another type.
  """
  out, seen = ConfigDict(spec), {}
  for part in filter(None, text.split(',')):
    key, equals, value = part.partition('=')
    if key not in spec:
      raise unknown('config argument', key, spec)
    if key in seen:
      raise UserError(f'config arguments {seen[key]!r} and {part!r} say the '
                      'same twice; leave one out')
    seen[key] = part
    kind = type(spec[key])
    try:
      if not equals:
        raise ValueError
      out[key] = _boolean(value) if kind is bool else kind(value)
    except ValueError:
      raise UserError(f'config argument {part!r} is not {key}=<'
                      f'{kind.__name__}>; the default is {spec[key]}') from None
  return out


def _boolean(text):
  # `int('')` raises the ValueError of a value of another type.
  return {'true': True, 'false': False}[text.lower()] if (
      text.lower() in ('true', 'false')) else int('')


def difference(path, config):
  """Why `path` (`a.b.c`) is no entry of `config`: one line, or None."""
  node, walked = config, []
  for name in path.split('.'):
    if not isinstance(node, ConfigDict) or name not in node:
      known = list(node) if isinstance(node, ConfigDict) else []
      prefix = '.'.join(['--config', *walked])
      close = difflib.get_close_matches(name, known, 1)
      hint = f'did you mean {prefix}.{close[0]}? ' if close else ''
      return (f'{prefix} has no entry {name!r}; {hint}'
              f'choose from {", ".join(sorted(known)) or "nothing below it"}')
    walked.append(name)
    node = node[name]
  return None


def entry(path, config):
  """`(value, type)` of the entry `path` (`a.b.c`); None for a group.

  A type may be known where the value is None.
  """
  *groups, name = path.split('.')
  for group in groups:
    config = config[group]
  value = config[name]
  return None if isinstance(value, ConfigDict) else (
      value, config.get_type(name))


def entries(config, prefix=''):
  """Yields `(dotted name, value)` of all entries, in their order."""
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from entries(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def name_problem(config):
  """Why the entries of a configuration are not those of its method: one line.

  config: as Python has built it, where whatever is assigned becomes an entry.
    A method or network whose name alone was changed is no matter of this.

  Returns:
    Such as `no entry 'eval.epohcs'; did you mean eval.epochs?`, or None.
  """
  names = [name for name, _ in entries(config)]
  for name in ('method.name', 'network.name'):
    if name not in names:
      return f'lost the entry {name!r}; begin with config.defaults'
  if (config.method.name not in registry.METHODS
      or config.network.name not in models.MODELS):
    return None  # refused as the value of an entry
  known = _known_names(config)
  for name in names:
    if name not in known:
      return _about_unknown(name, known, config)
  for name in known:
    # What a network is not told it knows by itself.
    if name not in names and not name.startswith('network.'):
      return f'lost the entry {name!r}; begin with config.defaults'
  return None


def _about_unknown(name, known, config):
  group, _, last = name.rpartition('.')
  if name in schema.ENTRIES and 'name' in config[group]:
    of, close = f' of {group} {config[group].name!r}', ()
  else:
    of, close = '', difflib.get_close_matches(name, known, 1, 0.75) or [
        one for one in known if one.split('.')[-1] == last]
  beside = sorted(one.rpartition('.')[2] for one in known
                  if one.rpartition('.')[0] == group)
  choices = beside if group and beside else [
      one for one in config if one != (group or name)]
  way = (f'did you mean {" or ".join(close[:3])}?' if close else
         f'choose from {", ".join(choices)}')
  return f'no entry {name!r}{of}; {way}'


def _known_names(config):
  """The dotted names that a configuration with its method and network has."""
  tables = dict(schema.GROUPS)
  for group, settings_of, names, all_have in (
      ('method', registry.settings_of, registry.METHODS, {'name'}),
      ('network', models.settings_of, models.MODELS, {'name', 'dtype'})):
    own, *others = (all_have | settings_of(name).keys()
                    for name in (config[group].name, *names))
    there = set(config[group])
    # Those of another: it is the name that does not fit.
    alone = not there <= own and any(there <= other for other in others)
    tables[group] = there if alone else own
    if group == 'method':
      experts = 'experts' in config if alone else registry.family_of(
          ConfigDict(settings_of(config.method.name))).experts
  if not experts:
    del tables['experts']
  return ['seed', *(f'{group}.{name}' for group, table in tables.items()
                    for name in table)]


@contextlib.contextmanager
def naming(config, group, *always):
  """Names the flags in what the parts of a group refuse within.

  These know their settings as arguments: `depth 7` is `--config.network.depth`.

  always: dotted names of entries that are named in any case.
  """
  try:
    yield
  except UserError as error:
    text = str(error)
    # After the semicolon is what to set instead, which is not what is wrong.
    if '--config.' in text.partition(';')[0]:
      raise
    known = dict(entries(config))
    names = [*always, *(
        f'{group}.{name}' for name in config.get(group, ())
        if re.search(rf'\b{name}\b', text))] or [f'{group}.name']
    flags = ', '.join(f'--config.{name}={known[name]}' for name in names)
    raise type(error)(f'{flags}: {text}') from error


UNFLIPPED = ('digits', 'mnist', 'svhn')  # a mirrored digit is another sign


def remove_flips(c):
  """Takes the mirror out of every augmentation."""
  for group in (c.method, c.get('experts', {})):
    for name in {'augment', 'net_augment'} & set(group):
      group[name] = _unflipped(group[name])


def _unflipped(strategy):
  return '_'.join(op for op in strategy.split('_') if op != 'flip')


def set_network(c, name):
  """Puts another network, with its own settings, into a configuration.

  What the method asks of norms stays. '' leaves the network as it is.

  Raises:
    UserError: an unknown name.
  """
  if not name:
    return
  settings = models.settings_of(name)
  # Batch norm is what SRe2L matches; it cannot do with another.
  if c.network.norm == 'batch' and 'norm' in settings:
    settings['norm'] = 'batch'
  kept = {'name': name, 'dtype': c.network.dtype}
  c.network = ConfigDict({**kept, **{
      key: placeholder(OPTIONAL_TYPES[key]) if value is None else value
      for key, value in settings.items()}})


# Settings of networks that are None unless they are set. A flag is parsed by
# the type of an entry, which a bare None has not.
OPTIONAL_TYPES = {'variant': str, 'stem': str, 'first_padding': int}
