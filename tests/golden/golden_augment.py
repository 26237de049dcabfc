"""Operations with a fixture's draws, and checks of `dsa_*` (README 4.6)."""

import re

import jax
import jax.numpy as jnp
import layout
import numpy as np
from golden_files import GoldenError

from dasm_jax.transforms import augment

# In the order of the arguments of our operations. Theirs name the draws of
# crop and cutout x for rows, y for columns, but those of scale x for columns.
DRAWS = {
    'color': ('brightness_u', 'saturation_u', 'contrast_u'),
    'crop': ('translation_x', 'translation_y'),
    'cutout': ('offset_x', 'offset_y'),
    'flip': ('flip_u',),
    'scale': ('scale_x_u', 'scale_y_u'),
    'rotate': ('rotate_u',),
    'translate': ('translation_y',),
}
PARTS = {'brightness': augment.brightness, 'saturation': augment.saturation,
         'contrast': augment.contrast}
MODES = ('independent', 'siamese', 'batch (one draw for all images)')
META = {'align_corners': (False, True), 'mode': MODES, 'strategy': str,
        'interpolation': ('bilinear',), 'padding_mode': ('zeros',)}
SINGLE = re.compile(r"AUGMENT_FNS\['(\w+)'\]|DiffAug\.(\w+?)_fn")


def draws(golden, op, prefix, shared):
  """The file's draws of one operation, each `[n]` (`[1]` if shared)."""
  if op not in DRAWS:
    raise GoldenError(f'{golden.name}: unknown operation {op!r}')
  values = []
  for name in DRAWS[op]:
    x = np.atleast_1d(golden[prefix + name])
    dtype = golden.dtype if np.issubdtype(x.dtype, np.floating) else None
    values.append(jnp.asarray(x[:1] if shared else x, dtype))
  return values


def operation(op, values, align_corners):
  """`images -> images`: our operation under given draws."""
  settings = ({'align_corners': align_corners} if op in augment.GEOMETRIC
              else {})
  if op == 'translate':
    op, values = 'crop', [jnp.zeros_like(values[0]), *values]
  return lambda images: augment.OPS[op](images, *values, **settings)


def chain(golden, plan, shared, align_corners):
  """All operations of a plan `[(op, prefix of its draws)]`, in order."""
  steps = [operation(op, draws(golden, op, prefix, shared), align_corners)
           for op, prefix in plan]

  def apply(images):
    for step in steps:
      images = step(images)
    return images
  return apply


def idc_plan(golden, strategy):
  """What IDC applies under a strategy, with the operation that was drawn."""
  plan = []
  for choices in augment.MODES['idc'](augment.parse(strategy)):
    op = choices[0]
    if set(choices) <= {'crop', 'scale', 'rotate'}:
      op = str(golden['draw/single_op'])
    if op not in choices:
      raise GoldenError(f'{golden.name}: {op!r} was drawn of {choices}')
    plan.append((op, f'draw/{op}/'))
  return plan


def _plan(golden, meta):
  function = meta['function']
  if function == 'utils.DiffAugment (aug_mode M)':
    order = augment.MODES['all'](augment.parse(meta['strategy']))
    return [(op, f'draw/{op}/') for op, in order]
  if function == 'misc.augment.DiffAug.__call__':
    return idc_plan(golden, meta['strategy'])
  named = SINGLE.search(function)
  if not named:
    raise GoldenError(f'{golden.name}: unknown function {function!r}')
  return [(named[1] or named[2], 'draw/')]


def check(golden):
  """Values and gradients of one or all operations under given draws."""
  meta = golden.settings(META)
  # Only IDC's whole call does not say: it draws once for a batch.
  shared = meta.get('mode', MODES[2]) != 'independent'
  plan = _plan(golden, meta)
  apply = chain(golden, plan, shared, meta['align_corners'])
  images, weights = golden.images('in/x'), golden.images('in/w')

  @golden.jit
  def run(images, weights):
    changed, pull = jax.vjp(apply, images)
    return changed, pull(weights)[0]

  changed, slope = run(images, weights)
  golden.check('y', layout.nchw(changed), 'image')
  golden.check('grad_x', layout.nchw(slope), 'gradient')
  parts = {name: part for name, part in PARTS.items()
           if golden.outputs(f'{name}/y')}
  if parts:
    values = dict(zip(PARTS, draws(golden, 'color', plan[0][1], shared),
                      strict=True))
    changed = golden.jit(lambda x: {
        name: part(x, values[name]) for name, part in parts.items()})(images)
    for name, value in changed.items():
      golden.check(f'{name}/y', layout.nchw(value), 'image')
