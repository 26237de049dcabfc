"""What a run says of the experiment before it starts."""

import types

import pytest
import small

from dasm_jax.distill import reports, setup


def said(config):
  """The lines of `reports.describe`, in one text."""
  lines = []
  reports.describe(setup.build(config), 'runs/x',
                   types.SimpleNamespace(say=lines.append), 'a chip')
  return '\n'.join(lines)


@pytest.mark.parametrize('method, changes, words', [
    ('dm', {}, '2 segments of 1, 1 (as configured; by default 1)'),
    ('dm', dict(segments__number=0), '1 segment of 2 (by default below 10'),
    ('idc', dict(segments__number=0, syn__ipc=10, method__batch=8),
     '(by default from 10 images a class on, where more are measured to pay)'),
    ('frontier', dict(segments__number=0, method__steps=0),
     '2 segments of 1, 1 (by default: real images stay as they are'),
    ('herding', dict(segments__number=1, method__steps=0),
     '1 segment of 2 (as configured)')])
def test_the_number_of_segments_and_why(method, changes, words):
  assert words in said(small.tiny(method, **small.PLAIN | changes))


def test_more_first_images_than_a_class_has_are_told():
  config = small.tiny('idc', **small.PLAIN | dict(
      syn__ipc=50, syn__factor=2, segments__number=2))
  line = next(x for x in said(config).split('\n') if x.startswith('note'))
  for word in ('200 real images', 'syn.ipc=50', 'syn.factor=2', 'class',
               'has 139', 'begin twice'):
    assert word in line, line
  config.syn.init = 'noise'
  assert 'note' not in said(config)
  config.syn.init, config.syn.factor = 'real', 1
  assert 'note' not in said(config)
