"""Configurations: arguments, names, entries, and what each file says."""

import importlib.util

import jax
import pytest
import toy

from dasm_jax import config, models
from dasm_jax.config import imagenet, validate
from dasm_jax.errors import UserError
from dasm_jax.transforms import augment

FILES = sorted(path.stem for path in (toy.ROOT / 'configs').glob('*.py'))


def load(name, text=''):
  spec = importlib.util.spec_from_file_location(
      name, toy.ROOT / 'configs' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(text)


def test_arguments_take_the_type_of_their_default():
  a = config.arguments('ipc=5,method=dc,fast=True,rate=1e-3', ipc=10,
                       method='idc', fast=False, rate=.5, seed=0)
  assert a.to_dict() == {'ipc': 5, 'method': 'dc', 'fast': True, 'rate': 1e-3,
                         'seed': 0}
  assert config.arguments('', ipc=1).ipc == 1
  assert config.arguments('fast=false', fast=True).fast is False


@pytest.mark.parametrize('text, words', [
    ('ipx=5', "config argument 'ipx'; choose from fast, ipc"),
    ('ipc=ten', "'ipc=ten' is not ipc=<int>; the default is 10"),
    ('ipc', "'ipc' is not ipc=<int>"),
    ('ipc=1,ipc=2', "'ipc=1' and 'ipc=2' say the same twice"),
    ('fast=yes', "'fast=yes' is not fast=<bool>")])
def test_wrong_arguments(text, words):
  with pytest.raises(UserError) as caught:
    config.arguments(text, ipc=10, fast=False)
  assert words in str(caught.value)


def test_difference():
  c = config.defaults('dc')
  assert config.difference('syn.ipc', c) is None
  assert config.difference('seed', c) is None
  text = config.difference('syn.ipx', c)
  assert "no entry 'ipx'" in text and 'did you mean --config.syn.ipc?' in text
  assert 'factor, formation' in text
  assert 'nothing below it' in config.difference('seed.x', c)
  assert "no entry 'sin'" in config.difference('sin.ipc', c)


@pytest.mark.parametrize('name', [
    'eval.epohcs', 'segments.gama', 'method.stpes', 'network.widht', 'sed'])
def test_what_python_mistypes_is_no_entry(name):
  for method in ('idc', 'mtt', 'herding'):
    c = config.defaults(method)
    c.dataset.name = 'digits'
    validate.check(c)
    c.update_from_flattened_dict({name: 4})
    with pytest.raises(UserError, match=f"no entry '{name}'.*did you mean"):
      validate.check(c)


def test_another_name_alone_is_told_of_as_such():
  c = config.defaults('idc')
  for group, name in (('method', 'mtt'), ('network', 'vit')):
    changed = c.copy_and_resolve_references()
    changed[group].name = name
    assert config.name_problem(changed) is None
    with pytest.raises(UserError, match='the name alone'):
      validate.check_settings(changed)


def test_unknown_method():
  with pytest.raises(UserError, match="method 'x'; choose from .*dc, dm, dsa"):
    config.defaults('x')


@pytest.mark.parametrize('method', [*toy.METHODS, 'aligned', 'herding', 'rded'])
@pytest.mark.parametrize('name', FILES)
def test_every_file_makes_a_possible_job(name, method):
  for ipc in (1, 5, 10, 50):
    c = load(name, f'method={method},ipc={ipc},seed=3')
    assert (c.method.name, c.syn.ipc, c.seed) == (method, ipc, 3)
    # Types are those of the defaults: a flag keeps an entry's type.
    for group, entries in config.defaults(method).to_dict().items():
      for key in entries if isinstance(entries, dict) else ():
        if group == 'network' and c.network.name != 'convnet':
          continue  # another network has other entries
        assert type(c[group][key]) is type(entries[key]), (group, key)
    flipped = 'flip' in f'{c.method.augment}_{c.method.get("net_augment")}'
    assert not (flipped and c.dataset.name in config.UNFLIPPED)
    # The file's own data may not be here.
    c.dataset.name, c.dataset.classes = 'digits', ''
    validate.check(c)
  with pytest.raises(UserError, match="config argument 'x'"):
    load(name, 'x=1')


# File -> shape of its images, classes, parameters of its network (published).
SETS = {
    'cifar10': ((32, 32, 3), 10, 320_010),
    'cifar100': ((32, 32, 3), 100, 504_420),
    'digits': ((8, 8, 1), 10, None),
    'fashion_mnist': ((28, 28, 1), 10, 317_706),
    'imagenet': ((224, 224, 3), 10, 4_910_922),
    'imagenette': ((224, 224, 3), 10, 4_910_922),
    'imagewoof': ((224, 224, 3), 10, 4_910_922),
    'mnist': ((28, 28, 1), 10, 317_706),
    'svhn': ((32, 32, 3), 10, 320_010),
    'tiny_imagenet': ((64, 64, 3), 200, 857_160)}


@pytest.mark.parametrize('name', FILES)
def test_network_is_the_published_one(name):
  shape, classes, parameters = SETS[name]
  c = load(name, 'method=idc')
  assert c.dataset.name == (
      'imagenet2012' if name.startswith('image') else name)
  network = models.build(shape=shape, classes=classes, **c.network)
  count = models.count(jax.eval_shape(network.init, jax.random.key(0)))
  assert count == (parameters or count)


@pytest.mark.parametrize('name, want', [
    # Gradient dossier: distance, rate at ten images a class, steps, factor.
    ('cifar10', ('mse', 5e-3, 32, 2)), ('cifar100', ('mse', 5e-3, 32, 2)),
    ('svhn', ('mse', 5e-3, 8, 2)), ('mnist', ('l1', 1e-4, 8, 2)),
    ('fashion_mnist', ('l1', .765625e-4, 8, 2)),
    ('tiny_imagenet', ('mse', 2e-2, 32, 2))])
def test_idc_is_as_published(name, want):
  c = load(name)
  assert c.method.lr_per_image and c.eval.epochs == 1000
  assert (c.method.distance, pytest.approx(c.method.lr), c.method.net_steps,
          c.syn.factor) == want
  assert load(name, 'factor=1').syn.factor == 1


@pytest.mark.parametrize('name', ['imagenet', 'imagenette', 'imagewoof'])
def test_subsets_are_resized_as_mtt_does(name):
  """By the programs of MTT's row: squashed, without antialiasing."""
  for method in 'mtt', 'ftd', 'tesla', 'datm', 'idc', 'dm', 'sre2l', 'random':
    assert load(name, f'method={method},ipc=1').dataset.resize == (
        'squash' if method in imagenet.TRAJECTORIES else 'crop')
  # TESLA's own row, of all classes, is none of MTT's.
  assert load('imagenet', 'classes=1000,method=tesla').dataset.resize == 'crop'


def test_imagenet_is_as_published():
  # Gradient dossier, 5.3 and 5.4; each row by hand.
  c = load('imagenet')
  m, e = c.method, c.eval
  assert (c.dataset.classes, c.dataset.size, c.syn.factor, c.syn.formation) == (
      'imagenet10', 224, 3, 'single')
  assert (m.distance, m.lr, m.steps, m.inner, m.net_steps, m.warmup) == (
      'l1', 3e-3, 50_000, 100, 8, 2030)
  assert m.pretrained == 0
  assert (m.net_lr, m.net_weight_decay, m.net_batch, m.net_cutmix) == (
      .01, 5e-4, 64, 1.)
  assert (e.epochs, e.lr, e.weight_decay, e.batch, e.cutmix, e.augment) == (
      1000, .01, 5e-4, 64, 1., 'rrc_flip_jitter3_lighting')
  c = load('imagenet', 'classes=100,ipc=20')
  m, e = c.method, c.eval
  assert (c.dataset.classes, c.syn.formation, c.network.dtype) == (
      'imagenet100', 'bound', 'bfloat16')
  assert (m.lr, m.batch, m.net_steps, m.net_lr, m.net_weight_decay,
          m.net_batch) == (1e-3, 64, 4, .1, 1e-4, 128)
  assert (e.epochs, e.lr, e.weight_decay, e.batch) == (600, .1, 1e-4, 128)
  assert (m.pretrained, m.pretrained_epochs, m.warmup) == (10, 5, 0)
  short = load('imagenet', 'classes=100,schedule=short').method
  assert (short.pretrained, short.warmup) == (0, 50)
  # As of 100 classes: five epochs of 1000 for each of 500 networks are weeks.
  m = load('imagenet', 'classes=1000').method
  assert (m.pretrained, m.pretrained_epochs, m.warmup) == (10, 5, 0)
  c = load('imagenet', 'classes=1000,method=sre2l')
  assert c.dataset.classes == '' and c.network.norm == 'batch'
  assert (c.method.augment, c.method.net_augment) == (
      'rrc08_flip_roll32', 'rrc08_flip')
  assert c.eval.recipe == 'sre2l' and c.eval.batch == 1024
  # Its validation: resized to 256, cut to 224.
  assert (c.dataset.size, c.dataset.test_crop) == (224, .875)
  assert load('imagenet', 'method=idc').dataset.test_crop == 1.
  assert c.method.steps == 4000
  assert c.method.teach * c.method.net_steps == 40_000
  c = load('imagenet', 'classes=1000,method=tesla,ipc=1')
  assert (c.dataset.size, c.network.depth, c.method.assign) == (64, 4, True)
  assert (c.method.student_steps, c.method.lr) == (10, 1e4)
  assert c.experts.number == 50
  assert not load('imagenet', 'classes=10,method=tesla').method.assign
  c = load('imagewoof', 'method=mtt,ipc=1')
  assert (c.dataset.size, c.dataset.classes, c.network.depth) == (
      128, 'imagewoof', 5)
  assert c.dataset.resize == 'squash'
  assert load('imagenette', 'method=idc,size=128').network.name == 'convnet'
  for name in ('imagenette', 'imagewoof'):  # what their rows quote
    c = load(name)
    assert (c.method.name, c.syn.ipc) == ('mtt', 1)
  with pytest.raises(UserError, match='number of classes 50; choose from 10'):
    load('imagenet', 'classes=50')


@pytest.mark.parametrize('decoded, ten, hundred', [
    (1, 3000, 2000), (10, 2000, 1300), (50, 1500, 1000), (90, 1000, 600),
    (200, 1000, 600), (500, 500, 300), (501, 300, 200)])
def test_epochs_by_decoded_images(decoded, ten, hundred):
  assert imagenet.evaluation_epochs(decoded) == ten
  assert imagenet.evaluation_epochs(decoded, 100) == hundred


@pytest.mark.parametrize('text, changes, union', [
    ('ipc=10,factor=1', {}, True), ('ipc=10', {}, False),
    ('ipc=39,factor=1', {}, True), ('ipc=40,factor=1', {}, False),
    # One segment has nothing before it, coresets match nothing, and SRe2L's
    # images take no notice of each other.
    ('ipc=10,factor=1,segments=1', {}, False),
    ('ipc=10,segments=2,method=sre2l', {'segments.match': 'union'}, False),
    ('ipc=10,factor=1,method=frontier', {}, False),
    ('ipc=10,factor=1', {'segments.match': 'new'}, False),
    ('ipc=50,factor=1', {'segments.match': 'union'}, True),
    ('ipc=50,method=mtt', {}, True)])
def test_few_images_are_matched_in_union(text, changes, union):
  c = load('cifar10', text)
  c.update_from_flattened_dict(changes)
  assert config.matches_union(c) == union


def test_dm_is_as_published():
  c = load('cifar10', 'method=dm')
  assert (c.method.steps, c.method.inner, c.method.net_steps, c.method.batch,
          c.method.lr) == (20_000, 1, 0, 256, 1.)
  assert load('cifar10', 'method=dm,ipc=100,segments=1').method.lr == 10.


def test_evaluation_of_svhn_without_factor():
  e = load('svhn', 'ipc=1,factor=1').eval
  assert (e.cutmix, e.augment) == (0., 'color_crop_cutout_scale_rotate')
  e = load('svhn', 'ipc=1').eval
  assert (e.cutmix, e.augment) == (-1., 'auto')


def test_what_methods_start_from():
  for method, init in (('dc', 'noise'), ('dsa', 'real'), ('dm', 'real'),
                       ('cafe', 'noise'), ('mtt', 'real'), ('datm', 'known')):
    assert load('cifar10', f'method={method}').syn.init == init
  # DATM's own command for CIFAR-100 at ipc 50 differs from the others.
  for ipc, want in ((10, ('known', 'experts')), (50, ('real', 'expert')),
                    (100, ('known', 'experts'))):
    syn = load('cifar100', f'method=datm,ipc={ipc}').syn
    assert (syn.init, syn.labels) == want


def test_corners_are_aligned_where_torch_did():
  # Gradient dossier, 2: DC and DSA for torch 1.2, which aligns; IDC for 1.11.
  for method in ('dc', 'dsa', 'dsac', 'dm', 'mtt', 'datm'):
    c = load('cifar10', f'method={method}')
    assert c.method.augment_mode in augment.ALIGNED
    assert config.evaluation_recipe(c, 1, (0,), (1,)).mode in augment.ALIGNED
  c = load('cifar10', 'method=idc')
  assert c.method.augment_mode not in augment.ALIGNED


def test_mnist_has_dc_s_own_augmentation():
  for method in ('dc', 'cafe'):
    e = load('mnist', f'method={method}').eval
    assert (e.augment, e.epochs) == ('jitter', 1000)
  assert load('cifar10', 'method=cafe').eval.epochs == 600


@pytest.mark.parametrize('name', ['fashion_mnist', 'svhn', 'cifar100',
                                  'tiny_imagenet'])
def test_data_that_are_not_there(name, tmp_path, monkeypatch):
  def no_address(*_, **__):
    raise OSError
  monkeypatch.setattr('socket.getaddrinfo', no_address)
  monkeypatch.setattr('urllib.request.getproxies', dict)
  c = load(name)
  c.dataset.data_dir = str(tmp_path)
  way = 'folder:PATH' if 'tiny' in name else 'where there is network, run'
  with pytest.raises(UserError, match=f"{name}'.*{way}"):
    validate.check(c)


def test_sre2l_is_as_published():
  rows = {'cifar100': (.25, .01, 1000, 30., 400),
          'tiny_imagenet': (.1, 1., 4000, 20., 100),
          'imagenette': (.25, .01, 4000, 20., 300)}
  for name, (lr, weight, moves, temperature, epochs) in rows.items():
    c = load(name, 'method=sre2l,ipc=50')
    m = c.method
    assert (m.lr, m.statistics, m.temperature, c.eval.epochs, m.steps) == (
        lr, weight, temperature, epochs, moves)
  c = load('cifar100', 'method=sre2l')
  m = c.method
  # 200 epochs of 50,000 images, its program's own; what moves is rolled alone.
  assert (m.net_lr, m.net_batch, m.teach * m.net_steps) == (.1, 128, 200 * 391)
  assert (m.augment, m.net_augment) == ('roll4', 'flip_crop')
  recipe = config.evaluation_recipe(c, c.eval.epochs, (0,), (1,))
  assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.matrices,
          recipe.batch, recipe.mixup, recipe.cutmix, recipe.squared) == (
              'adamw', 1e-3, .01, False, 128, .8, 0., False)
  assert recipe.strategy == 'flip_crop'  # of what is trained, not of recovery
  c = load('tiny_imagenet', 'method=sre2l')
  m = c.method
  assert (m.net_lr, m.net_weight_decay, m.net_batch, m.net_warm, m.teach,
          m.net_steps) == (.2, 1e-4, 256, 5, 50, 391)
  assert m.augment == 'rrc08_flip_roll4both'
  recipe = config.evaluation_recipe(c, c.eval.epochs, (0,), (1,))
  assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.batch,
          recipe.mixup, recipe.cutmix, recipe.squared, recipe.warmup) == (
              'sgd', .2, 1e-4, 256, 0., 0., True, 5)
  assert recipe.strategy == 'rrc08_flip'
  recipe = config.evaluation_recipe(
      load('imagenette', 'method=sre2l'), 300, (0,), (1,))
  assert (recipe.optimizer, recipe.matrices, recipe.cutmix,
          recipe.strategy) == ('adamw', True, 1., 'rrc08_flip')


@pytest.mark.parametrize('name, text, want', [
    ('cifar10', 'ipc=1', ('convnet', 1, 'flip', .001, 10, 1.)),
    ('cifar10', 'ipc=10,network=resnet', ('resnet', 1, 'flip', .001, 50, 1.)),
    ('cifar10', 'network=vgg11', ('vgg11', 1, 'flip', .0005, 50, 1.)),
    ('cifar100', 'ipc=50', ('convnet', 1, 'flip', .002, 25, 1.)),
    ('cifar100', 'ipc=50,network=resnet', (
        'resnet', 1, 'flip', .001, 200, 1.)),
    ('tiny_imagenet', 'ipc=50', ('convnet', 1, 'flip', .001, 100, 1.)),
    ('imagenette', 'ipc=10,size=128', (
        'convnet', 2, 'patches2_rrc_flip', .001, 50, 8 / 9)),
    ('imagenet', 'classes=1000,ipc=10', (
        'resnet', 2, 'patches2_rrc_flip', .001, 100, .875)),
    ('mnist', 'factor=3', ('convnet', 3, 'patches3_rrc33', .001, 50, 1.))])
def test_rded_is_as_published(name, text, want):
  c = load(name, f'method=rded,{text}')
  recipe = config.evaluation_recipe(c, c.eval.epochs, (.5,), (.2,))
  assert (c.network.name, c.coreset.cells, recipe.strategy, recipe.lr,
          recipe.batch, c.dataset.test_crop) == want
  assert c.network.norm == 'batch' and c.syn.factor == 1
  assert (c.coreset.pool, c.coreset.crops, c.method.temperature) == (300, 5, 20)
  assert recipe.epochs == 300 and recipe.stretch == 2
  assert (c.dataset.statistics == 'imagenet') == (name != 'mnist')


def test_sre2l_s_network_is_the_published_one():
  # torchvision's ResNet-18 with a 3x3 stem and without its pooling.
  for name, classes, parameters in (('cifar100', 100, 11_220_132),
                                    ('tiny_imagenet', 200, 11_271_432)):
    c = load(name, 'method=sre2l')
    side = SETS[name][0]
    network = models.build(shape=side, classes=classes, **c.network)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert models.count(shapes) == parameters
    assert shapes.params['Conv_0']['kernel'].shape == (3, 3, 3, 64)
    maps = jax.eval_shape(network.features, shapes,
                          jax.ShapeDtypeStruct((1, *side), 'float32'))
    assert maps[0].shape == (1, *side[:2], 64)
    assert load(name, 'method=sre2l,schedule=short').network.widen == .25
    assert load(name, 'method=sre2l,network=convnet').network.norm == 'batch'


def test_images_that_are_matched_at_a_time():
  for method in ('dc', 'dsa', 'dsac', 'dm', 'cafe'):
    assert load('cifar10', f'method={method},ipc=500').method.limit == 0
  assert load('cifar10', 'method=idc').method.limit == 128
  # DM's rate is that of the images which are matched together.
  assert load('cifar10', 'method=dm,ipc=100').method.lr == 1
  assert load('cifar10', 'method=dm,ipc=100,segments=1').method.lr == 10


@pytest.mark.parametrize('network', models.MODELS)
def test_every_network_may_match(network):
  for name in ('digits', 'mnist', 'tiny_imagenet', 'imagenet'):
    for method in ('dm', 'mtt'):
      c = load(name, f'method={method},network={network},seed=1')
      assert c.network.name == network
      validate.check_settings(c)
      if name in ('mnist', 'tiny_imagenet'):
        models.build(shape=(64, 64, 3), classes=10, **c.network)
  if 'norm' in models.settings_of(network):
    assert load('mnist', f'method=sre2l,network={network}'
                ).network.norm == 'batch'


def test_published_loops():
  # What the papers state; DC's come from ipc, the others' do not.
  for method, steps, inner, epochs in (
      ('dc', 10_000, 10, 300), ('dsac', 10_000, 10, 1000),
      ('dm', 20_000, 1, 1000), ('cafe', 20_000, 100, 600)):
    c = load('cifar10', f'method={method},ipc=10')
    assert (c.method.steps, c.method.inner, c.eval.epochs) == (
        steps, inner, epochs), method
    assert c.method.batch == 256
  # At ipc 1 a network of DSAC lives for all of its warm-up.
  for method, loops in (('dc', (1, 1)), ('dsa', (1, 1)), ('dsac', (10, 5))):
    m = load('cifar10', f'method={method},ipc=1').method
    assert (m.inner, m.net_steps, m.steps) == (*loops, 1000 * loops[0])
  # Its readme: .01 for the MLP, which is DC's alone.
  for method, network, lr in (('dc', 'mlp', .01), ('dc', '', .1),
                              ('dsa', 'mlp', .1)):
    assert load('mnist', f'method={method},network={network}'
                ).method.lr == lr
  cafe = load('cifar10', 'method=cafe')
  assert cafe.syn.init == 'noise' and cafe.method.decay == .5
  assert cafe.method.drops == (.6, .8, .9)  # 1200, 1600, 1800 of 2000
  assert load('cifar10', 'method=dm').method.lr == 1
  assert load('digits', 'method=dm').method.inner == 1
  sre2l = load('cifar10', 'method=sre2l')
  assert sre2l.network.norm == 'batch' and sre2l.syn.init == 'noise'
  assert sre2l.method.steps == 1000


@pytest.mark.parametrize('text, want', [
    ('method=dm', 100), ('method=idc', 100), ('method=dc,ipc=10', 10),
    ('method=mtt', 10), ('method=dm,schedule=short', 10)])
def test_calls_of_long_schedules_are_long(text, want):
  assert load('cifar10', text).run.chunk == want
