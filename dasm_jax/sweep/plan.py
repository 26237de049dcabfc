"""What a sweep is made of: arms, cells, what is measured. Nothing is run.

An arm is a way to come by a set of images, and a line of the figure. A cell is
an arm at some images a class and a seed: an ordinary run. Of its set, and of
the prefixes of its segments, networks are trained for several lengths.

Sections: arms as they are typed, cells, what is measured of them.
"""

import contextlib
import hashlib
import json
import math
import re
from typing import Any, NamedTuple

import numpy as np

from dasm_jax import config as configs
from dasm_jax import data
from dasm_jax.config import files, overrides, schema, validate
from dasm_jax.distill.run import FREE_ENTRIES
from dasm_jax.errors import UserError, unknown
from dasm_jax.methods import registry
from dasm_jax.pipeline import loading
from dasm_jax.runtime import workdir
from dasm_jax.runtime.entries import check as check_entry
from dasm_jax.runtime.text import plural

# ---- Arms, as they are typed

# They are measured without a run: other random real images for each network, as
# in every run's evaluation, and all real images.
RANDOM, FULL = 'random', 'full'
OWN_EPOCHS = 'epochs'  # of `full`, which may have fewer than a small set
# Arguments and entries that are those of the sweep.
OF_SWEEP = {'method': 'NAME@METHOD', 'ipc': '--ipc',
            'seed': '--seeds, or --config=FILE:seed=5 as the first of them',
            'syn.ipc': '--ipc', 'method.name': 'NAME@METHOD'}


class Arm(NamedTuple):
  """A way to come by a set.

  name: as it is called. method: of the registry, or `full`. arguments: of the
  config file; entries: that it sets, both `{name: text}`.
  """
  name: str
  method: str
  arguments: dict
  entries: dict

  @property
  def baseline(self):
    """Whether it is measured without a run."""
    return self.method == FULL or (
        self.method == RANDOM and not (self.arguments or self.entries))

  @property
  def text(self):
    """What it is, in a line of an arms file."""
    return ' '.join([self.method, *(f'{key}={value}' for key, value in (
        self.arguments | self.entries).items())])

  @property
  def file_name(self):
    """Its name, as folders bear it."""
    name = re.sub(r'[^\w=.,+-]', '_', self.name)
    if len(name) > 100:
      name = f'{name[:87]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}'
    return name


def parse_arms(text):
  """The arms of `random,idc,NAME@idc:segments=5:segments.window=frontier`.

  A part that begins with a digit goes on with the value before it, as in
  `idc:segments.shares=5,5,10`.

  Raises:
    UserError: none, an unknown method, an argument twice.
  """
  parts = []
  for part in text.split(','):
    if parts and re.match(r'-?\.?\d', part):
      parts[-1] += f',{part}'
    else:
      parts.append(part)
  return [parse_arm(part) for part in filter(None, parts)]


def parse_arm(text):
  """One `Arm` of `METHOD:key=value:…`, or `NAME@METHOD:key=value:…`."""
  name, at, rest = text.rpartition('@')
  method, *words = rest.split(':')
  if at and not name:
    raise UserError(f'arm {text!r} has no name before @; write NAME@METHOD, or '
                    '--arms=FILE where a file holds the arms')
  return _arm(name or text, method, words, text)


def read_arms(path):
  """The arms of a file: one a line, `NAME: METHOD key=value …`; # comments.

  The method may be left out where the name is one.

  Raises:
    UserError: it cannot be read, and what `parse_arms` refuses.
  """
  try:
    with open(path, encoding='utf-8') as file:
      lines = [line.partition('#')[0].strip() for line in file]
  except (OSError, ValueError) as error:
    raise UserError(f'cannot read --arms={path}: '
                    f'{getattr(error, "strerror", None) or error}; give a text '
                    'file with an arm a line') from error
  arms = []
  for number, line in enumerate(lines, 1):
    if not line:
      continue
    name, _, rest = line.partition(':')
    words, name = rest.split(), name.strip()
    method = words.pop(0) if words and '=' not in words[0] else name
    arms.append(_arm(name, method, words, f'{path}, line {number}'))
  return arms


def _arm(name, method, words, where):
  """An `Arm`; words: `key=value`; where: what a message calls it."""
  if method != FULL and method not in registry.METHODS:
    raise unknown(f'method of arm {where!r}:', method,
                  [*registry.METHODS, FULL])
  arguments, entries = {}, {}
  for word in words:
    key, equals, value = word.partition('=')
    if not (key and equals):
      raise UserError(f'{word!r} of arm {where!r} is not key=value, such as '
                      'segments=2 or segments.gamma=0.3')
    if key in OF_SWEEP:
      raise UserError(f'arm {where!r} sets {key}, which the sweep does; give '
                      f'{OF_SWEEP[key]}')
    if key.split('.')[0] in ('eval', 'dataset') and key != 'dataset.zca':
      raise UserError(f'arm {where!r} sets {key}, which is the same for all '
                      f'arms; give --config.{key}={value}')
    table = entries if '.' in key else arguments
    if key in table:
      raise UserError(f'arm {where!r} sets {key} twice; leave one out')
    table[key] = value
  if method == FULL and (entries or set(arguments) - {OWN_EPOCHS} or not all(
      re.fullmatch('[1-9][0-9]{0,5}', x) for x in arguments.values())):
    raise UserError(f'arm {where!r} is all real images, of which only the '
                    f'length can be set: {FULL}:{OWN_EPOCHS}=20')
  return Arm(name, method, arguments, entries)


def check_arms(arms):
  """Raises `UserError` for no arms, or two that would be one in the folder."""
  if not arms:
    raise UserError('no arms; give some, such as --methods=random,idc')
  names = [arm.file_name.lower() for arm in arms]
  for arm, name in zip(arms, names, strict=True):
    if names.count(name) > 1:
      raise UserError(f'arm {arm.name!r} is there twice; leave one out, or '
                      'name it by NAME@METHOD')


# ---- Cells


class Cell(NamedTuple):
  """An arm at some images a class and a seed.

  ipc: None of all real images. base: the configuration that all arms are
  measured by. config: of its run; None of a baseline.
  """
  arm: Arm
  ipc: int | None
  seed: int
  base: Any
  config: Any = None

  @property
  def name(self):
    """Of its folders."""
    parts = [self.arm.file_name, f'seed{self.seed}']
    if self.ipc is not None:
      parts.insert(1, f'ipc{self.ipc}')
    return '_'.join(parts)

  @property
  def settings(self):
    """All that its numbers depend on but how long networks are trained."""
    base = json.loads(self.base.to_json())
    # Channels do not matter: the statistics that it would have are the data's.
    recipe = configs.evaluation_recipe(self.base, 1, (.5,), (.5,))
    told = {'network': base['network'], 'recipe': base['eval']['recipe'], **{
        name: getattr(recipe, name) for name in (
            'lr', 'batch', 'strategy', 'mode', 'cutmix', 'weight_decay')}}
    if self.config is None:
      mine = {'dataset': base['dataset'], 'ipc': self.ipc, 'seed': self.seed}
    else:
      mine = configs.resolved(json.loads(self.config.to_json()))
    return {**mine, 'measured': told}


def different(there, here):
  """How the settings of two cells differ, in words; '' if they do not.

  there: of a file, which an older version may have written.
  """
  names, text = workdir.differences(
      *configs.in_one_form(there, here), FREE_ENTRIES)
  return text if names else ''


class Asked(NamedTuple):
  """What a command line says of all cells.

  given: `--config`; texts: `--config.NAME=TEXT`; arms, ipcs: lists; seeds: how
  many, from that of the configuration on.
  """
  given: str
  texts: dict
  arms: list
  ipcs: list
  seeds: int = 1


def cells(asked, prefixes=False, say=lambda line: None):
  """The cells of a sweep: small sets before large ones, all images last.

  Args:
    asked: an `Asked`.
    prefixes: whether random images are asked for at the sizes of prefixes, too.
    say: called with a line about cells that are left out: there are fewer
      images a class than the arm has segments.

  Raises:
    UserError: whatever a run of one of them would refuse at once.
  """
  check_arms(asked.arms)
  for name in asked.texts:
    if name in OF_SWEEP:
      raise UserError(f'--config.{name} is what the sweep sets; give '
                      f'{OF_SWEEP[name]}')
  _check_used(asked)
  first = _base(asked, asked.ipcs[0], None)
  out, sizes, outlines = [], set(asked.ipcs), {}
  for ipc in asked.ipcs:
    for number in range(asked.seeds):
      base = _base(asked, ipc, first.seed + number)
      _check_base(base, ipc, outlines)
      for arm in asked.arms:
        if arm.baseline:
          continue
        made = _configure(asked, arm, ipc, base.seed)
        if (parts := configs.segment_count(made)) > ipc:
          if not number:
            say(f'note      {arm.name} has {parts} segments: left out at '
                f'{plural(ipc, "image")} a class')
          continue
        with _naming(arm):
          _check(made, outlines)
        out.append(Cell(arm, ipc, base.seed, base, made))
  if prefixes:
    sizes |= {size for cell in out for size in prefix_sizes(cell)}
  for arm in asked.arms:
    if arm.method == FULL:
      out.append(Cell(arm, None, first.seed, first))
    elif arm.baseline:
      out[:0] = [Cell(arm, ipc, first.seed + number, _base(
          asked, ipc, first.seed + number))
          for ipc in sorted(sizes) for number in range(asked.seeds)]
  return out


def prefix_sizes(cell):
  """Images a class of each prefix of a cell's segments, without the whole."""
  # Labels that a teacher told for each epoch are of all images in their order.
  if cell.config is None or cell.config.method.get('relabel'):
    return []
  return [segment.slots.stop
          for segment in validate.plan_segments(cell.config)[:-1]]


def _base(asked, ipc, seed):
  """The configuration that all arms are measured by."""
  path, arguments = _arguments(asked.given)
  arguments |= {'ipc': ipc} | ({} if seed is None else {'seed': seed})
  config = files.load(_joined(path, arguments))
  overrides.apply(config, _fitting(config, asked.texts), asked.given)
  return config


def _configure(asked, arm, ipc, seed):
  """The configuration of an arm's run."""
  path, arguments = _arguments(asked.given)
  given = _joined(path, arguments | arm.arguments | {
      'method': arm.method, 'ipc': ipc, 'seed': seed})
  config = files.load(given)
  texts = _fitting(config, asked.texts)
  # How long and by how many a set is measured is no matter of its run, unless a
  # teacher labels it for each epoch.
  if not config.method.get('relabel'):
    texts = {name: text for name, text in texts.items()
             if name not in ('eval.epochs', 'eval.networks')}
  overrides.apply(config, texts, given)
  overrides.apply(config, arm.entries, given)
  overrides.apply(config, {'eval.networks': '0'}, given)
  return config


def _arguments(given):
  """`(path, {argument: text})` of `--config`, without the sweep's own."""
  path, _, text = given.partition(':')
  pairs = dict(part.partition('=')[::2] for part in filter(
      None, text.split(',')))
  if 'ipc' in pairs:
    raise UserError(f'--config={given} sets ipc, which the sweep does; give '
                    f'--ipc={pairs["ipc"]}')
  return path, pairs


def _joined(path, arguments):
  return f'{path}:' + ','.join(
      f'{key}={value}' for key, value in arguments.items())


# Groups whose entries are those of some methods.
_OWN_GROUPS = 'method.', 'experts.'


def _fitting(config, texts):
  """Of the entries set for all arms, those that are of a configuration's."""
  # Coresets have the entries of methods, but none that does anything.
  still = not registry.family_of(config.method).synthesises
  return {name: text for name, text in texts.items() if not (
      name.startswith(_OWN_GROUPS)
      and (still or configs.difference(name, config)))}


def _check_used(asked):
  """Raises `UserError` for an entry that is of no arm at all."""
  left = {name for name in asked.texts if name.startswith(_OWN_GROUPS)}
  if not left:
    return
  # Another part of the same sweep may have the method of the config itself.
  known = [_base(asked, asked.ipcs[0], None)] + [
      _configure(asked, arm, asked.ipcs[0], 0)
      for arm in asked.arms if not arm.baseline]
  for config in known:
    left -= set(_fitting(config, asked.texts))
  if left:
    raise UserError(configs.difference(min(left), known[0]) or (
        f'--config.{min(left)} is of no arm of the sweep; leave it out'))


@contextlib.contextmanager
def _naming(arm):
  """Says of which arm it is what is refused within."""
  try:
    yield
  except UserError as error:
    raise type(error)(f'arm {arm.name!r}: {error}') from error


def _check(config, outlines):
  """Refuses what a run would; outlines: of data sets that were met so far."""
  validate.check(config)
  outline = _outline(config, outlines)
  if outline is not None:
    validate.check_class_sizes(config, outline)


def _check_base(config, ipc, outlines):
  """Refuses what no network can be measured by."""
  for name, value in configs.entries(config):
    if name in schema.ENTRIES:
      check_entry(name, value, schema.ENTRIES[name])
  if not config.eval.networks:
    raise UserError('--config.eval.networks=0 measures nothing; set 1 or more')
  with configs.naming(config, '', 'dataset.name'):
    data.check(**loading.request_of(config))
  outline = _outline(config, outlines)
  if outline is not None:
    counts = np.bincount(outline.train.labels,
                         minlength=len(outline.class_names))
    if ipc > counts.min():
      raise UserError(
          f'--ipc={ipc} images a class, but class '
          f'{outline.class_names[int(counts.argmin())]!r} has {counts.min()} '
          'real ones; set at most that')


def _outline(config, outlines):
  """The data set with black images; None where nobody has counted them."""
  request = loading.request_of(config)
  key = json.dumps(request, sort_keys=True)
  if key not in outlines:
    try:
      outlines[key] = data.outline(**request)
    except UserError:  # the run will
      outlines[key] = None
  return outlines[key]


# ---- What is measured of a cell


class Length(NamedTuple):
  """How long networks are trained: a number of `epochs`, or of `steps`."""
  kind: str
  number: int

  def __str__(self):
    return f'{self.number} {self.kind}'

  def epochs(self, images, recipe):
    """Epochs of a recipe on so many images: whole ones, one at least.

    recipe: a `recipes.Recipe`, whose batch and extra epochs count.
    """
    if self.kind == 'epochs':
      return self.number
    return max(1, round(self.number / steps_of(1, images, recipe))
               - recipe.extra)


def steps_of(epochs, images, recipe):
  """Steps of so many epochs, extra ones not counted."""
  return epochs * math.ceil(images / recipe.batch)


class Measurement(NamedTuple):
  """What some networks are trained on, and how long.

  ipc: images a class, fewer than the cell's where it is a prefix.
  """
  cell: Cell
  ipc: int | None
  length: Length

  @property
  def path(self):
    """Of its file, below the folder of results."""
    prefix = '' if self.ipc == self.cell.ipc else f'first{self.ipc}_'
    return (f'{self.cell.name}/{prefix}{self.length.kind}{self.length.number}_'
            f'networks{self.cell.base.eval.networks}.json')


def measurements(cell, lengths, prefixes=False):
  """All that is measured of a cell, the whole set first.

  lengths: a list of `Length`, of which `epochs` of 0 are the recipe's.
  prefixes: whether those of its segments are, too.
  """
  own = int(cell.arm.arguments.get(OWN_EPOCHS, 0)
            if cell.arm.method == FULL else 0)
  found = []
  for length in lengths:
    if length.kind == 'epochs':
      length = length._replace(
          number=own or length.number or cell.base.eval.epochs)
    if length not in found:
      found.append(length)
  sizes = [cell.ipc, *reversed(prefix_sizes(cell) if prefixes else [])]
  return [Measurement(cell, ipc, length) for ipc in sizes for length in found]
