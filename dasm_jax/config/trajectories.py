"""Published settings of trajectory methods: a row for a data set and an ipc.

The rows themselves are in `configs`; here is what a row may say, and what
each paper holds fixed. Sources: MTT (2203.11932), FTD (2211.11004), TESLA
(2211.10586), DATM (2310.05773), their programs' commands.
"""

import functools
from typing import NamedTuple

from dasm_jax.errors import UserError

AUGMENT = 'color_crop_cutout_flip_scale_rotate'  # DSA's, of all that is trained


class TrajectoryRow(NamedTuple):
  """One row of a paper's table, in the paper's own numbers.

  student_steps, expert_epochs: N and M. before: T+, which the programs leave
  out: start epochs are drawn below it. lr, lr_lr, lr_start: of the images, of
  the rate, and the rate to begin with. batch_syn: 0 takes all images. zca:
  whether images are whitened. first_epoch: T-. start_before, expand: T+ at
  the beginning (0: as `before`), and the iterations in which it grows to it.
  lr_label: 0 leaves labels. skip_above: loss above which an iteration counts
  for nothing (0: none). average: decay of the images' average (0: none).
  steps: iterations. number, epochs, rho, alpha: of the experts. eval_batch:
  of the evaluation.
  """
  student_steps: int
  expert_epochs: int
  before: int
  lr: float
  lr_lr: float
  lr_start: float
  batch_syn: int = 0
  zca: bool = False
  first_epoch: int = 0
  start_before: int = 0
  expand: int = 0
  lr_label: float = 0.0
  skip_above: float = 0.0
  average: float = 0.0
  steps: int = 5000
  number: int = 100
  epochs: int = 50
  rho: float = 0.0
  alpha: float = 0.0
  eval_batch: int = 256


# What each paper holds fixed. Experts of FTD and DATM are sharpness-aware, by
# rho; those of the others are not.
mtt = TrajectoryRow
ftd = functools.partial(TrajectoryRow, rho=0.01)
tesla = functools.partial(TrajectoryRow, steps=10_000)
datm = functools.partial(
    TrajectoryRow, lr_start=0.01, zca=True, skip_above=1.0, steps=10_000,
    epochs=100, rho=0.01, alpha=0.3, eval_batch=128)


def nearest_row(rows, ipc):
  """The row of the published ipc next to `ipc`, the smaller of two."""
  return rows[min(sorted(rows), key=lambda known: abs(known - ipc))]


def without_whitening(tables):
  """`{method: {ipc: row}}` without whitening, for a data set without rows."""
  return {method: {ipc: row._replace(zca=False) for ipc, row in rows.items()}
          for method, rows in tables.items()}


def shortened(row, steps=300, epochs=20):
  """The same in small, for two CPU cores: its windows keep their place.

  Ten experts of `epochs` epochs, ten student steps, `steps` iterations.
  """
  def scaled(epoch):
    return epoch * epochs // row.epochs
  # A window may shrink to nothing: it keeps one epoch at least.
  first = scaled(row.first_epoch)
  start = row.start_before and max(first + 1, scaled(row.start_before))
  return row._replace(
      student_steps=min(row.student_steps, 10), first_epoch=first,
      start_before=start, before=max(first + 1, start, scaled(row.before)),
      expand=row.expand * steps // row.steps, steps=steps, number=10,
      epochs=epochs)


def row_entries(row):
  """`{dotted name of a configuration: value}`, all that a row decides."""
  same = ('student_steps', 'expert_epochs', 'lr', 'lr_lr', 'lr_start',
          'batch_syn', 'first_epoch', 'expand', 'lr_label', 'skip_above',
          'average', 'steps')
  return {
      **{f'method.{name}': getattr(row, name) for name in same},
      # Last epochs are included, T+ is not; -1 stands for `last_epoch`.
      'method.last_epoch': row.before - 1,
      'method.start_last_epoch': row.start_before - 1,
      # The same in all of the programs.
      'method.momentum': 0.5, 'method.label_momentum': 0.9,
      'dataset.zca': 0.1 if row.zca else 0.0,
      'experts.number': row.number, 'experts.epochs': row.epochs,
      'experts.lr': 0.01, 'experts.momentum': 0.0,
      'experts.weight_decay': 0.0, 'experts.batch': 256,
      'experts.rho': row.rho, 'experts.alpha': row.alpha,
      'experts.augment': AUGMENT,
      'eval.epochs': 1000, 'eval.batch': row.eval_batch}


def apply_row(c, row):
  """Sets the entries of a row in a configuration.

  Raises:
    UserError: the configuration has no such entry.
  """
  for path, value in row_entries(row).items():
    group, name = path.split('.')
    if name not in c.get(group, ()):
      raise UserError(f'--config.{path} is a published setting, but method '
                      f'{c.method.name!r} has no such entry')
    c[group][name] = value
