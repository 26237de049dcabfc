"""Published rows of trajectory methods: every one fits, none is mistyped."""

import functools
import runpy

import pytest
import toy

from dasm_jax import config
from dasm_jax.config import trajectories
from dasm_jax.errors import UserError

FILES = ('cifar10', 'cifar100', 'fashion_mnist', 'imagenette', 'imagewoof',
         'mnist', 'svhn', 'tiny_imagenet')
METHODS = ('datm', 'ftd', 'mtt', 'tesla')


@functools.cache
def tables(name):
  return runpy.run_path(str(toy.ROOT / 'configs' / f'{name}.py'))[
      'TRAJECTORIES']


@pytest.mark.parametrize('name', FILES)
def test_every_row_fits(name):
  assert set(tables(name)) == set(METHODS)
  for method, rows in tables(name).items():
    for ipc, row in rows.items():
      for one in (row, trajectories.shortened(row)):
        c = config.defaults(method)
        trajectories.apply_row(c, one)
        m, where = c.method, (name, method, ipc)
        # Windows lie inside the experts, batches inside the set.
        assert 0 <= m.first_epoch <= m.last_epoch, where
        assert m.first_epoch <= m.start_last_epoch or (
            m.start_last_epoch == -1), where
        assert m.start_last_epoch <= m.last_epoch, where
        assert m.last_epoch + m.expert_epochs <= c.experts.epochs, where
        assert (m.start_last_epoch == -1) == (m.expand == 0), where
        classes = {'cifar100': 100, 'tiny_imagenet': 200}.get(name, 10)
        assert m.batch_syn < ipc * classes, where
        assert m.lr > 1 > m.lr_start > m.lr_lr > 0, where
        assert (m.lr_label > 0) == (method == 'datm') == (m.skip_above > 0)
        assert (c.experts.rho > 0) == (method in ('ftd', 'datm')), where
        assert (m.average > 0) == (method == 'ftd'), where


def row(name, method, ipc):
  c = config.defaults(method)
  trajectories.apply_row(c, trajectories.nearest_row(tables(name)[method],
                                                           ipc))
  return c


def test_rows_by_hand():
  c = row('cifar10', 'mtt', 10)
  m = c.method
  assert (m.student_steps, m.expert_epochs, m.first_epoch, m.last_epoch) == (
      30, 2, 0, 19)  # start epochs are drawn from 0 … 19
  assert (m.lr, m.lr_lr, m.lr_start, c.dataset.zca) == (100., 1e-5, .001, .1)
  assert (m.steps, c.experts.epochs, c.eval.batch, m.start_last_epoch) == (
      5000, 50, 256, -1)
  c = row('cifar10', 'datm', 60)  # the row of 50
  m = c.method
  assert (m.start_last_epoch, m.last_epoch, m.expand) == (19, 39, 2000)
  assert (m.steps, c.experts.epochs, c.experts.alpha, c.eval.batch) == (
      10_000, 100, .3, 128)
  c = row('tiny_imagenet', 'ftd', 50)  # the row of 10
  assert (c.method.batch_syn, c.experts.rho, c.method.average) == (
      500, .01, .999)
  c = row('imagenette', 'datm', 1)  # its program's, not MTT's
  m = c.method
  assert (m.student_steps, m.lr, m.lr_start, m.lr_label, m.last_epoch) == (
      20, 1e4, .001, 1000., 9)
  m = row('imagewoof', 'datm', 10).method
  assert (m.student_steps, m.lr, m.lr_label, m.skip_above) == (
      40, 1e5, 5., 2.)
  m = row('imagenette', 'datm', 200).method
  assert (m.first_epoch, m.last_epoch, m.batch_syn, m.start_last_epoch) == (
      30, 39, 100, -1)
  # No rows of their own: CIFAR-10's, not whitened.
  assert row('svhn', 'datm', 1).method == row('cifar10', 'datm', 1).method
  assert row('svhn', 'datm', 1).dataset.zca == 0.


def test_nearest():
  rows = {50: 'c', 1: 'a', 9: 'b'}
  assert [trajectories.nearest_row(rows, ipc) for ipc in (1, 5, 6, 500)] == [
      'a', 'a', 'b', 'c']


def test_short_windows_keep_their_place():
  late = trajectories.datm(80, 2, 60, 50., 1e-5, lr_label=1., first_epoch=40,
                              start_before=50, expand=2000)
  small = trajectories.shortened(late)
  assert small[:3] == (10, 2, 12) and small.first_epoch == 8
  assert (small.start_before, small.expand, small.epochs) == (10, 60, 20)
  first = trajectories.shortened(trajectories.mtt(50, 2, 2, 1., 1e-7,
                                                        .01))
  assert (first.first_epoch, first.before, first.start_before) == (0, 1, 0)


def test_entry_that_is_not_there():
  c = config.defaults('ftd')
  del c.experts.rho
  with pytest.raises(UserError, match=r'experts\.rho .*no such entry'):
    trajectories.apply_row(c, tables('cifar10')['ftd'][1])
  del c['experts']
  with pytest.raises(UserError, match=r'experts\.number'):
    trajectories.apply_row(c, tables('cifar10')['ftd'][1])


@pytest.mark.parametrize('name', FILES)
def test_files_apply_their_rows(name):
  get_config = runpy.run_path(str(toy.ROOT / 'configs' / f'{name}.py'))[
      'get_config']
  for method in METHODS:
    for schedule in ('published', 'short'):
      c = get_config(f'method={method},ipc=50,schedule={schedule}')
      want = trajectories.nearest_row(tables(name)[method], 50)
      if schedule == 'short':
        want = trajectories.shortened(want)
      else:
        assert c.eval.epochs == 1000
      assert c.method.last_epoch == want.before - 1
      assert c.method.steps == want.steps
      assert c.experts.number == want.number
      assert ('flip' in c.experts.augment) == (name not in config.UNFLIPPED)
