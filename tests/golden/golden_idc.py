"""Checks of `idc_*` (README 4.7)."""

from types import NoneType

import golden_augment
import jax
import jax.numpy as jnp
import layout
import numpy as np
from golden_files import GoldenError
from golden_nets import SETTINGS, Net

from dasm_jax import losses, objectives, synthetic
from dasm_jax.training import train_step
from dasm_jax.transforms import augment
from dasm_jax.types import Batch, Synthetic

# Their names; a row of `cos` is what belongs to one output unit or channel.
DISTANCES = {'mse': losses.mse, 'l1': losses.l1, 'l1_mean': losses.l1_mean,
             'cos': losses.layerwise_cosine}
DECODE = {'bound': int, 'decode_type': synthetic.FORMATIONS, 'factor': int,
          'ipc': int, 'nclass': int, 'order': str}
MIX = {'factor': int, 'interpolation': ('nearest (F.interpolate default)',),
       'ipc': int, 'nclass': int}
SHAPE = {'shape': list, 'nclass': int, **SETTINGS}
MATCH = {**SHAPE, 'aug': (str, NoneType), 'cls': int, 'factor': int,
         'type': synthetic.FORMATIONS, 'bound': int, 'ipc': int, 'nreal': int,
         'idx': list, 'fc': bool, 'bias': bool, 'match': ('feat', 'grad'),
         'metric': DISTANCES, 'align_corners': (False,)}
CUTMIX = {**SHAPE, 'beta': (int, float), 'n': int}


def check_decode(golden):
  """`idc_decode*`: decoded images, their gradient and classes."""
  meta = golden.settings(DECODE)
  classes, ipc = meta['nclass'], meta['ipc']
  data, weights = golden.images('in/data'), golden.images('in/w')
  codec = synthetic.codec(
      (0,), (1,), factor=meta['factor'], kind=meta['decode_type'],
      bound=meta['bound'], shape=data.shape[1:])

  def decode(data):
    data = data.reshape(classes, ipc, *data.shape[1:])
    return jnp.concatenate([synthetic.decode(codec, x) for x in data])

  @golden.jit
  def run(data, weights):
    decoded, pull = jax.vjp(decode, data)
    return decoded, pull(weights)[0]

  decoded, slope = run(data, weights)
  golden.check('decoded', layout.nchw(decoded), 'image')
  golden.check('grad_data', layout.nchw(slope), 'gradient')
  sources = synthetic.decoded_from(codec, ipc)
  targets = np.repeat(np.arange(classes), ipc).reshape(classes, ipc)
  golden.equal('decoded_targets', targets[:, sources].reshape(-1), 'exact')


def check_mix_init(golden):
  """`idc_mix_init*`: real images packed into stored ones."""
  meta = golden.settings(MIX)
  real = golden.images('in/real')
  mixed = jnp.concatenate([synthetic.pack(x, meta['factor']) for x in real])
  if len(mixed) != meta['nclass'] * meta['ipc']:
    raise GoldenError(f'{golden.name}: {len(mixed)} images were made')
  golden.check('data', layout.nchw(mixed), 'exact')


def check_dist(golden):
  """`idc_dist*`: each distance between arrays of any dimensions."""
  golden.settings({'l2': str})  # l2 records that the reference fails there.
  cases = sorted({key.split('/')[0] for key in golden.under('in/')})
  x, y = ([jnp.asarray(layout.to_last(golden[f'in/{case}/{side}']),
                       golden.dtype) for case in cases] for side in 'xy')

  @golden.jit
  def run(x, y):
    return {name: [jax.value_and_grad(distance)([b], [a])
                   for a, b in zip(x, y, strict=True)]
            for name, distance in DISTANCES.items()}

  for name, results in run(x, y).items():
    for case, (value, (slope,)) in zip(cases, results, strict=True):
      # Rows of one number: their cosine's gradient is cancellation noise.
      noise = 1e-10 if golden.bits == 64 else 1e-5
      noise = noise if name == 'cos' and slope.ndim == 1 else None
      golden.check(f'{case}/{name}/value', value)
      golden.check(f'{case}/{name}/grad_y', layout.to_first(slope),
                   'gradient', noise)


def check_match(golden):
  """`idc_match*`: gradient or feature matching of one class."""
  meta = golden.settings(MATCH)
  classes, ipc, c = meta['nclass'], meta['ipc'], int(golden['in/class'])
  net = Net(golden, meta['shape'], classes, meta)
  if net.norm == 'batch':
    raise GoldenError(f'{golden.name}: whether batch norm is in train or eval '
                      'mode while matching is not stated')
  codec = synthetic.codec(
      golden['in/mean'], golden['in/std'], factor=meta['factor'],
      kind=meta['type'], shape=net.shape, bound=meta.get('bound', 128))
  plan = golden_augment.idc_plan(golden, meta['aug'] or '')
  change = golden_augment.chain(golden, plan, True, False)

  def given(key, images, shared):
    assert shared, 'both batches of a class get the same treatment'
    return change(images)

  objective = objectives.decoded(
      objectives.augmented(_matching(golden, meta, net), given), codec)
  real = golden.images('in/images_real')
  label = jnp.eye(classes, dtype=golden.dtype)[c]

  def value(data, variables, real):
    own = data[c * ipc:(c + 1) * ipc]
    syn = Synthetic(own, jnp.tile(label, (ipc, 1)), jnp.ones(()))
    real = synthetic.normalise(codec, real)
    batch = Batch(real, jnp.tile(label, (len(real), 1)))
    decoded = synthetic.normalise(codec, synthetic.decode(codec, own))
    seen = change(jnp.concatenate([real, decoded]))
    return objective(syn, variables, batch, jax.random.key(0))[0], seen

  (loss, seen), slope = golden.jit(jax.value_and_grad(value, has_aux=True))(
      golden.images('in/data'), net.variables, real)
  golden.check('loss', loss)
  golden.check('augmented', layout.nchw(seen), 'image')
  golden.check('grad_data', layout.nchw(slope), 'gradient')


def _matching(golden, meta, net):
  distance = DISTANCES[meta['metric']]
  if meta['match'] == 'feat':
    first, last = meta['idx']
    return objectives.feature_matching(
        net.network.features, distance, first=first,
        last=None if last == -1 else last)
  # The reference drops 1-D and 2-D arrays on demand and nothing else.
  ndims = (3, 4) + (2,) * meta.get('fc', False) + (1,) * meta.get('bias', False)
  return objectives.gradient_matching(
      train_step.loss_fn(net.network), distance, ndims=ndims)


def check_cutmix(golden):
  """`idc_cutmix*`: the mixed batch, its loss and gradients."""
  meta = golden.settings(CUTMIX)
  classes = meta['nclass']
  net = Net(golden, meta['shape'], classes, meta)
  images = golden.images('in/x')
  lam, row, column = (golden[f'draw/{k}'] for k in ('lam', 'cx', 'cy'))
  draws = jnp.asarray(lam, golden.dtype), jnp.asarray(row), jnp.asarray(column)
  partner = jnp.asarray(golden['draw/rand_index'])
  labels = golden['in/labels']
  golden.equal('draw/target_b', labels[np.asarray(partner)], 'exact')
  _check_box(golden, images, draws)

  @golden.jit
  def run(variables, batch):
    batch = augment.cutmix_at(batch, *draws, partner)
    def loss(params):
      logits, _ = net.network.apply(
          variables._replace(params=params), batch.images, train=True)
      return losses.cross_entropy(logits, batch.labels), logits
    return batch.images, jax.value_and_grad(loss, has_aux=True)(
        variables.params)

  mixed, ((loss, logits), slope) = run(
      net.variables, Batch(images, golden.onehot(labels, classes)))
  golden.check('x_mixed', layout.nchw(mixed), 'image')
  golden.check('loss', loss)
  golden.check('logits', logits)
  net.check_params('grad/', slope)


def _check_box(golden, images, draws):
  """The box itself and the share of the image that is left of it."""
  lam, row, column = draws
  top, left, bottom, right = golden['draw/bbox']
  for size, centre, low, high in ((images.shape[1], row, top, bottom),
                                  (images.shape[2], column, left, right)):
    inside, length = augment.box_span(size, lam, centre)
    at = np.arange(size)
    if length != high - low or np.any(inside != ((at >= low) & (at < high))):
      raise GoldenError(f'{golden.name}: box of {np.flatnonzero(inside)}, not '
                        f'from {low} to {high}')
  # Labels that tell each image from its partner show the share.
  n = len(images)
  batch = Batch(images, jnp.eye(n, dtype=images.dtype))
  mixed = augment.cutmix_at(batch, *draws, jnp.roll(jnp.arange(n), 1))
  golden.check('ratio', mixed.labels[0, 0])
